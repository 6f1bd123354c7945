/*
 * http_request.c
 *		Requests: what libcurl is told of a link and of a message, and which addresses it may talk to.
 *
 * Runs in relay workers, in the main thread, between transactions.  A transfer is made for as many requests as a link has out at a time,
 * and used again.  A crash leaves nothing but closed sockets.
 *
 * Redirects, netrc, cookies, other protocols, and proxies that no superuser named are off: the address that was checked is the
 * one that is talked to (address.c), and what the other side says cannot send us elsewhere.
 */
#include "postgres.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "http_answer.h"

#define CONNECT_TIMEOUT_MS 5000L

static HttpTransfer *idle_transfer(HttpLink *link);
static void make_idle(HttpTransfer *transfer);
static bool set_link_options(HttpTransfer *transfer);
static bool set_message_options(HttpTransfer *transfer, const EsOutgoing *message);
static bool make_headers(HttpTransfer *transfer, const EsOutgoing *message);
static bool append_header(struct curl_slist **list, const char *name, const char *value);
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address);

bool
http_request_begin(HttpLink *link, EsOutgoing *message)
{
	HttpTransfer *transfer = idle_transfer(link);

	if (transfer == NULL)
		return false;
	if (!make_headers(transfer, message) || !set_message_options(transfer, message) || !http_pool_add(link->pool, transfer->easy))
	{
		make_idle(transfer);
		return false;
	}
	transfer->message = message;
	return true;
}

void
http_request_end(HttpTransfer *transfer)
{
	http_pool_remove(transfer->link->pool, transfer->easy);
	make_idle(transfer);
}

void
http_request_free_all(HttpLink *link)
{
	while (link->transfers != NULL)
	{
		HttpTransfer *transfer = link->transfers;

		link->transfers = transfer->next;
		if (transfer->message != NULL)
			http_request_end(transfer);
		curl_easy_cleanup(transfer->easy);
		free(transfer);
	}
}

/* one that is free, made when all are busy; NULL: out of memory */
static HttpTransfer *
idle_transfer(HttpLink *link)
{
	HttpTransfer *transfer = link->idle;

	if (transfer != NULL)
		link->idle = transfer->next_idle;
	if (transfer == NULL)
	{
		transfer = calloc(1, sizeof(HttpTransfer));
		if (transfer == NULL)
			return NULL;
		transfer->link = link;
		transfer->easy = curl_easy_init();
		if (transfer->easy == NULL || !set_link_options(transfer))
		{
			curl_easy_cleanup(transfer->easy);
			free(transfer);
			return NULL;
		}
		transfer->next = link->transfers;
		link->transfers = transfer;
	}
	transfer->address_refused = false;
	transfer->too_large = false;
	transfer->received = 0;
	transfer->head_len = 0;
	transfer->detail[0] = '\0';
	return transfer;
}

static void
make_idle(HttpTransfer *transfer)
{
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;
	transfer->message = NULL;
	transfer->next_idle = transfer->link->idle;
	transfer->link->idle = transfer;
}

/* those that are the same for all messages of the link */
static bool
set_link_options(HttpTransfer *transfer)
{
	HttpLink   *link = transfer->link;
	CURL	   *easy = transfer->easy;
	bool		ok = true;
	struct curl_blob pem = {link->pem, link->pem != NULL ? strlen(link->pem) : 0, CURL_BLOB_NOCOPY};

#define SET(option, value) ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK
	SET(CURLOPT_PRIVATE, (void *) transfer);
	SET(CURLOPT_ERRORBUFFER, transfer->detail);
	SET(CURLOPT_URL, link->url);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_MAXREDIRS, 0L);
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_PROXY, link->proxy != NULL ? link->proxy : "");
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L);	/* do not wait for a name server when giving up */
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	SET(CURLOPT_HTTP_VERSION, (long) (link->only_http1 ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS));
	/* rather one connection with many streams, where the other side can */
	SET(CURLOPT_PIPEWAIT, link->plain_text || link->only_http1 ? 0L : 1L);
	SET(CURLOPT_SSL_VERIFYPEER, link->verify ? 1L : 0L);
	SET(CURLOPT_SSL_VERIFYHOST, link->verify ? 2L : 0L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (link->ca_file != NULL)
		SET(CURLOPT_CAINFO, link->ca_file);
	if (link->pem != NULL)
	{
		SET(CURLOPT_SSLCERT_BLOB, &pem);
		SET(CURLOPT_SSLKEY_BLOB, &pem);
	}
	if (link->basic != NULL)
	{
		SET(CURLOPT_HTTPAUTH, (long) CURLAUTH_BASIC);
		SET(CURLOPT_USERPWD, link->basic);
	}
	else if (link->bearer != NULL)
	{
		SET(CURLOPT_HTTPAUTH, (long) CURLAUTH_BEARER);
		SET(CURLOPT_XOAUTH2_BEARER, link->bearer);
	}
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, (void *) transfer);
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_HEADERFUNCTION, http_answer_take_header);
	SET(CURLOPT_HEADERDATA, (void *) transfer);
	SET(CURLOPT_WRITEFUNCTION, http_answer_take_body);
	SET(CURLOPT_WRITEDATA, (void *) transfer);
#undef SET
	return ok;
}

static bool
set_message_options(HttpTransfer *transfer, const EsOutgoing *message)
{
	CURL	   *easy = transfer->easy;

	return curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, message->timeout_ms) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) message->body_len) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, message->body) == CURLE_OK;
}

static bool
make_headers(HttpTransfer *transfer, const EsOutgoing *message)
{
	/* no 100-continue: it costs a round trip, or a second where the receiver does not know it */
	bool		ok = append_header(&transfer->headers, "Expect", NULL);

	for (int i = 0; ok && i < message->nheaders; i++)
		ok = append_header(&transfer->headers, message->headers[i].name, message->headers[i].value);
	return ok;
}

/* value NULL: libcurl's own header of that name is left out */
static bool
append_header(struct curl_slist **list, const char *name, const char *value)
{
	size_t		size = strlen(name) + (value != NULL ? strlen(value) : 0) + 3;
	char		small[1024];
	char	   *line;
	struct curl_slist *longer;

	/* whoever made the headers has seen to it; a line break here would be a request of somebody else's making */
	if (strpbrk(name, "\r\n:") != NULL || (value != NULL && strpbrk(value, "\r\n") != NULL))
		return false;
	line = size <= sizeof(small) ? small : malloc(size);
	if (line == NULL)
		return false;
	/* libcurl reads "Name:" as "leave it out" and "Name;" as a header without a value */
	if (value == NULL)
		snprintf(line, size, "%s:", name);
	else if (value[0] == '\0')
		snprintf(line, size, "%s;", name);
	else
		snprintf(line, size, "%s: %s", name, value);
	longer = curl_slist_append(*list, line);
	if (line != small)
		free(line);
	if (longer == NULL)
		return false;
	*list = longer;
	return true;
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpTransfer *transfer = arg;
	HttpLink   *link = transfer->link;

	/* a proxy is where a superuser wants it, and dials for itself */
	if (purpose != CURLSOCKTYPE_IPCXN ||
		(link->proxy == NULL && !link->core->address_allowed(&address->addr, link->pool->networks, link->plain_text)))
	{
		transfer->address_refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}
