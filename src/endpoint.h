/*
 * endpoint.h
 *		Endpoints: where workers deliver.  Definition only; transport/ does the I/O.
 */
#ifndef ES_ENDPOINT_H
#define ES_ENDPOINT_H

#include "utils/jsonb.h"

typedef enum EsFormat
{
	ES_FORMAT_BINARY,
	ES_FORMAT_STRUCTURED
} EsFormat;

typedef struct EsEndpoint
{
	int32 id;
	char *name;
	char *owner;	   /* role that a sql: function runs as */
	char *search_path; /* pinned for it */
	char *url;
	bool is_sql; /* sql:function, delivered inside the database */
	char *fn;	 /* its function */
	EsFormat format;
	int64 timeout_ms;
	int max_in_flight;
	char *source;	/* CloudEvents source; NULL: the default, /evtstore/DATABASE */
	Jsonb *headers; /* extra HTTP headers or NULL */
} EsEndpoint;

/* NULL when unknown; allocated in the current context */
extern EsEndpoint *es_endpoint_find(const char *name);

#endif
