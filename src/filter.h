/*
 * filter.h
 *		What selects events: categories, types, tags, streams.
 */
#ifndef ES_FILTER_H
#define ES_FILTER_H

#include "nodes/pg_list.h"
#include "stream.h"

/* lists of char *; NIL: not asked for.  Within a list any one must match, but all of the tags */
typedef struct EsFilter
{
	List	   *categories;
	List	   *types;
	List	   *tags;
	List	   *streams;
} EsFilter;

/* checks and reads a filter; 22023 names what is wrong.  what: for the message.  Allocated in the current context */
extern EsFilter *es_filter_parse(Jsonb *filter, const char *what);
extern bool es_filter_matches(const EsFilter *filter, const EsStream *stream, const EsEvent *event);

#endif
