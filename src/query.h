/*
 * query.h
 *		Queries over types and tags as dcb.events specifies them: items OR, types OR, tags AND.
 */
#ifndef ES_QUERY_H
#define ES_QUERY_H

#include "stream.h"

typedef struct EsQueryItem
{
	int ntypes; /* 0: every type */
	char **types;
	int ntags; /* 0: whatever its tags */
	char **tags;
} EsQueryItem;

typedef struct EsQuery
{
	int nitems; /* 0: every event */
	EsQueryItem *items;
} EsQuery;

/*
 * Reads {"items": [{"types": [...], "tags": [...]}]}; types and tags of an item in the given order.  Errors: 22023 names
 * what is wrong and in which item, 54000 too big; what: for the message.  Allocated in the current context.
 */
extern EsQuery *es_query_parse(Jsonb *query, const char *what);
/* does an event with this type (text) and these tags (text[]) match? */
extern bool es_query_matches(const EsQuery *query, Datum type, Datum tags);

#endif
