/*
 * event.h
 *		Events between SQL, memory and the table: what append reads from its arguments, what readers hand out.
 */
#ifndef ES_EVENT_H
#define ES_EVENT_H

#include "compat.h"
#include "executor/tuptable.h"
#include "stream.h"

/* columns of evtstore_internal.event, from 0 */
enum
{
	ES_EVENT_POSITION,
	ES_EVENT_STREAM_ID,
	ES_EVENT_VERSION,
	ES_EVENT_CATEGORY_HASH,
	ES_EVENT_SCHEMA_VERSION,
	ES_EVENT_ID,
	ES_EVENT_OCCURRED_AT,
	ES_EVENT_RECORDED_AT,
	ES_EVENT_TENANT,
	ES_EVENT_TYPE,
	ES_EVENT_TAGS,
	ES_EVENT_DATA,
	ES_EVENT_METADATA,
	ES_EVENT_NATTS
};

/* attributes of the type evtstore.event, from 1 */
enum
{
	ES_EVENT_ROW_POSITION = 1,
	ES_EVENT_ROW_TENANT,
	ES_EVENT_ROW_STREAM,
	ES_EVENT_ROW_VERSION,
	ES_EVENT_ROW_ID,
	ES_EVENT_ROW_TYPE,
	ES_EVENT_ROW_SCHEMA_VERSION,
	ES_EVENT_ROW_DATA,
	ES_EVENT_ROW_METADATA,
	ES_EVENT_ROW_TAGS,
	ES_EVENT_ROW_OCCURRED_AT,
	ES_EVENT_ROW_RECORDED_AT,
	ES_EVENT_ROW_NATTS = ES_EVENT_ROW_RECORDED_AT
};

/* fills the attributes of evtstore.event */
extern void es_event_values(const EsEvent *event, Datum *values, bool *nulls);
/* an evtstore.event datum, in the current context */
extern Datum es_event_datum(const EsEvent *event);
/* the event of a row of the event table; toasted columns are fetched, so that it outlives the snapshot */
extern void es_event_from_slot(TupleTableSlot *slot, EsEvent *event);
extern void es_event_refuse_lost_stream(int64 stream_id, int64 position) es_noreturn;

/* the events of append_events' array; errors name the element */
extern EsEvent *es_event_parse_array(Jsonb *array, int *count);
/* what elements may have besides the keys of an event: take is asked first, and says whether the key was one of its own */
typedef struct EsEventKeys
{
	bool (*take)(void *arg, int index, const char *key, JsonbValue *value);
	void *arg;
	const char *names; /* for the hint: "\"a\", \"b\"" */
} EsEventKeys;

/* the same for such elements; metadata as it is given, nothing is stamped into it */
extern EsEvent *es_event_parse_elements(Jsonb *array, const EsEventKeys *keys, int *count);
/* the string of a key of an element, palloc'd; 22023 where it is none */
extern char *es_event_key_text(JsonbValue *value, const char *key, int index);
/* is it one as RFC 9562 writes it?  32 digits without hyphens may as well be some hash */
extern bool es_event_is_uuid(const char *text);
/* ids of events that have other ones where they come from: always the same for a source and its id (UUIDv5) */
extern void es_event_namespace(pg_uuid_t *result, const char *source);
extern void es_event_named_id(pg_uuid_t *result, const pg_uuid_t *namespace, const char *id);
/* tags: one dimension, no NULL, none empty or too long */
extern void es_event_check_tags(Datum tags);
extern bool es_event_same_tags(Datum a, Datum b);
extern Datum es_event_no_tags(void);
extern Datum es_event_no_metadata(void);
/* metadata with the client's settings stamped in; an explicit key wins */
extern Datum es_event_stamp(Datum metadata);

#endif
