/*
 * amqp_encode.c
 *		What is said to a broker of AMQP 0-9-1: frames, into the buffer of what waits for the socket.
 *
 * Runs in the thread of a link; the buffer is the thread's own.  A message is put in as a whole or not at all.
 */
#include "postgres.h"

#include <stdlib.h>
#include <time.h>

#include "amqp_connection.h"

#define FRAME_HEADER 7
#define FRAME_OVERHEAD (FRAME_HEADER + 1)
#define MAX_SHORT 255			/* a short string, in bytes */
#define MAX_HEADERS 256
#define METHOD_ROOM 2048		/* for any method: their strings are short, or of our own making */

static bool put_properties(EsAmqpConnection *connection, const EsAmqpMessage *message, const char **fault);
static bool put_body(EsAmqpConnection *connection, const EsAmqpMessage *message);
static const char *fill_properties(const EsAmqpMessage *message, amqp_basic_properties_t *properties, amqp_table_entry_t *entries);
static void frame(EsAmqpConnection *connection, int type, int channel, size_t payload);
static char *room(EsAmqpConnection *connection, size_t len);

bool
es_amqp_publish(EsAmqpConnection *connection, const EsAmqpMessage *message, EsAmqpSpan *span, const char **fault)
{
	size_t		before = connection->out_last - connection->out_first;
	uint64_t	queued = connection->queued;
	amqp_basic_publish_t publish = {.exchange = {message->exchange_len, (void *) message->exchange},
		.routing_key = amqp_cstring_bytes(message->routing_key), .mandatory = 1};

	if (publish.exchange.len > MAX_SHORT || publish.routing_key.len > MAX_SHORT)
	{
		*fault = publish.exchange.len > MAX_SHORT ? "the name of the exchange is longer than 255 bytes"
			: "the routing key is longer than 255 bytes";
		return false;
	}
	*fault = "there is no memory for the message";
	if (es_amqp_put_method(connection, ES_AMQP_CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &publish) && put_properties(connection, message, fault) &&
		put_body(connection, message))
	{
		*span = (EsAmqpSpan) {queued, connection->queued};
		return true;
	}
	connection->out_last = connection->out_first + before;
	connection->queued = queued;
	return false;
}

/* where writing failed the buffer is empty already */
void
es_amqp_take_back(EsAmqpConnection *connection, uint64_t from)
{
	connection->out_last -= Min(connection->queued - from, connection->out_last - connection->out_first);
	connection->queued = from;
}

bool
es_amqp_put_method(EsAmqpConnection *connection, int channel, amqp_method_number_t id, void *decoded)
{
	unsigned char *at = (unsigned char *) room(connection, METHOD_ROOM + FRAME_OVERHEAD);
	amqp_bytes_t bytes = {METHOD_ROOM - 4, at + FRAME_HEADER + 4};
	int			len;

	if (at == NULL)
		return false;
	for (int i = 0; i < 4; i++)
		at[FRAME_HEADER + i] = (id >> (24 - 8 * i)) & 0xff;
	len = amqp_encode_method(id, decoded, bytes);
	if (len < 0)
	{
		es_amqp_over(connection, "could not encode a method", amqp_error_string2(len));
		return false;
	}
	frame(connection, AMQP_FRAME_METHOD, channel, len + 4);
	return true;
}

bool
es_amqp_put_greeting(EsAmqpConnection *connection)
{
	static const char greeting[] = "AMQP\0\0\x09\x01";
	size_t		len = sizeof(greeting) - 1;

	if (room(connection, len) == NULL)
		return false;
	memcpy(connection->out + connection->out_last, greeting, len);
	connection->out_last += len;
	connection->queued += len;
	return true;
}

bool
es_amqp_put_heartbeat(EsAmqpConnection *connection)
{
	if (room(connection, FRAME_OVERHEAD) == NULL)
		return false;
	frame(connection, AMQP_FRAME_HEARTBEAT, 0, 0);
	return true;
}

amqp_table_entry_t
es_amqp_text_entry(const char *name, const char *value)
{
	amqp_table_entry_t entry = {.key = amqp_cstring_bytes(name)};

	entry.value.kind = AMQP_FIELD_KIND_UTF8;
	entry.value.value.bytes = amqp_cstring_bytes(value);
	return entry;
}

/* the frame before the body */
static bool
put_properties(EsAmqpConnection *connection, const EsAmqpMessage *message, const char **fault)
{
	amqp_basic_properties_t properties = {0};
	amqp_table_entry_t entries[MAX_HEADERS];
	unsigned char *at;
	amqp_bytes_t bytes;
	int			len;
	const char *bad = fill_properties(message, &properties, entries);

	if (bad != NULL)
	{
		*fault = bad;
		return false;
	}
	at = (unsigned char *) room(connection, connection->frame_max);
	if (at == NULL)
		return false;
	at[FRAME_HEADER] = 0;
	at[FRAME_HEADER + 1] = AMQP_BASIC_CLASS;
	at[FRAME_HEADER + 2] = at[FRAME_HEADER + 3] = 0;
	for (int i = 0; i < 8; i++)
		at[FRAME_HEADER + 4 + i] = ((uint64_t) message->body_len >> (56 - 8 * i)) & 0xff;
	bytes.bytes = at + FRAME_HEADER + 12;
	bytes.len = connection->frame_max - FRAME_OVERHEAD - 12;
	len = amqp_encode_properties(AMQP_BASIC_CLASS, &properties, bytes);
	if (len < 0)
	{
		*fault = "the headers are too large for one frame of the broker";
		return false;
	}
	frame(connection, AMQP_FRAME_HEADER, ES_AMQP_CHANNEL, len + 12);
	return true;
}

static bool
put_body(EsAmqpConnection *connection, const EsAmqpMessage *message)
{
	size_t		largest = connection->frame_max - FRAME_OVERHEAD;

	/* once, where it is large */
	if (room(connection, message->body_len + (message->body_len / largest + 1) * FRAME_OVERHEAD) == NULL)
		return false;
	for (size_t done = 0; done < message->body_len;)
	{
		size_t		len = Min(message->body_len - done, largest);

		memcpy(connection->out + connection->out_last + FRAME_HEADER, message->body + done, len);
		frame(connection, AMQP_FRAME_BODY, ES_AMQP_CHANNEL, len);
		done += len;
	}
	return true;
}

/* NULL, or why it cannot be */
static const char *
fill_properties(const EsAmqpMessage *message, amqp_basic_properties_t *properties, amqp_table_entry_t *entries)
{
	properties->_flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_APP_ID_FLAG |
		AMQP_BASIC_HEADERS_FLAG;
	properties->delivery_mode = AMQP_DELIVERY_PERSISTENT;
	properties->message_id = amqp_cstring_bytes(message->id);
	properties->timestamp = (uint64_t) time(NULL);
	properties->app_id = amqp_cstring_bytes("evtstore");
	properties->headers.entries = entries;
	if (properties->message_id.len > MAX_SHORT)
		return "the id is longer than 255 bytes";
	for (int i = 0; i < message->nheaders; i++)
	{
		const EsHeader *header = &message->headers[i];

		if (strcasecmp(header->name, "Content-Type") == 0)
		{
			properties->_flags |= AMQP_BASIC_CONTENT_TYPE_FLAG;
			properties->content_type = amqp_cstring_bytes(header->value);
			if (properties->content_type.len > MAX_SHORT)
				return "the Content-Type is longer than 255 bytes";
		}
		else if (strlen(header->name) > MAX_SHORT)
			return "the name of a header is longer than 255 bytes";
		else if (properties->headers.num_entries == MAX_HEADERS)
			return "there are more than 256 headers";
		else
			entries[properties->headers.num_entries++] = es_amqp_text_entry(header->name, header->value);
	}
	return NULL;
}

/* around a payload that is in its place already; room was made */
static void
frame(EsAmqpConnection *connection, int type, int channel, size_t payload)
{
	unsigned char *at = (unsigned char *) connection->out + connection->out_last;

	at[0] = type;
	at[1] = channel >> 8;
	at[2] = channel & 0xff;
	for (int i = 0; i < 4; i++)
		at[3 + i] = (payload >> (24 - 8 * i)) & 0xff;
	at[FRAME_HEADER + payload] = 0xce;
	connection->out_last += payload + FRAME_OVERHEAD;
	connection->queued += payload + FRAME_OVERHEAD;
}

/* that much at the end of the buffer; NULL: no memory, and the connection is over */
static char *
room(EsAmqpConnection *connection, size_t len)
{
	size_t		waiting = connection->out_last - connection->out_first;
	size_t		size = Max(connection->out_size, ES_AMQP_CHUNK);
	char	   *larger;

	if (connection->out_size - connection->out_last >= len)
		return connection->out + connection->out_last;
	if (connection->out_first > 0)
	{
		memmove(connection->out, connection->out + connection->out_first, waiting);
		connection->out_first = 0;
		connection->out_last = waiting;
	}
	while (size - waiting < len)
		size *= 2;
	if (size > connection->out_size)
	{
		larger = realloc(connection->out, size);
		if (larger == NULL)
		{
			es_amqp_over(connection, "there is no memory", NULL);
			return NULL;
		}
		connection->out = larger;
		connection->out_size = size;
	}
	return connection->out + connection->out_last;
}
