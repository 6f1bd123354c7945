/*
 * retry.h
 *		The retry policy of queues and subscriptions.
 */
#ifndef ES_RETRY_H
#define ES_RETRY_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "options.h"

#define ES_RETRY_MAX_SCHEDULE 32

/* times in ms */
typedef struct EsRetry
{
	int max_attempts; /* 0: no end */
	int64 max_age;	  /* 0: no end */
	int64 initial;
	double multiplier;
	int64 max_delay;
	double jitter; /* 0..1: share of the delay that is random */
	int nschedule; /* 0: initial and multiplier say it */
	int64 schedule[ES_RETRY_MAX_SCHEDULE];
	/* of char *: texts, one of which the error contains; NIL: any */
	List *retry_on;
	List *give_up_on;
} EsRetry;

/* 22023 where it is no policy */
extern void es_retry_check(Jsonb *policy);

/* a policy that was checked; NULL: the defaults */
extern EsRetry es_retry_read(Jsonb *policy);
/* writes a policy that was checked in one form: intervals in ms, so that "1s" equals "1000ms"; what is absent stays so */
extern void es_retry_append(StringInfo buf, Jsonb *policy);
/* the policy of a definition after changes, either may be NULL; a null in changes takes a key away.  Checked */
extern Jsonb *es_retry_change(Jsonb *policy, Jsonb *changes);
/* for who goes on after the definition may have changed */
extern EsRetry es_retry_copy(const EsRetry *retry);
/* is it over, after so many attempts and so many ms, with this error (NULL: none was told)?  The cause, or NULL: once more */
extern const char *es_retry_over(const EsRetry *retry, int attempts, int64 age, const char *error);
/* ms until the next attempt, after that many */
extern int64 es_retry_delay(const EsRetry *retry, int attempts);

#endif
