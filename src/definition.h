/*
 * definition.h
 *		The life cycle that queues, endpoints, rules and projections share: create, alter, drop, look up.
 */
#ifndef ES_DEFINITION_H
#define ES_DEFINITION_H

#include "utils/jsonb.h"

typedef struct EsDefinition
{
	int32 id;
	char *kind;
	char *name;
	char *owner;
	char *search_path;
	char *state;
	Jsonb *spec;
	Jsonb *grants; /* {"role": ["privilege"]}, see use.h */
	bool is_unseen; /* changed since the snapshot that this transaction keeps to its end (REPEATABLE READ) */
} EsDefinition;

/*
 * Creates kind/name with spec, owned by the current user.  True: created; false: an equal one exists already.  Another
 * one of that name: 42710 with the difference.  Concurrent identical calls all succeed.  *id is set in both cases.
 */
extern bool es_definition_create(const char *kind, const char *name, Jsonb *spec, int32 *id);
/* the same for another owner than the current user, with his search_path; one of that name is an error.  Locks: the name's, held */
extern int32 es_definition_create_as(const char *kind, const char *name, const char *owner, const char *search_path, Jsonb *spec);
/* another owner, search_path and spec for one that exists; its state, grants and id stay.  Locks: the name's, held */
extern void es_definition_replace(const EsDefinition *existing, const char *owner, const char *search_path, Jsonb *spec);

/* the states of a definition; one that is paused hands nothing out, and so does a projection whose tables are filled anew */
#define ES_DEFINITION_ACTIVE "active"
#define ES_DEFINITION_PAUSED "paused"
#define ES_DEFINITION_REBUILDING "rebuilding"
/* its handlers took the server down, again and again: as paused, until somebody resumes it */
#define ES_DEFINITION_QUARANTINED "quarantined"
/* of a rebuild: it cannot go on */
#define ES_DEFINITION_FAILED "failed"

/* the lock of the name, and then the state, without a wait: false where somebody has the name or the row, or there is none of that name */
extern bool es_definition_try_lock(const char *kind, const char *name);
extern bool es_definition_try_state(const char *kind, const char *name, const char *state);
/* sets the state; ST008 when unknown */
extern void es_definition_set_state(const char *kind, const char *name, const char *state);
/* the one with that id, of whatever kind, is quarantined; a rebuild has failed.  False: there is none.  *kind and *name are palloc'd */
extern bool es_definition_quarantine(int32 id, char **kind, char **name);
/* replaces the spec; ST008 when unknown */
extern void es_definition_alter(const char *kind, const char *name, Jsonb *spec);
/* replaces the grants.  Locks: the name's, held */
extern void es_definition_set_grants(const EsDefinition *definition, Jsonb *grants);
/* removes it and returns its id; ST008 when unknown */
extern int32 es_definition_drop(const char *kind, const char *name);

/* the newest committed definition, whatever the isolation level; NULL when unknown.  Allocated in the current context */
extern EsDefinition *es_definition_find(const char *kind, const char *name);
/* same, but ST008 when unknown */
extern EsDefinition *es_definition_get(const char *kind, const char *name);
/* all of a kind, in order of id */
extern List *es_definition_list(const char *kind);
/* locks the name against create, alter and drop to the end of the transaction */
extern void es_definition_lock(const char *kind, const char *name);

/* 'sql:' and projection functions: schema.name with one argument of that type; errors 42883, 22023 */
extern Oid es_definition_function(const char *fn, Oid argtype);
/* the same with several arguments, all of that type */
extern Oid es_definition_function_of(const char *fn, Oid argtype, int nargs);
/*
 * Can the owner of a definition of that kind call it?  Asked again at each call; here so that the mistake shows where it is made.
 * Errors 42883, 22023, 42809, 42501
 */
extern void es_definition_check_function(const char *fn, Oid argtype, Oid owner, const char *kind);
extern void es_definition_check_function_of(const char *fn, Oid argtype, int nargs, Oid owner, const char *kind);

#endif
