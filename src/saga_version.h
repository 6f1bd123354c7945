/*
 * saga_version.h
 *		The versions of definitions of sagas.
 */
#ifndef ES_SAGA_VERSION_H
#define ES_SAGA_VERSION_H

#include "asl.h"
#include "retry.h"

/* of a reactor, instead of States Language */
typedef struct EsReactor
{
	char *fn;
	EsRetry retry;
	List *starts; /* char *: types of events that start an instance */
} EsReactor;

struct EsDefinition;

typedef struct EsSagaVersion
{
	int32 id; /* of the definition */
	char *name;
	char *owner;
	char *search_path;
	int version;
	bool is_paused;
	EsAslDefinition *definition; /* of a reactor: an empty one */
	const EsReactor *reactor; /* NULL: it is none */
} EsSagaVersion;

/* 0: the active one; ST008 when unknown.  Good to the end of the transaction */
extern const EsSagaVersion *es_saga_version_get(const char *name, int version);
/* the same; NULL: there is none */
extern const EsSagaVersion *es_saga_version_find(const char *name, int version);
/* NULL: there is none */
extern const EsSagaVersion *es_saga_version_by_id(int32 definition_id, int version);
/* functions run as who defined it first: 42501 for others.  what: "saga" or "reactor" */
extern void es_saga_version_require_owner(const struct EsDefinition *definition);
/* forgets the instances; 2BP01 where one is open.  Locks: the definition's, against starts */
extern void es_saga_version_drop_instances(const struct EsDefinition *definition);
/* ST009: these faults, as evtstore.check_saga() tells them */
extern void es_saga_version_refuse_faults(const char *what, const char *name, const StringInfo faults, const char *hint) es_noreturn;

#endif
