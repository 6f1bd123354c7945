/*
 * event.c
 *		Events between SQL, memory and the table.
 *
 * Runs in backends and workers; keeps one constant.  Event data is jsonb from end to end: it is taken apart and copied
 * with the server's own functions, so that no digit and no escape is lost.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha1.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "cause.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "guc.h"
#include "options.h"
#include "stream_name.h"

static Datum stamp_caused(Datum metadata);
static void make_uuid5(pg_uuid_t *result, const pg_uuid_t *namespace, const char *prefix, const char *name);
static void push_key(JsonbParseState **state, const char *key);
static void push_pair(JsonbParseState **state, const char *key, const char *value);
static void parse_event(JsonbContainer *object, const EsEventKeys *keys, EsEvent *event, int index);
static void parse_field(const char *key, JsonbValue *value, const EsEventKeys *keys, EsEvent *event, int index);
static Datum field_tags(JsonbValue *value, int index);
static void refuse_field(const char *key, JsonbValue *value, const char *wanted, int index) es_noreturn;
static Datum copy_out(Datum value);

void
es_event_values(const EsEvent *event, Datum *values, bool *nulls)
{
	memset(nulls, 0, ES_EVENT_ROW_NATTS * sizeof(bool));
	values[0] = Int64GetDatum(event->position);
	values[1] = event->tenant;
	values[2] = event->stream;
	values[3] = Int64GetDatum(event->version);
	values[4] = UUIDPGetDatum(&event->id);
	values[5] = event->type;
	values[6] = Int32GetDatum(event->schema_version);
	values[7] = event->data;
	values[8] = event->metadata;
	values[9] = event->tags;
	values[10] = TimestampTzGetDatum(event->occurred_at);
	values[11] = TimestampTzGetDatum(event->recorded_at);
	if (DatumGetPointer(event->stream) == NULL)
	{
		nulls[2] = true;
		nulls[3] = true;
	}
}

Datum
es_event_datum(const EsEvent *event)
{
	Datum		values[ES_EVENT_ROW_NATTS];
	bool		nulls[ES_EVENT_ROW_NATTS];
	TupleDesc	desc = es_arg_row_desc(es_catalog()->event_type);

	es_event_values(event, values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

void
es_event_from_slot(TupleTableSlot *slot, EsEvent *event)
{
	int64		stream_id;
	const EsStreamName *stream = NULL;

	slot_getallattrs(slot);
	memset(event, 0, sizeof(*event));
	event->position = DatumGetInt64(slot->tts_values[ES_EVENT_POSITION]);
	event->schema_version = DatumGetInt32(slot->tts_values[ES_EVENT_SCHEMA_VERSION]);
	event->id = *DatumGetUUIDP(slot->tts_values[ES_EVENT_ID]);
	event->has_id = true;
	event->occurred_at = DatumGetTimestampTz(slot->tts_values[ES_EVENT_OCCURRED_AT]);
	event->has_occurred_at = true;
	event->recorded_at = DatumGetTimestampTz(slot->tts_values[ES_EVENT_RECORDED_AT]);
	event->tenant = copy_out(slot->tts_values[ES_EVENT_TENANT]);
	event->type = copy_out(slot->tts_values[ES_EVENT_TYPE]);
	event->tags = copy_out(slot->tts_values[ES_EVENT_TAGS]);
	event->data = copy_out(slot->tts_values[ES_EVENT_DATA]);
	event->metadata = copy_out(slot->tts_values[ES_EVENT_METADATA]);
	if (slot->tts_isnull[ES_EVENT_STREAM_ID])
		return;

	event->version = DatumGetInt64(slot->tts_values[ES_EVENT_VERSION]);
	stream_id = DatumGetInt64(slot->tts_values[ES_EVENT_STREAM_ID]);
	stream = es_stream_name(stream_id);
	if (stream == NULL)
		es_event_refuse_lost_stream(stream_id, event->position);
	event->stream = es_stream_name_datum(stream);
}

void
es_event_refuse_lost_stream(int64 stream_id, int64 position)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stream " INT64_FORMAT " of event " INT64_FORMAT " is missing", stream_id, position),
			 errhint("The tables of evtstore_internal are damaged: restore them from a backup.")));
}

EsEvent *
es_event_parse_array(Jsonb *array, int *count)
{
	EsEvent    *events = es_event_parse_elements(array, NULL, count);

	for (int i = 0; i < *count; i++)
		events[i].metadata = es_event_stamp(events[i].metadata);
	return events;
}

EsEvent *
es_event_parse_elements(Jsonb *array, const EsEventKeys *keys, int *count)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	element;
	EsEvent    *events;
	int			n = 0;

	if (!JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must be a JSON array"),
				 errhint("Write [{\"type\": \"OrderPlaced\", \"data\": {}}].")));
	events = MemoryContextAllocExtended(CurrentMemoryContext, Max(JB_ROOT_COUNT(array), 1) * sizeof(EsEvent),
										MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	it = JsonbIteratorInit(&array->root);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (element.type != jbvBinary || !JsonContainerIsObject(element.val.binary.data))
			refuse_field(NULL, &element, "an object", n);
		parse_event(element.val.binary.data, keys, &events[n], n);
		n++;
	}
	*count = n;
	return events;
}

void
es_event_check_tags(Datum tags)
{
	ArrayType  *array = DatumGetArrayTypeP(tags);
	ArrayIterator it;
	Datum		tag;
	bool		isnull;

	if (ARR_NDIM(array) == 0)
		return;
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tags must be an array of one dimension, not %d", ARR_NDIM(array))));
	it = array_create_iterator(array, 0, NULL);
	while (array_iterate(it, &tag, &isnull))
	{
		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("tags must not contain NULL")));
		es_arg_check_name(TextDatumGetCString(tag), "tag", ES_MAX_TAG_BYTES);
	}
	array_free_iterator(it);
}

bool
es_event_same_tags(Datum a, Datum b)
{
	return DatumGetBool(OidFunctionCall2Coll(F_ARRAY_EQ, C_COLLATION_OID, a, b));
}

Datum
es_event_no_tags(void)
{
	static ArrayType *none = NULL;

	if (none == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		none = construct_empty_array(TEXTOID);
		MemoryContextSwitchTo(old);
	}
	return PointerGetDatum(none);
}

/* one for all: an object of its own for each event of a big batch costs a kilobyte apiece */
Datum
es_event_no_metadata(void)
{
	static Datum none = (Datum) 0;

	if (none == (Datum) 0)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		none = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
		MemoryContextSwitchTo(old);
	}
	return none;
}

Datum
es_event_stamp(Datum metadata)
{
	const struct
	{
		const char *key;
		const char *value;
	}			stamps[] = {
		{"actor", es_guc_actor},
		{"traceparent", es_guc_traceparent},
		{"causation_id", es_guc_causation_id},
		{"correlation_id", es_guc_correlation_id},
	};
	JsonbParseState *state = NULL;
	bool		any = false;
	Jsonb	   *ours;

	if (es_cause() != NULL)
		return stamp_caused(metadata);
	for (int i = 0; i < lengthof(stamps); i++)
		any |= stamps[i].value[0] != '\0';
	if (!any)
		return metadata;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < lengthof(stamps); i++)
	{
		if (stamps[i].value[0] != '\0')
			push_pair(&state, stamps[i].key, stamps[i].value);
	}
	ours = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(ours), metadata);
}

/*
 * Appended by a handler: the event that it handles is the cause, whatever the session says, and passes its correlation on, or
 * begins one.  An explicit key wins, but for the depth: a handler that copies metadata must not begin at its event's.
 */
static Datum
stamp_caused(Datum metadata)
{
	EsCauseFacts facts = es_cause()->tell(es_cause()->arg);
	JsonbParseState *state = NULL;
	JsonbParseState *depth_state = NULL;
	const char *correlation_id = facts.correlation_id != NULL ? facts.correlation_id : facts.id;
	JsonbValue	v = {.type = jbvNumeric};
	Jsonb	   *ours;
	Datum		depth;

	if (facts.depth >= es_guc_max_causation_depth)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a handler appends what handlers appended %d times before", facts.depth),
				 errdetail("The event that it handles has \"causation_depth\" %d in its metadata.", facts.depth),
				 errhint("Handlers that append what leads back to themselves never end: handle fewer types, or raise "
						 "evtstore.max_causation_depth.")));
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (es_guc_actor[0] != '\0')
		push_pair(&state, "actor", es_guc_actor);
	if (es_guc_traceparent[0] != '\0')
		push_pair(&state, "traceparent", es_guc_traceparent);
	if (facts.id != NULL)
		push_pair(&state, "causation_id", facts.id);
	if (correlation_id != NULL)
		push_pair(&state, "correlation_id", correlation_id);
	ours = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	metadata = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(ours), metadata);

	pushJsonbValue(&depth_state, WJB_BEGIN_OBJECT, NULL);
	push_key(&depth_state, "causation_depth");
	v.val.numeric = int64_to_numeric(facts.depth + 1);
	pushJsonbValue(&depth_state, WJB_VALUE, &v);
	depth = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&depth_state, WJB_END_OBJECT, NULL)));
	return DirectFunctionCall2(jsonb_concat, metadata, depth);
}

bool
es_event_is_uuid(const char *text)
{
	int			i;

	for (i = 0; text[i] != '\0'; i++)
	{
		bool		hyphen = i == 8 || i == 13 || i == 18 || i == 23;

		if (i >= 36 || (hyphen ? text[i] != '-' : !isxdigit((unsigned char) text[i])))
			return false;
	}
	return i == 36;
}

void
es_event_namespace(pg_uuid_t *result, const char *source)
{
	/* RFC 9562, name space of URLs */
	static const pg_uuid_t urls = {{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}};

	make_uuid5(result, &urls, "evtstore:", source);
}

void
es_event_named_id(pg_uuid_t *result, const pg_uuid_t *namespace, const char *id)
{
	make_uuid5(result, namespace, "", id);
}

/* RFC 9562, version 5; the name is prefix and name */
static void
make_uuid5(pg_uuid_t *result, const pg_uuid_t *namespace, const char *prefix, const char *name)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA1);
	uint8		digest[SHA1_DIGEST_LENGTH];

	if (pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, namespace->data, UUID_LEN) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) prefix, strlen(prefix)) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) name, strlen(name)) < 0 ||
		pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a UUIDv5: %s", pg_cryptohash_error(hash))));
	pg_cryptohash_free(hash);
	memcpy(result->data, digest, UUID_LEN);
	result->data[6] = (result->data[6] & 0x0f) | 0x50;
	result->data[8] = (result->data[8] & 0x3f) | 0x80;
}

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	v = {.type = jbvString};

	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &v);
}

static void
push_pair(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue	v = {.type = jbvString};

	push_key(state, key);
	v.val.string.val = unconstify(char *, value);
	v.val.string.len = strlen(value);
	pushJsonbValue(state, WJB_VALUE, &v);
}

static void
parse_event(JsonbContainer *object, const EsEventKeys *keys, EsEvent *event, int index)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	event->schema_version = 1;
	event->tags = es_event_no_tags();
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			parse_field(key, &v, keys, event, index);
	}
	if (DatumGetPointer(event->type) == NULL || DatumGetPointer(event->data) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("element %d of events has no \"%s\"", index + 1, DatumGetPointer(event->type) == NULL ? "type" : "data"),
				 errhint("Each event has \"type\" and \"data\".")));
	if (DatumGetPointer(event->metadata) == NULL)
		event->metadata = es_event_no_metadata();
}

static void
parse_field(const char *key, JsonbValue *value, const EsEventKeys *keys, EsEvent *event, int index)
{
	if (keys != NULL && keys->take(keys->arg, index, key, value))
		return;
	if (strcmp(key, "type") == 0)
	{
		char	   *type = es_event_key_text(value, key, index);

		es_arg_check_name(type, "type", ES_MAX_TYPE_BYTES);
		event->type = CStringGetTextDatum(type);
	}
	else if (strcmp(key, "data") == 0)
		event->data = JsonbPGetDatum(JsonbValueToJsonb(value));
	else if (strcmp(key, "metadata") == 0)
	{
		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			refuse_field(key, value, "an object", index);
		event->metadata = JsonbPGetDatum(JsonbValueToJsonb(value));
	}
	else if (strcmp(key, "tags") == 0)
		event->tags = field_tags(value, index);
	else if (strcmp(key, "id") == 0)
	{
		event->id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(es_event_key_text(value, key, index))));
		event->has_id = true;
	}
	else if (strcmp(key, "occurred_at") == 0)
	{
		event->occurred_at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(es_event_key_text(value, key, index)),
																	 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		event->has_occurred_at = true;
	}
	else if (strcmp(key, "schema_version") == 0)
	{
		double		number = 0;

		if (value->type == jbvNumeric)
			number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
		if (number < 1 || number > PG_INT32_MAX || number != floor(number))
			refuse_field(key, value, "an integer above 0", index);
		event->schema_version = (int32) number;
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown key \"%s\" in element %d of events", es_arg_shown(key, strlen(key)), index + 1),
				 errhint("Known keys: %s\"type\", \"data\", \"metadata\", \"tags\", \"id\", \"schema_version\", \"occurred_at\".",
						 keys == NULL ? "" : keys->names)));
}

char *
es_event_key_text(JsonbValue *value, const char *key, int index)
{
	if (value->type != jbvString)
		refuse_field(key, value, "a string", index);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static Datum
field_tags(JsonbValue *value, int index)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	ArrayBuildState *tags = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	Datum		result;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		refuse_field("tags", value, "an array of strings", index);
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (v.type != jbvString)
			refuse_field("tags", &v, "an array of strings", index);
		accumArrayResult(tags, PointerGetDatum(cstring_to_text_with_len(v.val.string.val, v.val.string.len)), false,
						 TEXTOID, CurrentMemoryContext);
	}
	result = makeArrayResult(tags, CurrentMemoryContext);
	es_event_check_tags(result);
	return result;
}

static void
refuse_field(const char *key, JsonbValue *value, const char *wanted, int index)
{
	char	   *shown = es_options_shown(JsonbValueToJsonb(value));

	if (key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("element %d of events must be %s, not %s", index + 1, wanted, shown),
				 errhint("Write [{\"type\": \"OrderPlaced\", \"data\": {}}].")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" in element %d of events must be %s, not %s", key, index + 1, wanted, shown)));
}

/* fetched from its TOAST table if it is there, and out of the page */
static Datum
copy_out(Datum value)
{
	return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}
