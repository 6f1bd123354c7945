/*
 * cloudevent.h
 *		What of an event becomes which attribute of a CloudEvent: for deliveries and for expressions, which must agree.
 */
#ifndef ES_CLOUDEVENT_H
#define ES_CLOUDEVENT_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/* metadata keys that are CloudEvents extensions of another name */
typedef struct EsCloudeventExtension
{
	const char *key;
	const char *attribute;
} EsCloudeventExtension;

#define ES_CLOUDEVENT_EXTENSIONS 4
extern const EsCloudeventExtension es_cloudevent_extensions[ES_CLOUDEVENT_EXTENSIONS];

#define ES_CLOUDEVENT_SPECVERSION "1.0"
#define ES_CLOUDEVENT_DATACONTENTTYPE "application/json"

/*
 * Key in the metadata of an event that came as a CloudEvent: an object of what it had that the event does not say by itself, "source"
 * always among it.
 */
#define ES_CLOUDEVENT_ORIGINAL "cloudevent"
/* in there: data is the base64 of what it was */
#define ES_CLOUDEVENT_BASE64 "data_base64"
/* attributes in there at most */
#define ES_CLOUDEVENT_MAX_ORIGINAL 64

/* the attributes that events of ours have; in order of es_cloudevent_names */
typedef enum EsCloudeventName
{
	ES_CE_SPECVERSION,
	ES_CE_ID,
	ES_CE_SOURCE,
	ES_CE_TYPE,
	ES_CE_SUBJECT,
	ES_CE_TIME,
	ES_CE_DATACONTENTTYPE,
	ES_CE_SEQUENCE,
	ES_CE_STREAMVERSION,
	ES_CE_SCHEMAVERSION,
	ES_CE_PARTITIONKEY,
	ES_CE_RECORDEDTIME,
	ES_CE_CORRELATIONID,
	ES_CE_CAUSATIONID,
	ES_CE_TRACEPARENT,
	ES_CE_TRACESTATE,
	ES_CE_OTHER /* of somebody else */
} EsCloudeventName;

/* arrays of names with a prefix, so that none has to be put together for each message */
#define ES_CLOUDEVENT_NAMES(prefix) { \
	prefix "specversion", prefix "id", prefix "source", prefix "type", prefix "subject", prefix "time", prefix "datacontenttype", \
	prefix "sequence", prefix "streamversion", prefix "schemaversion", prefix "partitionkey", prefix "recordedtime", \
	prefix "correlationid", prefix "causationid", prefix "traceparent", prefix "tracestate" \
}

typedef struct EsCloudeventAttribute
{
	EsCloudeventName name;
	const char *text; /* its name */
	const char *value; /* in the server's encoding */
	bool is_string;	   /* else JSON: an integer or a boolean */
} EsCloudeventAttribute;

typedef struct EsCloudevent
{
	int n;
	EsCloudeventAttribute attributes[ES_CE_OTHER + ES_CLOUDEVENT_MAX_ORIGINAL];
	Jsonb *data;
	bool is_base64;
} EsCloudevent;

/* what an event of the store says */
typedef struct EsCloudeventFacts
{
	const char *id;
	const char *source;
	const char *type;
	const char *stream; /* NULL: none */
	const char *key;	/* NULL: none */
	int64 version;		/* of these three 0: none */
	int64 position;
	int32 schema_version;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
	Jsonb *metadata; /* NULL: none */
	Jsonb *data;
} EsCloudeventFacts;

/* attributes and data of an event; what it had when it came as a CloudEvent wins.  Points into the facts, or is palloc'd */
extern void es_cloudevent_of_event(EsCloudevent *event, const EsCloudeventFacts *facts);
/* the same for what is no event: empty; then one by one.  A NULL or empty value is left out */
extern void es_cloudevent_begin(EsCloudevent *event, Jsonb *data);
extern void es_cloudevent_add(EsCloudevent *event, EsCloudeventName name, const char *value);
extern void es_cloudevent_add_extensions(EsCloudevent *event, Jsonb *metadata);
/* NULL: it has none */
extern const char *es_cloudevent_attribute(const EsCloudevent *event, EsCloudeventName name);
/* the JSON format; UTF-8 */
extern char *es_cloudevent_structured(const EsCloudevent *event);
/* data as bytes of its content type: JSON in UTF-8, text, or what base64 stood for */
extern const char *es_cloudevent_payload(const EsCloudevent *event, size_t *len);

/* where the endpoint names no source: printable ASCII.  Needs a transaction */
extern char *es_cloudevent_default_source(void);
/* position, 19 digits, so that text order is the order of the store */
extern char *es_cloudevent_sequence(int64 position);
/* UTC; NULL for what RFC 3339 cannot say: infinity, years before 1 and after 9999 */
extern char *es_cloudevent_time(TimestampTz at);
/* NULL where there is no such key or its value is no string */
extern char *es_cloudevent_string(Jsonb *object, const char *key);
/* is data of this media type JSON? */
extern bool es_cloudevent_is_json(const char *media_type);
/* the metadata's object of what the event had as a CloudEvent; NULL: it came otherwise */
extern Jsonb *es_cloudevent_original(Jsonb *metadata);
/* letters and digits in lower case, as the specification wants names */
extern bool es_cloudevent_is_name(const char *name, int len);
/* unreserved characters of RFC 3986 as they are, the others with % */
extern void es_cloudevent_append_segment(StringInfo buf, const char *utf8);
extern void es_cloudevent_append_encoded(StringInfo buf, char c);

#endif
