/*
 * saga_version.h
 *		The versions of definitions of sagas.
 */
#ifndef ES_SAGA_VERSION_H
#define ES_SAGA_VERSION_H

#include "asl.h"

typedef struct EsSagaVersion
{
	int32 id; /* of the definition */
	char *name;
	char *owner;
	char *search_path;
	int version;
	bool is_paused;
	EsAslDefinition *definition;
} EsSagaVersion;

/* 0: the active one; ST008 when unknown.  Good to the end of the transaction */
extern const EsSagaVersion *es_saga_version_get(const char *name, int version);
/* the same; NULL: there is none */
extern const EsSagaVersion *es_saga_version_find(const char *name, int version);
/* NULL: there is none */
extern const EsSagaVersion *es_saga_version_by_id(int32 definition_id, int version);

#endif
