/*
 * definition_cache.c
 *		Definitions of a kind as their module knows them, by name and by id.
 *
 * Runs everywhere.  A cache is this backend's own and rebuilt, as a whole, by the first look-up after a definition
 * changed.  The catalog's generation is looked at before the definitions are read, so a change meanwhile makes the next
 * look-up read again; and the new entries are put in place when they are complete, so an error leaves the old ones.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "definition_cache.h"

static void refresh(EsDefinitionCache *cache);
static List *list_definitions(EsDefinitionCache *cache);
static int	compare_ids(const ListCell *a, const ListCell *b);
static bool is_aside(const EsDefinitionCache *cache, const char *kind);
static EsCachedDefinition *entry_at(EsDefinitionCache *cache, int i);

void *
es_definition_cache_by_name(EsDefinitionCache *cache, const char *name)
{
	refresh(cache);
	for (int i = 0; i < cache->n; i++)
		if (!is_aside(cache, cache->kinds[i]) && strcmp(entry_at(cache, i)->name, name) == 0)
			return entry_at(cache, i);
	return NULL;
}

void *
es_definition_cache_by_kind(EsDefinitionCache *cache, const char *kind, const char *name)
{
	refresh(cache);
	for (int i = 0; i < cache->n; i++)
		if (strcmp(cache->kinds[i], kind) == 0 && strcmp(entry_at(cache, i)->name, name) == 0)
			return entry_at(cache, i);
	return NULL;
}

void *
es_definition_cache_by_id(EsDefinitionCache *cache, int32 id)
{
	int			low = 0;
	int			high;

	refresh(cache);
	high = cache->n;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (entry_at(cache, middle)->id == id)
			return entry_at(cache, middle);
		if (entry_at(cache, middle)->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

void *
es_definition_cache_all(EsDefinitionCache *cache, int *n)
{
	refresh(cache);
	*n = cache->n;
	return cache->entries;
}

static void
refresh(EsDefinitionCache *cache)
{
	uint64		generation = es_catalog_generation();
	MemoryContext context;
	MemoryContext old_context;
	List	   *definitions;
	ListCell   *lc;
	char	   *entries;
	const char **kinds;
	int			n = 0;

	if (cache->context != NULL && cache->generation == generation)
		return;
	definitions = list_definitions(cache);
	context = AllocSetContextCreate(CurrentMemoryContext, "evtstore definitions", ALLOCSET_SMALL_SIZES);
	old_context = MemoryContextSwitchTo(context);
	entries = palloc0(Max(list_length(definitions), 1) * cache->size);
	kinds = palloc(Max(list_length(definitions), 1) * sizeof(char *));
	foreach(lc, definitions)
	{
		EsDefinition *definition = lfirst(lc);
		EsCachedDefinition *entry;

		if (cache->wants != NULL && !cache->wants(definition))
			continue;
		kinds[n] = pstrdup(definition->kind);
		entry = (EsCachedDefinition *) (entries + cache->size * n++);
		entry->id = definition->id;
		entry->name = pstrdup(definition->name);
		cache->fill(entry, definition);
	}
	MemoryContextSwitchTo(old_context);

	MemoryContextSetParent(context, CacheMemoryContext);
	if (cache->context != NULL)
		MemoryContextDelete(cache->context);
	cache->context = context;
	cache->entries = entries;
	cache->kinds = kinds;
	cache->n = n;
	cache->generation = generation;
}

/* in order of id, which look-ups count on */
static List *
list_definitions(EsDefinitionCache *cache)
{
	List	   *list = es_definition_list(cache->kind);

	if (cache->other_kind != NULL)
		list = list_concat(list, es_definition_list(cache->other_kind));
	for (int i = 0; i < lengthof(cache->aside_kinds) && cache->aside_kinds[i] != NULL; i++)
		list = list_concat(list, es_definition_list(cache->aside_kinds[i]));
	list_sort(list, compare_ids);
	return list;
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int32		x = ((const EsDefinition *) lfirst(a))->id;
	int32		y = ((const EsDefinition *) lfirst(b))->id;

	return x < y ? -1 : x > y;
}

static bool
is_aside(const EsDefinitionCache *cache, const char *kind)
{
	for (int i = 0; i < lengthof(cache->aside_kinds) && cache->aside_kinds[i] != NULL; i++)
		if (strcmp(cache->aside_kinds[i], kind) == 0)
			return true;
	return false;
}

static EsCachedDefinition *
entry_at(EsDefinitionCache *cache, int i)
{
	return (EsCachedDefinition *) (cache->entries + cache->size * i);
}
