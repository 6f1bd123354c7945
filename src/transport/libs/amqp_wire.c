/*
 * amqp_wire.c
 *		A connection to a broker that speaks AMQP 0-9-1.
 *
 * Only the codec of librabbitmq is used, in both directions.  Its functions that send wait without a limit while a broker that is low
 * on memory reads nothing; and its TLS resolves and connects by itself, to an address that nobody checked.  So socket, buffers,
 * handshake and heartbeats are here, and what is said is a matter of states: a frame comes, the answer goes into the buffer.
 *
 * Runs in the thread of a link.  librabbitmq aborts the process when it is called in a wrong state: it is asked to tune, and to release
 * its buffers, between frames only.
 */
#include "postgres.h"

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "amqp_wire.h"
#include "outcome.h"
#include "thread.h"

#define CHANNEL 1
#define FRAME_MAX 131072
#define FRAME_HEADER 7
#define FRAME_OVERHEAD (FRAME_HEADER + 1)
#define MAX_SHORT 255			/* a short string, in bytes */
#define MAX_HEADERS 256
#define METHOD_ROOM 2048		/* for any method but start-ok, whose strings are of our own making */
/* from the connect to the channel that confirms */
#define HANDSHAKE_MS 5000
#define CHUNK 65536
/* a buffer that grew larger for one message is not kept */
#define KEEP_BUFFER (1024 * 1024)

typedef enum Phase
{
	PHASE_TLS,
	PHASE_START,				/* waits for the broker's methods of these names */
	PHASE_TUNE,
	PHASE_OPEN_OK,
	PHASE_CHANNEL_OPEN_OK,
	PHASE_SELECT_OK,
	PHASE_READY,
	PHASE_OVER
} Phase;

struct EsAmqpConnection
{
	int			fd;
	EsTls	   *tls;			/* NULL: plain */
	EsAmqpLogin login;
	amqp_connection_state_t codec;
	Phase		phase;
	bool		tls_wants_write;
	bool		write_failed;	/* why may be there to be read */
	bool		refused;
	int			fault_code;
	char		fault[ES_AMQP_TEXT];
	uint32_t	frame_max;
	long long	heartbeat;		/* ms; 0: none */
	long long	handshake_until;
	long long	last_sent;
	long long	last_received;
	/* out: bytes [first, last) of the buffer wait */
	char	   *out;
	size_t		out_size;
	size_t		out_first;
	size_t		out_last;
	uint64_t	queued;			/* bytes ever put into it */
	uint64_t	given;			/* bytes ever offered to the socket */
	/* in */
	char		in[CHUNK];
	size_t		in_first;
	size_t		in_last;
	/* a return whose content is on its way */
	bool		returning;
	EsAmqpEvent returned;
};

static void over(EsAmqpConnection *connection, const char *text, const char *detail);
static void shake_hands(EsAmqpConnection *connection);
static bool read_some(EsAmqpConnection *connection);
static void write_some(EsAmqpConnection *connection);
static void keep_alive(EsAmqpConnection *connection);
static char *room(EsAmqpConnection *connection, size_t len);
static size_t frame(EsAmqpConnection *connection, int type, int channel, size_t payload);
static bool put_method(EsAmqpConnection *connection, int channel, amqp_method_number_t id, void *decoded);
static bool put_properties(EsAmqpConnection *connection, const EsAmqpMessage *message, const char **fault);
static bool put_body(EsAmqpConnection *connection, const EsAmqpMessage *message);
static const char *fill_properties(const EsAmqpMessage *message, amqp_basic_properties_t *properties, amqp_table_entry_t *entries);
static bool take_frame(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event);
static bool take_method(EsAmqpConnection *connection, amqp_method_t *method, EsAmqpEvent *event);
static bool take_header(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event);
static void answer_start(EsAmqpConnection *connection, const amqp_connection_start_t *start);
static void answer_tune(EsAmqpConnection *connection, const amqp_connection_tune_t *tune);
static void open_channel(EsAmqpConnection *connection);
static void close_by_broker(EsAmqpConnection *connection, const amqp_connection_close_t *close);
static void get_text(char *text, amqp_bytes_t bytes);
static bool has_word(amqp_bytes_t list, const char *word);
static amqp_table_entry_t flag_entry(const char *name);
static amqp_table_entry_t text_entry(const char *name, const char *value);

EsAmqpConnection *
es_amqp_begin(int fd, EsTls *tls, const EsAmqpLogin *login)
{
	EsAmqpConnection *connection = calloc(1, sizeof(EsAmqpConnection));
	amqp_connection_state_t codec = connection != NULL ? amqp_new_connection() : NULL;
	int			one = 1;

	if (codec == NULL)
	{
		es_tls_free(tls);
		close(fd);
		free(connection);
		return NULL;
	}
	(void) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	connection->fd = fd;
	connection->tls = tls;
	connection->login = *login;
	connection->codec = codec;
	connection->phase = tls != NULL ? PHASE_TLS : PHASE_START;
	connection->frame_max = FRAME_MAX;
	connection->last_sent = connection->last_received = es_thread_now();
	connection->handshake_until = connection->last_sent + HANDSHAKE_MS;
	if (room(connection, 8) != NULL)
	{
		memcpy(connection->out + connection->out_last, "AMQP\0\0\x09\x01", 8);
		connection->out_last += 8;
		connection->queued += 8;
	}
	return connection;
}

bool
es_amqp_next(EsAmqpConnection *connection, EsAmqpEvent *event)
{
	while (connection->phase != PHASE_TLS && connection->phase != PHASE_OVER && read_some(connection))
	{
		amqp_bytes_t bytes = {connection->in_last - connection->in_first, connection->in + connection->in_first};
		amqp_frame_t frame;
		int			used = amqp_handle_input(connection->codec, bytes, &frame);
		bool		found;

		if (used <= 0)
		{
			over(connection, "the broker sent what is not AMQP 0-9-1", used < 0 ? amqp_error_string2(used) : NULL);
			return false;
		}
		connection->in_first += used;
		found = frame.frame_type != 0 && take_frame(connection, &frame, event);
		amqp_maybe_release_buffers(connection->codec);
		if (found)
			return true;
	}
	return false;
}

void
es_amqp_work(EsAmqpConnection *connection)
{
	if (connection->phase == PHASE_TLS)
		shake_hands(connection);
	if (connection->phase == PHASE_TLS || connection->phase == PHASE_OVER)
		return;
	write_some(connection);
	keep_alive(connection);
}

bool
es_amqp_is_over(const EsAmqpConnection *connection)
{
	return connection->phase == PHASE_OVER;
}

const char *
es_amqp_fault(const EsAmqpConnection *connection)
{
	return connection->fault;
}

int
es_amqp_fault_code(const EsAmqpConnection *connection)
{
	return connection->fault_code;
}

bool
es_amqp_refused(const EsAmqpConnection *connection)
{
	return connection->refused;
}

int
es_amqp_fd(const EsAmqpConnection *connection)
{
	return connection->fd;
}

short
es_amqp_events(const EsAmqpConnection *connection)
{
	if (connection->phase == PHASE_TLS)
		return connection->tls_wants_write ? POLLOUT : POLLIN;
	return connection->out_first < connection->out_last ? POLLIN | POLLOUT : POLLIN;
}

long long
es_amqp_due(const EsAmqpConnection *connection)
{
	long long	send;
	long long	receive;

	if (connection->phase < PHASE_READY)
		return connection->handshake_until;
	if (connection->heartbeat == 0)
		return es_thread_now() + 60000;
	receive = connection->last_received + 2 * connection->heartbeat;
	/* what waits for the socket is sign enough */
	send = connection->out_first < connection->out_last ? receive : connection->last_sent + connection->heartbeat / 2;
	return Min(send, receive);
}

size_t
es_amqp_backlog(const EsAmqpConnection *connection)
{
	return connection->out_last - connection->out_first;
}

bool
es_amqp_publish(EsAmqpConnection *connection, const EsAmqpMessage *message, uint64_t *end, const char **fault)
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
	if (put_method(connection, CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &publish) && put_properties(connection, message, fault) &&
		put_body(connection, message))
	{
		*end = connection->queued;
		return true;
	}
	connection->out_last = connection->out_first + before;
	connection->queued = queued;
	return false;
}

uint64_t
es_amqp_given(const EsAmqpConnection *connection)
{
	return connection->given;
}

void
es_amqp_end(EsAmqpConnection *connection, long ms)
{
	long long	until = es_thread_now() + ms;
	amqp_connection_close_t bye = {.reply_code = 200, .reply_text = amqp_cstring_bytes("Goodbye")};

	if (connection->phase == PHASE_READY && ms > 0 && put_method(connection, 0, AMQP_CONNECTION_CLOSE_METHOD, &bye))
		while (connection->phase != PHASE_OVER && es_thread_now() < until)
		{
			EsAmqpEvent event;
			struct pollfd wait = {.fd = connection->fd};

			es_amqp_work(connection);
			wait.events = es_amqp_events(connection);
			(void) poll(&wait, 1, 10);
			while (es_amqp_next(connection, &event))
				;
		}
	es_tls_free(connection->tls);
	close(connection->fd);
	(void) amqp_destroy_connection(connection->codec);
	free(connection->out);
	free(connection);
}

/* the first reason stays */
static void
over(EsAmqpConnection *connection, const char *text, const char *detail)
{
	if (connection->phase == PHASE_OVER)
		return;
	connection->phase = PHASE_OVER;
	es_outcome_append(connection->fault, sizeof(connection->fault), text, strlen(text));
	if (detail == NULL || detail[0] == '\0')
		return;
	es_outcome_append(connection->fault, sizeof(connection->fault), ": ", 2);
	es_outcome_append(connection->fault, sizeof(connection->fault), detail, strlen(detail));
}

static void
shake_hands(EsAmqpConnection *connection)
{
	char		fault[ES_AMQP_TEXT];
	int			rc = es_tls_handshake(connection->tls, &connection->tls_wants_write, fault, sizeof(fault));

	if (rc == 1)
		connection->phase = PHASE_START;
	else if (rc < 0)
		over(connection, "no TLS", fault);
	else if (es_thread_now() >= connection->handshake_until)
		over(connection, "no TLS", "no answer in time");
}

/* where all was looked at; false: there is nothing to look at */
static bool
read_some(EsAmqpConnection *connection)
{
	char		fault[ES_AMQP_TEXT] = "the other side closed it";
	long		n;

	if (connection->in_first < connection->in_last)
		return true;
	if (connection->tls != NULL)
		n = es_tls_read(connection->tls, connection->in, CHUNK, fault, sizeof(fault));
	else
	{
		n = recv(connection->fd, connection->in, CHUNK, MSG_DONTWAIT);
		if (n < 0)
			snprintf(fault, sizeof(fault), "errno %d", errno);
		n = n > 0 ? n : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	}
	if (n < 0 || (n == 0 && connection->write_failed))
		over(connection, "the connection broke", fault);
	if (n <= 0)
		return false;
	connection->in_first = 0;
	connection->in_last = n;
	connection->last_received = es_thread_now();
	return true;
}

static void
write_some(EsAmqpConnection *connection)
{
	char		fault[ES_AMQP_TEXT];

	while (connection->out_first < connection->out_last)
	{
		char	   *bytes = connection->out + connection->out_first;
		size_t		len = Min(connection->out_last - connection->out_first, CHUNK);
		uint64_t	at = connection->queued - (connection->out_last - connection->out_first);
		long		n;

		if (connection->tls != NULL)
		{
			/* whole records of it may be out although it says not now */
			connection->given = Max(connection->given, at + len);
			n = es_tls_write(connection->tls, bytes, len, fault, sizeof(fault));
		}
		else
		{
			n = send(connection->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n > 0)
				connection->given = at + n;
			else
				n = n == 0 || errno == EAGAIN || errno == EINTR ? 0 : -1;
		}
		if (n < 0)
		{
			/* the socket is readable now: the broker's last words, or the end */
			connection->write_failed = true;
			connection->out_first = connection->out_last = 0;
			return;
		}
		if (n == 0)
			return;
		connection->out_first += n;
		connection->last_sent = es_thread_now();
	}
	connection->out_first = connection->out_last = 0;
	if (connection->out_size > KEEP_BUFFER)
	{
		free(connection->out);
		connection->out = NULL;
		connection->out_size = 0;
	}
}

static void
keep_alive(EsAmqpConnection *connection)
{
	long long	now = es_thread_now();

	if (connection->phase < PHASE_READY)
	{
		if (now >= connection->handshake_until)
			over(connection, "the broker did not answer in time", NULL);
		return;
	}
	if (connection->heartbeat == 0)
		return;
	if (now >= connection->last_received + 2 * connection->heartbeat)
		over(connection, "the broker is silent", "no heartbeat");
	else if (connection->out_first == connection->out_last && now >= connection->last_sent + connection->heartbeat / 2 &&
			 room(connection, FRAME_OVERHEAD) != NULL)
	{
		(void) frame(connection, AMQP_FRAME_HEARTBEAT, 0, 0);
		write_some(connection);
	}
}

/* that much at the end of the buffer; NULL: no memory, and the connection is over */
static char *
room(EsAmqpConnection *connection, size_t len)
{
	size_t		waiting = connection->out_last - connection->out_first;
	size_t		size = Max(connection->out_size, CHUNK);
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
			over(connection, "there is no memory", NULL);
			return NULL;
		}
		connection->out = larger;
		connection->out_size = size;
	}
	return connection->out + connection->out_last;
}

/* around a payload that is in its place already; room was made */
static size_t
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
	return payload + FRAME_OVERHEAD;
}

static bool
put_method(EsAmqpConnection *connection, int channel, amqp_method_number_t id, void *decoded)
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
		over(connection, "could not encode a method", amqp_error_string2(len));
		return false;
	}
	(void) frame(connection, AMQP_FRAME_METHOD, channel, len + 4);
	return true;
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
	(void) frame(connection, AMQP_FRAME_HEADER, CHANNEL, len + 12);
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
		(void) frame(connection, AMQP_FRAME_BODY, CHANNEL, len);
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
			entries[properties->headers.num_entries++] = text_entry(header->name, header->value);
	}
	return NULL;
}

/* true: it came to an event */
static bool
take_frame(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event)
{
	memset(event, 0, sizeof(*event));
	if (frame->frame_type == AMQP_FRAME_METHOD)
		return take_method(connection, &frame->payload.method, event);
	else if (frame->frame_type == AMQP_FRAME_HEADER && connection->returning)
		return take_header(connection, frame, event);
	else if (connection->phase == PHASE_START)
		over(connection, "the broker speaks another version of AMQP", NULL);
	return false;
}

static bool
take_method(EsAmqpConnection *connection, amqp_method_t *method, EsAmqpEvent *event)
{
	const void *decoded = method->decoded;
	amqp_channel_close_ok_t closed = {0};
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
			(void) put_method(connection, CHANNEL, AMQP_CONFIRM_SELECT_METHOD, &select);
			return false;
		case AMQP_CONFIRM_SELECT_OK_METHOD:
			connection->phase = PHASE_READY;
			event->kind = ES_AMQP_READY;
			return true;
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
			if (put_method(connection, CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &closed))
				open_channel(connection);
			return true;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			event->kind = ES_AMQP_BLOCKED;
			get_text(event->text, ((const amqp_connection_blocked_t *) decoded)->reason);
			return true;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			event->kind = ES_AMQP_UNBLOCKED;
			return true;
		case AMQP_CONNECTION_CLOSE_METHOD:
			close_by_broker(connection, decoded);
			return false;
		case AMQP_CONNECTION_CLOSE_OK_METHOD:
			over(connection, "closed", NULL);
			return false;
		default:
			over(connection, "the broker said what nobody asked for", amqp_method_name(method->id));
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
	amqp_table_entry_t properties[3] = {text_entry("product", "evtstore"), text_entry("connection_name", login->connection_name)};
	amqp_connection_start_ok_t ok = {.client_properties = {3, properties}, .mechanism = amqp_cstring_bytes("PLAIN"),
		.response = {user_len + password_len + 2, response}, .locale = amqp_cstring_bytes("en_US")};

	if (!has_word(start->mechanisms, "PLAIN"))
	{
		connection->refused = true;
		over(connection, "the broker does not let in by user and password", NULL);
		return;
	}
	if (ok.response.len > sizeof(response))
	{
		connection->refused = true;
		over(connection, "user and password are longer than 510 bytes", NULL);
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
	(void) put_method(connection, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
}

/* 0 is no limit, and no heartbeat */
static void
answer_tune(EsAmqpConnection *connection, const amqp_connection_tune_t *tune)
{
	int			heartbeat = connection->login.heartbeat;
	amqp_connection_tune_ok_t ok = {.channel_max = CHANNEL};
	amqp_connection_open_t open = {.virtual_host = amqp_cstring_bytes(connection->login.vhost), .insist = 1};
	int			rc;

	if (tune->frame_max != 0 && tune->frame_max < connection->frame_max)
		connection->frame_max = tune->frame_max;
	if (connection->frame_max < AMQP_FRAME_MIN_SIZE)
	{
		over(connection, "the broker takes no frames of the smallest size that there is", NULL);
		return;
	}
	if (tune->heartbeat != 0 && tune->heartbeat < heartbeat)
		heartbeat = tune->heartbeat;
	rc = amqp_tune_connection(connection->codec, CHANNEL, connection->frame_max, heartbeat);
	if (rc != AMQP_STATUS_OK)
	{
		over(connection, "could not tune", amqp_error_string2(rc));
		return;
	}
	connection->heartbeat = heartbeat * 1000LL;
	ok.frame_max = connection->frame_max;
	ok.heartbeat = heartbeat;
	connection->phase = PHASE_OPEN_OK;
	if (put_method(connection, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok))
		(void) put_method(connection, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

/* the first time, and after the broker closed it */
static void
open_channel(EsAmqpConnection *connection)
{
	amqp_channel_open_t open = {0};

	connection->handshake_until = es_thread_now() + HANDSHAKE_MS;
	connection->phase = PHASE_CHANNEL_OPEN_OK;
	(void) put_method(connection, CHANNEL, AMQP_CHANNEL_OPEN_METHOD, &open);
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
	if (put_method(connection, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok))
		write_some(connection);
	over(connection, "the broker closed the connection", line);
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

static amqp_table_entry_t
text_entry(const char *name, const char *value)
{
	amqp_table_entry_t entry = {.key = amqp_cstring_bytes(name)};

	entry.value.kind = AMQP_FIELD_KIND_UTF8;
	entry.value.value.bytes = amqp_cstring_bytes(value);
	return entry;
}
