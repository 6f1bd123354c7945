/*
 * amqp.c
 *		Delivery to RabbitMQ, and to other brokers of AMQP 0-9-1 that confirm: amqp://, amqps://.
 *
 * Runs in relay workers, in the main thread, between transactions; in here is what a link is made from, and what may be (thread_links.c has
 * the rest of it).  Each link has a thread (amqp_worker.c) with one connection and one channel (amqp_wire.c); many messages are on their
 * way at a time, and each is done when the broker has confirmed it.  A crash closes the sockets; what was not confirmed by then is
 * sent again.
 */
#include "postgres.h"

#include <stdlib.h>

#include "fmgr.h"

#include "amqp_worker.h"
#include "settings.h"
#include "thread_links.h"
#include "tls.h"

PG_MODULE_MAGIC;

#define HEARTBEAT_S 20
#define MAX_CREDENTIALS 510
#define MAX_VHOST 255

static const char *check_url(const char *url);
static bool check(const EsLinkConfig *config, char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);

static const char *const schemes[] = {"amqp", "amqps", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "amqp",
	.schemes = schemes,
	.binding = ES_BINDING_AMQP,
	.keeps_order = false,
	.check_url = check_url,
	.check = check,
	.startup = es_thread_links_startup,
	.open = open_link,
	.submit = es_thread_links_submit,
	.pump = es_thread_links_pump,
	.next_done = es_links_next_done,
	.wait_fd = es_thread_links_wait_fd,
	.wait_ms = es_thread_links_wait_ms,
	.close = es_thread_links_close,
	.shutdown = es_thread_links_shutdown,
};

static const EsThreadLife life = {es_amqp_run, es_amqp_free_target};

static const EsTransportHost *host = NULL;

static bool is_tls(const char *url);
static const char *parse_url(const char *url, EsAmqpTarget *target);
static const char *parse_host(const char **at, EsAmqpTarget *target);
static const char *parse_vhost(const char *at, EsAmqpTarget *target);
static int	hex_digit(char c);
static EsAmqpTarget *make_target(const EsLinkConfig *config);

PGDLLEXPORT const EsTransport *evtstore_transport(const EsTransportHost *of);

const EsTransport *
evtstore_transport(const EsTransportHost *of)
{
	host = of;
	return of->version == ES_TRANSPORT_VERSION ? &transport : NULL;
}

static const char *
check_url(const char *url)
{
	EsAmqpTarget *target = calloc(1, sizeof(EsAmqpTarget));
	const char *fault = target != NULL ? parse_url(url, target) : "there is no memory to look at it";

	es_amqp_free_target(target);
	return fault;
}

static bool
check(const EsLinkConfig *config, char *fault, size_t size)
{
	const char *secret = es_settings_credentials(config);

	for (int i = 0; i < config->nclient; i++)
	{
		const EsSetting *client = &config->client[i];
		char	   *end;
		long		seconds = strtol(client->value, &end, 10);

		if (strcmp(client->name, "heartbeat") != 0)
			snprintf(fault, size, "unknown client setting \"%s\": AMQP has \"heartbeat\"", client->name);
		else if (end == client->value || *end != '\0' || seconds < 1 || seconds > 600)
			snprintf(fault, size, "heartbeat is a number of seconds from 1 to 600, not \"%s\"", client->value);
		else
			continue;
		return false;
	}
	if (secret != NULL && (strchr(secret, ':') == NULL || strlen(secret) > MAX_CREDENTIALS))
	{
		snprintf(fault, size, "the secret \"%s\" is not USER:PASSWORD of at most %d bytes",
				 es_settings_secret(config, "sasl") != NULL ? "sasl" : "basic", MAX_CREDENTIALS);
		return false;
	}
	return !is_tls(config->url) ||
		es_tls_check(config->tls_ca_file, es_settings_secret(config, "tls"), fault, size);
}

/* connects when there is a message */
static EsLink *
open_link(const EsLinkConfig *config, char *fault, size_t size)
{
	EsAmqpTarget *target;

	if (!check(config, fault, size))
		return NULL;
	target = make_target(config);
	if (target == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		return NULL;
	}
	return es_thread_links_open(sizeof(EsThreadLink), config, &life, target, fault, size);
}

static bool
is_tls(const char *url)
{
	return strncasecmp(url, "amqps:", 6) == 0;
}

/* SCHEME://HOST[:PORT][/VHOST]; the target is to be freed in any case */
static const char *
parse_url(const char *url, EsAmqpTarget *target)
{
	const char *at = strstr(url, "://");
	const char *fault;

	if (at == NULL)
		return "it is not well-formed";
	at += 3;
	if (memchr(at, '@', strcspn(at, "/?#")) != NULL)
		return "it has a user or a password; use evtstore.set_endpoint_secret() instead";
	if (strpbrk(at, "?#") != NULL)
		return "it has more than a host, a port and a virtual host";
	fault = parse_host(&at, target);
	if (fault != NULL)
		return fault;
	if (target->port == NULL)
		target->port = es_settings_copy(is_tls(url) ? "5671" : "5672");
	if (*at != '\0' && *at != '/')
		return "it is not well-formed";
	fault = parse_vhost(*at == '/' ? at + 1 : at, target);
	if (fault == NULL && (target->host == NULL || target->port == NULL || target->vhost == NULL))
		fault = "there is no memory to look at it";
	return fault;
}

static const char *
parse_host(const char **at, EsAmqpTarget *target)
{
	const char *start = *at;
	size_t		len;

	if (*start == '[')
	{
		len = strspn(++start, "0123456789abcdefABCDEF:.");
		if (start[len] != ']')
			return "the address in brackets is not well-formed";
		*at = start + len + 1;
	}
	else
	{
		len = strspn(start, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._");
		*at = start + len;
	}
	if (len == 0)
		return "it has no host";
	target->host = strndup(start, len);
	if (**at != ':')
		return NULL;
	start = *at + 1;
	len = strspn(start, "0123456789");
	if (len == 0 || len > 5 || atoi(start) < 1 || atoi(start) > 65535)
		return "the port is not a number from 1 to 65535";
	target->port = strndup(start, len);
	*at = start + len;
	return NULL;
}

/* percent-encoded, so that "/" is %2F; nothing is "/" too, where every broker's first one is */
static const char *
parse_vhost(const char *at, EsAmqpTarget *target)
{
	char	   *to;

	if (*at == '\0')
		at = "%2F";
	target->vhost = to = malloc(strlen(at) + 1);
	if (to == NULL)
		return NULL;
	while (*at != '\0')
	{
		int			c = (unsigned char) *at++;

		if (c == '/')
			return "a slash in the name of a virtual host is written %2F";
		if (c == '%')
		{
			if (hex_digit(at[0]) < 0 || hex_digit(at[1]) < 0)
				return "a % stands before two hexadecimal digits";
			c = hex_digit(at[0]) * 16 + hex_digit(at[1]);
			at += 2;
		}
		if (c < ' ' || c == 0x7f)
			return "the name of the virtual host has control characters";
		*to++ = (char) c;
	}
	*to = '\0';
	return to - target->vhost > MAX_VHOST ? "the name of the virtual host is longer than 255 bytes" : NULL;
}

static int
hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c != '\0' ? strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c) : NULL;

	return at != NULL ? (int) (at - digits) : -1;
}

static EsAmqpTarget *
make_target(const EsLinkConfig *config)
{
	EsAmqpTarget *target = calloc(1, sizeof(EsAmqpTarget));
	const char *secret = es_settings_credentials(config);
	const char *pem = es_settings_secret(config, "tls");
	const char *heartbeat = es_settings_client(config, "heartbeat");
	size_t		name_len = strlen(config->endpoint) + sizeof("evtstore ");

	if (target == NULL)
		return NULL;
	secret = secret != NULL ? secret : "guest:guest";
	target->user = strndup(secret, strcspn(secret, ":"));
	target->password = es_settings_copy(strchr(secret, ':') + 1);
	target->networks = es_settings_copy(config->allowed_networks != NULL ? config->allowed_networks : "");
	target->ca_file = es_settings_copy(config->tls_ca_file);
	target->pem = es_settings_copy(pem);
	target->name = malloc(name_len);
	target->plain_text = !is_tls(config->url);
	target->verify = config->tls_verify;
	target->heartbeat = heartbeat != NULL ? atoi(heartbeat) : HEARTBEAT_S;
	target->core = host;
	if (parse_url(config->url, target) == NULL)
		target->server_name = es_settings_copy(config->tls_server_name != NULL ? config->tls_server_name : target->host);
	if (target->user == NULL || target->password == NULL || target->networks == NULL || target->name == NULL ||
		target->server_name == NULL || (config->tls_ca_file != NULL && target->ca_file == NULL) || (pem != NULL && target->pem == NULL))
	{
		es_amqp_free_target(target);
		return NULL;
	}
	snprintf(target->name, name_len, "evtstore %s", config->endpoint);
	return target;
}
