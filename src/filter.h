/*
 * filter.h
 *		What selects events: categories, types, tags, streams, a content pattern, an expression, or a query.
 */
#ifndef ES_FILTER_H
#define ES_FILTER_H

#include "cesql.h"
#include "nodes/pg_list.h"
#include "pattern.h"
#include "query.h"
#include "stream.h"

/* lists of char *; NIL: not asked for.  Within a list any one must match, but all of the tags */
typedef struct EsFilter
{
	List	   *categories;
	List	   *types;
	List	   *tags;
	List	   *streams;
	EsPattern  *pattern;		/* NULL: none */
	EsCesql    *expression;		/* NULL: none */
	EsQuery    *query;			/* instead of all the others; NULL: none */
} EsFilter;

/* checks and reads a filter; 22023 names what is wrong.  what: for the message.  Allocated in the current context */
extern EsFilter *es_filter_parse(Jsonb *filter, const char *what);
extern bool es_filter_matches(const EsFilter *filter, const EsStream *stream, const EsEvent *event);
/* the same, but for pattern and expression, for what an event has: the name of its stream ("" where it has none), type (text) and tags (text[]) */
extern bool es_filter_selects(const EsFilter *filter, const char *stream, int len, Datum type, Datum tags);

#endif
