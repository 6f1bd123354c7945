/*
 * amqp_decode.c
 *		What a broker of AMQP 0-9-1 says: each frame is answered where that is due, and comes to an event or to nothing.
 *
 * Runs in the thread of a link.  What librabbitmq decoded lies in its buffers, until the frame was looked at: texts are copied.
 */
#include "postgres.h"

#include "amqp_connection.h"
#include "outcome.h"
#include "thread.h"

static bool take_method(EsAmqpConnection *connection, amqp_method_t *method, EsAmqpEvent *event);
static bool take_news(EsAmqpConnection *connection, amqp_method_t *method, EsAmqpEvent *event);
static bool take_header(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event);
static void answer_start(EsAmqpConnection *connection, const amqp_connection_start_t *start);
static void answer_tune(EsAmqpConnection *connection, const amqp_connection_tune_t *tune);
static void open_channel(EsAmqpConnection *connection);
static void close_by_broker(EsAmqpConnection *connection, const amqp_connection_close_t *close);
static void get_text(char *text, amqp_bytes_t bytes);
static bool has_word(amqp_bytes_t list, const char *word);
static amqp_table_entry_t flag_entry(const char *name);

/* true: it came to an event */
bool
es_amqp_take_frame(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event)
{
	memset(event, 0, sizeof(*event));
	if (frame->frame_type == AMQP_FRAME_METHOD)
		return take_method(connection, &frame->payload.method, event);
	else if (frame->frame_type == AMQP_FRAME_HEADER && connection->returning)
		return take_header(connection, frame, event);
	else if (connection->phase == PHASE_START)
		es_amqp_over(connection, "the broker speaks another version of AMQP", NULL);
	return false;
}

/* connecting, and its end */
static bool
take_method(EsAmqpConnection *connection, amqp_method_t *method, EsAmqpEvent *event)
{
	const void *decoded = method->decoded;
	amqp_confirm_select_t select = {0};

	switch (method->id)
	{
		case AMQP_CONNECTION_START_METHOD:
			answer_start(connection, decoded);
			return false;
		case AMQP_CONNECTION_TUNE_METHOD:
			answer_tune(connection, decoded);
			return false;
		case AMQP_CONNECTION_OPEN_OK_METHOD:
			open_channel(connection);
			return false;
		case AMQP_CHANNEL_OPEN_OK_METHOD:
			connection->phase = PHASE_SELECT_OK;
			(void) es_amqp_put_method(connection, ES_AMQP_CHANNEL, AMQP_CONFIRM_SELECT_METHOD, &select);
			return false;
		case AMQP_CONFIRM_SELECT_OK_METHOD:
			connection->phase = PHASE_READY;
			event->kind = ES_AMQP_READY;
			return true;
		case AMQP_CONNECTION_CLOSE_METHOD:
			close_by_broker(connection, decoded);
			return false;
		case AMQP_CONNECTION_CLOSE_OK_METHOD:
			es_amqp_over(connection, "closed", NULL);
			return false;
		default:
			return take_news(connection, method, event);
	}
}

/* of messages, and of how the broker is */
static bool
take_news(EsAmqpConnection *connection, amqp_method_t *method, EsAmqpEvent *event)
{
	const void *decoded = method->decoded;
	amqp_channel_close_ok_t closed = {0};

	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			event->kind = ES_AMQP_CONFIRM;
			event->tag = ((const amqp_basic_ack_t *) decoded)->delivery_tag;
			event->multiple = ((const amqp_basic_ack_t *) decoded)->multiple;
			event->positive = true;
			return true;
		case AMQP_BASIC_NACK_METHOD:
			event->kind = ES_AMQP_CONFIRM;
			event->tag = ((const amqp_basic_nack_t *) decoded)->delivery_tag;
			event->multiple = ((const amqp_basic_nack_t *) decoded)->multiple;
			return true;
		case AMQP_BASIC_RETURN_METHOD:
			connection->returning = true;
			connection->returned.kind = ES_AMQP_RETURN;
			connection->returned.code = ((const amqp_basic_return_t *) decoded)->reply_code;
			get_text(connection->returned.text, ((const amqp_basic_return_t *) decoded)->reply_text);
			return false;
		case AMQP_CHANNEL_CLOSE_METHOD:
			event->kind = ES_AMQP_CHANNEL_CLOSED;
			event->code = ((const amqp_channel_close_t *) decoded)->reply_code;
			get_text(event->text, ((const amqp_channel_close_t *) decoded)->reply_text);
			connection->returning = false;
			if (es_amqp_put_method(connection, ES_AMQP_CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &closed))
				open_channel(connection);
			return true;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			event->kind = ES_AMQP_BLOCKED;
			get_text(event->text, ((const amqp_connection_blocked_t *) decoded)->reason);
			return true;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			event->kind = ES_AMQP_UNBLOCKED;
			return true;
		default:
			es_amqp_over(connection, "the broker said what nobody asked for", amqp_method_name(method->id));
			return false;
	}
}

/* what belongs to a return: the message's id */
static bool
take_header(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event)
{
	const amqp_basic_properties_t *properties = frame->payload.properties.decoded;

	connection->returning = false;
	*event = connection->returned;
	if (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
		get_text(event->id, properties->message_id);
	return true;
}

static void
answer_start(EsAmqpConnection *connection, const amqp_connection_start_t *start)
{
	const EsAmqpLogin *login = &connection->login;
	size_t		user_len = strlen(login->user);
	size_t		password_len = strlen(login->password);
	char		response[2 * ES_AMQP_TEXT];
	amqp_table_entry_t capabilities[4] = {flag_entry("authentication_failure_close"), flag_entry("connection.blocked"),
		flag_entry("publisher_confirms"), flag_entry("basic.nack")};
	amqp_table_entry_t properties[3] = {es_amqp_text_entry("product", "evtstore"), es_amqp_text_entry("connection_name", login->connection_name)};
	amqp_connection_start_ok_t ok = {.client_properties = {3, properties}, .mechanism = amqp_cstring_bytes("PLAIN"),
		.response = {user_len + password_len + 2, response}, .locale = amqp_cstring_bytes("en_US")};

	if (!has_word(start->mechanisms, "PLAIN"))
	{
		connection->refused = true;
		es_amqp_over(connection, "the broker does not let in by user and password", NULL);
		return;
	}
	if (ok.response.len > sizeof(response))
	{
		connection->refused = true;
		es_amqp_over(connection, "user and password are longer than 510 bytes", NULL);
		return;
	}
	properties[2].key = amqp_cstring_bytes("capabilities");
	properties[2].value.kind = AMQP_FIELD_KIND_TABLE;
	properties[2].value.value.table.num_entries = 4;
	properties[2].value.value.table.entries = capabilities;
	response[0] = '\0';
	memcpy(response + 1, login->user, user_len + 1);
	memcpy(response + user_len + 2, login->password, password_len);
	connection->phase = PHASE_TUNE;
	(void) es_amqp_put_method(connection, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
}

/* 0 is no limit, and no heartbeat */
static void
answer_tune(EsAmqpConnection *connection, const amqp_connection_tune_t *tune)
{
	int			heartbeat = connection->login.heartbeat;
	amqp_connection_tune_ok_t ok = {.channel_max = ES_AMQP_CHANNEL};
	amqp_connection_open_t open = {.virtual_host = amqp_cstring_bytes(connection->login.vhost), .insist = 1};
	int			rc;

	if (tune->frame_max != 0 && tune->frame_max < connection->frame_max)
		connection->frame_max = tune->frame_max;
	if (connection->frame_max < AMQP_FRAME_MIN_SIZE)
	{
		es_amqp_over(connection, "the broker takes no frames of the smallest size that there is", NULL);
		return;
	}
	if (tune->heartbeat != 0 && tune->heartbeat < heartbeat)
		heartbeat = tune->heartbeat;
	rc = amqp_tune_connection(connection->codec, ES_AMQP_CHANNEL, connection->frame_max, heartbeat);
	if (rc != AMQP_STATUS_OK)
	{
		es_amqp_over(connection, "could not tune", amqp_error_string2(rc));
		return;
	}
	connection->heartbeat = heartbeat * 1000LL;
	ok.frame_max = connection->frame_max;
	ok.heartbeat = heartbeat;
	connection->phase = PHASE_OPEN_OK;
	if (es_amqp_put_method(connection, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok))
		(void) es_amqp_put_method(connection, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

/* the first time, and after the broker closed it */
static void
open_channel(EsAmqpConnection *connection)
{
	amqp_channel_open_t open = {0};

	connection->handshake_until = es_thread_now() + ES_AMQP_HANDSHAKE_MS;
	connection->phase = PHASE_CHANNEL_OPEN_OK;
	(void) es_amqp_put_method(connection, ES_AMQP_CHANNEL, AMQP_CHANNEL_OPEN_METHOD, &open);
}

/* before it is open, a refusal stays one: 403 for users, 530 for virtual hosts */
static void
close_by_broker(EsAmqpConnection *connection, const amqp_connection_close_t *close)
{
	amqp_connection_close_ok_t ok = {0};
	char		text[ES_AMQP_TEXT] = "";
	char		line[ES_AMQP_TEXT + 16];

	get_text(text, close->reply_text);
	snprintf(line, sizeof(line), "%d %s", close->reply_code, text);
	connection->fault_code = close->reply_code;
	connection->refused = connection->phase < PHASE_CHANNEL_OPEN_OK &&
		(close->reply_code == AMQP_ACCESS_REFUSED || close->reply_code == AMQP_NOT_ALLOWED);
	if (es_amqp_put_method(connection, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok))
		es_amqp_write(connection);
	es_amqp_over(connection, "the broker closed the connection", line);
}

static void
get_text(char *text, amqp_bytes_t bytes)
{
	text[0] = '\0';
	es_outcome_append(text, ES_AMQP_TEXT, bytes.bytes, bytes.len);
}

/* in a list with blanks */
static bool
has_word(amqp_bytes_t list, const char *word)
{
	const char *at = list.bytes;
	const char *end = at + list.len;

	while (at < end)
	{
		const char *blank = memchr(at, ' ', end - at);
		size_t		len = (blank != NULL ? blank : end) - at;

		if (len == strlen(word) && memcmp(at, word, len) == 0)
			return true;
		at += len + 1;
	}
	return false;
}

static amqp_table_entry_t
flag_entry(const char *name)
{
	amqp_table_entry_t entry = {.key = amqp_cstring_bytes(name)};

	entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
	entry.value.value.boolean = 1;
	return entry;
}
