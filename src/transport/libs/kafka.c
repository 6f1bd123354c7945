/*
 * kafka.c
 *		Delivery to Kafka through librdkafka: kafka://, and kafkas:// with TLS.
 *
 * Runs in relay workers, in the main thread, between transactions.  Each link has a producer (kafka_producer.c), whose threads are
 * librdkafka's; what they have to say waits in a queue that rd_kafka_poll serves, so that reports and errors come in the main
 * thread.  A crash leaves nothing but closed sockets.
 *
 * Why the order is kept, also when something fails (keeps_order):
 *
 * - The messages of one key and topic are in one partition, and the idempotent producer numbers them.  Repeats are in order and without
 *   duplicates, because the broker takes no number twice and none after a gap.
 * - librdkafka would leave a gap behind a message that it gives up, number the rest anew and go on.  So it may give up none by itself:
 *   message.timeout.ms is without end, retries are, and enable.gapless.guarantee makes of every refusal by a broker the end of the
 *   producer, after which it sends nothing more; requests that are on their way behind the refused one have numbers after a gap, and
 *   are refused, too.
 * - Time is kept here.  When a message's is over, or the producer has come to its end, the link goes back: it takes nothing new, has
 *   librdkafka forget what is not sent, waits a moment for reports of what is on its way, has that forgotten, too, and makes
 *   another producer.  The messages whose time is over come back, as UNAVAILABLE when they were not sent and as RETRY when
 *   they may have arrived.  The others go out again in their order with the new producer, but for what is behind one of its
 *   key that failed; where nothing suggests that this would go better, they come back, too.
 * - A message that is refused before it has a number (too large, no such topic) makes no gap.  Its key is marked until next_done has
 *   handed out all of its messages; till then what is submitted for it comes back at once, and what librdkafka has of it
 *   makes the link go back.
 * - Messages of one key to different topics are in different partitions: the second is held until the first is done.  So is each message
 *   of a key where somebody has put enable.idempotence off, for old brokers.
 *
 * What remains: a message given up at the end of its time may sit in a network, and arrive after those that followed it, a second time.
 * And Kafka itself moves keys to other partitions when a topic gets more of them.
 */
#include "postgres.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fmgr.h"

#include "kafka_producer.h"
#include "kafka_settings.h"
#include "links.h"
#include "outcome.h"
#include "thread.h"

PG_MODULE_MAGIC;

/* going back: for reports of what is on its way, then for those of what was purged */
#define SETTLE_MS 300
#define PURGE_MS 500
/* bodies that librdkafka has copies of, in a link */
#define MAX_BYTES (64 * 1024 * 1024)
/* Kafka's own limit */
#define MAX_TOPIC 249
#define REST_MS 100

/* a key with messages that next_done has not handed out */
typedef struct Key
{
	int			messages;
	int			produced;		/* of these, librdkafka has */
	KafkaTopic *topic;			/* of what it has */
	struct Flight *held_first;
	struct Flight *held_last;
	uint64		failed;			/* number of the first one that failed; 0: none */
	struct Key *chain;
	char		name[FLEXIBLE_ARRAY_MEMBER];
} Key;

typedef enum FlightState
{
	FREE,
	HELD,
	PRODUCED,					/* librdkafka has it */
	DONE						/* in the list of next_done */
} FlightState;

/* the place of a message in its link */
typedef struct Flight
{
	FlightState state;
	struct KafkaLink *link;
	EsOutgoing *message;
	Key		   *key;			/* NULL: no order */
	uint64		number;			/* of submission, from 1 */
	long long	deadline;
	struct Flight *next;		/* free ones; held ones of a key */
} Flight;

typedef enum LinkState
{
	OPEN,
	SETTLING,					/* going back, see above: waits for reports */
	PURGING						/* ... for those of what librdkafka was told to forget */
} LinkState;

typedef struct KafkaLink
{
	EsLink		base;
	LinkState	state;
	/* going back */
	long long	until;			/* the end of this state */
	char		cause[200];
	bool		again;			/* what was not sent goes out again ... */
	long long	over;			/* ... but not where the deadline is not after this */

	rd_kafka_conf_t *conf;
	char	   *networks;
	bool		plain_text;
	bool		idempotent;
	KafkaProducer *producer;	/* NULL: made for the next message */
	int			one_by_one;		/* no batches for so many messages, see refused_batch; -1: batches again as soon as nothing is out */
	bool		doubt;			/* something failed, and perhaps not all that librdkafka has of its key */

	int			nflights;		/* as many as may be in flight */
	Flight	   *flights;
	Flight	  **sorted;			/* room for so many */
	Flight	   *free;
	int			waiting;		/* held or produced */
	int			produced;
	size_t		bytes;			/* of these */
	uint64		submitted;
	long long	due;			/* no deadline is before */
	long long	delivered_at;	/* the last one; 0: none */
	Key		   *keys[KAFKA_CHAINS];
} KafkaLink;

static bool check(const EsLinkConfig *config, char *fault, size_t size);
static bool startup(char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);
static bool submit(EsLink *base, EsOutgoing *message);
static void pump(void);
static EsOutgoing *next_done(void);
static int	wait_fd(void);
static long wait_ms(void);
static void close_link(EsLink *base);
static void shutdown_kafka(void);

static const char *const schemes[] = {"kafka", "kafkas", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "kafka",
	.schemes = schemes,
	.binding = ES_BINDING_KAFKA,
	.keeps_order = true,
	.check_url = kafka_check_url,
	.check = check,
	.startup = startup,
	.open = open_link,
	.submit = submit,
	.pump = pump,
	.next_done = next_done,
	.wait_fd = wait_fd,
	.wait_ms = wait_ms,
	.close = close_link,
	.shutdown = shutdown_kafka,
};

static const EsTransportHost *host = NULL;
static bool started = false;
static int	wake_fd = -1;		/* eventfd: a producer has something for us */
static bool has_rest = false;	/* producers wait for a thread to end in */

static bool prepare(KafkaLink *link, const EsLinkConfig *config, char *fault, size_t size);
static bool make_producer(KafkaLink *link, char *fault, size_t size);
static void drop_producer(KafkaLink *link);
static void free_link(KafkaLink *link);
static bool has_room(KafkaLink *link);
static Key *find_key(KafkaLink *link, const char *name);
static void leave_key(KafkaLink *link, Key *key);
static void place(Flight *flight);
static bool is_topic_name(const char *name);
static bool must_wait(const Flight *flight, const KafkaTopic *topic);
static void hold(Flight *flight);
static void produce(Flight *flight, KafkaTopic *topic);
static rd_kafka_headers_t *make_headers(const EsOutgoing *message);
static void release_held(Key *key);
static void take_back(Flight *flight);
static void finish(Flight *flight, EsOutcome outcome, const char *text, const char *detail);
static void fail_held(Key *key);
static void serve(KafkaLink *link);
static void look_for_doubt(KafkaLink *link);
static void look_at_time(KafkaLink *link);
static void time_is_over(KafkaLink *link, const Flight *first, long long now);
static void producer_ended(KafkaLink *link);
static void go_back(KafkaLink *link, const char *cause, bool again, long long over);
static void settle(KafkaLink *link);
static void start_again(KafkaLink *link);
static int	compare_numbers(const void *a, const void *b);
static void take_report(rd_kafka_t *rk, const rd_kafka_message_t *report, void *opaque);
static void take_error(rd_kafka_t *rk, int code, const char *reason, void *opaque);
static void judge(Flight *flight, rd_kafka_resp_err_t code, bool was_not_sent);
static bool refused_batch(Flight *flight);
static void given_back(Flight *flight, const char *text, bool was_not_sent);

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
	rd_kafka_conf_t *conf = kafka_make_conf(config, fault, size);

	if (conf != NULL)
		rd_kafka_conf_destroy(conf);
	return conf != NULL;
}

static bool
startup(char *fault, size_t size)
{
	if (started)
		return true;
	wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (wake_fd < 0)
	{
		snprintf(fault, size, "could not make a descriptor to wait on: errno %d", errno);
		return false;
	}
	started = true;
	return true;
}

static EsLink *
open_link(const EsLinkConfig *config, char *fault, size_t size)
{
	KafkaLink  *link = calloc(1, sizeof(KafkaLink));

	if (link == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		return NULL;
	}
	if (!prepare(link, config, fault, size) || !make_producer(link, fault, size))
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
	KafkaLink  *link = (KafkaLink *) base;
	Flight	   *flight;

	/* what has failed by now is known before more of its key is sent */
	serve(link);
	if (!has_room(link))
		return false;
	es_links_take(base, message);
	flight = link->free;
	link->free = flight->next;
	flight->next = NULL;
	flight->message = message;
	flight->key = NULL;
	flight->number = ++link->submitted;
	flight->deadline = es_thread_now() + message->timeout_ms;
	flight->state = HELD;
	if (link->waiting++ == 0 || flight->deadline < link->due)
		link->due = flight->deadline;
	message->data = flight;
	if (message->key != NULL && (flight->key = find_key(link, message->key)) == NULL)
	{
		finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its key", NULL);
		return true;
	}
	if (flight->key != NULL)
		flight->key->messages++;
	place(flight);
	return true;
}

static void
pump(void)
{
	uint64		count;

	/* before the queues are served: what comes later signals again */
	if (read(wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return;
	for (EsLink *link = es_links_first(); link != NULL; link = link->next)
	{
		serve((KafkaLink *) link);
		look_at_time((KafkaLink *) link);
	}
	if (has_rest)
		has_rest = !kafka_producer_throw_rest();
}

static EsOutgoing *
next_done(void)
{
	EsOutgoing *message = es_links_next_done();
	Flight	   *flight;

	if (message == NULL)
		return NULL;
	flight = message->data;
	if (flight->key != NULL)
		leave_key(flight->link, flight->key);
	flight->state = FREE;
	flight->next = flight->link->free;
	flight->link->free = flight;
	return message;
}

static int
wait_fd(void)
{
	return wake_fd;
}

static long
wait_ms(void)
{
	long long	due = has_rest ? es_thread_now() + REST_MS : -1;
	long long	now;

	if (es_links_has_done())
		return 0;
	for (EsLink *at = es_links_first(); at != NULL; at = at->next)
	{
		KafkaLink  *link = (KafkaLink *) at;
		long long	then = link->state == OPEN ? link->due : link->produced == 0 ? 0 : link->until;

		if (link->waiting > 0 && (due < 0 || then < due))
			due = then;
	}
	now = es_thread_now();
	return due < 0 ? -1 : due < now ? 0 : (long) (due - now);
}

static void
close_link(EsLink *base)
{
	es_links_remove(base);
	free_link((KafkaLink *) base);
}

static void
shutdown_kafka(void)
{
	if (!started)
		return;
	es_thread_wait_all();
	close(wake_fd);
	wake_fd = -1;
	started = false;
}

static bool
prepare(KafkaLink *link, const EsLinkConfig *config, char *fault, size_t size)
{
	char		value[16] = "";
	size_t		value_size = sizeof(value);

	link->conf = kafka_make_conf(config, fault, size);
	if (link->conf == NULL)
		return false;
	rd_kafka_conf_set_dr_msg_cb(link->conf, take_report);
	rd_kafka_conf_set_error_cb(link->conf, take_error);
	(void) rd_kafka_conf_get(link->conf, "enable.idempotence", value, &value_size);
	link->idempotent = strcmp(value, "true") == 0;
	link->plain_text = kafka_is_plain_text(config->url);
	link->networks = strdup(config->allowed_networks);
	link->nflights = config->max_in_flight;
	link->flights = calloc(link->nflights, sizeof(Flight));
	link->sorted = calloc(link->nflights, sizeof(Flight *));
	if (link->networks == NULL || link->flights == NULL || link->sorted == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		return false;
	}
	for (int i = link->nflights - 1; i >= 0; i--)
	{
		link->flights[i].link = link;
		link->flights[i].next = link->free;
		link->free = &link->flights[i];
	}
	return true;
}

static bool
make_producer(KafkaLink *link, char *fault, size_t size)
{
	KafkaRecipe recipe = {.conf = link->conf, .host = host, .networks = link->networks, .plain_text = link->plain_text,
		.idempotent = link->idempotent, .one_by_one = link->one_by_one > 0, .wake_fd = wake_fd};

	link->producer = kafka_producer_make(&recipe, link, fault, size);
	return link->producer != NULL;
}

static void
drop_producer(KafkaLink *link)
{
	if (link->producer == NULL)
		return;
	kafka_producer_throw_away(link->producer);
	link->producer = NULL;
	has_rest = true;
}

static void
free_link(KafkaLink *link)
{
	drop_producer(link);
	for (int i = 0; i < KAFKA_CHAINS; i++)
		while (link->keys[i] != NULL)
		{
			Key		   *key = link->keys[i];

			link->keys[i] = key->chain;
			free(key);
		}
	if (link->conf != NULL)
		rd_kafka_conf_destroy(link->conf);
	free(link->networks);
	free(link->flights);
	free(link->sorted);
	free(link);
}

static bool
has_room(KafkaLink *link)
{
	if (link->state != OPEN || !es_links_has_room(&link->base) || link->bytes > MAX_BYTES)
		return false;
	if (link->one_by_one != -1)
		return true;
	if (link->waiting > 0)
		return false;
	link->one_by_one = 0;
	drop_producer(link);
	return true;
}

/* made where there is none; NULL: no memory */
static Key *
find_key(KafkaLink *link, const char *name)
{
	Key		  **chain = &link->keys[kafka_hash(name) % KAFKA_CHAINS];
	Key		   *key;

	for (key = *chain; key != NULL; key = key->chain)
		if (strcmp(key->name, name) == 0)
			return key;
	key = calloc(1, offsetof(Key, name) + strlen(name) + 1);
	if (key == NULL)
		return NULL;
	strcpy(key->name, name);
	key->chain = *chain;
	*chain = key;
	return key;
}

/* one of its messages was fetched */
static void
leave_key(KafkaLink *link, Key *key)
{
	Key		  **at = &link->keys[kafka_hash(key->name) % KAFKA_CHAINS];

	if (--key->messages > 0)
		return;
	while (*at != key)
		at = &(*at)->chain;
	*at = key->chain;
	free(key);
}

/* gives it to librdkafka, or holds it, or finds that it cannot be sent */
static void
place(Flight *flight)
{
	KafkaLink  *link = flight->link;
	const char *name = flight->message->topic;
	char		fault[200] = "";
	KafkaTopic *topic;

	if (flight->key != NULL && flight->key->failed > 0 && flight->number > flight->key->failed)
		finish(flight, ES_OUTCOME_UNAVAILABLE, "an earlier one of its key failed", NULL);
	else if (name == NULL)
		finish(flight, ES_OUTCOME_REJECT, "the endpoint has no topic", NULL);
	else if (!is_topic_name(name))
		finish(flight, ES_OUTCOME_REJECT, "no name for a topic of Kafka (letters, digits, . _ -)", name);
	else if (link->producer == NULL && !make_producer(link, fault, sizeof(fault)))
		finish(flight, ES_OUTCOME_UNAVAILABLE, "could not start librdkafka", fault);
	else if ((topic = kafka_producer_topic(link->producer, name)) == NULL)
		finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its topic", NULL);
	else if (flight->key != NULL && (flight->key->held_first != NULL || must_wait(flight, topic)))
		hold(flight);
	else
		produce(flight, topic);
}

static bool
is_topic_name(const char *name)
{
	size_t		len = strlen(name);

	return len > 0 && len <= MAX_TOPIC && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

/* for what librdkafka has of its key */
static bool
must_wait(const Flight *flight, const KafkaTopic *topic)
{
	return flight->key->produced > 0 && (!flight->link->idempotent || flight->key->topic != topic);
}

static void
hold(Flight *flight)
{
	Key		   *key = flight->key;

	if (key->held_first == NULL)
		key->held_first = flight;
	else
		key->held_last->next = flight;
	key->held_last = flight;
}

static void
produce(Flight *flight, KafkaTopic *topic)
{
	KafkaLink  *link = flight->link;
	EsOutgoing *message = flight->message;
	rd_kafka_headers_t *headers = make_headers(message);
	size_t		key_len = message->key != NULL ? strlen(message->key) : 0;
	rd_kafka_resp_err_t code;

	if (headers == NULL)
	{
		finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its headers", NULL);
		return;
	}
	/* copied: librdkafka's threads may look at it when the message is long given up */
	code = rd_kafka_producev(link->producer->rk, RD_KAFKA_V_RKT(topic->handle), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							 RD_KAFKA_V_KEY(message->key, key_len), RD_KAFKA_V_VALUE((void *) message->body, message->body_len),
							 RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(flight), RD_KAFKA_V_END);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		rd_kafka_headers_destroy(headers);
		judge(flight, code, true);
		return;
	}
	flight->state = PRODUCED;
	link->produced++;
	link->bytes += message->body_len;
	if (flight->key != NULL)
	{
		flight->key->topic = topic;
		flight->key->produced++;
	}
}

/* NULL: no memory */
static rd_kafka_headers_t *
make_headers(const EsOutgoing *message)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(message->nheaders);

	for (int i = 0; headers != NULL && i < message->nheaders; i++)
	{
		const EsHeader *header = &message->headers[i];
		/* as CloudEvents wants it to be written in Kafka */
		const char *name = strcasecmp(header->name, "content-type") == 0 ? "content-type" : header->name;

		if (rd_kafka_header_add(headers, name, -1, header->value, -1) != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			rd_kafka_headers_destroy(headers);
			headers = NULL;
		}
	}
	return headers;
}

/* those in front of which nothing is any more */
static void
release_held(Key *key)
{
	while (key->held_first != NULL)
	{
		Flight	   *flight = key->held_first;
		KafkaTopic *topic = kafka_producer_topic(flight->link->producer, flight->message->topic);

		if (topic != NULL && must_wait(flight, topic))
			return;
		key->held_first = flight->next;
		flight->next = NULL;
		if (topic == NULL)
			finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its topic", NULL);
		else
			produce(flight, topic);
	}
}

/* librdkafka has it no more */
static void
take_back(Flight *flight)
{
	if (flight->state != PRODUCED)
		return;
	flight->state = HELD;
	flight->link->produced--;
	flight->link->bytes -= flight->message->body_len;
	if (flight->key != NULL)
		flight->key->produced--;
}

/* the message's outcome; text and detail as in es_outcome_say */
static void
finish(Flight *flight, EsOutcome outcome, const char *text, const char *detail)
{
	KafkaLink  *link = flight->link;
	Key		   *key = flight->key;

	if (flight->state == PRODUCED && link->producer->one_by_one && link->one_by_one > 0 && --link->one_by_one == 0)
		link->one_by_one = -1;
	take_back(flight);
	link->waiting--;
	flight->state = DONE;
	es_outcome_say(flight->message, outcome, text, detail);
	es_links_done(flight->message);
	if (key == NULL)
		return;
	if (outcome != ES_OUTCOME_DELIVERED && (key->failed == 0 || flight->number < key->failed))
	{
		key->failed = flight->number;
		fail_held(key);
	}
	if (key->produced == 0 && link->state == OPEN)
		release_held(key);
}

/* what is held behind the one that failed */
static void
fail_held(Key *key)
{
	Flight	   *held = key->held_first;

	key->held_first = key->held_last = NULL;
	while (held != NULL)
	{
		Flight	   *flight = held;

		held = flight->next;
		flight->next = NULL;
		if (flight->number > key->failed)
			finish(flight, ES_OUTCOME_UNAVAILABLE, "an earlier one of its key failed", NULL);
		else
			hold(flight);
	}
}

/* what librdkafka has to say, and what comes of it */
static void
serve(KafkaLink *link)
{
	if (link->producer != NULL)
		(void) rd_kafka_poll(link->producer->rk, 0);
	if (link->doubt)
		look_for_doubt(link);
	if (link->state != OPEN)
		settle(link);
}

/* is there something that must not be sent any more? */
static void
look_for_doubt(KafkaLink *link)
{
	link->doubt = false;
	for (int i = 0; i < link->nflights && link->state == OPEN; i++)
	{
		Flight	   *flight = &link->flights[i];

		if (flight->state == PRODUCED && flight->key != NULL && flight->key->failed > 0 && flight->number > flight->key->failed)
			go_back(link, "an earlier one of its key failed", true, 0);
	}
}

/* is the time of one over? */
static void
look_at_time(KafkaLink *link)
{
	long long	now = es_thread_now();
	Flight	   *first = NULL;

	if (link->state != OPEN || link->waiting == 0 || now < link->due)
		return;
	for (int i = 0; i < link->nflights; i++)
	{
		Flight	   *flight = &link->flights[i];

		if ((flight->state == HELD || flight->state == PRODUCED) && (first == NULL || flight->deadline < first->deadline))
			first = flight;
	}
	link->due = first->deadline;
	if (link->due <= now)
		time_is_over(link, first, now);
}

/*
 * Where others arrive, only some of the brokers do not answer: their messages come back, together with those whose time is over
 * soon, so that there are not too many producers.
 */
static void
time_is_over(KafkaLink *link, const Flight *first, long long now)
{
	char		cause[200];
	long		ms = first->message->timeout_ms;

	kafka_producer_silence(link->producer, ms, cause, sizeof(cause));
	go_back(link, cause, link->delivered_at > first->deadline - ms, now + ms / 10);
}

/* by a refusal, which concerns one partition; or because brokers want no such producer at all */
static void
producer_ended(KafkaLink *link)
{
	char		text[200] = "";
	char		cause[200];
	rd_kafka_resp_err_t code = rd_kafka_fatal_error(link->producer->rk, text, sizeof(text));

	snprintf(cause, sizeof(cause), "%s%s", code == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE ? "another message failed: " : "", text);
	go_back(link, cause, code == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE, 0);
}

static void
go_back(KafkaLink *link, const char *cause, bool again, long long over)
{
	if (link->state != OPEN)
		return;
	snprintf(link->cause, sizeof(link->cause), "%s", cause);
	link->again = again;
	link->over = over;
	link->state = SETTLING;
	link->until = es_thread_now() + SETTLE_MS;
	(void) rd_kafka_purge(link->producer->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING);
}

static void
settle(KafkaLink *link)
{
	if (link->produced > 0 && es_thread_now() < link->until)
		return;
	if (link->produced > 0 && link->state == SETTLING)
	{
		link->state = PURGING;
		link->until = es_thread_now() + PURGE_MS;
		(void) rd_kafka_purge(link->producer->rk,
							  RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
		return;
	}
	for (int i = 0; link->produced > 0 && i < link->nflights; i++)
		if (link->flights[i].state == PRODUCED)
			finish(&link->flights[i], ES_OUTCOME_RETRY, link->cause, NULL);
	drop_producer(link);
	link->state = OPEN;
	start_again(link);
}

/* what is held now is to go out with another producer, or to come back */
static void
start_again(KafkaLink *link)
{
	int			n = 0;

	for (int i = 0; i < KAFKA_CHAINS; i++)
		for (Key *key = link->keys[i]; key != NULL; key = key->chain)
			key->held_first = key->held_last = NULL;
	for (int i = 0; i < link->nflights; i++)
		if (link->flights[i].state == HELD)
		{
			link->flights[i].next = NULL;
			link->sorted[n++] = &link->flights[i];
		}
	/* not the server's */
	(qsort) (link->sorted, n, sizeof(Flight *), compare_numbers);
	for (int i = 0; i < n; i++)
	{
		Flight	   *flight = link->sorted[i];

		if (link->again && flight->deadline > link->over)
			place(flight);
		else
			finish(flight, ES_OUTCOME_UNAVAILABLE, link->cause, NULL);
	}
}

static int
compare_numbers(const void *a, const void *b)
{
	uint64		number = (*(Flight *const *) a)->number;
	uint64		other = (*(Flight *const *) b)->number;

	return number < other ? -1 : number > other;
}

/* librdkafka: this is what became of a message.  In rd_kafka_poll */
static void
take_report(rd_kafka_t *rk, const rd_kafka_message_t *report, void *opaque)
{
	KafkaProducer *producer = opaque;
	Flight	   *flight = report->_private;

	if (producer->owner == NULL)
		return;
	if (report->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		judge(flight, report->err, rd_kafka_message_status(report) == RD_KAFKA_MSG_STATUS_NOT_PERSISTED);
		return;
	}
	if (!producer->worked)
		kafka_producer_note(producer, "");
	producer->worked = true;
	flight->link->delivered_at = es_thread_now();
	/* never so where brokers mind the numbers; should it be so, it is not to be told as if it were in order */
	if (flight->key != NULL && flight->key->failed > 0 && flight->number > flight->key->failed)
		finish(flight, ES_OUTCOME_RETRY, "it arrived, but an earlier one of its key failed", NULL);
	else
		finish(flight, ES_OUTCOME_DELIVERED, "", NULL);
}

/* librdkafka: something is wrong, not with one message.  In rd_kafka_poll */
static void
take_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	KafkaProducer *producer = opaque;
	char		text[200];

	if (producer->owner == NULL)
		return;
	if (code == RD_KAFKA_RESP_ERR__FATAL)
		producer_ended(producer->owner);
	else if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		kafka_producer_note(producer, reason);
	/* time will not help */
	else if (!producer->worked && kafka_producer_refused(producer, text, sizeof(text)))
		go_back(producer->owner, text, false, 0);
}

/* it failed.  What is wrong with a message is so the next time, too; what is wrong with a topic, a person puts right */
static void
judge(Flight *flight, rd_kafka_resp_err_t code, bool was_not_sent)
{
	KafkaLink  *link = flight->link;

	flight->message->status = code > 0 ? (int) code : 0;
	switch (code)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
			if (!refused_batch(flight))
				finish(flight, ES_OUTCOME_REJECT, rd_kafka_err2str(code), flight->message->topic);
			break;
		case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
		case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
		case RD_KAFKA_RESP_ERR__FATAL:
			if (code == RD_KAFKA_RESP_ERR__FATAL)
				producer_ended(link);
			given_back(flight, rd_kafka_err2str(code), was_not_sent && code != RD_KAFKA_RESP_ERR__PURGE_INFLIGHT);
			break;
		case RD_KAFKA_RESP_ERR__QUEUE_FULL:
			finish(flight, ES_OUTCOME_UNAVAILABLE, rd_kafka_err2str(code), NULL);
			break;
		default:
			finish(flight, ES_OUTCOME_RETRY, rd_kafka_err2str(code), flight->message->topic);
			break;
	}
	link->doubt = true;
}

/*
 * Brokers judge batches.  What is refused together with others may be fine: then all that is there goes out one by one, to see which
 * it is.  false: it was alone.
 */
static bool
refused_batch(Flight *flight)
{
	KafkaLink  *link = flight->link;

	if (flight->state != PRODUCED || link->producer->one_by_one || link->waiting < 2)
		return false;
	if (link->one_by_one <= 0)
		link->one_by_one = link->waiting;
	go_back(link, "a batch was refused", true, 0);
	take_back(flight);
	return true;
}

/* by librdkafka, which was told to: to go out again, or for good */
static void
given_back(Flight *flight, const char *text, bool was_not_sent)
{
	KafkaLink  *link = flight->link;

	if (link->state != OPEN)
		text = link->cause;
	if (!was_not_sent)
		finish(flight, ES_OUTCOME_RETRY, text, NULL);
	else if (link->state == OPEN)
		finish(flight, ES_OUTCOME_UNAVAILABLE, text, NULL);
	else
		take_back(flight);
}
