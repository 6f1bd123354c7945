/*
 * saga_operate.h
 *		Within sagas only: the verbs of operators, said of one instance or of many.
 */
#ifndef ES_SAGA_OPERATE_H
#define ES_SAGA_OPERATE_H

#include "fmgr.h"

#include "saga_move.h"

/* what a verb was given, and what it gives */
typedef struct EsOperation
{
	bool compensate; /* cancel */
	char *state;	 /* skip, resolve */
	char *outcome;	 /* resolve */
	Jsonb *output;	 /* skip, resolve */
	int version;	 /* migrate */
	Jsonb *map;		 /* migrate */
	pg_uuid_t goes_on; /* redrive: the instance that does */
} EsOperation;

typedef struct EsVerb
{
	const char *name;
	const char *applies; /* to which of the rows of evtstore.sagas it may apply: a condition */
	/* reads its own arguments, from that one on; NULL: it has none */
	void (*read)(FunctionCallInfo fcinfo, int first, EsOperation *what);
	/* locks that come before that of the instance; NULL: none */
	void (*prepare)(const pg_uuid_t *id);
	/* within the transition, which has begun, and is ended by who calls it; 55000 where the instance is not in a state for it */
	void (*run)(EsMove *move, EsOperation *what);
} EsVerb;

extern const EsVerb es_verb_cancel;
extern const EsVerb es_verb_retry;
extern const EsVerb es_verb_skip;
extern const EsVerb es_verb_resolve;
extern const EsVerb es_verb_pause;
extern const EsVerb es_verb_resume;
extern const EsVerb es_verb_redrive;
extern const EsVerb es_verb_migrate;

/* of the instance that is the first argument; waits for its lock where that may be waited for, else 55P03 */
extern void es_operate_call(FunctionCallInfo fcinfo, const EsVerb *verb, EsOperation *what);
/* waits for no lock */
extern EsSagaFound es_operate_try(const pg_uuid_t *id, const EsVerb *verb, EsOperation *what);
/* who said what, for the event of the transition */
extern void es_operate_note(EsMove *move, const char *verb);
/* 55000: what, and that it is in that status */
extern void es_operate_refuse(EsMove *move, const char *what, const char *hint) es_noreturn;

#endif
