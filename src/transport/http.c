/*
 * http.c
 *		Delivery by HTTP POST through libcurl's multi interface.
 *
 * Runs in delivery workers, outside transactions.  Connections stay open between calls, in this process only; a crash
 * leaves nothing but closed sockets.
 *
 * Rules: libcurl's callbacks only copy bytes into the transfer (no palloc, no ereport: an error must not jump over
 * libcurl's frames); interrupts are served between its calls, because a process that ignores them for the length of a
 * time-out blocks everybody who waits for a barrier, DROP DATABASE for one; and no signal may reach the threads that
 * libcurl makes to resolve names, because the server's handlers run for the process that they interrupt.
 *
 * Redirects, proxies, netrc, cookies and other protocols are off: the address that was checked is the one that is
 * talked to (address.c), and what the other side says cannot send us elsewhere.
 */
#include "postgres.h"

#include <curl/curl.h>
#include <signal.h>
#include <time.h>

#include "miscadmin.h"
#include "pgstat.h"

#include "compat.h"
#include "evtstore.h"
#include "guc.h"
#include "transport.h"

/* what a reply may have, headers and body together; nothing of it is used but the beginning, for error texts */
#define MAX_RESPONSE_BYTES (64 * 1024)
#define RESPONSE_HEAD 200
/* longest wait between two looks at *stop and at interrupts */
#define POLL_SLICE_MS 100
#define CONNECT_TIMEOUT_MS 5000L
/* idle connections kept per process */
#define MAX_CONNECTIONS 256L
/* a receiver may not put a message off for longer than this */
#define MAX_RETRY_AFTER_S (24 * 60 * 60)

/* one request under way; malloc'd, reused from batch to batch */
typedef struct Transfer
{
	CURL	   *easy;
	EsRequest  *request; /* NULL: idle */
	struct curl_slist *headers;
	bool		plain_text; /* http: only to listed networks */
	bool		address_refused;
	bool		too_large;
	size_t		received;
	int			head_len;
	char		head[RESPONSE_HEAD + 1]; /* beginning of the body, raw */
	char		detail[CURL_ERROR_SIZE]; /* libcurl's error text */
	struct Transfer *next;
} Transfer;

static const char *check_url(const char *url);
static void startup(void);
static void perform(EsRequest *requests, int n, int max_in_flight, volatile sig_atomic_t *stop);
static void shutdown_curl(void);

static const char *const schemes[] = {"http", "https", NULL};

const EsTransport es_transport_http = {
	.name = "http",
	.schemes = schemes,
	.check_url = check_url,
	.startup = startup,
	.perform = perform,
	.shutdown = shutdown_curl,
};

static bool started = false;
static uint32 wait_event = 0;
static CURLM *multi = NULL;
static Transfer *transfers = NULL; /* all, idle ones too */
static char *networks = NULL;	   /* allowed networks that the open connections were checked against; malloc'd */

static void forget_connections_if_networks_changed(void);
static void open_multi(void);
static void run(EsRequest *requests, int n, int max_in_flight, volatile sig_atomic_t *stop);
static void drive(void);
static bool begin_transfer(EsRequest *request);
static Transfer *idle_transfer(void);
static bool make_headers(Transfer *transfer, const EsRequest *request);
static bool append_header(struct curl_slist **list, const char *name, const char *value);
static bool set_options(Transfer *transfer, const EsRequest *request);
static int	collect_finished(void);
static void end_transfer(Transfer *transfer);
static void abandon_all(void);
static void judge(Transfer *transfer, CURLcode code);
static void judge_status(Transfer *transfer, long status);
static void say(EsRequest *request, EsOutcome outcome, const char *text, const char *detail);
static void append_sanitised(char *buffer, size_t size, const char *text);
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
static size_t take_header(char *bytes, size_t size, size_t count, void *arg);
static size_t take_body(char *bytes, size_t size, size_t count, void *arg);

/*
 * libcurl's own parser, so that what is checked is what will be dialled.  It takes http:///path for http://path; we do
 * not, because whoever writes that forgot the host.
 */
static const char *
check_url(const char *url)
{
	CURLU	   *parsed = curl_url();
	char	   *host = NULL;
	char	   *user = NULL;
	char	   *password = NULL;
	const char *fault = NULL;

	if (parsed == NULL)
		return "there is no memory to look at it";
	if (curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK)
		fault = "it is not well-formed, with a host";
	else if (strstr(url, "://")[3] == '/' || curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK)
		fault = "it has no host";
	else if (curl_url_get(parsed, CURLUPART_USER, &user, 0) == CURLUE_OK ||
			 curl_url_get(parsed, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK)
		fault = "it has a user or a password; use a header instead";
	curl_free(host);
	curl_free(user);
	curl_free(password);
	curl_url_cleanup(parsed);
	return fault;
}

static void
startup(void)
{
	if (started)
		return;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not start libcurl")));
	wait_event = es_wait_event("EvtstoreHttp");
	started = true;
}

static void
perform(EsRequest *requests, int n, int max_in_flight, volatile sig_atomic_t *stop)
{
	for (int i = 0; i < n; i++)
	{
		requests[i].unfinished = true;
		requests[i].status = 0;
		requests[i].retry_after_ms = -1;
		say(&requests[i], ES_OUTCOME_RETRY, "stopped before an answer came", NULL);
	}
	forget_connections_if_networks_changed();
	if (multi == NULL)
		open_multi();
	PG_TRY();
	{
		run(requests, n, max_in_flight, stop);
	}
	PG_FINALLY();
	{
		abandon_all();
	}
	PG_END_TRY();
}

/* closes what is open politely; not called after a crash, which closes everything too */
static void
shutdown_curl(void)
{
	if (!started)
		return;
	abandon_all();
	while (transfers != NULL)
	{
		Transfer   *transfer = transfers;

		transfers = transfer->next;
		curl_easy_cleanup(transfer->easy);
		free(transfer);
	}
	if (multi != NULL)
		curl_multi_cleanup(multi);
	multi = NULL;
	curl_global_cleanup();
	started = false;
}

/* an open connection was checked when it was dialled: under another list it must be dialled, and checked, again */
static void
forget_connections_if_networks_changed(void)
{
	if (networks != NULL && strcmp(networks, es_guc_allowed_networks) == 0)
		return;
	if (multi != NULL)
		curl_multi_cleanup(multi);
	multi = NULL;
	free(networks);
	networks = strdup(es_guc_allowed_networks);
}

static void
open_multi(void)
{
	multi = curl_multi_init();
	if (multi == NULL || curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, MAX_CONNECTIONS) != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
}

static void
run(EsRequest *requests, int n, int max_in_flight, volatile sig_atomic_t *stop)
{
	int			next = 0;
	int			active = 0;

	while (!*stop)
	{
		int			finished;

		while (active < max_in_flight && next < n)
			if (begin_transfer(&requests[next++]))
				active++;
		if (active == 0)
			break;
		drive();
		finished = collect_finished();
		active -= finished;
		if (finished > 0)
			continue;
		/* a signal ends the wait early */
		pgstat_report_wait_start(wait_event);
		curl_multi_poll(multi, NULL, 0, POLL_SLICE_MS, NULL);
		pgstat_report_wait_end();
		CHECK_FOR_INTERRUPTS();
	}
}

/* one step of everything under way, with all signals blocked: threads made in it inherit the mask */
static void
drive(void)
{
	sigset_t	all;
	sigset_t	saved;
	int			running;
	CURLMcode	code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	code = curl_multi_perform(multi, &running);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (code != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not perform HTTP requests: %s", curl_multi_strerror(code))));
}

/* false: it could not be begun; the request says why */
static bool
begin_transfer(EsRequest *request)
{
	Transfer   *transfer = idle_transfer();

	if (transfer == NULL || !make_headers(transfer, request) || !set_options(transfer, request) ||
		curl_multi_add_handle(multi, transfer->easy) != CURLM_OK)
	{
		if (transfer != NULL)
		{
			curl_slist_free_all(transfer->headers);
			transfer->headers = NULL;
		}
		request->unfinished = false;
		say(request, ES_OUTCOME_RETRY, "could not set up the request", NULL);
		return false;
	}
	transfer->request = request;
	return true;
}

/* one that is free, made when all are busy; NULL: out of memory */
static Transfer *
idle_transfer(void)
{
	Transfer   *transfer = transfers;

	while (transfer != NULL && transfer->request != NULL)
		transfer = transfer->next;
	if (transfer == NULL)
	{
		transfer = calloc(1, sizeof(Transfer));
		if (transfer == NULL)
			return NULL;
		transfer->easy = curl_easy_init();
		if (transfer->easy == NULL)
		{
			free(transfer);
			return NULL;
		}
		transfer->next = transfers;
		transfers = transfer;
	}
	/* the options of the last request go, connections and name cache stay: they are the multi handle's */
	curl_easy_reset(transfer->easy);
	transfer->address_refused = false;
	transfer->too_large = false;
	transfer->received = 0;
	transfer->head_len = 0;
	transfer->detail[0] = '\0';
	return transfer;
}

static bool
make_headers(Transfer *transfer, const EsRequest *request)
{
	/* no 100-continue: it costs a round trip, or a second where the receiver does not know it */
	bool		ok = append_header(&transfer->headers, "Expect", NULL);

	for (int i = 0; ok && i < request->nheaders; i++)
		ok = append_header(&transfer->headers, request->headers[i].name, request->headers[i].value);
	return ok;
}

/* value NULL: libcurl's own header of that name is left out */
static bool
append_header(struct curl_slist **list, const char *name, const char *value)
{
	size_t		size = strlen(name) + (value ? strlen(value) : 0) + 3;
	char	   *line;
	struct curl_slist *longer;

	/* whoever made the headers has seen to it; a line break here would be a request of somebody else's making */
	if (strpbrk(name, "\r\n:") != NULL || (value != NULL && strpbrk(value, "\r\n") != NULL))
		return false;
	line = malloc(size);
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
	free(line);
	if (longer == NULL)
		return false;
	*list = longer;
	return true;
}

static bool
set_options(Transfer *transfer, const EsRequest *request)
{
	CURL	   *easy = transfer->easy;
	bool		ok = true;

#define SET(option, value) (ok = ok && curl_easy_setopt(easy, (option), (value)) == CURLE_OK)
	transfer->plain_text = pg_strncasecmp(request->url, "http:", 5) == 0;
	SET(CURLOPT_PRIVATE, (void *) transfer);
	SET(CURLOPT_ERRORBUFFER, transfer->detail);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L); /* do not wait for a name server when giving up */

	SET(CURLOPT_URL, request->url);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, ""); /* nor one of the environment */
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, (void *) transfer);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);

	SET(CURLOPT_TIMEOUT_MS, request->timeout_ms);
	SET(CURLOPT_CONNECTTIMEOUT_MS, Min(request->timeout_ms, CONNECT_TIMEOUT_MS));
	SET(CURLOPT_TCP_KEEPALIVE, 1L);

	SET(CURLOPT_USERAGENT, "evtstore/" ES_VERSION);
	SET(CURLOPT_HTTPHEADER, transfer->headers);
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_POSTFIELDS, request->body);
	SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, (void *) transfer);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, (void *) transfer);
#undef SET
	return ok;
}

static int
collect_finished(void)
{
	int			finished = 0;
	int			left;
	CURLMsg    *message;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		Transfer   *transfer = NULL;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);
		judge(transfer, code);
		end_transfer(transfer);
		finished++;
	}
	return finished;
}

static void
end_transfer(Transfer *transfer)
{
	curl_multi_remove_handle(multi, transfer->easy);
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;
	transfer->request = NULL;
}

/* after a stop or an error: closes the connections of what is still under way */
static void
abandon_all(void)
{
	for (Transfer *transfer = transfers; transfer != NULL; transfer = transfer->next)
		if (transfer->request != NULL)
			end_transfer(transfer);
}

/* what came of it */
static void
judge(Transfer *transfer, CURLcode code)
{
	EsRequest  *request = transfer->request;
	long		status = 0;

	request->unfinished = false;
	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	request->status = (int) status;
	if (transfer->too_large)
		say(request, ES_OUTCOME_RETRY, "the response is larger than 65536 bytes", NULL);
	else if (transfer->address_refused && code == CURLE_COULDNT_CONNECT)
		say(request, ES_OUTCOME_RETRY,
			transfer->plain_text
			? "http:// goes only to addresses of evtstore.allowed_networks, and the host has none of them"
			: "the host has a loopback, private or special address that evtstore.allowed_networks does not have", NULL);
	else if (code != CURLE_OK)
		say(request, ES_OUTCOME_RETRY, "no answer", transfer->detail[0] ? transfer->detail : curl_easy_strerror(code));
	else
		judge_status(transfer, status);
}

static void
judge_status(Transfer *transfer, long status)
{
	EsRequest  *request = transfer->request;
	char		text[64];
	curl_off_t	retry_after = 0;

	for (int i = 0; i < transfer->head_len; i++)
		if (transfer->head[i] == '\0')
			transfer->head[i] = '?';
	transfer->head[transfer->head_len] = '\0';
	snprintf(text, sizeof(text), "HTTP %ld", status);
	if (status >= 200 && status <= 299)
	{
		request->outcome = ES_OUTCOME_DELIVERED;
		request->error[0] = '\0';
	}
	else if (status >= 300 && status <= 399)
		say(request, ES_OUTCOME_REJECT, text, "redirects are not followed");
	else if (status >= 400 && status <= 499 && status != 408 && status != 425 && status != 429)
		say(request, ES_OUTCOME_REJECT, text, transfer->head);
	else
		say(request, ES_OUTCOME_RETRY, text, transfer->head);

	if ((status == 429 || status == 503) &&
		curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK && retry_after > 0)
		request->retry_after_ms = (long) Min(retry_after, MAX_RETRY_AFTER_S) * 1000;
}

static void
say(EsRequest *request, EsOutcome outcome, const char *text, const char *detail)
{
	request->outcome = outcome;
	if (detail == NULL || detail[0] == '\0')
		snprintf(request->error, sizeof(request->error), "%s", text);
	else
	{
		snprintf(request->error, sizeof(request->error), "%s: ", text);
		append_sanitised(request->error, sizeof(request->error), detail);
	}
}

/* printable ASCII only: the text goes into tables and logs, whatever encoding the other side meant */
static void
append_sanitised(char *buffer, size_t size, const char *text)
{
	size_t		len = strlen(buffer);

	for (const char *c = text; *c != '\0' && len + 1 < size; c++)
	{
		if (*c > ' ' && *c < 0x7f)
			buffer[len++] = *c;
		else if (*c == ' ' || *c == '\t' || *c == '\r' || *c == '\n')
		{
			if (len > 0 && buffer[len - 1] != ' ')
				buffer[len++] = ' ';
		}
		else
			buffer[len++] = '?';
	}
	buffer[len] = '\0';
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *transfer = arg;

	if (purpose != CURLSOCKTYPE_IPCXN ||
		!es_transport_address_allowed(&address->addr, es_guc_allowed_networks, transfer->plain_text))
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
	size_t		len = Min(size * count, (size_t) (RESPONSE_HEAD - transfer->head_len));

	memcpy(transfer->head + transfer->head_len, bytes, len);
	transfer->head_len += len;
	return take_header(bytes, size, count, arg);
}
