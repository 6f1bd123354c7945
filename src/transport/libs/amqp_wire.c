/*
 * amqp_wire.c
 *		A connection to a broker that speaks AMQP 0-9-1: its socket, its buffers, its time.
 *
 * Only the codec of librabbitmq is used, in both directions.  Its functions that send wait without a limit while a broker that is low
 * on memory reads nothing; and its TLS resolves and connects by itself, to an address that nobody checked.  So the socket is ours, and
 * what is said is a matter of states: a frame comes (amqp_decode.c), the answer goes into the buffer (amqp_encode.c).
 *
 * Runs in the thread of a link.  librabbitmq aborts the process when it is called in a wrong state: it is asked to tune, and to release
 * its buffers, between frames only.
 */
#include "postgres.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amqp_connection.h"
#include "outcome.h"
#include "thread.h"

#define FRAME_MAX 131072
/* a buffer that grew larger for one message is not kept */
#define KEEP_BUFFER (1024 * 1024)

static void shake_hands(EsAmqpConnection *connection);
static bool read_some(EsAmqpConnection *connection);
static void keep_alive(EsAmqpConnection *connection);

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
	connection->handshake_until = connection->last_sent + ES_AMQP_HANDSHAKE_MS;
	(void) es_amqp_put_greeting(connection);
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
			es_amqp_over(connection, "the broker sent what is not AMQP 0-9-1", used < 0 ? amqp_error_string2(used) : NULL);
			return false;
		}
		connection->in_first += used;
		found = frame.frame_type != 0 && es_amqp_take_frame(connection, &frame, event);
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
	es_amqp_write(connection);
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

	if (connection->phase == PHASE_READY && ms > 0 && es_amqp_put_method(connection, 0, AMQP_CONNECTION_CLOSE_METHOD, &bye))
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

void
es_amqp_over(EsAmqpConnection *connection, const char *text, const char *detail)
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
		es_amqp_over(connection, "no TLS", fault);
	else if (es_thread_now() >= connection->handshake_until)
		es_amqp_over(connection, "no TLS", "no answer in time");
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
		n = es_tls_read(connection->tls, connection->in, ES_AMQP_CHUNK, fault, sizeof(fault));
	else
	{
		n = recv(connection->fd, connection->in, ES_AMQP_CHUNK, MSG_DONTWAIT);
		if (n < 0)
			snprintf(fault, sizeof(fault), "errno %d", errno);
		n = n > 0 ? n : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	}
	if (n < 0 || (n == 0 && connection->write_failed))
		es_amqp_over(connection, "the connection broke", fault);
	if (n <= 0)
		return false;
	connection->in_first = 0;
	connection->in_last = n;
	connection->last_received = es_thread_now();
	return true;
}

void
es_amqp_write(EsAmqpConnection *connection)
{
	char		fault[ES_AMQP_TEXT];

	while (connection->out_first < connection->out_last)
	{
		char	   *bytes = connection->out + connection->out_first;
		size_t		len = Min(connection->out_last - connection->out_first, ES_AMQP_CHUNK);
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
			es_amqp_over(connection, "the broker did not answer in time", NULL);
		return;
	}
	if (connection->heartbeat == 0)
		return;
	if (now >= connection->last_received + 2 * connection->heartbeat)
		es_amqp_over(connection, "the broker is silent", "no heartbeat");
	else if (connection->out_first == connection->out_last && now >= connection->last_sent + connection->heartbeat / 2 &&
			 es_amqp_put_heartbeat(connection))
		es_amqp_write(connection);
}
