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
#include "utils/array.h"
#include "utils/builtins.h"

#include "arg.h"
#include "compat.h"
#include "evtstore.h"
#include "options.h"
#include "query.h"

static void parse_item(Jsonb *item, EsQueryItem *result, int number, const char *what);
static void refuse_long(const char *what, const char *where) es_noreturn;
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

	if (JsonContainerSize(items.val.binary.data) > ES_MAX_QUERY_LISTS)
		refuse_long("items", what);
	result->items = palloc0(Max(JsonContainerSize(items.val.binary.data), 1) * sizeof(EsQueryItem));
	it = JsonbIteratorInit(items.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		EsQueryItem *item;

		if (token != WJB_ELEM)
			continue;
		item = &result->items[result->nitems++];
		parse_item(JsonbValueToJsonb(&element), item, result->nitems, what);
		lists += (int64) Max(item->ntypes, 1) * Max(item->ntags, 1);
		if (lists > ES_MAX_QUERY_LISTS)
			refuse_long("types and tags", what);
	}
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

static void
refuse_long(const char *what, const char *where)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("%s has too many %s", where, what),
			 errdetail("The types of an item times its tags, summed up over the items, are at most %d.", ES_MAX_QUERY_LISTS),
			 errhint("Ask for less at once.")));
}

/* quadratic, which a dozen names do not notice, and thousands do not feel */
static char **
take_names(List *names, int *count, const char *arg, int max_bytes)
{
	char	  **result = palloc(Max(list_length(names), 1) * sizeof(char *));
	ListCell   *lc;

	if (list_length(names) > ES_MAX_QUERY_LISTS)
		refuse_long(psprintf("%ss", arg), "an item of the query");
	*count = 0;
	foreach(lc, names)
	{
		char	   *name = lfirst(lc);
		bool		known = false;

		es_arg_check_name(name, arg, max_bytes);
		for (int i = 0; i < *count && !known; i++)
			known = strcmp(result[i], name) == 0;
		if (!known)
			result[(*count)++] = name;
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
