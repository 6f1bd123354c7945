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
static EsCachedDefinition *entry_at(EsDefinitionCache *cache, int i);

void *
es_definition_cache_by_name(EsDefinitionCache *cache, const char *name)
{
	refresh(cache);
	for (int i = 0; i < cache->n; i++)
		if (!cache->is_unnamed[i] && strcmp(entry_at(cache, i)->name, name) == 0)
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
	bool	   *is_unnamed;
	int			n = 0;

	if (cache->context != NULL && cache->generation == generation)
		return;
	definitions = list_definitions(cache);
	context = AllocSetContextCreate(CurrentMemoryContext, "evtstore definitions", ALLOCSET_SMALL_SIZES);
	old_context = MemoryContextSwitchTo(context);
	entries = palloc0(Max(list_length(definitions), 1) * cache->size);
	is_unnamed = palloc(Max(list_length(definitions), 1) * sizeof(bool));
	foreach(lc, definitions)
	{
		EsDefinition *definition = lfirst(lc);
		EsCachedDefinition *entry;

		if (cache->wants != NULL && !cache->wants(definition))
			continue;
		is_unnamed[n] = cache->unnamed_kind != NULL && strcmp(definition->kind, cache->unnamed_kind) == 0;
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
	cache->is_unnamed = is_unnamed;
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
	if (cache->unnamed_kind != NULL)
		list = list_concat(list, es_definition_list(cache->unnamed_kind));
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

static EsCachedDefinition *
entry_at(EsDefinitionCache *cache, int i)
{
	return (EsCachedDefinition *) (cache->entries + cache->size * i);
}
