/*
 * definition_cache.h
 *		Definitions of a kind, or two, as their module knows them, by name and by id.
 */
#ifndef ES_DEFINITION_CACHE_H
#define ES_DEFINITION_CACHE_H

#include "definition.h"

/* what every entry begins with */
typedef struct EsCachedDefinition
{
	int32 id;
	char *name;
} EsCachedDefinition;

typedef struct EsDefinitionCache
{
	const char *kind;
	const char *other_kind; /* NULL: one is all */
	const char *aside_kinds[3]; /* more, whose names are their own or those of other kinds: not found by name alone */
	/* which definitions are entries; NULL: all */
	bool (*wants)(const EsDefinition *definition);
	Size size; /* of an entry */
	/* all but what it begins with, in the current context; the entry is zeroed */
	void (*fill)(void *entry, const EsDefinition *definition);
	/* the rest is for definition_cache.c */
	MemoryContext context;
	char *entries;
	const char **kinds; /* of each */
	int n;
	uint64 generation;
} EsDefinitionCache;

/*
 * NULL where there is none.  Good until the next look-up in this cache, which may find that a definition was changed and
 * build all of it anew.
 */
extern void *es_definition_cache_by_name(EsDefinitionCache *cache, const char *name);
/* the same, of one of the kinds that stand aside */
extern void *es_definition_cache_by_kind(EsDefinitionCache *cache, const char *kind, const char *name);
extern void *es_definition_cache_by_id(EsDefinitionCache *cache, int32 id);
/* all of them, in order of id: as many as *n */
extern void *es_definition_cache_all(EsDefinitionCache *cache, int *n);

#endif
