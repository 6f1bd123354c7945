/*
 * nats_wire.c
 *		One connection to a NATS server, spoken by hand.
 *
 * The client library for C (cnats) waits in places where a relay may not: in the handshake of TLS without a time limit, inside a read
 * for the rest of a TLS record, and it resolves names and connects where nobody can check the address.  The protocol is lines of
 * text, on a socket of ours (nats_stream.c).
 *
 * Runs in relay workers, in the main thread (nats.c).  A crash leaves a closed socket.
 *
 * What the server says before TLS may be anybody's: bytes behind its INFO go to TLS, which refuses what is not its own.
 */
#include "postgres.h"

#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "nats_json.h"
#include "nats_stream.h"
#include "nats_wire.h"
#include "outcome.h"

/* the INFO of a big cluster is some kilobytes; an answer of JetStream is a hundred bytes */
#define MAX_LINE (256 * 1024)
#define MAX_ANSWER (256 * 1024)
/* read for one connection before others have their turn */
#define MAX_READ_AT_ONCE (1024 * 1024)

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
	NatsStream	stream;
	char	   *server_name;
	WireState	state;
	int64		max_payload;
	bool		is_certain;		/* what the server said last, it said where nobody else could */
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

static bool receive(NatsWire *wire, char *fault, size_t size);
static bool parse(NatsWire *wire, char *fault, size_t size);
static bool take_line(NatsWire *wire, const char *line, size_t len, size_t line_size, bool *more, char *fault, size_t size);
static bool take_info(NatsWire *wire, const char *json, size_t len, size_t line_size, char *fault, size_t size);
static bool take_message(NatsWire *wire, const char *line, size_t len, size_t line_size, bool headers, bool *more, char *fault,
						 size_t size);
static bool take_complaint(NatsWire *wire, const char *text, size_t len, char *fault, size_t size);
static bool greet(NatsWire *wire, char *fault, size_t size);
static void split(const char *line, size_t len, Words *words);
static int64 number(const char *text, size_t len);
static bool json_string(NatsBuffer *into, const char *name, const char *value);
static bool info_is_true(const char *json, size_t len, const char *key);

NatsWire *
nats_wire_open(const NatsWireConfig *config, int fd, const char *server_name)
{
	NatsWire   *wire = calloc(1, sizeof(NatsWire));

	if (wire == NULL || !nats_stream_open(&wire->stream, fd) || (wire->server_name = strdup(server_name)) == NULL)
	{
		free(wire);
		close(fd);
		return NULL;
	}
	wire->config = config;
	return wire;
}

void
nats_wire_close(NatsWire *wire)
{
	nats_stream_close(&wire->stream);
	free(wire->server_name);
	free(wire);
}

bool
nats_wire_work(NatsWire *wire, char *fault, size_t size)
{
	bool		alive = receive(wire, fault, size);

	/* why it ends is in what has arrived, even where the connection is gone meanwhile */
	if (alive)
		alive = nats_stream_write(&wire->stream, fault, size);
	if (!alive && wire->complaint[0] != '\0')
		snprintf(fault, size, "the server says: %s", wire->complaint);
	return alive;
}

int
nats_wire_fd(const NatsWire *wire)
{
	return wire->stream.fd;
}

bool
nats_wire_is_up(const NatsWire *wire)
{
	return wire->state == WIRE_UP;
}

bool
nats_wire_is_dirty(const NatsWire *wire)
{
	return !wire->stream.is_full && (nats_buffer_len(&wire->stream.out) > 0 || nats_buffer_len(&wire->stream.cipher) > 0);
}

bool
nats_wire_is_full(const NatsWire *wire)
{
	return wire->stream.is_full;
}

uint64
nats_wire_queued(const NatsWire *wire)
{
	return wire->stream.sent + nats_buffer_len(&wire->stream.out);
}

uint64
nats_wire_sent(const NatsWire *wire)
{
	return wire->stream.sent;
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
	char	   *at = nats_buffer_make_room(&wire->stream.out, size);
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
	wire->stream.out.end += at - begin;
	return true;
}

void
nats_wire_ping(NatsWire *wire)
{
	/* no memory: then nothing will arrive, and the connection passes for dead, which without memory it may be */
	(void) nats_buffer_add(&wire->stream.out, "PING\r\n", 6);
}

/* everything that has arrived, up to a limit; what can be understood of it is */
static bool
receive(NatsWire *wire, char *fault, size_t size)
{
	size_t		n;

	for (size_t total = 0; total < MAX_READ_AT_ONCE; total += n)
	{
		if (!nats_stream_read(&wire->stream, &n, fault, size))
			return false;
		if (n == 0)
			return true;
		if ((wire->state == WIRE_TLS && wire->stream.is_secure && !greet(wire, fault, size)) || !parse(wire, fault, size))
			return false;
		if (wire->stream.is_ended)
		{
			snprintf(fault, size, "the server closed the connection");
			return false;
		}
		if (n < NATS_READ_BYTES)
			return true;
	}
	return true;
}

/*
 * The protocol
 */

static bool
parse(NatsWire *wire, char *fault, size_t size)
{
	bool		more = true;

	while (more && nats_buffer_len(&wire->stream.in) > 0 && wire->state != WIRE_TLS)
	{
		const char *line = wire->stream.in.bytes + wire->stream.in.begin;
		const char *newline = memchr(line, '\n', nats_buffer_len(&wire->stream.in));
		size_t		len;

		if (newline == NULL && nats_buffer_len(&wire->stream.in) > MAX_LINE)
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
		if (!nats_buffer_add(&wire->stream.out, "PONG\r\n", 6))
		{
			snprintf(fault, size, "there is no memory to write it");
			return false;
		}
	}
	else if (len >= 4 && strncasecmp(line, "PONG", 4) == 0)
	{
		nats_buffer_take(&wire->stream.in, line_size);
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
	nats_buffer_take(&wire->stream.in, line_size);
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

	wire->is_certain = wire->config->of->tls == NULL || wire->stream.ssl != NULL;
	if (nats_json_get(json, len, "max_payload", &value, &value_len))
		wire->max_payload = number(value, value_len);
	wire->nonce[0] = '\0';
	if (nats_json_get(json, len, "nonce", &value, &value_len) && value_len > 2 && value_len - 2 < sizeof(wire->nonce))
	{
		memcpy(wire->nonce, value + 1, value_len - 2);
		wire->nonce[value_len - 2] = '\0';
	}
	nats_buffer_take(&wire->stream.in, line_size);
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
	if (wire->config->of->tls == NULL)
		return greet(wire, fault, size);
	wire->state = WIRE_TLS;
	return nats_stream_begin_tls(&wire->stream, wire->config->of->tls, wire->server_name, fault, size);
}

/* MSG subject sid [reply] size, HMSG subject sid [reply] headers_size size: an answer, since nothing else is subscribed to */
static bool
take_message(NatsWire *wire, const char *line, size_t len, size_t line_size, bool headers, bool *more, char *fault, size_t size)
{
	Words		words;
	int64		total;
	int64		of_headers = 0;
	size_t		inbox_len = strlen(wire->config->of->inbox);
	const char *content = wire->stream.in.bytes + wire->stream.in.begin + line_size;
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
	if (nats_buffer_len(&wire->stream.in) < line_size + total + 2)
	{
		*more = false;
		return true;
	}
	if (of_headers >= 12 && memcmp(content, "NATS/1.0 ", 9) == 0)
		status = (int) number(content + 9, 3);
	if (words.len[0] > inbox_len + 1 && memcmp(words.at[0], wire->config->of->inbox, inbox_len) == 0)
		wire->config->answer(wire->config->arg, words.at[0] + inbox_len + 1, words.len[0] - inbox_len - 1, status, content + of_headers,
							 total - of_headers);
	nats_buffer_take(&wire->stream.in, line_size + total + 2);
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
	NatsBuffer	text = {NULL, 0, 0, 0};
	char		public[NATS_PUBLIC_TEXT];
	char		signature[NATS_SIGNATURE_TEXT];
	bool		ok;

	if (config->has_key && (wire->nonce[0] == '\0' || !nats_key_public(config->seed, public) ||
							!nats_key_sign(config->seed, wire->nonce, strlen(wire->nonce), signature)))
	{
		snprintf(fault, size, "the server wants no key");
		return false;
	}
	ok = nats_buffer_add(&text, begin, strlen(begin)) &&
		json_string(&text, "nkey", config->has_key && config->jwt == NULL ? public : NULL) &&
		json_string(&text, "jwt", config->jwt) && json_string(&text, "sig", config->has_key ? signature : NULL) &&
		json_string(&text, "name", config->name) && json_string(&text, "user", config->user) &&
		json_string(&text, "pass", config->password) && json_string(&text, "auth_token", config->token) &&
		nats_buffer_add(&text, "}\r\nSUB ", 7) && nats_buffer_add(&text, config->inbox, strlen(config->inbox)) &&
		nats_buffer_add(&text, ".* 1\r\nPING\r\n", strlen(".* 1\r\nPING\r\n")) && nats_buffer_add(&wire->stream.out, text.bytes, text.end);
	if (ok)
		wire->state = WIRE_GREETING;
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
json_string(NatsBuffer *into, const char *name, const char *value)
{
	char		escaped[8];
	bool		ok;

	if (value == NULL)
		return true;
	ok = nats_buffer_add(into, ",\"", 2) && nats_buffer_add(into, name, strlen(name)) && nats_buffer_add(into, "\":\"", 3);
	for (; ok && *value != '\0'; value++)
	{
		unsigned char c = (unsigned char) *value;

		if (c == '"' || c == '\\' || c < ' ')
		{
			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
			ok = nats_buffer_add(into, escaped, 6);
		}
		else
			ok = nats_buffer_add(into, value, 1);
	}
	return ok && nats_buffer_add(into, "\"", 1);
}

static bool
info_is_true(const char *json, size_t len, const char *key)
{
	const char *value;
	size_t		value_len;

	return nats_json_get(json, len, key, &value, &value_len) && value_len == 4 && memcmp(value, "true", 4) == 0;
}
