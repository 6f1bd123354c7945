/*
 * saga_look.h
 *		Within sagas only: an instance as it is, for who looks at it and changes nothing.
 */
#ifndef ES_SAGA_LOOK_H
#define ES_SAGA_LOOK_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "saga_version.h"

/* an attempt at a step; kind and status as the tables have them, also where this module does not know them */
typedef struct EsLookStep
{
	int parent;
	int seq;
	int above;
	int first_seq;
	int undoes;
	int attempt;
	int32 queue_id;	  /* 0: no command */
	int64 message_id; /* 0: no command */
	int ended;		  /* 0: it has not */
	int open;
	TimestampTz due;
	TimestampTz deadline; /* 0: due */
	double heartbeat;	  /* s; 0: none */
	char *resource;		  /* the semantic lock that it needs; NULL: none */
	TimestampTz started_at;
	TimestampTz ended_at;
	char *kind;
	char *status;
	char *state;
	char *error; /* NULL: none; cause too */
	char *cause;
	int ntries;
	int *tries;
	List *via; /* char * */
} EsLookStep;

typedef struct EsLook
{
	pg_uuid_t uuid;
	char *id;
	bool has_parent;
	pg_uuid_t parent; /* the instance that it is a child of */
	const EsSagaVersion *version;
	bool has_pivot;
	TimestampTz deadline; /* 0: none */
	TimestampTz started_at;
	TimestampTz ended_at; /* 0: it is open */
	char *status;
	char *ending;
	char *reason; /* NULL: none; the same for what follows */
	char *business_key;
	char *error;
	char *cause;
	List *steps; /* EsLookStep *, by seq */
} EsLook;

/* under the active snapshot, so that all of it is of one moment; ST008: there is none */
extern EsLook *es_saga_look(const pg_uuid_t *id);
/* the step with that number; NULL: none */
extern const EsLookStep *es_look_step(const EsLook *look, int seq);
/* the last attempt but that one at the same entry; NULL: it was the first */
extern const EsLookStep *es_look_previous(const EsLook *look, const EsLookStep *step);
/* the child that the step waits for; false: none */
extern bool es_look_child(const EsLook *look, const EsLookStep *step, pg_uuid_t *id);
/* has it not begun, for want of its semantic lock? */
extern bool es_look_waits_for_lock(const EsLookStep *step);
/* its state in the definition; NULL: none */
extern const EsAslState *es_look_state(const EsLook *look, const EsLookStep *step);
#define ES_LOOK_IS(name, text) (strcmp((name), (text)) == 0)

#endif
