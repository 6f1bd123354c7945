/*
 * endpoint.h
 *		Endpoints: where workers deliver.  Definition only; transport/ does the I/O.
 */
#ifndef ES_ENDPOINT_H
#define ES_ENDPOINT_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "text_template.h"
#include "transport/transport.h"

typedef enum EsFormat
{
	ES_FORMAT_BINARY,
	ES_FORMAT_STRUCTURED,
	ES_FORMAT_BATCHED,
	ES_FORMAT_DEBEZIUM,
	ES_FORMAT_PLAIN
} EsFormat;

/* roots of the placeholders in "topic" and "key", in order of endpoint.c's table */
typedef enum EsEndpointRoot
{
	ES_ENDPOINT_CATEGORY,
	ES_ENDPOINT_STREAM,
	ES_ENDPOINT_TYPE,
	ES_ENDPOINT_KEY,
	ES_ENDPOINT_SOURCE,	  /* the subscription or queue */
	ES_ENDPOINT_DATA,	  /* of a message without event its body */
	ES_ENDPOINT_METADATA, /* its headers */
	ES_ENDPOINT_BODY,
	ES_ENDPOINT_HEADERS
} EsEndpointRoot;

/* what messages are signed with: the bytes, not their text */
typedef struct EsSigningKey
{
	const unsigned char *bytes;
	int len;
	TimestampTz until; /* by es_clock_now(); 0: no end */
} EsSigningKey;

typedef struct EsEndpoint
{
	int32 id;
	char *name;
	char *owner;	   /* role that a sql: function runs as */
	char *search_path; /* pinned for it */
	char *url;
	bool is_disabled;	   /* until reset_breaker() */
	char *fingerprint;	   /* of all that makes its messages and its link: another one, another endpoint */
	bool is_sql; /* sql:function, delivered inside the database */
	char *fn;	 /* its function */
	EsFormat format;
	int64 timeout_ms;
	int max_in_flight;
	double rate;			 /* messages a second; 0: any */
	int breaker_failures;	 /* so many in a row open it */
	int64 breaker_open_ms;	 /* at first; twice as long after each trial that failed */
	int64 breaker_max_open_ms;
	EsTextTemplate *topic;	/* NULL: none */
	EsTextTemplate *key;	/* NULL: that of the message, else its stream */
	char *source;		/* CloudEvents source, printable ASCII */
	EsHeader *headers;	/* its own */
	int nheaders;
	bool tls_verify;
	char *tls_ca_file;	   /* NULL: the system's */
	char *tls_server_name; /* NULL: the host's */
	EsSetting *client;	   /* for the client library */
	int nclient;
	EsSetting *secrets; /* the newest of each kind but signing */
	int nsecrets;
	EsSigningKey *signing; /* newest first */
	int nsigning;
	char *missing_secret; /* a kind that it was given and that a dump does not have: nothing may be sent; NULL: none is missing */
} EsEndpoint;

/* NULL when unknown; allocated in the current context, all of it.  Raises an error where the transport is not installed */
extern EsEndpoint *es_endpoint_find(const char *name);
/* what a link to it is made from; points into the endpoint */
extern void es_endpoint_link_config(const EsEndpoint *endpoint, EsLinkConfig *config);

/* janitor: forgets at most limit secrets that hold no longer; returns how many */
extern int64 es_endpoint_trim_secrets(int limit);

/*
 * Between endpoint.c, endpoint_check.c and endpoint_secret.c only
 */

#define ES_ENDPOINT_SQL_SCHEME "sql:"

/* the endpoint of a spec, without id, name and secrets; the spec was checked, but for the transport's part */
extern EsEndpoint *es_endpoint_of_spec(Jsonb *spec);
extern bool es_endpoint_is_sql(const char *url);
/* where the spec says nothing */
extern int es_endpoint_default_in_flight(const char *url);
/* -1: no such format */
extern int es_endpoint_format(const char *name);
/* 22023 naming the option where its placeholders are none */
extern EsTextTemplate *es_endpoint_template(const char *text, const char *option);
/* keys and types of the spec were checked; here the values, and what the transport says.  id: 0 for a new one; owner: of the endpoint */
extern void es_endpoint_check_spec(int32 id, const char *name, Jsonb *spec, Oid owner);
/* 22023 where the client settings and secrets are not acceptable to the transport */
extern void es_endpoint_check_transport(const EsEndpoint *endpoint);
extern bool es_endpoint_is_http(const char *url);
/* fills secrets, signing and missing_secret of the endpoint with that id */
extern void es_endpoint_read_secrets(EsEndpoint *endpoint);
extern void es_endpoint_drop_secrets(int32 id);
/* would the new url send a secret to somebody else? */
extern bool es_endpoint_moves_secrets(int32 id, const char *old_url, const char *new_url);

#endif
