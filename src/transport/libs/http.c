/*
 * http.c
 *		Delivery by HTTP POST through libcurl: http://, https://.
 *
 * Runs in relay workers, in the main thread, between transactions; in here are the links, and the way of a message: a request
 * (http_request.c) over the connections that links share (http_pool.c), and what the answer means (http_answer.c).  A crash leaves
 * nothing but closed sockets.
 */
#include "postgres.h"

#include <stdlib.h>

#include "fmgr.h"

#include "http_answer.h"
#include "outcome.h"
#include "settings.h"

PG_MODULE_MAGIC;

/* requests that a link may have out when sockets are scarce */
#define LITTLE 2

static const char *check_url(const char *url);
static bool check(const EsLinkConfig *config, char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);
static bool submit(EsLink *base, EsOutgoing *message);
static void pump(void);
static long wait_ms(void);
static void close_link(EsLink *base);
static void finish(CURL *easy, CURLcode code);
static void free_link(HttpLink *link);

static const char *const schemes[] = {"http", "https", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "http",
	.schemes = schemes,
	.binding = ES_BINDING_HTTP,
	.keeps_order = false,
	.check_url = check_url,
	.check = check,
	.startup = http_pool_startup,
	.open = open_link,
	.submit = submit,
	.pump = pump,
	.next_done = es_links_next_done,
	.wait_fd = http_pool_wait_fd,
	.wait_ms = wait_ms,
	.close = close_link,
	.shutdown = http_pool_shutdown,
};

static const EsTransportHost *host = NULL;

PGDLLEXPORT const EsTransport *evtstore_transport(const EsTransportHost *of);

const EsTransport *
evtstore_transport(const EsTransportHost *of)
{
	host = of;
	return of->version == ES_TRANSPORT_VERSION ? &transport : NULL;
}

/*
 * libcurl's own parser, so that what is checked is what will be dialled.  It takes http:///path for http://path; we do
 * not, because whoever writes that forgot the host.
 */
static const char *
check_url(const char *url)
{
	CURLU	   *parsed = curl_url();
	char	   *name = NULL;
	char	   *user = NULL;
	char	   *password = NULL;
	const char *fault = NULL;

	if (parsed == NULL)
		return "there is no memory to look at it";
	if (curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK)
		fault = "it is not well-formed, with a host";
	else if (strstr(url, "://")[3] == '/' || curl_url_get(parsed, CURLUPART_HOST, &name, 0) != CURLUE_OK)
		fault = "it has no host";
	else if (curl_url_get(parsed, CURLUPART_USER, &user, 0) == CURLUE_OK ||
			 curl_url_get(parsed, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK)
		fault = "it has a user or a password; use evtstore.set_endpoint_secret() instead";
	curl_free(name);
	curl_free(user);
	curl_free(password);
	curl_url_cleanup(parsed);
	return fault;
}

static bool
check(const EsLinkConfig *config, char *fault, size_t size)
{
	for (int i = 0; i < config->nclient; i++)
	{
		const EsSetting *client = &config->client[i];

		if (strcmp(client->name, "proxy") == 0)
			continue;
		if (strcmp(client->name, "http_version") == 0 && (strcmp(client->value, "1.1") == 0 || strcmp(client->value, "2") == 0))
			continue;
		if (strcmp(client->name, "http_version") == 0)
			snprintf(fault, size, "http_version is \"1.1\" or \"2\", not \"%s\"", client->value);
		else
			snprintf(fault, size, "unknown client setting \"%s\": HTTP has \"proxy\" and \"http_version\"", client->name);
		return false;
	}
	if (config->tls_server_name != NULL)
	{
		snprintf(fault, size, "\"server_name\" of \"tls\" is not for HTTP: the url has the name");
		return false;
	}
	return true;
}

static EsLink *
open_link(const EsLinkConfig *config, char *fault, size_t size)
{
	HttpLink   *link;
	const char *version = es_settings_client(config, "http_version");

	if (!check(config, fault, size))
		return NULL;
	snprintf(fault, size, "there is no memory for the connection");
	link = calloc(1, sizeof(HttpLink));
	if (link == NULL)
		return NULL;
	link->verify = config->tls_verify;
	link->plain_text = strncasecmp(config->url, "http:", 5) == 0;
	link->only_http1 = version != NULL && strcmp(version, "1.1") == 0;
	link->url = es_settings_copy(config->url);
	link->proxy = es_settings_copy(es_settings_client(config, "proxy"));
	link->basic = es_settings_copy(es_settings_secret(config, "basic"));
	link->bearer = es_settings_copy(es_settings_secret(config, "bearer"));
	link->pem = es_settings_copy(es_settings_secret(config, "tls"));
	link->ca_file = es_settings_copy(config->tls_ca_file);
	link->core = host;
	link->pool = http_pool_join(config->allowed_networks);
	if (link->url == NULL || link->pool == NULL)
	{
		free_link(link);
		return NULL;
	}
	es_links_add(&link->base, config->max_in_flight);
	return &link->base;
}

static bool
submit(EsLink *base, EsOutgoing *message)
{
	if (!es_links_has_room(base) || !http_pool_has_room(base->in_flight < LITTLE))
		return false;
	es_links_take(base, message);
	if (!http_request_begin((HttpLink *) base, message))
	{
		es_outcome_say(message, ES_OUTCOME_UNAVAILABLE, "could not set up the request", NULL);
		es_links_done(message);
	}
	return true;
}

static void
pump(void)
{
	http_pool_pump(finish);
}

static void
finish(CURL *easy, CURLcode code)
{
	HttpTransfer *transfer = NULL;
	EsOutgoing *message;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &transfer);
	message = transfer->message;
	http_answer_judge(transfer, code);
	http_request_end(transfer);
	es_links_done(message);
}

static long
wait_ms(void)
{
	return es_links_has_done() ? 0 : http_pool_wait_ms();
}

static void
close_link(EsLink *base)
{
	es_links_remove(base);
	free_link((HttpLink *) base);
}

/* libcurl takes its sockets out of the epoll while it closes them */
static void
free_link(HttpLink *link)
{
	http_request_free_all(link);
	if (link->pool != NULL)
		http_pool_leave(link->pool);
	free(link->url);
	free(link->proxy);
	free(link->basic);
	free(link->bearer);
	free(link->pem);
	free(link->ca_file);
	free(link);
}
