/*
 * nats.c
 *		Delivery to NATS JetStream: nats://, tls://.
 *
 * Runs in relay workers, in the main thread, between transactions; in here are links and their connections.  Each link has one connection
 * (nats_wire.c), on which all its messages are published at once (nats_message.c); JetStream answers when a message is in a stream.  Names
 * are resolved and connections made by a thread (thread.c), one for each attempt, which lives no longer.  A crash leaves a closed
 * socket, and messages that are published again: their Nats-Msg-Id is the same, and the stream drops them.
 *
 * Nothing is kept for a connection that is to come back: what was not sent is UNAVAILABLE, what was sent and not answered is to be
 * repeated, and the core decides when.
 */
#include "postgres.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fmgr.h"

#include "nats_link.h"
#include "thread.h"

PG_MODULE_MAGIC;

#define GREETING_TIMEOUT_MS 5000
#define AGAIN_MS 200			/* after a connection that failed, before the next */
#define IDLE_MS 30000			/* then we ask whether anybody is there, and after another of them nobody is */
#define MAX_BACKLOG (16 * 1024 * 1024)	/* bytes that wait for the socket */
#define EVENTS_AT_ONCE 64

static bool check(const EsLinkConfig *config, char *fault, size_t size);
static bool startup(char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);
static bool submit(EsLink *base, EsOutgoing *message);
static void pump(void);
static int	wait_fd(void);
static long wait_ms(void);
static void close_link(EsLink *base);
static void shutdown_all(void);

static const char *const schemes[] = {"nats", "tls", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "nats",
	.schemes = schemes,
	.binding = ES_BINDING_NATS,
	/* a message that the stream refuses, for its size or for want of room, stops none behind it */
	.keeps_order = false,
	.check_url = nats_config_check_url,
	.check = check,
	.startup = startup,
	.open = open_link,
	.submit = submit,
	.pump = pump,
	.next_done = es_links_next_done,
	.wait_fd = wait_fd,
	.wait_ms = wait_ms,
	.close = close_link,
	.shutdown = shutdown_all,
};

static const EsTransportHost *host = NULL;
static int	epoll = -1;
static int	wake = -1;			/* eventfd: a thread has connected, or not */

static void free_link(NatsLink *link);
static bool start_dial(NatsLink *link);
static void collect_dial(NatsLink *link);
static void begin_connection(NatsLink *link, int fd);
static void work(NatsLink *link);
static void end_connection(NatsLink *link, const char *fault);
static void look_at_clock(NatsLink *link);
static void expire(NatsLink *link, long long now);
static void on_up(void *arg);

PGDLLEXPORT const EsTransport *evtstore_transport(const EsTransportHost *of);

const EsTransport *
evtstore_transport(const EsTransportHost *of)
{
	host = of;
	return of->version == ES_TRANSPORT_VERSION ? &transport : NULL;
}

static bool
check(const EsLinkConfig *config, char *fault, size_t size)
{
	NatsConfig	taken;

	if (!nats_config_take(&taken, config, fault, size))
		return false;
	nats_config_free(&taken);
	return true;
}

static bool
startup(char *fault, size_t size)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

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
	NatsLink   *link = calloc(1, sizeof(NatsLink));

	snprintf(fault, size, "there is no memory for the connection");
	if (link == NULL)
		return NULL;
	link->next_deadline = -1;
	if (!nats_config_take(&link->config, config, fault, size))
	{
		free_link(link);
		return NULL;
	}
	link->nslots = config->max_in_flight;
	link->slots = calloc(link->nslots, sizeof(NatsSlot));
	link->free_slots = calloc(link->nslots, sizeof(int));
	if (link->slots == NULL || link->free_slots == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		free_link(link);
		return NULL;
	}
	for (int i = 0; i < link->nslots; i++)
		link->free_slots[link->nfree++] = link->nslots - 1 - i;
	link->for_wire = (NatsWireConfig) {.of = &link->config, .up = on_up, .answer = nats_message_on_answer,
		.forbidden = nats_message_on_forbidden, .arg = link};
	/* it is wanted soon */
	(void) start_dial(link);
	es_links_add(&link->base, config->max_in_flight);
	return &link->base;
}

static void
free_link(NatsLink *link)
{
	if (link->dial != NULL)
		nats_dial_abandon(link->dial);
	if (link->wire != NULL)
		nats_wire_close(link->wire);
	nats_config_free(&link->config);
	free(link->slots);
	free(link->free_slots);
	free(link);
}

/*
 * What the core calls
 */

static bool
submit(EsLink *base, EsOutgoing *message)
{
	NatsLink   *link = (NatsLink *) base;
	long long	now = es_thread_now();
	NatsSlot   *slot;

	if (!es_links_has_room(base) ||
		(link->wire != NULL && nats_wire_queued(link->wire) - nats_wire_sent(link->wire) > MAX_BACKLOG && link->nfree < link->nslots))
		return false;
	es_links_take(base, message);
	if (nats_message_refuse(message))
	{
		es_links_done(message);
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
		nats_message_publish(link, slot);
	else if (link->wire == NULL && link->dial == NULL && (now < link->not_before || !start_dial(link)))
		nats_message_finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "no connection", link->fault);
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
		{
			NatsLink   *link = events[i].data.ptr;

			if (link == NULL)
			{
				if (read(wake, &count, sizeof(count)) < 0)
					continue;
			}
			else if (link->wire != NULL)
			{
				link->heard = es_thread_now();
				link->asked = false;
				work(link);
			}
		}
	} while (n == EVENTS_AT_ONCE);
	for (EsLink *at = es_links_first(); at != NULL; at = at->next)
	{
		NatsLink   *link = (NatsLink *) at;

		if (link->dial != NULL)
			collect_dial(link);
		look_at_clock(link);
		if (link->wire != NULL && nats_wire_is_dirty(link->wire))
			work(link);
	}
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

	if (es_links_has_done())
		return 0;
	for (EsLink *at = es_links_first(); at != NULL; at = at->next)
	{
		NatsLink   *link = (NatsLink *) at;
		long long	dues[2];

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
close_link(EsLink *base)
{
	es_links_remove(base);
	free_link((NatsLink *) base);
}

/* an error may have ended the process with links open.  Threads that still connect know the descriptor that wakes: it goes after them */
static void
shutdown_all(void)
{
	if (epoll < 0)
		return;
	while (es_links_first() != NULL)
		close_link(es_links_first());
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
	link->dial = nats_dial_start(host, &link->config, link->host, wake);
	if (link->dial != NULL)
		return true;
	snprintf(link->fault, sizeof(link->fault), "there is no memory to connect");
	link->not_before = es_thread_now() + AGAIN_MS;
	return false;
}

/* looks whether it is over */
static void
collect_dial(NatsLink *link)
{
	int			fd;

	if (!nats_dial_collect(link->dial, &fd, &link->host, link->fault, sizeof(link->fault)))
		return;
	link->dial = NULL;
	if (fd >= 0)
		begin_connection(link, fd);
	else
		end_connection(link, link->fault);
}

static void
begin_connection(NatsLink *link, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};
	const NatsConfig *config = &link->config;

	link->wire = nats_wire_open(&link->for_wire, fd, config->server_name != NULL ? config->server_name : config->hosts[link->host].name);
	link->was_up = false;
	link->waits_to_write = false;
	link->asked = false;
	link->heard = es_thread_now();
	link->greeting_until = link->heard + GREETING_TIMEOUT_MS;
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
		struct epoll_event event = {.events = full ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = link};

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
	link->host = (link->host + 1) % link->config.nhosts;
	for (int i = 0; i < link->nslots; i++)
	{
		NatsSlot   *slot = &link->slots[i];

		if (slot->message == NULL)
			continue;
		if (slot->published && slot->at < sent)
			nats_message_finish(link, slot, ES_OUTCOME_RETRY, 0, "the connection ended before the acknowledgement", link->fault);
		else
			nats_message_finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "no connection", link->fault);
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

static void
on_up(void *arg)
{
	NatsLink   *link = arg;

	link->was_up = true;
	link->fault[0] = '\0';
	for (int i = 0; i < link->nslots; i++)
		if (link->slots[i].message != NULL && !link->slots[i].published)
			nats_message_publish(link, &link->slots[i]);
}

/* those whose time is over; a server that said nothing at all meanwhile is gone */
static void
expire(NatsLink *link, long long now)
{
	bool		silent = false;

	link->next_deadline = -1;
	for (int i = 0; i < link->nslots; i++)
	{
		NatsSlot   *slot = &link->slots[i];

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
			nats_message_finish(link, slot, ES_OUTCOME_RETRY, 0, "no acknowledgement in time",
				   link->heard < slot->since ? "the server is silent" : "is there a stream for the subject?");
		else
			nats_message_finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "no connection in time", link->fault);
	}
	if (silent && link->wire != NULL)
		end_connection(link, "the server does not answer");
}
