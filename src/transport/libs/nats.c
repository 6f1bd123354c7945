/*
 * nats.c
 *		Delivery to NATS JetStream: nats://, tls://.
 *
 * Runs in relay workers, in the main thread, between transactions.  Each link has one connection (nats_wire.c), on which all its
 * messages are published at once, each with a subject of its own for the answer; JetStream answers when the message is in a
 * stream.  Names are resolved and connections made by a thread (thread.c), one for each attempt, which lives no longer.  A crash
 * leaves a closed socket, and messages that are published again: their Nats-Msg-Id is the same, and the stream drops them.
 *
 * Nothing is kept for a connection that is to come back: what was not sent is UNAVAILABLE, what was sent and not answered is to be
 * repeated, and the core decides when.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "fmgr.h"

#include "nats_wire.h"
#include "outcome.h"
#include "thread.h"

PG_MODULE_MAGIC;

#define DEFAULT_PORT "4222"
#define MAX_HOSTS 16
#define MAX_SUBJECT 2000		/* a line of the protocol has 4096 bytes at most */
#define CONNECT_TIMEOUT_MS 5000 /* one host; and the greeting */
#define AGAIN_MS 200			/* after a connection that failed, before the next */
#define IDLE_MS 30000			/* then we ask whether anybody is there, and after another of them nobody is */
#define MAX_BACKLOG (16 * 1024 * 1024)	/* bytes that wait for the socket */
#define EVENTS_AT_ONCE 64
#define WAKE_PLACE UINT64_MAX

/* error codes of JetStream */
#define JS_RESOURCES_EXCEEDED 10002
#define JS_CLUSTER_NOT_AVAILABLE 10008
#define JS_INSUFFICIENT_RESOURCES 10023
#define JS_MEMORY_EXCEEDED 10028
#define JS_STORAGE_EXCEEDED 10047
#define JS_MESSAGE_TOO_LARGE 10054
#define JS_STORE_FAILED 10077
#define JS_HEADERS_TOO_LARGE 10097
#define JS_STREAM_SEALED 10109

typedef struct Host
{
	char	   *name;
	char	   *port;
} Host;

/* shared with the thread that connects; who of the two comes last frees it */
typedef struct Dial
{
	pthread_mutex_t mutex;
	EsThread   *thread;			/* main thread only */
	char	   *networks;
	bool		plain_text;
	int			first_host;
	int			nhosts;
	Host		hosts[MAX_HOSTS];
	/* under the mutex */
	bool		abandoned;		/* by the main thread */
	bool		over;
	int			fd;				/* -1: no connection, and why not */
	int			host;			/* whose it is */
	char		fault[200];
} Dial;

/* a message under way */
typedef struct Slot
{
	EsOutgoing *message;		/* NULL: free */
	uint32		turn;			/* so that an answer to an earlier message is known */
	bool		published;
	uint64		at;				/* where in what is sent it begins */
	long long	since;
	long long	deadline;
} Slot;

typedef struct NatsLink
{
	int			place;			/* in links */
	int			nhosts;
	Host		hosts[MAX_HOSTS];
	char	   *networks;
	char	   *server_name;	/* NULL: the host's */
	char	   *name;
	char	   *user;
	char	   *password;
	char	   *token;
	char	   *inbox;
	SSL_CTX    *tls;
	NatsWireConfig config;
	int			host;			/* to begin with */
	Dial	   *dial;			/* NULL: none is under way */
	NatsWire   *wire;			/* NULL: no connection */
	bool		waits_to_write; /* as epoll was told */
	bool		was_up;			/* the connection */
	long long	greeting_until;
	long long	not_before;		/* no connection is begun earlier */
	long long	heard;			/* when something arrived last */
	bool		asked;			/* whether anybody is there */
	char		fault[200];		/* why there is no connection */
	int			nslots;
	Slot	   *slots;
	int		   *free_slots;
	int			nfree;
	long long	next_deadline;	/* not after the first one */
} NatsLink;

static const char *check_url(const char *url);
static bool check(const EsLinkConfig *config, char *fault, size_t size);
static bool startup(char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);
static bool submit(EsLink *opaque, EsOutgoing *message);
static void pump(void);
static EsOutgoing *next_done(void);
static int	wait_fd(void);
static long wait_ms(void);
static void close_link(EsLink *opaque);
static void shutdown_all(void);

static const char *const schemes[] = {"nats", "tls", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "nats",
	.schemes = schemes,
	.binding = ES_BINDING_NATS,
	/* a message that the stream refuses, for its size or for want of room, stops none behind it */
	.keeps_order = false,
	.check_url = check_url,
	.check = check,
	.startup = startup,
	.open = open_link,
	.submit = submit,
	.pump = pump,
	.next_done = next_done,
	.wait_fd = wait_fd,
	.wait_ms = wait_ms,
	.close = close_link,
	.shutdown = shutdown_all,
};

static const EsTransportHost *host = NULL;
static int	epoll = -1;
static int	wake = -1;			/* eventfd: a thread has connected, or not */
static NatsLink **links = NULL; /* by place; NULL: free */
static int	nplaces = 0;
static EsOutgoing *done_first = NULL;
static EsOutgoing *done_last = NULL;

static const char *parse_hosts(const char *url, Host *hosts, int *nhosts);
static const char *parse_host(const char *text, size_t len, Host *into);
static void free_hosts(Host *hosts, int nhosts);
static bool copy_hosts(Host *into, const Host *hosts, int nhosts);
static const char *setting(const EsSetting *settings, int n, const char *name);
static char *copy(const char *text);
static bool take_secrets(NatsLink *link, const EsLinkConfig *config);
static SSL_CTX *make_tls(const EsLinkConfig *config, char *fault, size_t size);
static bool load_pem(SSL_CTX *tls, const char *pem);
static char *make_inbox(const char *prefix);
static int	take_place(void);
static void free_link(NatsLink *link);
static bool start_dial(NatsLink *link);
static void run_dial(EsThread *thread, void *arg);
static void free_dial(Dial *dial);
static void collect_dial(NatsLink *link);
static void begin_connection(NatsLink *link, int fd);
static void work(NatsLink *link);
static void end_connection(NatsLink *link, const char *fault);
static void look_at_clock(NatsLink *link);
static void expire(NatsLink *link, long long now);
static const char *subject_fault(const char *subject);
static bool refuse(NatsLink *link, EsOutgoing *message);
static void publish(NatsLink *link, Slot *slot);
static void finish(NatsLink *link, Slot *slot, EsOutcome outcome, int status, const char *text, const char *detail);
static void put_done(EsOutgoing *message);
static void on_up(void *arg);
static void on_answer(void *arg, const char *token, size_t token_len, int status, const char *body, size_t body_len);
static void on_forbidden(void *arg, const char *subject, size_t subject_len);
static void judge_error(NatsLink *link, Slot *slot, const char *error, size_t len);
static int	json_int(const char *json, size_t len, const char *key);

PGDLLEXPORT const EsTransport *evtstore_transport(const EsTransportHost *of);

const EsTransport *
evtstore_transport(const EsTransportHost *of)
{
	host = of;
	return of->version == ES_TRANSPORT_VERSION ? &transport : NULL;
}

/*
 * What a link is made from
 */

static const char *
check_url(const char *url)
{
	Host		hosts[MAX_HOSTS];
	int			nhosts = 0;
	const char *fault = parse_hosts(url, hosts, &nhosts);

	free_hosts(hosts, nhosts);
	return fault;
}

static const char *
parse_hosts(const char *url, Host *hosts, int *nhosts)
{
	const char *at = strstr(url, "://") + 3;
	const char *end = at + strcspn(at, "/?#");
	const char *fault = NULL;

	*nhosts = 0;
	if (memchr(at, '@', strlen(at)) != NULL)
		return "it has a user or a password; use evtstore.set_endpoint_secret() instead";
	if (end[0] != '\0' && strcmp(end, "/") != 0)
		return "it has a path; the subject is the option \"topic\"";
	while (fault == NULL)
	{
		const char *comma = memchr(at, ',', end - at);
		const char *stop = comma != NULL ? comma : end;

		if (*nhosts == MAX_HOSTS)
			return "it has more than 16 hosts";
		fault = parse_host(at, stop - at, &hosts[*nhosts]);
		if (fault == NULL)
			(*nhosts)++;
		if (comma == NULL)
			break;
		at = comma + 1;
	}
	return fault;
}

/* HOST[:PORT]; an IPv6 address in brackets */
static const char *
parse_host(const char *text, size_t len, Host *into)
{
	const char *end = text + len;
	const char *name_end;
	const char *port = NULL;

	if (len > 0 && text[0] == '[')
	{
		name_end = memchr(text, ']', len);
		if (name_end == NULL)
			return "it is not well-formed, with a host";
		text++;
		if (name_end + 1 != end && name_end[1] != ':')
			return "it is not well-formed, with a host";
		if (name_end + 1 != end)
			port = name_end + 2;
	}
	else
	{
		const char *colon = memchr(text, ':', len);

		name_end = colon != NULL ? colon : end;
		if (colon != NULL)
			port = colon + 1;
	}
	if (name_end == text)
		return "it has no host";
	for (const char *c = text; c < name_end; c++)
		if (*c <= ' ' || *c >= 0x7f)
			return "it is not well-formed, with a host";
	if (port != NULL && (port == end || end - port > 5 || (int) strspn(port, "0123456789") < end - port ||
						 atoi(port) < 1 || atoi(port) > 65535))
		return "its port is not a number from 1 to 65535";
	into->name = strndup(text, name_end - text);
	into->port = port != NULL ? strndup(port, end - port) : strdup(DEFAULT_PORT);
	if (into->name != NULL && into->port != NULL)
		return NULL;
	free_hosts(into, 1);
	return "there is no memory to look at it";
}

static void
free_hosts(Host *hosts, int nhosts)
{
	for (int i = 0; i < nhosts; i++)
	{
		free(hosts[i].name);
		free(hosts[i].port);
	}
}

static bool
copy_hosts(Host *into, const Host *hosts, int nhosts)
{
	bool		ok = true;

	for (int i = 0; i < nhosts; i++)
	{
		into[i].name = strdup(hosts[i].name);
		into[i].port = strdup(hosts[i].port);
		ok = ok && into[i].name != NULL && into[i].port != NULL;
	}
	return ok;
}

static bool
check(const EsLinkConfig *config, char *fault, size_t size)
{
	const char *prefix = setting(config->client, config->nclient, "inbox_prefix");
	const char *user = setting(config->secrets, config->nsecrets, "sasl");
	SSL_CTX    *tls;

	if (user == NULL)
		user = setting(config->secrets, config->nsecrets, "basic");
	for (int i = 0; i < config->nclient; i++)
		if (strcmp(config->client[i].name, "name") != 0 && strcmp(config->client[i].name, "inbox_prefix") != 0)
		{
			snprintf(fault, size, "unknown client setting \"%s\": NATS has \"name\" and \"inbox_prefix\"", config->client[i].name);
			return false;
		}
	if (prefix != NULL && (subject_fault(prefix) != NULL || strlen(prefix) > 200))
	{
		snprintf(fault, size, "inbox_prefix is a subject, not \"%s\"", prefix);
		return false;
	}
	if (user != NULL && strchr(user, ':') == NULL)
	{
		snprintf(fault, size, "the secret of the user is \"user:password\"");
		return false;
	}
	if (strncasecmp(config->url, "tls:", 4) != 0)
	{
		if (config->tls_server_name == NULL && config->tls_ca_file == NULL && setting(config->secrets, config->nsecrets, "tls") == NULL)
			return true;
		snprintf(fault, size, "settings and secrets of TLS are for tls://, not for nats://");
		return false;
	}
	tls = make_tls(config, fault, size);
	SSL_CTX_free(tls);
	return tls != NULL;
}

static bool
startup(char *fault, size_t size)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE_PLACE};

	if (epoll >= 0)
		return true;
	wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (wake >= 0 && epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &event) == 0)
		return true;
	snprintf(fault, size, "could not make a descriptor to wait on: errno %d", errno);
	if (wake >= 0)
		close(wake);
	if (epoll >= 0)
		close(epoll);
	wake = epoll = -1;
	return false;
}

static EsLink *
open_link(const EsLinkConfig *config, char *fault, size_t size)
{
	NatsLink   *link;
	const char *name = setting(config->client, config->nclient, "name");
	const char *prefix = setting(config->client, config->nclient, "inbox_prefix");
	bool		ok;

	if (!check(config, fault, size))
		return NULL;
	link = calloc(1, sizeof(NatsLink));
	if (link == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		return NULL;
	}
	link->place = -1;
	link->next_deadline = -1;
	link->nslots = config->max_in_flight;
	ok = parse_hosts(config->url, link->hosts, &link->nhosts) == NULL && take_secrets(link, config) &&
		(link->networks = copy(config->allowed_networks)) != NULL &&
		(link->name = copy(name != NULL ? name : config->endpoint)) != NULL &&
		(link->inbox = make_inbox(prefix != NULL ? prefix : "_INBOX")) != NULL &&
		(config->tls_server_name == NULL || (link->server_name = copy(config->tls_server_name)) != NULL) &&
		(link->slots = calloc(link->nslots, sizeof(Slot))) != NULL && (link->free_slots = calloc(link->nslots, sizeof(int))) != NULL &&
		(link->place = take_place()) >= 0;
	snprintf(fault, size, "there is no memory for the connection");
	if (ok && strncasecmp(config->url, "tls:", 4) == 0)
		ok = (link->tls = make_tls(config, fault, size)) != NULL;
	if (!ok)
	{
		free_link(link);
		return NULL;
	}
	for (int i = 0; i < link->nslots; i++)
		link->free_slots[link->nfree++] = link->nslots - 1 - i;
	links[link->place] = link;
	link->config = (NatsWireConfig) {.name = link->name, .inbox = link->inbox, .user = link->user, .password = link->password,
		.token = link->token, .tls = link->tls, .up = on_up, .answer = on_answer, .forbidden = on_forbidden, .arg = link};
	/* it is wanted soon */
	(void) start_dial(link);
	return (EsLink *) link;
}

static const char *
setting(const EsSetting *settings, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(settings[i].name, name) == 0)
			return settings[i].value;
	return NULL;
}

static char *
copy(const char *text)
{
	return text == NULL ? NULL : strdup(text);
}

/* false: no memory */
static bool
take_secrets(NatsLink *link, const EsLinkConfig *config)
{
	const char *user = setting(config->secrets, config->nsecrets, "sasl");
	const char *token = setting(config->secrets, config->nsecrets, "bearer");

	if (user == NULL)
		user = setting(config->secrets, config->nsecrets, "basic");
	if (user != NULL)
	{
		link->user = strndup(user, strchr(user, ':') - user);
		link->password = strdup(strchr(user, ':') + 1);
		return link->user != NULL && link->password != NULL;
	}
	link->token = copy(token);
	return token == NULL || link->token != NULL;
}

static SSL_CTX *
make_tls(const EsLinkConfig *config, char *fault, size_t size)
{
	SSL_CTX    *tls = SSL_CTX_new(TLS_client_method());
	const char *pem = setting(config->secrets, config->nsecrets, "tls");

	fault[0] = '\0';
	if (tls == NULL || SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1)
		snprintf(fault, size, "could not set TLS up");
	else if (config->tls_ca_file != NULL && SSL_CTX_load_verify_locations(tls, config->tls_ca_file, NULL) != 1)
		snprintf(fault, size, "could not read certificates of authorities from \"%s\"", config->tls_ca_file);
	else if (config->tls_ca_file == NULL && SSL_CTX_set_default_verify_paths(tls) != 1)
		snprintf(fault, size, "could not read the system's certificates of authorities");
	else if (pem != NULL && !load_pem(tls, pem))
		snprintf(fault, size, "the secret \"tls\" is a certificate and its private key, both as PEM");
	ERR_clear_error();
	if (fault[0] != '\0')
	{
		SSL_CTX_free(tls);
		return NULL;
	}
	SSL_CTX_set_verify(tls, config->tls_verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	return tls;
}

/* a password of the key is not asked for on the terminal */
static int
no_password(char *buffer, int size, int writing, void *arg)
{
	return 0;
}

/* the certificate, those between it and its authority, and the key, in any order of certificates and key */
static bool
load_pem(SSL_CTX *tls, const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	X509	   *certificate;
	EVP_PKEY   *key;
	bool		ok = false;
	int			n = 0;

	if (bio == NULL)
		return false;
	while ((certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL)
	{
		ok = n++ == 0 ? SSL_CTX_use_certificate(tls, certificate) == 1 : ok && SSL_CTX_add1_chain_cert(tls, certificate) == 1;
		X509_free(certificate);
	}
	BIO_free(bio);
	bio = BIO_new_mem_buf(pem, -1);
	key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
	ok = ok && key != NULL && SSL_CTX_use_PrivateKey(tls, key) == 1;
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok;
}

/* nobody else is to have the same; NULL: no memory, no random numbers */
static char *
make_inbox(const char *prefix)
{
	unsigned char bytes[12];
	size_t		len = strlen(prefix);
	char	   *inbox = malloc(len + 2 + 2 * sizeof(bytes));

	if (inbox == NULL || getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) != sizeof(bytes))
	{
		free(inbox);
		return NULL;
	}
	sprintf(inbox, "%s.", prefix);
	for (size_t i = 0; i < sizeof(bytes); i++)
		sprintf(inbox + len + 1 + 2 * i, "%02x", bytes[i]);
	return inbox;
}

/* -1: no memory */
static int
take_place(void)
{
	NatsLink  **more;

	for (int i = 0; i < nplaces; i++)
		if (links[i] == NULL)
			return i;
	more = realloc(links, (nplaces + 1) * sizeof(NatsLink *));
	if (more == NULL)
		return -1;
	links = more;
	links[nplaces] = NULL;
	return nplaces++;
}

static void
free_link(NatsLink *link)
{
	if (link->dial != NULL)
	{
		Dial	   *dial = link->dial;
		bool		over;

		pthread_mutex_lock(&dial->mutex);
		dial->abandoned = true;
		over = dial->over;
		pthread_mutex_unlock(&dial->mutex);
		es_thread_stop(dial->thread);
		if (over)
			free_dial(dial);
	}
	if (link->wire != NULL)
		nats_wire_close(link->wire);
	if (link->place >= 0 && links[link->place] == link)
		links[link->place] = NULL;
	SSL_CTX_free(link->tls);
	free_hosts(link->hosts, link->nhosts);
	free(link->networks);
	free(link->server_name);
	free(link->name);
	free(link->user);
	free(link->password);
	free(link->token);
	free(link->inbox);
	free(link->slots);
	free(link->free_slots);
	free(link);
}

/*
 * What the core calls
 */

static bool
submit(EsLink *opaque, EsOutgoing *message)
{
	NatsLink   *link = (NatsLink *) opaque;
	long long	now = es_thread_now();
	Slot	   *slot;

	if (link->nfree == 0 ||
		(link->wire != NULL && nats_wire_queued(link->wire) - nats_wire_sent(link->wire) > MAX_BACKLOG && link->nfree < link->nslots))
		return false;
	message->status = 0;
	message->retry_after_ms = -1;
	if (refuse(link, message))
	{
		message->data = link;
		put_done(message);
		return true;
	}
	slot = &link->slots[link->free_slots[--link->nfree]];
	slot->message = message;
	slot->turn++;
	slot->published = false;
	slot->since = now;
	slot->deadline = now + message->timeout_ms;
	if (link->next_deadline < 0 || slot->deadline < link->next_deadline)
		link->next_deadline = slot->deadline;
	if (link->wire != NULL && nats_wire_is_up(link->wire))
		publish(link, slot);
	else if (link->wire == NULL && link->dial == NULL && (now < link->not_before || !start_dial(link)))
		finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "no connection", link->fault);
	return true;
}

static void
pump(void)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	uint64		count;
	int			n;

	do
	{
		n = epoll_wait(epoll, events, EVENTS_AT_ONCE, 0);
		for (int i = 0; i < n; i++)
			if (events[i].data.u64 == WAKE_PLACE)
			{
				if (read(wake, &count, sizeof(count)) < 0)
					continue;
			}
			else if (links[events[i].data.u64] != NULL && links[events[i].data.u64]->wire != NULL)
			{
				links[events[i].data.u64]->heard = es_thread_now();
				links[events[i].data.u64]->asked = false;
				work(links[events[i].data.u64]);
			}
	} while (n == EVENTS_AT_ONCE);
	for (int i = 0; i < nplaces; i++)
	{
		NatsLink   *link = links[i];

		if (link == NULL)
			continue;
		if (link->dial != NULL)
			collect_dial(link);
		look_at_clock(link);
		if (link->wire != NULL && nats_wire_is_dirty(link->wire))
			work(link);
	}
}

static EsOutgoing *
next_done(void)
{
	EsOutgoing *message = done_first;

	if (message == NULL)
		return NULL;
	done_first = message->next;
	if (done_first == NULL)
		done_last = NULL;
	return message;
}

static int
wait_fd(void)
{
	return epoll;
}

static long
wait_ms(void)
{
	long long	now = es_thread_now();
	long long	due = -1;

	if (done_first != NULL)
		return 0;
	for (int i = 0; i < nplaces; i++)
	{
		NatsLink   *link = links[i];
		long long	dues[2];

		if (link == NULL)
			continue;
		if (link->wire != NULL && nats_wire_is_dirty(link->wire))
			return 0;
		dues[0] = link->next_deadline;
		dues[1] = link->wire == NULL ? -1 : nats_wire_is_up(link->wire) ? link->heard + IDLE_MS : link->greeting_until;
		for (int j = 0; j < 2; j++)
			if (dues[j] >= 0 && (due < 0 || dues[j] < due))
				due = dues[j];
	}
	return due < 0 ? -1 : due <= now ? 0 : (long) (due - now);
}

static void
close_link(EsLink *opaque)
{
	NatsLink   *link = (NatsLink *) opaque;
	EsOutgoing *kept = done_first;

	/* what is done and was not fetched */
	done_first = done_last = NULL;
	while (kept != NULL)
	{
		EsOutgoing *next = kept->next;

		if (kept->data != link)
			put_done(kept);
		kept = next;
	}
	free_link(link);
}

/* a thread that still connects writes to the descriptor that wakes: it stays open until they are gone */
static void
shutdown_all(void)
{
	if (epoll < 0)
		return;
	es_thread_wait_all();
	close(wake);
	close(epoll);
	wake = epoll = -1;
}

/*
 * Connecting
 */

/* false and link->fault: there is no thread to be had */
static bool
start_dial(NatsLink *link)
{
	Dial	   *dial = calloc(1, sizeof(Dial));

	snprintf(link->fault, sizeof(link->fault), "there is no memory to connect");
	if (dial == NULL)
		return false;
	pthread_mutex_init(&dial->mutex, NULL);
	dial->fd = -1;
	dial->plain_text = link->tls == NULL;
	dial->first_host = link->host;
	dial->nhosts = link->nhosts;
	dial->networks = copy(link->networks);
	if (copy_hosts(dial->hosts, link->hosts, link->nhosts) && dial->networks != NULL)
		dial->thread = es_thread_start(run_dial, dial);
	if (dial->thread == NULL)
	{
		free_dial(dial);
		link->not_before = es_thread_now() + AGAIN_MS;
		return false;
	}
	link->dial = dial;
	return true;
}

/* the thread: the first host that can be connected to */
static void
run_dial(EsThread *thread, void *arg)
{
	Dial	   *dial = arg;
	char		fault[sizeof(dial->fault)] = "";
	int			fd = -1;
	int			at = dial->first_host;
	uint64		one = 1;
	bool		abandoned;

	for (int i = 0; i < dial->nhosts && fd < 0 && !es_thread_is_stopping(thread); i++)
	{
		at = (dial->first_host + i) % dial->nhosts;
		fd = es_thread_connect(thread, host, dial->hosts[at].name, dial->hosts[at].port, dial->networks, dial->plain_text,
							   CONNECT_TIMEOUT_MS, fault, sizeof(fault));
	}
	pthread_mutex_lock(&dial->mutex);
	dial->over = true;
	dial->fd = fd;
	dial->host = at;
	memcpy(dial->fault, fault, sizeof(fault));
	abandoned = dial->abandoned;
	pthread_mutex_unlock(&dial->mutex);
	if (abandoned)
		free_dial(dial);
	/* it is full only when it was signalled 2^64 times */
	else if (write(wake, &one, sizeof(one)) < 0)
		return;
}

static void
free_dial(Dial *dial)
{
	if (dial->fd >= 0)
		close(dial->fd);
	free_hosts(dial->hosts, dial->nhosts);
	free(dial->networks);
	pthread_mutex_destroy(&dial->mutex);
	free(dial);
}

/* looks whether the thread is over */
static void
collect_dial(NatsLink *link)
{
	Dial	   *dial = link->dial;
	bool		over;
	int			fd;

	pthread_mutex_lock(&dial->mutex);
	over = dial->over;
	pthread_mutex_unlock(&dial->mutex);
	if (!over)
		return;
	fd = dial->fd;
	dial->fd = -1;
	link->dial = NULL;
	link->host = dial->host;
	memcpy(link->fault, dial->fault, sizeof(link->fault));
	es_thread_stop(dial->thread);
	free_dial(dial);
	if (fd >= 0)
		begin_connection(link, fd);
	else
		end_connection(link, link->fault);
}

static void
begin_connection(NatsLink *link, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64) link->place};

	link->wire = nats_wire_open(&link->config, fd, link->server_name != NULL ? link->server_name : link->hosts[link->host].name);
	link->was_up = false;
	link->waits_to_write = false;
	link->asked = false;
	link->heard = es_thread_now();
	link->greeting_until = link->heard + CONNECT_TIMEOUT_MS;
	if (link->wire == NULL || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		end_connection(link, "there is no memory for the connection");
}

/* reads and writes what can be */
static void
work(NatsLink *link)
{
	char		fault[200] = "";
	bool		full;

	if (!nats_wire_work(link->wire, fault, sizeof(fault)))
	{
		end_connection(link, fault);
		return;
	}
	full = nats_wire_is_full(link->wire);
	if (full != link->waits_to_write)
	{
		struct epoll_event event = {.events = full ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.u64 = (uint64) link->place};

		(void) epoll_ctl(epoll, EPOLL_CTL_MOD, nats_wire_fd(link->wire), &event);
		link->waits_to_write = full;
	}
}

/*
 * There is none, or it is over.  Nobody knows what became of messages that were sent; the others never left.
 */
static void
end_connection(NatsLink *link, const char *fault)
{
	uint64		sent = link->wire != NULL ? nats_wire_sent(link->wire) : 0;

	if (fault != link->fault)
		snprintf(link->fault, sizeof(link->fault), "%s", fault);
	if (link->wire != NULL)
		nats_wire_close(link->wire);
	link->wire = NULL;
	/* a server that took us before may only have restarted, and another may take us now */
	link->not_before = link->was_up ? 0 : es_thread_now() + AGAIN_MS;
	link->was_up = false;
	link->host = (link->host + 1) % link->nhosts;
	for (int i = 0; i < link->nslots; i++)
	{
		Slot	   *slot = &link->slots[i];

		if (slot->message == NULL)
			continue;
		if (slot->published && slot->at < sent)
			finish(link, slot, ES_OUTCOME_RETRY, 0, "the connection ended before the acknowledgement", link->fault);
		else
			finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "no connection", link->fault);
	}
}

static void
look_at_clock(NatsLink *link)
{
	long long	now = es_thread_now();

	if (link->wire != NULL && !nats_wire_is_up(link->wire) && now >= link->greeting_until)
		end_connection(link, "the server does not answer");
	if (link->wire != NULL && nats_wire_is_up(link->wire) && now >= link->heard + IDLE_MS)
	{
		if (link->asked)
			end_connection(link, "the server does not answer");
		else
		{
			nats_wire_ping(link->wire);
			link->asked = true;
			link->heard = now;
		}
	}
	if (link->next_deadline >= 0 && now >= link->next_deadline)
		expire(link, now);
}

/* those whose time is over; a server that said nothing at all meanwhile is gone */
static void
expire(NatsLink *link, long long now)
{
	bool		silent = false;

	link->next_deadline = -1;
	for (int i = 0; i < link->nslots; i++)
	{
		Slot	   *slot = &link->slots[i];

		if (slot->message == NULL)
			continue;
		if (slot->deadline > now)
		{
			if (link->next_deadline < 0 || slot->deadline < link->next_deadline)
				link->next_deadline = slot->deadline;
			continue;
		}
		silent = silent || (slot->published && link->heard < slot->since);
		if (slot->published)
			finish(link, slot, ES_OUTCOME_RETRY, 0, "no acknowledgement in time",
				   link->heard < slot->since ? "the server is silent" : "is there a stream for the subject?");
		else
			finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "no connection in time", link->fault);
	}
	if (silent && link->wire != NULL)
		end_connection(link, "the server does not answer");
}

/*
 * Messages
 */

/* NULL: it may be published to.  The server's own subjects are commands: nothing in an event may come to one */
static const char *
subject_fault(const char *subject)
{
	size_t		len = strlen(subject);

	if (len == 0)
		return "the subject is empty";
	if (len > MAX_SUBJECT)
		return "the subject is longer than 2000 bytes";
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) subject[i] <= ' ' || subject[i] == 0x7f || subject[i] == '*' || subject[i] == '>')
			return "a subject has no spaces, no control characters, no \"*\" and no \">\"";
		if (subject[i] == '.' && (i == 0 || i + 1 == len || subject[i + 1] == '.'))
			return "a subject has no empty parts between its dots";
	}
	if ((subject[0] == '$' && strncmp(subject, "$KV.", 4) != 0) || strncmp(subject, "_INBOX.", 7) == 0)
		return "subjects that begin with \"$\" or \"_INBOX.\" are the server's own";
	return NULL;
}

/* one that can never be published */
static bool
refuse(NatsLink *link, EsOutgoing *message)
{
	const char *fault;

	if (message->topic == NULL)
	{
		es_outcome_say(message, ES_OUTCOME_REJECT, "the endpoint has no topic, which NATS needs for the subject", NULL);
		return true;
	}
	fault = subject_fault(message->topic);
	if (fault != NULL)
	{
		es_outcome_say(message, ES_OUTCOME_REJECT, fault, message->topic);
		return true;
	}
	/* whoever made them has seen to it; a line break here would be a header of somebody else's making */
	for (int i = 0; i < message->nheaders; i++)
		if (message->headers[i].name[0] == '\0' || strpbrk(message->headers[i].name, "\r\n: ") != NULL ||
			strpbrk(message->headers[i].value, "\r\n") != NULL)
		{
			es_outcome_say(message, ES_OUTCOME_REJECT, "a header has characters that it may not have", message->headers[i].name);
			return true;
		}
	return false;
}

/* the connection is up */
static void
publish(NatsLink *link, Slot *slot)
{
	EsOutgoing *message = slot->message;
	char		token[32];
	char		text[128];
	bool		certain;
	int64		max = nats_wire_max_payload(link->wire, &certain);
	size_t		payload = nats_wire_header_size(message) + message->body_len;

	if ((int64) payload > max)
	{
		snprintf(text, sizeof(text), "the message has %zu bytes with its headers, and the server takes " INT64_FORMAT, payload, max);
		finish(link, slot, certain ? ES_OUTCOME_REJECT : ES_OUTCOME_RETRY, 0, text, NULL);
		return;
	}
	snprintf(token, sizeof(token), "%x-%x", (unsigned) (slot - link->slots), slot->turn);
	slot->at = nats_wire_queued(link->wire);
	if (nats_wire_publish(link->wire, token, message))
		slot->published = true;
	else
		finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "there is no memory to send it", NULL);
}

static void
finish(NatsLink *link, Slot *slot, EsOutcome outcome, int status, const char *text, const char *detail)
{
	EsOutgoing *message = slot->message;

	message->status = status;
	message->data = link;
	es_outcome_say(message, outcome, text, detail);
	slot->message = NULL;
	link->free_slots[link->nfree++] = (int) (slot - link->slots);
	put_done(message);
}

static void
put_done(EsOutgoing *message)
{
	message->next = NULL;
	if (done_last == NULL)
		done_first = message;
	else
		done_last->next = message;
	done_last = message;
}

static void
on_up(void *arg)
{
	NatsLink   *link = arg;

	link->was_up = true;
	link->fault[0] = '\0';
	for (int i = 0; i < link->nslots; i++)
		if (link->slots[i].message != NULL && !link->slots[i].published)
			publish(link, &link->slots[i]);
}

/*
 * {"stream": ..., "seq": ...}, also for one that the stream had already, or {"error": {"code", "err_code", "description"}}
 */
static void
on_answer(void *arg, const char *token, size_t token_len, int status, const char *body, size_t body_len)
{
	NatsLink   *link = arg;
	Slot	   *slot;
	char		text[32];
	unsigned	n;
	unsigned	turn;
	const char *value;
	size_t		value_len;

	if (token_len >= sizeof(text))
		return;
	memcpy(text, token, token_len);
	text[token_len] = '\0';
	if (sscanf(text, "%x-%x", &n, &turn) != 2 || n >= (unsigned) link->nslots)
		return;
	slot = &link->slots[n];
	/* too late: it was given up, and is or will be repeated */
	if (slot->message == NULL || slot->turn != turn || !slot->published)
		return;
	if (status == 503)
		finish(link, slot, ES_OUTCOME_UNAVAILABLE, status, "no stream takes the subject", slot->message->topic);
	else if (nats_json_get(body, body_len, "error", &value, &value_len))
		judge_error(link, slot, value, value_len);
	else if (nats_json_get(body, body_len, "stream", &value, &value_len) && nats_json_get(body, body_len, "seq", &value, &value_len))
		finish(link, slot, ES_OUTCOME_DELIVERED, 0, "", NULL);
	else
		finish(link, slot, ES_OUTCOME_RETRY, status, "the answer is not JetStream's: somebody else answers on the subject",
			   slot->message->topic);
}

/* what the message's size is to blame for stays; room, quorum, and what is switched off a person or time puts right */
static void
judge_error(NatsLink *link, Slot *slot, const char *error, size_t len)
{
	int			code = json_int(error, len, "code");
	int			err_code = json_int(error, len, "err_code");
	EsOutcome	outcome = ES_OUTCOME_RETRY;
	const char *description;
	size_t		description_len;
	char		detail[160] = "";
	char		text[64];

	if (nats_json_get(error, len, "description", &description, &description_len) && description_len >= 2)
		es_outcome_append(detail, sizeof(detail), description + 1, description_len - 2);
	snprintf(text, sizeof(text), "JetStream error %d", err_code != 0 ? err_code : code);
	switch (err_code)
	{
		case JS_MESSAGE_TOO_LARGE:
		case JS_HEADERS_TOO_LARGE:
			outcome = ES_OUTCOME_REJECT;
			break;
		case JS_RESOURCES_EXCEEDED:
		case JS_CLUSTER_NOT_AVAILABLE:
		case JS_INSUFFICIENT_RESOURCES:
		case JS_MEMORY_EXCEEDED:
		case JS_STORAGE_EXCEEDED:
		case JS_STORE_FAILED:	/* the stream is full, too */
		case JS_STREAM_SEALED:
			outcome = ES_OUTCOME_UNAVAILABLE;
			break;
		default:
			if (code == 503)
				outcome = ES_OUTCOME_UNAVAILABLE;
			break;
	}
	finish(link, slot, outcome, err_code != 0 ? err_code : code, text, detail);
}

/* nothing else will come for these */
static void
on_forbidden(void *arg, const char *subject, size_t subject_len)
{
	NatsLink   *link = arg;

	for (int i = 0; i < link->nslots; i++)
	{
		Slot	   *slot = &link->slots[i];

		if (slot->message != NULL && slot->published && strlen(slot->message->topic) == subject_len &&
			memcmp(slot->message->topic, subject, subject_len) == 0)
			finish(link, slot, ES_OUTCOME_RETRY, 403, "the server does not let this user publish to", slot->message->topic);
	}
}

/* 0: none */
static int
json_int(const char *json, size_t len, const char *key)
{
	const char *value;
	size_t		value_len;
	int			n = 0;

	if (!nats_json_get(json, len, key, &value, &value_len) || value_len > 9)
		return 0;
	for (size_t i = 0; i < value_len && value[i] >= '0' && value[i] <= '9'; i++)
		n = n * 10 + (value[i] - '0');
	return n;
}
