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

/* where the endpoint names no source: printable ASCII.  Needs a transaction */
extern char *es_cloudevent_default_source(void);
/* position, 19 digits, so that text order is the order of the store */
extern char *es_cloudevent_sequence(int64 position);
/* UTC; NULL for what RFC 3339 cannot say: infinity, years before 1 and after 9999 */
extern char *es_cloudevent_time(TimestampTz at);
/* NULL where there is no such key or its value is no string */
extern char *es_cloudevent_string(Jsonb *object, const char *key);
/* unreserved characters of RFC 3986 as they are, the others with % */
extern void es_cloudevent_append_segment(StringInfo buf, const char *utf8);
extern void es_cloudevent_append_encoded(StringInfo buf, char c);

#endif
