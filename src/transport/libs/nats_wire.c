/*
 * nats_wire.c
 *		One connection to a NATS server, spoken by hand.
 *
 * The client library for C (cnats) waits in places where a relay may not: in the handshake of TLS without a time limit, inside a read
 * for the rest of a TLS record, and it resolves names and connects where nobody can check the address.  The protocol is lines of
 * text; TLS is OpenSSL's, between two buffers of memory, so that every read and write of the socket is ours.
 *
 * Runs in relay workers, in the main thread (nats.c).  A crash leaves a closed socket.
 *
 * What the server says before TLS may be anybody's: bytes behind its INFO go to TLS, which refuses what is not its own.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nats_json.h"
#include "nats_wire.h"
#include "outcome.h"

#define READ_BYTES (64 * 1024)
/* the INFO of a big cluster is some kilobytes; an answer of JetStream is a hundred bytes */
#define MAX_LINE (256 * 1024)
#define MAX_ANSWER (256 * 1024)
/* read for one connection before others have their turn */
#define MAX_READ_AT_ONCE (1024 * 1024)

typedef struct Buffer
{
	char	   *bytes;
	size_t		begin;
	size_t		end;
	size_t		room;
} Buffer;

typedef enum WireState
{
	WIRE_INFO,					/* the server speaks first */
	WIRE_TLS,					/* handshake */
	WIRE_GREETING,				/* CONNECT is sent; PONG is waited for */
	WIRE_UP
} WireState;

struct NatsWire
{
	const NatsWireConfig *config;
	int			fd;
	char	   *server_name;
	WireState	state;
	SSL		   *ssl;			/* NULL: plain text */
	Buffer		in;				/* text that is not parsed yet */
	Buffer		out;			/* text that is not sent yet */
	Buffer		wire;			/* the same enciphered; not used without TLS */
	uint64		queued;
	uint64		sent;
	int64		max_payload;
	bool		is_certain;		/* what the server said last, it said where nobody else could */
	bool		full;
	char		nonce[128];		/* to sign, where we have a key */
	char		complaint[200];	/* the last -ERR; the server closes after it */
};

/* an argument list of a line */
typedef struct Words
{
	int			n;
	const char *at[5];
	size_t		len[5];
} Words;

static bool buffer_add(Buffer *buffer, const void *bytes, size_t len);
static char *buffer_make_room(Buffer *buffer, size_t len);
static void buffer_take(Buffer *buffer, size_t len);
static size_t buffer_len(const Buffer *buffer);
static bool receive(NatsWire *wire, char *fault, size_t size);
static bool send_out(NatsWire *wire, char *fault, size_t size);
static bool encipher(NatsWire *wire, char *fault, size_t size);
static bool decipher(NatsWire *wire, char *fault, size_t size);
static bool handshake(NatsWire *wire, char *fault, size_t size);
static bool begin_tls(NatsWire *wire, char *fault, size_t size);
static void say_tls(NatsWire *wire, const char *what, char *fault, size_t size);
static bool parse(NatsWire *wire, char *fault, size_t size);
static bool take_line(NatsWire *wire, const char *line, size_t len, size_t line_size, bool *more, char *fault, size_t size);
static bool take_info(NatsWire *wire, const char *json, size_t len, size_t line_size, char *fault, size_t size);
static bool take_message(NatsWire *wire, const char *line, size_t len, size_t line_size, bool headers, bool *more, char *fault,
						 size_t size);
static bool take_complaint(NatsWire *wire, const char *text, size_t len, char *fault, size_t size);
static bool greet(NatsWire *wire, char *fault, size_t size);
static void split(const char *line, size_t len, Words *words);
static int64 number(const char *text, size_t len);
static bool json_string(Buffer *into, const char *name, const char *value);
static bool info_is_true(const char *json, size_t len, const char *key);

NatsWire *
nats_wire_open(const NatsWireConfig *config, int fd, const char *server_name)
{
	NatsWire   *wire = calloc(1, sizeof(NatsWire));
	int			yes = 1;

	if (wire == NULL || (wire->server_name = strdup(server_name)) == NULL ||
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
	{
		free(wire);
		close(fd);
		return NULL;
	}
	/* what is sent together is written together already */
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	wire->config = config;
	wire->fd = fd;
	return wire;
}

void
nats_wire_close(NatsWire *wire)
{
	SSL_free(wire->ssl);
	close(wire->fd);
	free(wire->in.bytes);
	free(wire->out.bytes);
	free(wire->wire.bytes);
	free(wire->server_name);
	free(wire);
}

bool
nats_wire_work(NatsWire *wire, char *fault, size_t size)
{
	bool		alive = receive(wire, fault, size);

	/* why it ends is in what has arrived, even where the connection is gone meanwhile */
	if (alive)
		alive = send_out(wire, fault, size);
	if (!alive && wire->complaint[0] != '\0')
		snprintf(fault, size, "the server says: %s", wire->complaint);
	return alive;
}

int
nats_wire_fd(const NatsWire *wire)
{
	return wire->fd;
}

bool
nats_wire_is_up(const NatsWire *wire)
{
	return wire->state == WIRE_UP;
}

bool
nats_wire_is_dirty(const NatsWire *wire)
{
	return !wire->full && (buffer_len(&wire->out) > 0 || buffer_len(&wire->wire) > 0);
}

bool
nats_wire_is_full(const NatsWire *wire)
{
	return wire->full;
}

uint64
nats_wire_queued(const NatsWire *wire)
{
	return wire->queued;
}

uint64
nats_wire_sent(const NatsWire *wire)
{
	return wire->sent;
}

int64
nats_wire_max_payload(const NatsWire *wire, bool *certain)
{
	*certain = wire->is_certain;
	return wire->max_payload;
}

size_t
nats_wire_header_size(const EsOutgoing *message)
{
	size_t		size = strlen("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n") + strlen(message->id);

	for (int i = 0; i < message->nheaders; i++)
		size += strlen(message->headers[i].name) + strlen(message->headers[i].value) + 4;
	return size;
}

bool
nats_wire_publish(NatsWire *wire, const char *token, const EsOutgoing *message)
{
	size_t		headers = nats_wire_header_size(message);
	size_t		size = headers + message->body_len + strlen(message->topic) + strlen(wire->config->of->inbox) + strlen(token) + 64;
	char	   *at = buffer_make_room(&wire->out, size);
	char	   *begin = at;

	if (at == NULL)
		return false;
	at += sprintf(at, "HPUB %s %s.%s %zu %zu\r\n", message->topic, wire->config->of->inbox, token, headers, headers + message->body_len);
	at += sprintf(at, "NATS/1.0\r\nNats-Msg-Id: %s\r\n", message->id);
	for (int i = 0; i < message->nheaders; i++)
		at += sprintf(at, "%s: %s\r\n", message->headers[i].name, message->headers[i].value);
	at += sprintf(at, "\r\n");
	memcpy(at, message->body, message->body_len);
	at += message->body_len;
	at += sprintf(at, "\r\n");
	wire->out.end += at - begin;
	wire->queued += at - begin;
	return true;
}

void
nats_wire_ping(NatsWire *wire)
{
	/* no memory: then nothing will arrive, and the connection passes for dead, which without memory it may be */
	if (buffer_add(&wire->out, "PING\r\n", 6))
		wire->queued += 6;
}

/*
 * Buffers
 */

static size_t
buffer_len(const Buffer *buffer)
{
	return buffer->end - buffer->begin;
}

/* where that many bytes can be put, behind the end; NULL: no memory */
static char *
buffer_make_room(Buffer *buffer, size_t len)
{
	if (buffer->room - buffer->end < len && buffer->begin > 0)
	{
		memmove(buffer->bytes, buffer->bytes + buffer->begin, buffer->end - buffer->begin);
		buffer->end -= buffer->begin;
		buffer->begin = 0;
	}
	if (buffer->room - buffer->end < len)
	{
		size_t		room = Max(buffer->room * 2, buffer->end + len);
		char	   *bytes = realloc(buffer->bytes, room);

		if (bytes == NULL)
			return NULL;
		buffer->bytes = bytes;
		buffer->room = room;
	}
	return buffer->bytes + buffer->end;
}

static bool
buffer_add(Buffer *buffer, const void *bytes, size_t len)
{
	char	   *at = buffer_make_room(buffer, len);

	if (at == NULL)
		return false;
	memcpy(at, bytes, len);
	buffer->end += len;
	return true;
}

static void
buffer_take(Buffer *buffer, size_t len)
{
	buffer->begin += len;
	if (buffer->begin == buffer->end)
		buffer->begin = buffer->end = 0;
}

/*
 * The socket and TLS
 */

/* everything that has arrived, up to a limit; what can be understood of it is */
static bool
receive(NatsWire *wire, char *fault, size_t size)
{
	static char bytes[READ_BYTES];

	for (size_t total = 0; total < MAX_READ_AT_ONCE;)
	{
		ssize_t		n = recv(wire->fd, bytes, sizeof(bytes), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return true;
		if (n <= 0)
		{
			if (n == 0)
				snprintf(fault, size, "the server closed the connection");
			else
				snprintf(fault, size, "the connection broke: errno %d", errno);
			return false;
		}
		total += n;
		if (wire->ssl != NULL)
		{
			if (BIO_write(SSL_get_rbio(wire->ssl), bytes, (int) n) != n)
			{
				snprintf(fault, size, "there is no memory to read it");
				return false;
			}
		}
		else if (!buffer_add(&wire->in, bytes, n))
		{
			snprintf(fault, size, "there is no memory to read it");
			return false;
		}
		if (!decipher(wire, fault, size) || !parse(wire, fault, size))
			return false;
		if (n < (ssize_t) sizeof(bytes))
			return true;
	}
	return true;
}

static bool
send_out(NatsWire *wire, char *fault, size_t size)
{
	Buffer	   *buffer = wire->ssl != NULL ? &wire->wire : &wire->out;

	wire->full = false;
	if (!encipher(wire, fault, size))
		return false;
	while (buffer_len(buffer) > 0)
	{
		ssize_t		n = send(wire->fd, buffer->bytes + buffer->begin, buffer_len(buffer), MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			wire->full = true;
			return true;
		}
		if (n < 0)
		{
			snprintf(fault, size, "the connection broke: errno %d", errno);
			return false;
		}
		if (wire->ssl == NULL)
			wire->sent += n;
		buffer_take(buffer, n);
	}
	return true;
}

/* out becomes wire */
static bool
encipher(NatsWire *wire, char *fault, size_t size)
{
	char	   *bytes;
	long		n;

	if (wire->ssl == NULL)
		return true;
	if (wire->state >= WIRE_GREETING)
		while (buffer_len(&wire->out) > 0)
		{
			int			written = SSL_write(wire->ssl, wire->out.bytes + wire->out.begin, (int) Min(buffer_len(&wire->out), 1024 * 1024));

			if (written <= 0)
			{
				say_tls(wire, "TLS failed", fault, size);
				return false;
			}
			/* what is enciphered counts as sent: nobody can tell where in it the connection broke */
			wire->sent += written;
			buffer_take(&wire->out, written);
		}
	n = BIO_get_mem_data(SSL_get_wbio(wire->ssl), &bytes);
	if (n > 0 && !buffer_add(&wire->wire, bytes, n))
	{
		snprintf(fault, size, "there is no memory to write it");
		return false;
	}
	(void) BIO_reset(SSL_get_wbio(wire->ssl));
	return true;
}

/* what OpenSSL was given becomes in, and the handshake goes on */
static bool
decipher(NatsWire *wire, char *fault, size_t size)
{
	if (wire->ssl == NULL)
		return true;
	if (wire->state == WIRE_TLS && !handshake(wire, fault, size))
		return false;
	while (wire->state > WIRE_TLS)
	{
		char	   *room = buffer_make_room(&wire->in, 16 * 1024);
		int			n;

		if (room == NULL)
		{
			snprintf(fault, size, "there is no memory to read it");
			return false;
		}
		ERR_clear_error();
		n = SSL_read(wire->ssl, room, 16 * 1024);
		if (n > 0)
			wire->in.end += n;
		else if (SSL_get_error(wire->ssl, n) == SSL_ERROR_WANT_READ)
			break;
		else if (SSL_get_error(wire->ssl, n) == SSL_ERROR_ZERO_RETURN)
		{
			snprintf(fault, size, "the server closed the connection");
			return parse(wire, fault, size) && false;
		}
		else
		{
			say_tls(wire, "TLS failed", fault, size);
			return false;
		}
	}
	return true;
}

static bool
handshake(NatsWire *wire, char *fault, size_t size)
{
	int			rc;

	ERR_clear_error();
	rc = SSL_do_handshake(wire->ssl);
	if (rc == 1)
		return greet(wire, fault, size);
	if (SSL_get_error(wire->ssl, rc) == SSL_ERROR_WANT_READ)
		return true;
	say_tls(wire, "the handshake of TLS failed", fault, size);
	return false;
}

/* bytes that are there already are the other side's part of it */
static bool
begin_tls(NatsWire *wire, char *fault, size_t size)
{
	SSL		   *ssl = SSL_new(wire->config->of->tls);
	BIO		   *in = BIO_new(BIO_s_mem());
	BIO		   *out = BIO_new(BIO_s_mem());
	struct in6_addr address;
	bool		is_address = inet_pton(AF_INET, wire->server_name, &address) == 1 ||
		inet_pton(AF_INET6, wire->server_name, &address) == 1;

	if (ssl == NULL || in == NULL || out == NULL)
	{
		SSL_free(ssl);
		BIO_free(in);
		BIO_free(out);
		snprintf(fault, size, "there is no memory for TLS");
		return false;
	}
	SSL_set_bio(ssl, in, out);
	SSL_set_connect_state(ssl);
	wire->ssl = ssl;
	wire->state = WIRE_TLS;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (is_address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), wire->server_name) != 1
		: SSL_set1_host(ssl, wire->server_name) != 1 || SSL_set_tlsext_host_name(ssl, wire->server_name) != 1)
	{
		snprintf(fault, size, "could not set the server's name for TLS");
		return false;
	}
	if (buffer_len(&wire->in) > 0 &&
		BIO_write(in, wire->in.bytes + wire->in.begin, (int) buffer_len(&wire->in)) != (int) buffer_len(&wire->in))
	{
		snprintf(fault, size, "there is no memory for TLS");
		return false;
	}
	buffer_take(&wire->in, buffer_len(&wire->in));
	return decipher(wire, fault, size);
}

static void
say_tls(NatsWire *wire, const char *what, char *fault, size_t size)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
	long		verified = SSL_get_verify_result(wire->ssl);

	if (verified != X509_V_OK && SSL_get_verify_mode(wire->ssl) != SSL_VERIFY_NONE)
		reason = X509_verify_cert_error_string(verified);
	snprintf(fault, size, "%s: %s", what, reason != NULL ? reason : "no reason given");
	ERR_clear_error();
}

/*
 * The protocol
 */

static bool
parse(NatsWire *wire, char *fault, size_t size)
{
	bool		more = true;

	while (more && buffer_len(&wire->in) > 0 && wire->state != WIRE_TLS)
	{
		const char *line = wire->in.bytes + wire->in.begin;
		const char *newline = memchr(line, '\n', buffer_len(&wire->in));
		size_t		len;

		if (newline == NULL && buffer_len(&wire->in) > MAX_LINE)
		{
			snprintf(fault, size, "the server does not speak NATS: a line without an end");
			return false;
		}
		if (newline == NULL)
			return true;
		len = newline - line;
		if (len > 0 && line[len - 1] == '\r')
			len--;
		if (!take_line(wire, line, len, newline - line + 1, &more, fault, size))
			return false;
	}
	return true;
}

/* line_size: of the line with its end; who understands the line takes it out of the buffer.  *more: false: the rest is to come */
static bool
take_line(NatsWire *wire, const char *line, size_t len, size_t line_size, bool *more, char *fault, size_t size)
{
	if (len >= 5 && strncasecmp(line, "INFO ", 5) == 0)
		return take_info(wire, line + 5, len - 5, line_size, fault, size);
	if (len >= 4 && strncasecmp(line, "-ERR", 4) == 0)
	{
		if (!take_complaint(wire, line + 4, len - 4, fault, size))
			return false;
	}
	else if (wire->state == WIRE_INFO)
	{
		snprintf(fault, size, "the server does not speak NATS: it did not begin with INFO");
		return false;
	}
	else if (len >= 5 && strncasecmp(line, "HMSG ", 5) == 0)
		return take_message(wire, line + 5, len - 5, line_size, true, more, fault, size);
	else if (len >= 4 && strncasecmp(line, "MSG ", 4) == 0)
		return take_message(wire, line + 4, len - 4, line_size, false, more, fault, size);
	else if (len >= 4 && strncasecmp(line, "PING", 4) == 0)
	{
		if (!buffer_add(&wire->out, "PONG\r\n", 6))
		{
			snprintf(fault, size, "there is no memory to write it");
			return false;
		}
		wire->queued += 6;
	}
	else if (len >= 4 && strncasecmp(line, "PONG", 4) == 0)
	{
		buffer_take(&wire->in, line_size);
		if (wire->state == WIRE_GREETING)
		{
			wire->state = WIRE_UP;
			wire->complaint[0] = '\0';
			wire->config->up(wire->config->arg);
		}
		return true;
	}
	else if (!(len >= 3 && strncasecmp(line, "+OK", 3) == 0))
	{
		snprintf(fault, size, "the server does not speak NATS: an unknown line");
		return false;
	}
	buffer_take(&wire->in, line_size);
	return true;
}

/* the first one begins the connection; later ones tell of changes */
static bool
take_info(NatsWire *wire, const char *json, size_t len, size_t line_size, char *fault, size_t size)
{
	const char *value;
	size_t		value_len;
	bool		wants_tls = info_is_true(json, len, "tls_required");
	bool		has_tls = wants_tls || info_is_true(json, len, "tls_available");
	bool		has_headers = info_is_true(json, len, "headers");

	wire->is_certain = wire->config->of->tls == NULL || wire->ssl != NULL;
	if (nats_json_get(json, len, "max_payload", &value, &value_len))
		wire->max_payload = number(value, value_len);
	wire->nonce[0] = '\0';
	if (nats_json_get(json, len, "nonce", &value, &value_len) && value_len > 2 && value_len - 2 < sizeof(wire->nonce))
	{
		memcpy(wire->nonce, value + 1, value_len - 2);
		wire->nonce[value_len - 2] = '\0';
	}
	buffer_take(&wire->in, line_size);
	if (wire->state != WIRE_INFO)
		return true;
	fault[0] = '\0';
	if (wire->max_payload <= 0)
		snprintf(fault, size, "the server does not speak NATS: its INFO has no max_payload");
	else if (!has_headers)
		snprintf(fault, size, "the server takes no headers: NATS 2.2 or later is needed");
	else if (wire->config->of->tls == NULL && wants_tls)
		snprintf(fault, size, "the server wants TLS: the url is to begin with tls://");
	else if (wire->config->of->tls != NULL && !has_tls)
		snprintf(fault, size, "the server has no TLS");
	if (fault[0] != '\0')
		return false;
	return wire->config->of->tls != NULL ? begin_tls(wire, fault, size) : greet(wire, fault, size);
}

/* MSG subject sid [reply] size, HMSG subject sid [reply] headers_size size: an answer, since nothing else is subscribed to */
static bool
take_message(NatsWire *wire, const char *line, size_t len, size_t line_size, bool headers, bool *more, char *fault, size_t size)
{
	Words		words;
	int64		total;
	int64		of_headers = 0;
	size_t		inbox_len = strlen(wire->config->of->inbox);
	const char *content = wire->in.bytes + wire->in.begin + line_size;
	int			status = 0;

	split(line, len, &words);
	total = words.n >= 3 ? number(words.at[words.n - 1], words.len[words.n - 1]) : -1;
	if (headers)
		of_headers = words.n >= 4 ? number(words.at[words.n - 2], words.len[words.n - 2]) : -1;
	if (total < 0 || of_headers < 0 || of_headers > total || total > MAX_ANSWER)
	{
		snprintf(fault, size, "the server does not speak NATS: an answer without a size, or too large");
		return false;
	}
	if (buffer_len(&wire->in) < line_size + total + 2)
	{
		*more = false;
		return true;
	}
	if (of_headers >= 12 && memcmp(content, "NATS/1.0 ", 9) == 0)
		status = (int) number(content + 9, 3);
	if (words.len[0] > inbox_len + 1 && memcmp(words.at[0], wire->config->of->inbox, inbox_len) == 0)
		wire->config->answer(wire->config->arg, words.at[0] + inbox_len + 1, words.len[0] - inbox_len - 1, status, content + of_headers,
							 total - of_headers);
	buffer_take(&wire->in, line_size + total + 2);
	return true;
}

/* a subject that we may not publish to concerns its messages only; after most other complaints the server closes the connection */
static bool
take_complaint(NatsWire *wire, const char *text, size_t len, char *fault, size_t size)
{
	static const char forbidden[] = "Permissions Violation for Publish to \"";
	static const char deaf[] = "Permissions Violation for Subscription";

	while (len > 0 && (*text == ' ' || *text == '\''))
	{
		text++;
		len--;
	}
	while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\''))
		len--;
	if (len > sizeof(forbidden) && strncasecmp(text, forbidden, sizeof(forbidden) - 1) == 0 && text[len - 1] == '"')
	{
		wire->config->forbidden(wire->config->arg, text + sizeof(forbidden) - 1, len - sizeof(forbidden));
		return true;
	}
	wire->complaint[0] = '\0';
	es_outcome_append(wire->complaint, sizeof(wire->complaint), text, len);
	/* without answers there is nothing to do here */
	if (len >= sizeof(deaf) - 1 && strncasecmp(text, deaf, sizeof(deaf) - 1) == 0)
	{
		snprintf(fault, size, "the answers may not be subscribed to");
		return false;
	}
	return true;
}

/* who we are, where answers are to go, and whether that is well */
static bool
greet(NatsWire *wire, char *fault, size_t size)
{
	static const char begin[] = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"1\",\"protocol\":1,"
		"\"headers\":true,\"no_responders\":true,\"echo\":false";
	const NatsConfig *config = wire->config->of;
	Buffer		text = {NULL, 0, 0, 0};
	char		public[NATS_PUBLIC_TEXT];
	char		signature[NATS_SIGNATURE_TEXT];
	bool		ok;

	if (config->has_key && (wire->nonce[0] == '\0' || !nats_key_public(config->seed, public) ||
							!nats_key_sign(config->seed, wire->nonce, strlen(wire->nonce), signature)))
	{
		snprintf(fault, size, "the server wants no key");
		return false;
	}
	ok = buffer_add(&text, begin, strlen(begin)) &&
		json_string(&text, "nkey", config->has_key && config->jwt == NULL ? public : NULL) &&
		json_string(&text, "jwt", config->jwt) && json_string(&text, "sig", config->has_key ? signature : NULL) &&
		json_string(&text, "name", config->name) && json_string(&text, "user", config->user) &&
		json_string(&text, "pass", config->password) && json_string(&text, "auth_token", config->token) &&
		buffer_add(&text, "}\r\nSUB ", 7) && buffer_add(&text, config->inbox, strlen(config->inbox)) &&
		buffer_add(&text, ".* 1\r\nPING\r\n", strlen(".* 1\r\nPING\r\n")) && buffer_add(&wire->out, text.bytes, text.end);
	if (ok)
	{
		wire->queued += text.end;
		wire->state = WIRE_GREETING;
	}
	else
		snprintf(fault, size, "there is no memory for the greeting");
	free(text.bytes);
	return ok;
}

static void
split(const char *line, size_t len, Words *words)
{
	const char *end = line + len;

	words->n = 0;
	while (words->n < (int) lengthof(words->at))
	{
		while (line < end && (*line == ' ' || *line == '\t'))
			line++;
		if (line == end)
			return;
		words->at[words->n] = line;
		while (line < end && *line != ' ' && *line != '\t')
			line++;
		words->len[words->n] = line - words->at[words->n];
		words->n++;
	}
}

/* -1: it is none */
static int64
number(const char *text, size_t len)
{
	int64		n = 0;

	if (len == 0 || len > 15)
		return -1;
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return -1;
		n = n * 10 + (text[i] - '0');
	}
	return n;
}

/* ,"name":"value"; nothing when there is no value.  false: no memory */
static bool
json_string(Buffer *into, const char *name, const char *value)
{
	char		escaped[8];
	bool		ok;

	if (value == NULL)
		return true;
	ok = buffer_add(into, ",\"", 2) && buffer_add(into, name, strlen(name)) && buffer_add(into, "\":\"", 3);
	for (; ok && *value != '\0'; value++)
	{
		unsigned char c = (unsigned char) *value;

		if (c == '"' || c == '\\' || c < ' ')
		{
			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
			ok = buffer_add(into, escaped, 6);
		}
		else
			ok = buffer_add(into, value, 1);
	}
	return ok && buffer_add(into, "\"", 1);
}

static bool
info_is_true(const char *json, size_t len, const char *key)
{
	const char *value;
	size_t		value_len;

	return nats_json_get(json, len, key, &value, &value_len) && value_len == 4 && memcmp(value, "true", 4) == 0;
}

