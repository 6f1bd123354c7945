/*
 * filter.c
 *		What selects events.  Runs wherever rules, projections and subscriptions do; keeps nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "filter.h"
#include "options.h"

static bool has_text(const List *list, Datum text);
static bool has_string(const List *list, const char *value, int len);
static bool has_all_tags(const List *wanted, Datum tags);

EsFilter *
es_filter_parse(Jsonb *filter, const char *what)
{
	static const EsOption allowed[] = {
		{"categories", ES_OPTION_STRINGS},
		{"types", ES_OPTION_STRINGS},
		{"tags", ES_OPTION_STRINGS},
		{"streams", ES_OPTION_STRINGS},
		{"pattern", ES_OPTION_OBJECT},
		{"expression", ES_OPTION_STRING},
		{NULL}
	};
	EsFilter   *result;

	result = palloc0(sizeof(EsFilter));
	if (JB_ROOT_IS_OBJECT(filter) && es_options_has(filter, "items"))
	{
		result->query = es_query_parse(filter, what);
		return result;
	}
	es_options_check(filter, allowed, what);
	if (es_options_has(filter, "pattern"))
		result->pattern = es_pattern_compile(es_options_object(filter, "pattern"), what);
	if (es_options_has(filter, "expression"))
		result->expression = es_cesql_parse(es_options_string(filter, "expression", ""), what, true);
	result->categories = es_options_strings(filter, "categories");
	result->types = es_options_strings(filter, "types");
	result->tags = es_options_strings(filter, "tags");
	result->streams = es_options_strings(filter, "streams");
	return result;
}

bool
es_filter_matches(const EsFilter *filter, const EsStream *stream, const EsEvent *event)
{
	return es_filter_selects(filter, stream->name, strlen(stream->name), event->type, event->tags) &&
		(filter->pattern == NULL || es_pattern_matches(filter->pattern, event->data, event->metadata)) &&
		(filter->expression == NULL || es_cesql_selects(filter->expression, stream->name, strlen(stream->name), event));
}

bool
es_filter_selects(const EsFilter *filter, const char *stream, int len, Datum type, Datum tags)
{
	if (filter->query != NULL)
		return es_query_matches(filter->query, type, tags);
	if (filter->types != NIL && !has_text(filter->types, type))
		return false;
	if (filter->categories != NIL && !has_string(filter->categories, stream, es_stream_category_len(stream, len)))
		return false;
	if (filter->streams != NIL && !has_string(filter->streams, stream, len))
		return false;
	return filter->tags == NIL || has_all_tags(filter->tags, tags);
}

static bool
has_text(const List *list, Datum text)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(text);

	return has_string(list, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

static bool
has_string(const List *list, const char *value, int len)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		const char *item = lfirst(lc);

		if (strlen(item) == len && memcmp(item, value, len) == 0)
			return true;
	}
	return false;
}

static bool
has_all_tags(const List *wanted, Datum tags)
{
	Datum	   *elements;
	int			n;
	ListCell   *lc;

	deconstruct_array(DatumGetArrayTypeP(tags), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	foreach(lc, wanted)
	{
		const char *item = lfirst(lc);
		bool		found = false;

		for (int i = 0; i < n && !found; i++)
		{
			struct varlena *tag = (struct varlena *) DatumGetPointer(elements[i]);

			found = VARSIZE_ANY_EXHDR(tag) == strlen(item) && memcmp(VARDATA_ANY(tag), item, strlen(item)) == 0;
		}
		if (!found)
			return false;
	}
	return true;
}
