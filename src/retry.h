/*
 * retry.h
 *		The retry policy of queues and subscriptions.
 */
#ifndef ES_RETRY_H
#define ES_RETRY_H

#include "lib/stringinfo.h"

#include "options.h"

/* delays in ms */
typedef struct EsRetry
{
	int max_attempts; /* 0: no end */
	int64 initial;
	double multiplier;
	int64 max_delay;
	double jitter; /* 0..1: share of the delay that is random */
} EsRetry;

/* the keys of a policy, for es_options_check */
extern const EsOption es_retry_options[];

/* a policy that was checked; NULL: the defaults */
extern EsRetry es_retry_read(Jsonb *policy);
/* writes a policy that was checked in one form: intervals in ms, so that "1s" equals "1000ms"; what is absent stays so */
extern void es_retry_append(StringInfo buf, Jsonb *policy);
/* the policy of a definition after changes, either may be NULL; a null in changes takes a key away.  Checked */
extern Jsonb *es_retry_change(Jsonb *policy, Jsonb *changes);
/* ms until the next attempt, after that many */
extern int64 es_retry_delay(const EsRetry *retry, int attempts);

#endif
