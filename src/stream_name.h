/*
 * stream_name.h
 *		The names of streams by id, for readers: an event's row has the id only.
 */
#ifndef ES_STREAM_NAME_H
#define ES_STREAM_NAME_H

#include "evtstore.h"
#include "utils/snapshot.h"

typedef struct EsStreamName
{
	int64 id;
	text *name; /* both with a plain four-byte header */
	text *tenant;
} EsStreamName;

/* under the active snapshot, cached; NULL when unknown.  Good until the next call */
extern const EsStreamName *es_stream_name(int64 id);
/* a copy of the name in the current context */
extern Datum es_stream_name_datum(const EsStreamName *stream);
/* whether the tenant has exactly these bytes */
extern bool es_stream_name_has_tenant(const EsStreamName *stream, const char *tenant);

/*
 * The same for readers that meet one stream after the other: what a look into the table needs is kept from the first
 * one to the close.  In the current context, on behalf of the current resource owner, under a snapshot of the caller's.
 */
typedef struct EsStreamNames EsStreamNames;
extern EsStreamNames *es_stream_names_open(Snapshot snapshot);
extern const EsStreamName *es_stream_names_find(EsStreamNames *names, int64 id);
extern void es_stream_names_close(EsStreamNames *names);

#endif
