/*
 * accept.c
 *		accept_events(): events and messages that another database delivers.
 *
 * Runs in backends: in the session of a relay worker over there, or of whoever else brings events.  All of a call takes effect in the
 * caller's transaction: the rows of the inbox, and what is appended or sent.  So what was answered is here once, and what was
 * not answered is brought again and known.  A crash leaves what was committed.
 *
 * The inbox (inbox.c) knows what came by source, target and id; it forgets after evtstore.inbox_retention.  The store knows
 * events by their ids for as long as it has them: so an event that began here and comes back is a duplicate, and the same id
 * with other content is ST004.  Events keep id, type, schema version, time, tags, data and metadata; nothing of the session is
 * stamped into them, and the depth of causation is what it was.  Where they come from is added as "origin", unless it is there.
 *
 * Order: elements are appended in the order of the array, so that the order of each stream and key is kept.
 *
 * Locks: the inbox's unique key first (who brings the same waits here), then as an append does, all streams of the call at once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/formatting.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "append.h"
#include "arg.h"
#include "async_commit.h"
#include "catalog.h"
#include "cause.h"
#include "cloudevent.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "inbox.h"
#include "queue.h"
#include "table.h"

#define TARGET_QUEUE "queue:"
#define TARGET_STREAM "stream:"
/* messages that carry no event have their queue and number as id */
#define MAX_ID_BYTES (ES_MAX_NAME_BYTES + 21)
#define MAX_SOURCE_BYTES 1024
#define MAX_POSITION_BYTES 20

/* what an element has beside its event */
typedef struct Incoming
{
	EsEvent    *event;
	char	   *id;				/* as its source knows it */
	char	   *known_as;		/* no other of its source is */
	char	   *source;
	char	   *stream;			/* where it comes from; NULL: none */
	char	   *position;		/* likewise */
	char	   *key;
	bool		is_event;		/* its id is a UUID: else it is a message */
	bool		is_first;
} Incoming;

/* events that are new, put together for one append */
typedef struct Pending
{
	EsEvent    *events;
	EsAppendPart *parts;
	int			nevents;
	int			nparts;
	HTAB	   *ids;
} Pending;

static Incoming *parse_elements(FunctionCallInfo fcinfo, int *n);
static bool take_key(void *arg, int index, const char *key, JsonbValue *value);
static char *optional_text(JsonbValue *value, const char *key, int index, int max_bytes);
static void check_element(Incoming *incoming, const char *source, int number);
static void meet_inbox(Incoming *incoming, int n, const char *target);
static char *inbox_name(const char *source, const char *target);
static int64 send_all(Incoming *incoming, int n, const char *queue_name);
static int64 append_all(Incoming *incoming, int n, const char *stream);
static void prepare_event(Incoming *incoming, const char *stream, int number);
static void lock_streams(const Incoming *incoming, int n, const char *stream);
static void add_pending(Pending *pending, const Incoming *incoming, const char *stream);
static void append_pending(Pending *pending);
static Datum with_origin(const Incoming *incoming, Datum metadata, bool in_queue, bool other_stream);
static void append_text(StringInfo buf, const char *key, const char *value);
static void append_tags(StringInfo buf, Datum tags);
static void make_answer_durable(void);

PG_FUNCTION_INFO_V1(evtstore_accept_events);

/* accept_events(source text, events jsonb, target text) -> bigint: how many were new; evtstore_writer */
Datum
evtstore_accept_events(PG_FUNCTION_ARGS)
{
	char	   *target;
	Incoming   *incoming;
	int64		taken;
	int			n;

	es_catalog_require_writable_or_replay("accept_events");
	target = es_arg_optional_name(fcinfo, 2, "target", strlen(TARGET_STREAM) + ES_MAX_STREAM_BYTES);
	if (target != NULL && strncmp(target, TARGET_QUEUE, strlen(TARGET_QUEUE)) != 0 &&
		strncmp(target, TARGET_STREAM, strlen(TARGET_STREAM)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown target \"%s\"", es_arg_shown(target, strlen(target))),
				 errhint("Write 'queue:NAME' or 'stream:NAME'; NULL: each event goes to the stream of the name that it has.")));
	if (target != NULL)
		es_arg_check_name(strchr(target, ':') + 1, "name in target", ES_MAX_STREAM_BYTES);
	incoming = parse_elements(fcinfo, &n);
	if (es_cause_is_replay())
		PG_RETURN_NULL();
	if (n == 0)
		PG_RETURN_INT64(0);
	meet_inbox(incoming, n, target == NULL ? "" : target);
	if (target != NULL && strncmp(target, TARGET_QUEUE, strlen(TARGET_QUEUE)) == 0)
		taken = send_all(incoming, n, target + strlen(TARGET_QUEUE));
	else
		taken = append_all(incoming, n, target == NULL ? NULL : target + strlen(TARGET_STREAM));
	if (taken < n)
		make_answer_durable();
	PG_RETURN_INT64(taken);
}

static Incoming *
parse_elements(FunctionCallInfo fcinfo, int *n)
{
	char	   *source = es_arg_optional_name(fcinfo, 0, "source", MAX_SOURCE_BYTES);
	Jsonb	   *array;
	Incoming   *incoming;
	EsEvent    *events;
	EsEventKeys keys = {.take = take_key, .names = "\"stream\", \"source\", \"position\", \"key\", "};

	es_arg_required(fcinfo, 1, "events");
	array = PG_GETARG_JSONB_P(1);
	incoming = MemoryContextAllocExtended(CurrentMemoryContext, Max(JB_ROOT_COUNT(array), 1) * sizeof(Incoming),
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	keys.arg = incoming;
	events = es_event_parse_elements(array, &keys, n);
	for (int i = 0; i < *n; i++)
	{
		incoming[i].event = &events[i];
		check_element(&incoming[i], source, i + 1);
	}
	return incoming;
}

/* NULLs stand for what there is not */
static bool
take_key(void *arg, int index, const char *key, JsonbValue *value)
{
	Incoming   *incoming = (Incoming *) arg + index;

	if (strcmp(key, "id") == 0)
		incoming->id = optional_text(value, key, index, MAX_ID_BYTES);
	else if (strcmp(key, "source") == 0)
		incoming->source = optional_text(value, key, index, MAX_SOURCE_BYTES);
	else if (strcmp(key, "stream") == 0)
		incoming->stream = optional_text(value, key, index, ES_MAX_STREAM_BYTES);
	else if (strcmp(key, "position") == 0)
		incoming->position = optional_text(value, key, index, MAX_POSITION_BYTES);
	else if (strcmp(key, "key") == 0)
		incoming->key = optional_text(value, key, index, ES_MAX_KEY_BYTES);
	else
		return false;
	return true;
}

static char *
optional_text(JsonbValue *value, const char *key, int index, int max_bytes)
{
	char	   *text;

	if (value->type == jbvNull)
		return NULL;
	text = es_event_key_text(value, key, index);
	es_arg_check_name(text, key, max_bytes);
	return text;
}

static void
check_element(Incoming *incoming, const char *source, int number)
{
	if (incoming->source == NULL)
		incoming->source = unconstify(char *, source);
	if (incoming->source == NULL || incoming->id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("element %d of events has no \"%s\"", number, incoming->id == NULL ? "id" : "source"),
				 errhint("Each has the \"id\" that its source knows it by, and a \"source\", or all have the one that is given.")));
	incoming->is_event = es_event_is_uuid(incoming->id);
	if (incoming->is_event)
		incoming->id = asc_tolower(incoming->id, strlen(incoming->id));
	incoming->known_as = incoming->id;
	/* a queue and a number: two stores of one name have the same, and so has one that was made anew */
	if (!incoming->is_event && incoming->event->has_occurred_at)
		incoming->known_as = psprintf("%s " INT64_FORMAT, incoming->id, incoming->event->occurred_at);
}

/* the same event may go to several targets */
static void
meet_inbox(Incoming *incoming, int n, const char *target)
{
	EsInboxEntry *entries = palloc(n * sizeof(EsInboxEntry));

	for (int i = 0; i < n; i++)
	{
		if (i > 0 && strcmp(incoming[i].source, incoming[i - 1].source) == 0)
			entries[i].consumer = entries[i - 1].consumer;
		else
			entries[i].consumer = inbox_name(incoming[i].source, target);
		entries[i].message_id = incoming[i].known_as;
	}
	es_inbox_take(entries, n);
	for (int i = 0; i < n; i++)
		incoming[i].is_first = entries[i].is_first;
	pfree(entries);
}

/* no two pairs of source and target have the same */
static char *
inbox_name(const char *source, const char *target)
{
	char	   *name = psprintf("accept_events:%zu:%s:%s", strlen(source), source, target);
	pg_uuid_t	digest;

	if (strlen(name) <= ES_MAX_NAME_BYTES)
		return name;
	es_event_namespace(&digest, name);
	return psprintf("accept_events:%s", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&digest))));
}

/* a message keeps its headers; what of an event has no place in a message is in its origin, and its type beside it as well */
static int64
send_all(Incoming *incoming, int n, const char *queue_name)
{
	const EsQueue *queue = es_queue_get(queue_name);
	EsMessage  *messages = palloc0(n * sizeof(EsMessage));
	int			nmessages = 0;

	es_use_require(&queue->use, ES_USE_SEND, "queue", queue->name);
	for (int i = 0; i < n; i++)
	{
		const char *key = incoming[i].key != NULL ? incoming[i].key : incoming[i].stream;
		EsMessage  *message = &messages[nmessages];

		if (!incoming[i].is_first)
			continue;
		nmessages++;
		message->body = incoming[i].event->data;
		message->headers = with_origin(&incoming[i], incoming[i].event->metadata, true, true);
		if (key != NULL)
			message->key = CStringGetTextDatum(key);
	}
	es_queue_send(queue, messages, nmessages);
	return nmessages;
}

/* stream NULL: each to its own */
static int64
append_all(Incoming *incoming, int n, const char *stream)
{
	HASHCTL		ctl = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(pg_uuid_t), .hcxt = CurrentMemoryContext};
	Pending		pending = {.ids = hash_create("evtstore accepted ids", n, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT)};
	int64		taken = 0;

	AcceptInvalidationMessages();
	(void) es_table_open(ES_TABLE_EVENT, es_catalog()->event);
	for (int i = 0; i < n; i++)
		prepare_event(&incoming[i], stream, i + 1);
	lock_streams(incoming, n, stream);
	pending.events = palloc(n * sizeof(EsEvent));
	pending.parts = palloc0(n * sizeof(EsAppendPart));
	for (int i = 0; i < n; i++)
	{
		const char *name = stream != NULL ? stream : incoming[i].stream;
		bool		repeated;

		CHECK_FOR_INTERRUPTS();
		hash_search(pending.ids, &incoming[i].event->id, HASH_ENTER, &repeated);
		/* so that the store is what tells whether it is the same event */
		if (repeated)
			append_pending(&pending);
		if (es_append_knows(name == NULL ? es_stream_none() : es_stream_find(es_guc_tenant, name), incoming[i].event))
			continue;
		/* it was here, and is deleted */
		if (!incoming[i].is_first)
			continue;
		add_pending(&pending, &incoming[i], name);
		taken++;
	}
	append_pending(&pending);
	return taken;
}

static void
prepare_event(Incoming *incoming, const char *stream, int number)
{
	EsEvent    *event = incoming->event;
	const char *name = stream != NULL ? stream : incoming->stream;

	event->tenant = CStringGetTextDatum(es_guc_tenant);
	event->stream = name == NULL ? (Datum) 0 : CStringGetTextDatum(name);
	event->has_id = true;
	if (incoming->is_event)
		event->id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(incoming->id)));
	else if (name != NULL)
	{
		pg_uuid_t	namespace;

		es_event_namespace(&namespace, incoming->source);
		es_event_named_id(&event->id, &namespace, incoming->known_as);
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("element %d of events has no \"stream\", and its id is not that of an event: \"%s\"", number,
						es_arg_shown(incoming->id, strlen(incoming->id))),
				 errhint("A message goes to 'queue:NAME' or 'stream:NAME': give it a target; that of an endpoint is its \"topic\".")));
	event->metadata = with_origin(incoming, event->metadata, false, incoming->stream != NULL && strcmp(name, incoming->stream) != 0);
}

/* in the order that every append takes */
static void
lock_streams(const Incoming *incoming, int n, const char *stream)
{
	const char **names = palloc(n * sizeof(char *));
	int			nnames = 0;

	if (stream != NULL)
		names[nnames++] = stream;
	for (int i = 0; i < n && stream == NULL; i++)
		if (incoming[i].stream != NULL && (nnames == 0 || strcmp(names[nnames - 1], incoming[i].stream) != 0))
			names[nnames++] = incoming[i].stream;
	if (nnames > 0)
		es_stream_lock(es_guc_tenant, names, nnames);
	pfree(names);
}

static void
add_pending(Pending *pending, const Incoming *incoming, const char *stream)
{
	EsAppendPart *part = pending->nparts == 0 ? NULL : &pending->parts[pending->nparts - 1];
	EsEvent    *event = &pending->events[pending->nevents++];

	*event = *incoming->event;
	if (part == NULL || (stream == NULL) != (part->stream == NULL) || (stream != NULL && strcmp(stream, part->stream) != 0))
	{
		part = &pending->parts[pending->nparts++];
		part->stream = stream;
		part->events = event;
		part->expected = ES_EXPECT_ANY;
	}
	part->n++;
}

static void
append_pending(Pending *pending)
{
	if (pending->nevents == 0)
		return;
	es_append_parts(es_guc_tenant, pending->parts, pending->nparts, pending->events, pending->nevents, NULL);
	memset(pending->parts, 0, pending->nparts * sizeof(EsAppendPart));
	pending->nparts = pending->nevents = 0;
}

/*
 * metadata with "origin", where it has none: the first store that had it is where it comes from, however often it was passed on.  What
 * of it is not the same here is in there as well.
 */
static Datum
with_origin(const Incoming *incoming, Datum metadata, bool in_queue, bool other_stream)
{
	const EsEvent *event = incoming->event;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	if (in_queue && incoming->is_event)
	{
		appendStringInfoString(&buf, "\"type\": ");
		escape_json(&buf, TextDatumGetCString(event->type));
		appendStringInfoString(&buf, ", ");
	}
	appendStringInfoString(&buf, "\"origin\": {\"source\": ");
	escape_json(&buf, incoming->source);
	append_text(&buf, "position", incoming->position);
	append_text(&buf, "id", in_queue || !incoming->is_event ? incoming->id : NULL);
	append_text(&buf, "stream", other_stream ? incoming->stream : NULL);
	if (in_queue && incoming->is_event)
	{
		appendStringInfo(&buf, ", \"schema_version\": %d, \"tags\": ", event->schema_version);
		append_tags(&buf, event->tags);
		append_text(&buf, "occurred_at", event->has_occurred_at ? es_cloudevent_time(event->occurred_at) : NULL);
	}
	appendStringInfoString(&buf, "}}");
	metadata = DirectFunctionCall2(jsonb_concat, DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)), metadata);
	pfree(buf.data);
	return metadata;
}

static void
append_text(StringInfo buf, const char *key, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(buf, ", \"%s\": ", key);
	escape_json(buf, value);
}

static void
append_tags(StringInfo buf, Datum tags)
{
	Datum	   *values;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(tags), TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	appendStringInfoChar(buf, '[');
	for (int i = 0; i < n; i++)
	{
		appendStringInfoString(buf, i == 0 ? "" : ", ");
		escape_json(buf, TextDatumGetCString(values[i]));
	}
	appendStringInfoChar(buf, ']');
}

/* what is known was committed by others, perhaps asynchronously: who is told so will not bring it again */
static void
make_answer_durable(void)
{
	es_feed_begin_stream_read();
	es_feed_end_read();
	es_async_make_durable(es_queue_async_commits());
}
