/*
 * saga_why.h
 *		Within sagas only: the sentences of why_saga.
 */
#ifndef ES_SAGA_WHY_H
#define ES_SAGA_WHY_H

#include "lib/stringinfo.h"

#include "saga_look.h"

typedef struct EsWhy
{
	const EsLook *look;
	TimestampTz now;
	int depth; /* children within each other: each is set in */
	StringInfo text;
} EsWhy;

/* in saga_why.c: a line; a statement that may be run as it stands */
extern void es_why_tell(EsWhy *why, const char *format,...) pg_attribute_printf(2, 3);
#define es_why_sql(why, format, ...) es_why_tell((why), "    " format ";", __VA_ARGS__)
extern char *es_why_time(TimestampTz time);
extern char *es_why_error(const char *error, const char *cause);

/* in saga_why_next.c: what follows when the step fails so, when the saga does; the end of a sentence */
extern char *es_why_after(const EsWhy *why, const EsAslState *state, const EsLookStep *step, const char *error);
extern char *es_why_after_undo(const EsWhy *why, const EsAslState *state, const EsLookStep *step, const char *error);
extern char *es_why_after_saga(const EsWhy *why);
/* ", retry 2 of 4 for States.ALL": by which it came to this attempt */
extern char *es_why_retrier(const EsWhy *why, const EsLookStep *step, const EsLookStep *previous);
/* what is undone and what is left; why it is stuck, and what to do */
extern void es_why_undone(EsWhy *why);
extern void es_why_stuck(EsWhy *why);

/* in saga_why_lock.c: who has the semantic lock that a step waits for; who: the beginning of the sentence */
extern void es_why_lock(EsWhy *why, const EsLookStep *step, const char *who);

/* in saga_why_message.c: where the command of a step is; who: the beginning of the sentence */
extern void es_why_message(EsWhy *why, const EsLookStep *step, const char *who);

#endif
