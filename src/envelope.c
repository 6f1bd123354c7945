/*
 * envelope.c
 *		A delivery as the message that goes out.
 *
 * Runs in relay workers, in a transaction; keeps nothing.
 *
 * The event's own id is the CloudEvents id, over all attempts and restarts, so that receivers can tell a second
 * delivery from a second event; Idempotency-Key carries it for those that know only that header.  Attributes:
 *
 *		id, type, source, subject (stream), time, datacontenttype
 *		sequence			position, 19 digits, so that text order is the order of the store
 *		streamversion		number in the stream: 1, 2, 3 ... shows a receiver what it missed or saw twice
 *		schemaversion		version of the type's schema
 *		partitionkey		key of the message (a rule's is the stream), or what the endpoint's "key" comes to
 *		recordedtime		when the store recorded it
 *		correlationid, causationid, traceparent, tracestate		from the metadata, where it has them
 *
 * A message that carries no event has the id QUEUE-NUMBER, a source of its own below the endpoint's, and the type that
 * its headers name.  The number of the attempt is no property of the event and travels beside it (evtstore-attempt).
 *
 * Formats beside these: "plain", the data alone; "debezium", the record that Debezium's outbox event router makes of a row of an
 * outbox table, with its expand.json.payload; and what another evtstore takes.  Data is the text that the server prints of jsonb:
 * nothing here reads it.
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "cloudevent.h"
#include "compat.h"
#include "envelope.h"
#include "json.h"
#include "options.h"

/* beside the attributes: Idempotency-Key, evtstore-attempt, evtstore-replay, three of a signature; debezium's two are instead of them; of a command */
#define OTHER_HEADERS (8 + lengthof(command_headers))

#define TIMESTAMP_HEADER "webhook-timestamp"
#define SIGNATURE_HEADER "webhook-signature"
#define JSON_CONTENT "application/json"
#define STRUCTURED_CONTENT "application/cloudevents+json; charset=utf-8"
#define BATCHED_CONTENT "application/cloudevents-batch+json; charset=utf-8"

/* what the headers of a saga's command say, as headers of the message */
static const char *const command_headers[][2] = {
	{"saga", "evtstore-saga"},
	{"saga_id", "evtstore-saga-id"},
	{"state", "evtstore-saga-state"},
	{"attempt", "evtstore-saga-attempt"},
	{"deadline", "evtstore-saga-deadline"},
	{"undo", "evtstore-saga-undo"},
	{"forward", "evtstore-saga-forward"},
	{"forward_key", "evtstore-saga-forward-key"},
};

static const char *const http_names[] = ES_CLOUDEVENT_NAMES("ce-");
static const char *const kafka_names[] = ES_CLOUDEVENT_NAMES("ce_");
static const char *const amqp_names[] = ES_CLOUDEVENT_NAMES("cloudEvents:");

/* what one message is made from, and what of it is known already */
typedef struct Letter
{
	const EsDelivery *delivery;
	const char *source_name;
	bool		is_replay;
	const EsEndpoint *endpoint;
	EsBinding	binding;
	const char *id;				/* in the server's encoding, as the next two */
	const char *type;
	const char *key;			/* NULL: none */
	EsCloudevent event;
} Letter;

static void begin_letter(Letter *letter, const EsDelivery *delivery, const char *source_name, bool is_replay, const EsEndpoint *endpoint,
						 const EsTransport *transport);
static const char *message_key(const Letter *letter);
static const char *aggregate_id(const EsDelivery *delivery);
static const char *placeholder_value(const EsPlaceholder *placeholder, const void *letter);
static char *make_topic(const Letter *letter);
static void make_event(Letter *letter);
static void make_message(Letter *letter);
static void begin_message(EsOutgoing *out, const EsEndpoint *endpoint, int nattributes);
static void set_body(EsOutgoing *out, const char *body);
static void set_payload(EsOutgoing *out, const EsCloudevent *event);
static void add_binary(const Letter *letter, EsOutgoing *out);
static const char *attribute_header(const EsCloudeventAttribute *attribute, EsBinding binding);
static char *event_of_store(const Letter *letter);
static const char *store_time(TimestampTz at);
static char *tags_json(Datum tags);
static void add_common_headers(const EsEndpoint *endpoint, const char *id, int attempt, bool is_replay, EsBinding binding, EsOutgoing *out);
static void sign(const EsEndpoint *endpoint, EsOutgoing *out);
static void add_header(EsOutgoing *out, const char *name, const char *value);
static bool is_command(const EsDelivery *delivery, const char *source_name);
static void add_command_headers(const EsDelivery *delivery, EsOutgoing *out);
static char *batch_id(const EsDelivery *const *deliveries, int n, const char *source_name);
static const char *header_value(const char *text, bool is_encoded);
static const char *encoded(const char *utf8);
static const char *to_utf8(const char *text);

void
es_envelope_make(const EsDelivery *delivery, const char *source_name, bool is_replay, const EsEndpoint *endpoint,
				 const EsTransport *transport, EsOutgoing *out)
{
	Letter		letter;

	if (endpoint->format == ES_FORMAT_BATCHED)
	{
		es_envelope_make_batch(&delivery, 1, source_name, is_replay, endpoint, transport, out);
		return;
	}
	begin_letter(&letter, delivery, source_name, is_replay, endpoint, transport);
	begin_message(out, endpoint, letter.event.n);
	out->id = encoded(to_utf8(letter.id));
	out->topic = make_topic(&letter);
	out->key = letter.key == NULL ? NULL : to_utf8(letter.key);
	if (letter.binding == ES_BINDING_EVTSTORE)
	{
		set_body(out, event_of_store(&letter));
		add_header(out, "Content-Type", JSON_CONTENT);
	}
	else if (endpoint->format == ES_FORMAT_STRUCTURED)
	{
		set_body(out, es_cloudevent_structured(&letter.event));
		add_header(out, "Content-Type", STRUCTURED_CONTENT);
	}
	else if (endpoint->format == ES_FORMAT_BINARY)
	{
		set_payload(out, &letter.event);
		add_binary(&letter, out);
	}
	else if (endpoint->format == ES_FORMAT_PLAIN)
	{
		set_payload(out, &letter.event);
		add_header(out, "Content-Type", to_utf8(es_cloudevent_attribute(&letter.event, ES_CE_DATACONTENTTYPE)));
	}
	else
	{
		set_payload(out, &letter.event);
		add_header(out, "id", to_utf8(letter.id));
		add_header(out, "eventType", to_utf8(letter.type));
	}
	add_common_headers(endpoint, out->id, delivery->attempt, is_replay, letter.binding, out);
	if (is_command(delivery, source_name))
		add_command_headers(delivery, out);
}

void
es_envelope_make_batch(const EsDelivery *const *deliveries, int n, const char *source_name, bool is_replay, const EsEndpoint *endpoint,
					   const EsTransport *transport, EsOutgoing *out)
{
	StringInfoData buf;
	int			attempt = 0;

	initStringInfo(&buf);
	for (int i = 0; i < n; i++)
	{
		Letter		letter;
		char	   *event;

		begin_letter(&letter, deliveries[i], source_name, is_replay, endpoint, transport);
		event = es_cloudevent_structured(&letter.event);
		appendStringInfoChar(&buf, i == 0 ? '[' : ',');
		appendStringInfoString(&buf, event);
		pfree(event);
		attempt = Max(attempt, deliveries[i]->attempt);
	}
	appendStringInfoChar(&buf, ']');
	begin_message(out, endpoint, 0);
	out->id = batch_id(deliveries, n, source_name);
	out->body = buf.data;
	out->body_len = buf.len;
	add_header(out, "Content-Type", BATCHED_CONTENT);
	add_common_headers(endpoint, out->id, attempt, is_replay, transport->binding, out);
}

static void
begin_letter(Letter *letter, const EsDelivery *delivery, const char *source_name, bool is_replay, const EsEndpoint *endpoint,
			 const EsTransport *transport)
{
	letter->delivery = delivery;
	letter->source_name = source_name;
	letter->is_replay = is_replay;
	letter->endpoint = endpoint;
	letter->binding = transport->binding;
	if (delivery->has_event)
	{
		letter->id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&delivery->event_id)));
		letter->type = delivery->type;
	}
	else
	{
		/* of a command the same over the attempts at its step */
		letter->id = is_command(delivery, source_name) ? es_cloudevent_string(delivery->headers, "idempotency_key") :
			psprintf("%s-" INT64_FORMAT, source_name, delivery->message_id);
		letter->type = es_cloudevent_string(delivery->headers, "type");
		if (letter->type == NULL || letter->type[0] == '\0')
			letter->type = "message";
	}
	letter->key = message_key(letter);
	letter->event.n = 0;
	if (letter->binding == ES_BINDING_EVTSTORE)
		return;
	if (delivery->has_event)
		make_event(letter);
	else
		make_message(letter);
}

/* NULL: none.  An empty one is none, too: CloudEvents knows no empty attributes */
static const char *
message_key(const Letter *letter)
{
	const EsDelivery *delivery = letter->delivery;
	const EsPlaceholder *missing;
	const char *key;

	if (letter->endpoint->key != NULL)
		key = es_text_template_expand(letter->endpoint->key, placeholder_value, letter, &missing);
	else if (letter->endpoint->format == ES_FORMAT_DEBEZIUM && delivery->stream != NULL)
		key = aggregate_id(delivery);
	else
		key = delivery->key != NULL ? delivery->key : delivery->stream;
	return key == NULL || key[0] == '\0' ? NULL : key;
}

/* of a stream, CATEGORY-ID */
static const char *
aggregate_id(const EsDelivery *delivery)
{
	const char *dash = strchr(delivery->stream, '-');

	return dash == NULL ? delivery->stream : dash + 1;
}

static const char *
placeholder_value(const EsPlaceholder *placeholder, const void *arg)
{
	const Letter *letter = arg;
	const EsDelivery *delivery = letter->delivery;

	switch ((EsEndpointRoot) placeholder->root)
	{
		case ES_ENDPOINT_CATEGORY:
			return delivery->stream == NULL ? NULL : pnstrdup(delivery->stream, strcspn(delivery->stream, "-"));
		case ES_ENDPOINT_STREAM:
			return delivery->stream;
		case ES_ENDPOINT_TYPE:
			return letter->type;
		case ES_ENDPOINT_KEY:
			return delivery->key != NULL ? delivery->key : delivery->stream;
		case ES_ENDPOINT_SOURCE:
			return letter->source_name;
		case ES_ENDPOINT_DATA:
		case ES_ENDPOINT_BODY:
			return es_placeholder_text(placeholder, JsonbPGetDatum(delivery->body));
		case ES_ENDPOINT_METADATA:
		case ES_ENDPOINT_HEADERS:
			return delivery->headers == NULL ? NULL : es_placeholder_text(placeholder, JsonbPGetDatum(delivery->headers));
	}
	return NULL;
}

/* what its characters may be, the transport knows; an empty one is a mistake everywhere */
static char *
make_topic(const Letter *letter)
{
	const EsTextTemplate *parsed = letter->endpoint->topic;
	const EsPlaceholder *missing = NULL;
	char	   *topic;

	if (parsed == NULL)
		return NULL;
	topic = es_text_template_expand(parsed, placeholder_value, letter, &missing);
	if (topic == NULL || topic[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic \"%s\" of endpoint \"%s\" has no value for this message", parsed->source, letter->endpoint->name)));
	return unconstify(char *, to_utf8(topic));
}

static void
make_event(Letter *letter)
{
	const EsDelivery *delivery = letter->delivery;
	EsCloudeventFacts facts = {
		.id = letter->id,
		.source = letter->endpoint->source,
		.type = letter->type,
		.stream = delivery->stream,
		.key = letter->key,
		.version = delivery->stream == NULL ? 0 : delivery->version,
		.position = delivery->position,
		.schema_version = delivery->schema_version,
		.occurred_at = delivery->occurred_at,
		.recorded_at = delivery->recorded_at,
		.metadata = delivery->headers,
		.data = delivery->body,
	};

	es_cloudevent_of_event(&letter->event, &facts);
}

static void
make_message(Letter *letter)
{
	StringInfoData source;

	initStringInfo(&source);
	if (is_command(letter->delivery, letter->source_name))
	{
		appendStringInfo(&source, "%s/sagas/", letter->endpoint->source);
		es_cloudevent_append_segment(&source, to_utf8(es_cloudevent_string(letter->delivery->headers, "saga")));
	}
	else
	{
		appendStringInfo(&source, "%s/queues/", letter->endpoint->source);
		es_cloudevent_append_segment(&source, to_utf8(letter->source_name));
	}
	es_cloudevent_begin(&letter->event, letter->delivery->body);
	es_cloudevent_add(&letter->event, ES_CE_ID, letter->id);
	es_cloudevent_add(&letter->event, ES_CE_SOURCE, source.data);
	es_cloudevent_add(&letter->event, ES_CE_TYPE, letter->type);
	es_cloudevent_add(&letter->event, ES_CE_TIME, es_cloudevent_time(letter->delivery->enqueued_at));
	es_cloudevent_add(&letter->event, ES_CE_PARTITIONKEY, letter->key);
	es_cloudevent_add_extensions(&letter->event, letter->delivery->headers);
}

static void
begin_message(EsOutgoing *out, const EsEndpoint *endpoint, int nattributes)
{
	memset(out, 0, sizeof(EsOutgoing));
	out->headers = palloc(sizeof(EsHeader) * (nattributes + OTHER_HEADERS + endpoint->nheaders));
	out->timeout_ms = (long) endpoint->timeout_ms;
}

static void
set_body(EsOutgoing *out, const char *body)
{
	out->body = body;
	out->body_len = strlen(body);
}

static void
set_payload(EsOutgoing *out, const EsCloudevent *event)
{
	out->body = es_cloudevent_payload(event, &out->body_len);
}

static void
add_binary(const Letter *letter, EsOutgoing *out)
{
	bool		is_encoded = letter->binding == ES_BINDING_HTTP || letter->binding == ES_BINDING_NATS;

	for (int i = 0; i < letter->event.n; i++)
	{
		const EsCloudeventAttribute *attribute = &letter->event.attributes[i];

		add_header(out, attribute_header(attribute, letter->binding),
				   header_value(attribute->value, is_encoded && attribute->name != ES_CE_DATACONTENTTYPE));
	}
}

static const char *
attribute_header(const EsCloudeventAttribute *attribute, EsBinding binding)
{
	static const char *const *const names[] = {
		[ES_BINDING_HTTP] = http_names,
		[ES_BINDING_KAFKA] = kafka_names,
		[ES_BINDING_AMQP] = amqp_names,
		[ES_BINDING_NATS] = http_names,
	};
	static const char *const prefixes[] = {
		[ES_BINDING_HTTP] = "ce-",
		[ES_BINDING_KAFKA] = "ce_",
		[ES_BINDING_AMQP] = "cloudEvents:",
		[ES_BINDING_NATS] = "ce-",
	};

	if (attribute->name == ES_CE_DATACONTENTTYPE)
		return "Content-Type";
	if (attribute->name != ES_CE_OTHER)
		return names[binding][attribute->name];
	return psprintf("%s%s", prefixes[binding], attribute->text);
}

/* what evtstore.append_events takes for an event, and its stream, source and position; or what evtstore.send_messages does.  UTF-8 */
static char *
event_of_store(const Letter *letter)
{
	const EsDelivery *delivery = letter->delivery;
	EsJson	   *object;
	const char *id = to_utf8(letter->id);
	const char *type = to_utf8(letter->type);
	const char *name = delivery->has_event ? delivery->stream : delivery->key;
	const char *metadata = delivery->headers == NULL ? "{}" : to_utf8(es_options_text(delivery->headers));
	const char *tags = to_utf8(tags_json(delivery->tags));
	const char *data = to_utf8(es_options_text(delivery->body));
	const char *time = store_time(delivery->has_event ? delivery->occurred_at : delivery->enqueued_at);
	const char *schema_version = psprintf("%d", delivery->schema_version);
	const char *position = psprintf(INT64_FORMAT, delivery->position);

	name = name == NULL ? NULL : to_utf8(name);
	object = es_json_object();
	es_json_string(object, "id", id);
	es_json_string(object, "type", type);
	es_json_string(object, "source", letter->endpoint->source);
	es_json_raw(object, "metadata", metadata);
	if (name != NULL)
		es_json_string(object, delivery->has_event ? "stream" : "key", name);
	if (delivery->has_event)
	{
		es_json_raw(object, "tags", tags);
		es_json_raw(object, "schema_version", schema_version);
		es_json_string(object, "position", position);
	}
	/* of a message it tells it from another one with its number, in a store of the same name */
	es_json_string(object, "occurred_at", time);
	es_json_raw(object, "data", data);
	return es_json_print(object);
}

/* also what CloudEvents has no time for: infinity, and years of other lengths than four digits */
static const char *
store_time(TimestampTz at)
{
	const char *time = es_cloudevent_time(at);

	return time != NULL ? time : pstrdup(timestamptz_to_str(at));
}

static char *
tags_json(Datum tags)
{
	StringInfoData buf;
	Datum	   *elements = NULL;
	int			n = 0;

	if (tags != 0)
		deconstruct_array(DatumGetArrayTypeP(tags), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoChar(&buf, ',');
		escape_json(&buf, TextDatumGetCString(elements[i]));
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

/* of all formats, and the endpoint's own; body and the other headers are there already */
static void
add_common_headers(const EsEndpoint *endpoint, const char *id, int attempt, bool is_replay, EsBinding binding, EsOutgoing *out)
{
	if (binding == ES_BINDING_HTTP || endpoint->format == ES_FORMAT_PLAIN)
		add_header(out, "Idempotency-Key", id);
	if (endpoint->format != ES_FORMAT_DEBEZIUM)
	{
		char	   *number = palloc(MAXINT8LEN + 1);

		pg_ltoa(attempt, number);
		add_header(out, "evtstore-attempt", number);
	}
	if (is_replay)
		add_header(out, "evtstore-replay", "true");
	if (binding == ES_BINDING_HTTP && endpoint->nsigning > 0)
		sign(endpoint, out);
	for (int i = 0; i < endpoint->nheaders; i++)
		add_header(out, endpoint->headers[i].name, endpoint->headers[i].value);
}

static void
sign(const EsEndpoint *endpoint, EsOutgoing *out)
{
	char	   *timestamp = palloc(ES_ENVELOPE_TIMESTAMP_BYTES);
	char	   *signature = es_envelope_sign(endpoint, out->id, out->body, out->body_len, timestamp);

	add_header(out, "webhook-id", out->id);
	add_header(out, TIMESTAMP_HEADER, timestamp);
	add_header(out, SIGNATURE_HEADER, signature);
}

void
es_envelope_sign_again(const EsEndpoint *endpoint, EsOutgoing *out)
{
	char		timestamp[ES_ENVELOPE_TIMESTAMP_BYTES];
	char	   *signature = NULL;

	for (int i = 0; i < out->nheaders; i++)
	{
		EsHeader   *header = unconstify(EsHeader *, &out->headers[i]);

		if (strcmp(header->name, TIMESTAMP_HEADER) == 0)
		{
			snprintf(timestamp, sizeof(timestamp), "%lld", (long long) time(NULL));
			if (strcmp(header->value, timestamp) == 0)
				return;
			signature = es_envelope_sign(endpoint, out->id, out->body, out->body_len, timestamp);
			header->value = pstrdup(timestamp);
		}
		else if (signature != NULL && strcmp(header->name, SIGNATURE_HEADER) == 0)
			header->value = signature;
	}
}

static void
add_header(EsOutgoing *out, const char *name, const char *value)
{
	EsHeader   *header = unconstify(EsHeader *, &out->headers[out->nheaders]);

	header->name = name;
	header->value = value;
	out->nheaders++;
}

/* what a step of a saga sends to an endpoint, and nobody else into that queue */
static bool
is_command(const EsDelivery *delivery, const char *source_name)
{
	return strncmp(source_name, ES_QUEUE_ENDPOINT_PREFIX, strlen(ES_QUEUE_ENDPOINT_PREFIX)) == 0;
}

/* several commands in one message have none: each says in its event what it is */
static void
add_command_headers(const EsDelivery *delivery, EsOutgoing *out)
{
	for (int i = 0; i < lengthof(command_headers); i++)
	{
		Jsonb	   *value = es_options_any(delivery->headers, command_headers[i][0]);
		const char *text = value == NULL ? NULL : es_cloudevent_string(delivery->headers, command_headers[i][0]);

		if (value != NULL)
			add_header(out, command_headers[i][1], encoded(to_utf8(text != NULL ? text : es_options_text(value))));
	}
}

/* the same for the same events in the same order, so that a second attempt can be told */
static char *
batch_id(const EsDelivery *const *deliveries, int n, const char *source_name)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) source_name, strlen(source_name), n);

	for (int i = 0; i < n; i++)
	{
		if (deliveries[i]->has_event)
			hash = hash_bytes_extended(deliveries[i]->event_id.data, UUID_LEN, hash);
		else
			hash = hash_bytes_extended((const unsigned char *) &deliveries[i]->message_id, sizeof(int64), hash);
	}
	return psprintf("batch-" UINT64_FORMAT, hash);
}

static const char *
header_value(const char *text, bool is_encoded)
{
	const char *utf8 = to_utf8(text);

	return is_encoded ? encoded(utf8) : utf8;
}

/*
 * The HTTP binding's encoding (section 3.1.3.2): space, double quote, percent and all that is not printable ASCII.  No
 * value can so end its header and begin another.  The argument itself where there is none of these.
 */
static const char *
encoded(const char *utf8)
{
	const char *c = utf8;
	StringInfoData buf;

	while (*c > ' ' && *c < 0x7f && *c != '"' && *c != '%')
		c++;
	if (*c == '\0')
		return utf8;
	initStringInfo(&buf);
	for (c = utf8; *c != '\0'; c++)
	{
		if (*c > ' ' && *c < 0x7f && *c != '"' && *c != '%')
			appendStringInfoChar(&buf, *c);
		else
			es_cloudevent_append_encoded(&buf, *c);
	}
	return buf.data;
}

/* the argument itself where nothing is to be converted */
static const char *
to_utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}
