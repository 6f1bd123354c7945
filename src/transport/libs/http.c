/*
 * http.c
 *		Delivery by HTTP POST through libcurl's multi interface: http://, https://.
 *
 * Runs in relay workers, in the main thread, between transactions.  Links share a multi handle, and so a pool of connections that stay open
 * from message to message; all their sockets are in one epoll, which the worker waits for.  A connection was allowed when it was
 * dialled, so each list of allowed networks has a pool of its own.  A crash leaves nothing but closed sockets.
 *
 * A process has so many descriptors, and the server needs some of them: no more than half are sockets of ours, whatever the endpoints allow.
 *
 * Rules: libcurl's callbacks only copy bytes into the transfer; and no signal may reach the threads that libcurl makes to
 * resolve names, because the server's handlers run for the process that they interrupt.
 *
 * Redirects, netrc, cookies, other protocols, and proxies that no superuser named are off: the address that was checked is the
 * one that is talked to (address.c), and what the other side says cannot send us elsewhere.
 */
#include "postgres.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fmgr.h"

#include "links.h"
#include "outcome.h"
#include "settings.h"
#include "thread.h"

PG_MODULE_MAGIC;

/* what a reply may have, headers and body together; nothing of it is used but the beginning, for error texts */
#define MAX_RESPONSE_BYTES (64 * 1024)
#define RESPONSE_HEAD 200
#define CONNECT_TIMEOUT_MS 5000L
/* a receiver may not put a message off for longer than this */
#define MAX_RETRY_AFTER_S (24 * 60 * 60)
#define EVENTS_AT_ONCE 64
/* the list of networks changes seldom, and the old pools go with their links */
#define MAX_POOLS 16
/* sockets, whatever the limit of descriptors */
#define MIN_SOCKETS 16
/* requests that a link may have out when sockets are scarce */
#define LITTLE 2

typedef struct HttpLink HttpLink;

/* connections that were dialled under the same list of networks */
typedef struct Pool
{
	int			place;			/* in pools */
	int			nlinks;
	CURLM	   *multi;
	char	   *networks;
	long long	due;			/* libcurl wants to be called then; -1: no time */
} Pool;

/* one request under way; reused from message to message */
typedef struct Transfer
{
	HttpLink   *link;
	CURL	   *easy;
	EsOutgoing *message;		/* NULL: idle */
	struct curl_slist *headers;
	bool		address_refused;
	bool		too_large;
	size_t		received;
	int			head_len;
	char		head[RESPONSE_HEAD + 1];	/* beginning of the body, raw */
	char		detail[CURL_ERROR_SIZE];	/* libcurl's error text */
	struct Transfer *next;		/* of the link */
	struct Transfer *next_idle;
} Transfer;

struct HttpLink
{
	EsLink		base;
	Pool	   *pool;
	char	   *url;
	char	   *proxy;			/* NULL: none */
	char	   *basic;
	char	   *bearer;
	char	   *pem;			/* certificate and key; NULL: none */
	char	   *ca_file;
	bool		verify;
	bool		plain_text;		/* http: only to listed networks */
	bool		only_http1;
	Transfer   *transfers;		/* all, idle ones too */
	Transfer   *idle;
};

static const char *check_url(const char *url);
static bool check(const EsLinkConfig *config, char *fault, size_t size);
static bool startup(char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);
static bool submit(EsLink *base, EsOutgoing *message);
static void pump(void);
static int	wait_fd(void);
static long wait_ms(void);
static void close_link(EsLink *base);
static void shutdown_curl(void);

static const char *const schemes[] = {"http", "https", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "http",
	.schemes = schemes,
	.binding = ES_BINDING_HTTP,
	.keeps_order = false,
	.check_url = check_url,
	.check = check,
	.startup = startup,
	.open = open_link,
	.submit = submit,
	.pump = pump,
	.next_done = es_links_next_done,
	.wait_fd = wait_fd,
	.wait_ms = wait_ms,
	.close = close_link,
	.shutdown = shutdown_curl,
};

static const EsTransportHost *host = NULL;
static bool started = false;
static int	epoll = -1;
static bool *is_waited = NULL;	/* by descriptor: libcurl waits for it */
static int	nwaited = 0;		/* how many has it */
static Pool *pools[MAX_POOLS];	/* by place; NULL: free */
static int	max_sockets = 0;
static int	transfers = 0;		/* under way, of all links */

static Pool *join_pool(const char *networks);
static void leave_pool(Pool *pool);
static void free_link(HttpLink *link);
static void act(Pool *pool, curl_socket_t fd, int what);
static int	want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg);
static int	want_timer(CURLM *multi, long ms, void *arg);
static Transfer *idle_transfer(HttpLink *link);
static bool set_link_options(Transfer *transfer);
static bool set_message_options(Transfer *transfer, const EsOutgoing *message);
static bool make_headers(Transfer *transfer, const EsOutgoing *message);
static bool append_header(struct curl_slist **list, const char *name, const char *value);
static void collect_finished(Pool *pool);
static void end_transfer(Transfer *transfer);
static void judge(Transfer *transfer, CURLcode code);
static bool was_sent(Transfer *transfer, CURLcode code);
static void judge_status(Transfer *transfer, long status);
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
static size_t take_header(char *bytes, size_t size, size_t count, void *arg);
static size_t take_body(char *bytes, size_t size, size_t count, void *arg);

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

static bool
startup(char *fault, size_t size)
{
	struct rlimit limit;

	if (started)
		return true;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
	{
		snprintf(fault, size, "could not start libcurl");
		return false;
	}
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 65536)
		limit.rlim_cur = 65536;
	max_sockets = (int) limit.rlim_cur / 2 > MIN_SOCKETS ? (int) limit.rlim_cur / 2 : MIN_SOCKETS;
	nwaited = (int) limit.rlim_cur;
	is_waited = calloc(nwaited, sizeof(bool));
	epoll = is_waited == NULL ? -1 : epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
	{
		free(is_waited);
		is_waited = NULL;
		curl_global_cleanup();
		snprintf(fault, size, "could not make a descriptor to wait on: errno %d", errno);
		return false;
	}
	started = true;
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
	link->pool = join_pool(config->allowed_networks);
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
	HttpLink   *link = (HttpLink *) base;
	Transfer   *transfer;

	/* the last quarter is for links that have little out: others may hang to the end of their time-out */
	if (!es_links_has_room(base) || transfers >= max_sockets ||
		(base->in_flight >= LITTLE && transfers >= max_sockets - max_sockets / 4))
		return false;
	es_links_take(base, message);
	transfer = idle_transfer(link);
	if (transfer == NULL || !make_headers(transfer, message) || !set_message_options(transfer, message) ||
		curl_multi_add_handle(link->pool->multi, transfer->easy) != CURLM_OK)
	{
		if (transfer != NULL)
		{
			curl_slist_free_all(transfer->headers);
			transfer->headers = NULL;
			transfer->next_idle = link->idle;
			link->idle = transfer;
		}
		es_outcome_say(message, ES_OUTCOME_UNAVAILABLE, "could not set up the request", NULL);
		es_links_done(message);
		return true;
	}
	transfer->message = message;
	transfers++;
	return true;
}

static void
pump(void)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	int			n;
	sigset_t	all;
	sigset_t	saved;

	/* threads made in it inherit the mask */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	do
	{
		n = epoll_wait(epoll, events, EVENTS_AT_ONCE, 0);
		for (int i = 0; i < n; i++)
		{
			Pool	   *pool = pools[events[i].data.u64 >> 32];
			int			fd = (int) (events[i].data.u64 & 0xffffffff);
			int			what = 0;

			if (pool == NULL)
				continue;
			if (fd < nwaited && !is_waited[fd])
			{
				/* libcurl finds out by itself when it wants to use it again */
				(void) epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
				continue;
			}
			if (events[i].events & (EPOLLIN | EPOLLHUP))
				what |= CURL_CSELECT_IN;
			if (events[i].events & EPOLLOUT)
				what |= CURL_CSELECT_OUT;
			if (events[i].events & EPOLLERR)
				what |= CURL_CSELECT_ERR;
			act(pool, fd, what);
		}
	} while (n == EVENTS_AT_ONCE);
	for (int i = 0; i < MAX_POOLS; i++)
		if (pools[i] != NULL && pools[i]->due >= 0 && pools[i]->due <= es_thread_now())
		{
			pools[i]->due = -1;
			act(pools[i], CURL_SOCKET_TIMEOUT, 0);
		}
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static int
wait_fd(void)
{
	return epoll;
}

static long
wait_ms(void)
{
	long		ms = -1;

	if (es_links_has_done())
		return 0;
	for (int i = 0; i < MAX_POOLS; i++)
		if (pools[i] != NULL && pools[i]->due >= 0)
		{
			long		left = (long) (pools[i]->due - es_thread_now());

			left = left < 0 ? 0 : left;
			ms = ms < 0 || left < ms ? left : ms;
		}
	return ms;
}

static void
close_link(EsLink *base)
{
	es_links_remove(base);
	free_link((HttpLink *) base);
}

/* closes what is open politely; not called after a crash, which closes everything too */
static void
shutdown_curl(void)
{
	if (!started)
		return;
	curl_global_cleanup();
	close(epoll);
	epoll = -1;
	free(is_waited);
	is_waited = NULL;
	started = false;
}

/* NULL: no memory, or more lists at a time than anybody has */
static Pool *
join_pool(const char *networks)
{
	Pool	   *pool;
	int			place = -1;

	for (int i = 0; i < MAX_POOLS; i++)
		if (pools[i] == NULL)
			place = i;
		else if (strcmp(pools[i]->networks, networks) == 0)
		{
			pools[i]->nlinks++;
			return pools[i];
		}
	pool = place < 0 ? NULL : calloc(1, sizeof(Pool));
	if (pool == NULL)
		return NULL;
	pool->place = place;
	pool->nlinks = 1;
	pool->due = -1;
	pool->networks = es_settings_copy(networks);
	pool->multi = curl_multi_init();
	pools[place] = pool;
	if (pool->networks == NULL || pool->multi == NULL)
	{
		leave_pool(pool);
		return NULL;
	}
	curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
	curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool);
	curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, want_timer);
	curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool);
	/* those that are open, idle or not */
	curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, (long) max_sockets);
	curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) max_sockets);
	return pool;
}

static void
leave_pool(Pool *pool)
{
	if (--pool->nlinks > 0)
		return;
	if (pool->multi != NULL)
		curl_multi_cleanup(pool->multi);
	pools[pool->place] = NULL;
	free(pool->networks);
	free(pool);
}

/* libcurl takes its sockets out of the epoll while it closes them */
static void
free_link(HttpLink *link)
{
	while (link->transfers != NULL)
	{
		Transfer   *transfer = link->transfers;

		link->transfers = transfer->next;
		if (transfer->message != NULL)
			end_transfer(transfer);
		curl_easy_cleanup(transfer->easy);
		free(transfer);
	}
	if (link->pool != NULL)
		leave_pool(link->pool);
	free(link->url);
	free(link->proxy);
	free(link->basic);
	free(link->bearer);
	free(link->pem);
	free(link->ca_file);
	free(link);
}

static void
act(Pool *pool, curl_socket_t fd, int what)
{
	int			running;

	(void) curl_multi_socket_action(pool->multi, fd, what, &running);
	collect_finished(pool);
}

/*
 * libcurl: wait for this socket, or do not any more.  It says so at the end of each request and the contrary with the next one.  So what
 * it has let go of stays in the epoll, until it is closed, which takes it out, or something happens to it (pump).
 */
static int
want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	Pool	   *pool = arg;
	struct epoll_event event = {.data.u64 = ((uint64) pool->place << 32) | (uint32) fd};

	if (fd < nwaited)
		is_waited[fd] = what != CURL_POLL_REMOVE;
	if (what == CURL_POLL_REMOVE)
	{
		if (fd >= nwaited)
			(void) epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) != 0)
		(void) epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	return 0;
}

static int
want_timer(CURLM *multi, long ms, void *arg)
{
	Pool	   *pool = arg;

	pool->due = ms < 0 ? -1 : es_thread_now() + ms;
	return 0;
}

/* one that is free, made when all are busy; NULL: out of memory */
static Transfer *
idle_transfer(HttpLink *link)
{
	Transfer   *transfer = link->idle;

	if (transfer != NULL)
		link->idle = transfer->next_idle;
	if (transfer == NULL)
	{
		transfer = calloc(1, sizeof(Transfer));
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

/* those that are the same for all messages of the link */
static bool
set_link_options(Transfer *transfer)
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
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, (void *) transfer);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, (void *) transfer);
#undef SET
	return ok;
}

static bool
set_message_options(Transfer *transfer, const EsOutgoing *message)
{
	CURL	   *easy = transfer->easy;

	return curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, message->timeout_ms) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) message->body_len) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, message->body) == CURLE_OK;
}

static bool
make_headers(Transfer *transfer, const EsOutgoing *message)
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

static void
collect_finished(Pool *pool)
{
	int			left;
	CURLMsg    *message;

	while ((message = curl_multi_info_read(pool->multi, &left)) != NULL)
	{
		Transfer   *transfer = NULL;
		EsOutgoing *outgoing;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);
		outgoing = transfer->message;
		judge(transfer, code);
		end_transfer(transfer);
		es_links_done(outgoing);
	}
}

static void
end_transfer(Transfer *transfer)
{
	curl_multi_remove_handle(transfer->link->pool->multi, transfer->easy);
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;
	transfer->message = NULL;
	transfer->next_idle = transfer->link->idle;
	transfer->link->idle = transfer;
	transfers--;
}

/* what came of it */
static void
judge(Transfer *transfer, CURLcode code)
{
	EsOutgoing *message = transfer->message;
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	message->status = (int) status;
	if (transfer->too_large)
		es_outcome_say(message, ES_OUTCOME_RETRY, "the response is larger than 65536 bytes", NULL);
	else if (transfer->address_refused && code == CURLE_COULDNT_CONNECT)
		es_outcome_say(message, ES_OUTCOME_UNAVAILABLE, transfer->link->plain_text
					   ? "http:// goes only to addresses of evtstore.allowed_networks, and the host has none of them"
					   : "the host has a loopback, private or special address that evtstore.allowed_networks does not have", NULL);
	else if (code != CURLE_OK)
		es_outcome_say(message, was_sent(transfer, code) ? ES_OUTCOME_RETRY : ES_OUTCOME_UNAVAILABLE, "no answer",
					   transfer->detail[0] ? transfer->detail : curl_easy_strerror(code));
	else
		judge_status(transfer, status);
}

/* was anything sent?  If not, the message is not to blame.  Times of phases that were never reached differ between libcurls */
static bool
was_sent(Transfer *transfer, CURLcode code)
{
	long		bytes = 0;

	switch (code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_RESOLVE_PROXY:
		case CURLE_COULDNT_CONNECT:
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
			return false;
		default:
			return curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &bytes) == CURLE_OK && bytes > 0;
	}
}

/*
 * What is wrong with this message (400, 413, 415, 422) is wrong the next time, too.  What is wrong with the endpoint (a redirect, 401,
 * 404, ...) a person puts right, and the message is as good as before.
 */
static void
judge_status(Transfer *transfer, long status)
{
	EsOutgoing *message = transfer->message;
	char		text[64];
	curl_off_t	retry_after = 0;

	transfer->head[transfer->head_len] = '\0';
	for (int i = 0; i < transfer->head_len; i++)
		if (transfer->head[i] == '\0')
			transfer->head[i] = '?';
	snprintf(text, sizeof(text), "HTTP %ld", status);
	if (status >= 200 && status <= 299)
		es_outcome_say(message, ES_OUTCOME_DELIVERED, "", NULL);
	else if (status >= 300 && status <= 399)
		es_outcome_say(message, ES_OUTCOME_RETRY, text, "redirects are not followed");
	else if (status == 410)
		es_outcome_say(message, ES_OUTCOME_GONE, text, transfer->head);
	else if (status == 400 || status == 413 || status == 415 || status == 422)
		es_outcome_say(message, ES_OUTCOME_REJECT, text, transfer->head);
	else if (status == 429 || status == 502 || status == 503)
		es_outcome_say(message, ES_OUTCOME_UNAVAILABLE, text, transfer->head);
	else
		es_outcome_say(message, ES_OUTCOME_RETRY, text, transfer->head);

	if ((status == 429 || status == 503) &&
		curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK && retry_after > 0)
		message->retry_after_ms = (long) (retry_after < MAX_RETRY_AFTER_S ? retry_after : MAX_RETRY_AFTER_S) * 1000;
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *transfer = arg;
	HttpLink   *link = transfer->link;

	/* a proxy is where a superuser wants it, and dials for itself */
	if (purpose != CURLSOCKTYPE_IPCXN ||
		(link->proxy == NULL && !host->address_allowed(&address->addr, link->pool->networks, link->plain_text)))
	{
		transfer->address_refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static size_t
take_header(char *bytes, size_t size, size_t count, void *arg)
{
	Transfer   *transfer = arg;

	transfer->received += size * count;
	if (transfer->received > MAX_RESPONSE_BYTES)
	{
		transfer->too_large = true;
		return 0;
	}
	return size * count;
}

static size_t
take_body(char *bytes, size_t size, size_t count, void *arg)
{
	Transfer   *transfer = arg;
	size_t		room = RESPONSE_HEAD - transfer->head_len;
	size_t		len = size * count < room ? size * count : room;

	memcpy(transfer->head + transfer->head_len, bytes, len);
	transfer->head_len += (int) len;
	return take_header(bytes, size, count, arg);
}
