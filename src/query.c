/*
 * query.c
 *		Queries over types and tags, as dcb.events specifies them.  Runs in backends; keeps nothing.
 *
 * A query is a list of items.  An event matches when it matches any item; an item, when its type is one of the item's
 * types (none given: every type) and it has all of the item's tags.  A query without items matches every event; an item
 * without types and tags would too, and is refused, because it is more often a mistake than a wish.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "arg.h"
#include "compat.h"
#include "evtstore.h"
#include "options.h"
#include "query.h"

/* lists of positions that a search may have open: each keeps a scan and a page */
#define MAX_LISTS 10000

static int64 lists_of(const EsQueryItem *item);
static void parse_item(Jsonb *item, EsQueryItem *result, int number, const char *what);
static char **take_names(List *names, int *count, const char *arg, int max_bytes);
static bool item_matches(const EsQueryItem *item, Datum type, const Datum *tags, int ntags);
static bool is_text(Datum value, const char *text);

EsQuery *
es_query_parse(Jsonb *query, const char *what)
{
	EsQuery    *result = palloc0(sizeof(EsQuery));
	JsonbValue	items;
	JsonbValue	element;
	JsonbIterator *it;
	JsonbIteratorToken token;
	int64		lists = 0;

	static const EsOption allowed[] = {
		{"items", ES_OPTION_ARRAY},
		{NULL}
	};

	es_options_check(query, allowed, what);
	if (getKeyJsonValueFromContainer(&query->root, "items", strlen("items"), &items) == NULL)
		return result;

	result->items = palloc0(Max(JsonContainerSize(items.val.binary.data), 1) * sizeof(EsQueryItem));
	it = JsonbIteratorInit(items.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		parse_item(JsonbValueToJsonb(&element), &result->items[result->nitems], result->nitems + 1, what);
		lists += lists_of(&result->items[result->nitems]);
		result->nitems++;
	}
	if (lists > MAX_LISTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too big: it takes " INT64_FORMAT " look-ups, at most %d", what, lists, MAX_LISTS),
				 errdetail("Each item takes one for each of its tags, times the number of its types."),
				 errhint("Ask in several queries, or tag the events so that fewer tags select them.")));
	return result;
}

bool
es_query_matches(const EsQuery *query, Datum type, Datum tags)
{
	Datum	   *elements;
	int			ntags;

	if (query->nitems == 0)
		return true;
	deconstruct_array(DatumGetArrayTypeP(tags), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &ntags);
	for (int i = 0; i < query->nitems; i++)
		if (item_matches(&query->items[i], type, elements, ntags))
			return true;
	return false;
}

static int64
lists_of(const EsQueryItem *item)
{
	return (int64) Max(item->ntypes, 1) * Max(item->ntags, 1);
}

static void
parse_item(Jsonb *item, EsQueryItem *result, int number, const char *what)
{
	static const EsOption allowed[] = {
		{"types", ES_OPTION_STRINGS},
		{"tags", ES_OPTION_STRINGS},
		{NULL}
	};
	char	   *where = psprintf("item %d of %s", number, what);

	es_options_check(item, allowed, where);
	result->types = take_names(es_options_strings(item, "types"), &result->ntypes, "type", ES_MAX_TYPE_BYTES);
	result->tags = take_names(es_options_strings(item, "tags"), &result->ntags, "tag", ES_MAX_TAG_BYTES);
	if (result->ntypes == 0 && result->ntags == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s has neither types nor tags", where),
				 errhint("Leave out \"items\" to select every event: {}.")));
}

/* a name that stands twice costs a look and nothing else */
static char **
take_names(List *names, int *count, const char *arg, int max_bytes)
{
	char	  **result = palloc(Max(list_length(names), 1) * sizeof(char *));
	ListCell   *lc;

	*count = 0;
	foreach(lc, names)
	{
		es_arg_check_name(lfirst(lc), arg, max_bytes);
		result[(*count)++] = lfirst(lc);
	}
	return result;
}

static bool
item_matches(const EsQueryItem *item, Datum type, const Datum *tags, int ntags)
{
	bool		found = item->ntypes == 0;

	for (int i = 0; i < item->ntypes && !found; i++)
		found = is_text(type, item->types[i]);
	for (int i = 0; i < item->ntags && found; i++)
	{
		found = false;
		for (int t = 0; t < ntags && !found; t++)
			found = is_text(tags[t], item->tags[i]);
	}
	return found;
}

static bool
is_text(Datum value, const char *text)
{
	struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

	return VARSIZE_ANY_EXHDR(v) == strlen(text) && memcmp(VARDATA_ANY(v), text, strlen(text)) == 0;
}
