/*
 * kafka_order.c
 *		The messages of a link that are under way: which goes when, so that the order of a key is kept, and how a link goes back.
 *
 * Runs in relay workers, in the main thread, between transactions; all in here is its own.  A crash leaves nothing: what was not
 * acknowledged is sent again.
 *
 * Why the order is kept, also when something fails (keeps_order):
 *
 * - The messages of one key and topic are in one partition, and the idempotent producer numbers them.  Repeats are in order and without
 *   duplicates, because the broker takes no number twice and none after a gap.
 * - librdkafka would leave a gap behind a message that it gives up, number the rest anew and go on.  So it may give up none by itself:
 *   message.timeout.ms is without end, retries are, and enable.gapless.guarantee makes of every refusal by a broker the end of the
 *   producer, after which it sends nothing more; requests that are on their way behind the refused one have numbers after a gap, and
 *   are refused, too.
 * - But brokers take any number of a producer that they know nothing of in a partition: behind a first request that is refused, the second
 *   one would be accepted, and librdkafka, which takes it for the proof that the first one arrived, would report both.  So one request
 *   at a time is on its way to a broker (max.in.flight of kafka_settings.c).
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

#include <stdlib.h>
#include <strings.h>

#include "kafka_link.h"
#include "outcome.h"
#include "thread.h"

/* going back: for reports of what is on its way, then for those of what was purged */
#define SETTLE_MS 300
#define PURGE_MS 500
/* Kafka's own limit */
#define MAX_TOPIC 249

static KafkaKey *find_key(KafkaLink *link, const char *name);
static void leave_key(KafkaLink *link, KafkaKey *key);
static void place(KafkaFlight *flight);
static bool is_topic_name(const char *name);
static bool must_wait(const KafkaFlight *flight, const KafkaTopic *topic);
static void hold(KafkaFlight *flight);
static void produce(KafkaFlight *flight, KafkaTopic *topic);
static rd_kafka_headers_t *make_headers(const EsOutgoing *message);
static void release_held(KafkaKey *key);
static void fail_held(KafkaKey *key);
static void look_for_doubt(KafkaLink *link);
static void time_is_over(KafkaLink *link, const KafkaFlight *first, long long now);
static void settle(KafkaLink *link);
static void start_again(KafkaLink *link);
static int	compare_numbers(const void *a, const void *b);

bool
kafka_order_make(KafkaLink *link, int max_in_flight)
{
	link->nflights = max_in_flight;
	link->flights = calloc(link->nflights, sizeof(KafkaFlight));
	link->sorted = calloc(link->nflights, sizeof(KafkaFlight *));
	if (link->flights == NULL || link->sorted == NULL)
		return false;
	for (int i = link->nflights - 1; i >= 0; i--)
	{
		link->flights[i].link = link;
		link->flights[i].next = link->free;
		link->free = &link->flights[i];
	}
	return true;
}

void
kafka_order_free(KafkaLink *link)
{
	for (int i = 0; i < KAFKA_CHAINS; i++)
		while (link->keys[i] != NULL)
		{
			KafkaKey   *key = link->keys[i];

			link->keys[i] = key->chain;
			free(key);
		}
	free(link->flights);
	free(link->sorted);
}

void
kafka_order_take(KafkaLink *link, EsOutgoing *message)
{
	KafkaFlight *flight = link->free;

	link->free = flight->next;
	flight->next = NULL;
	flight->message = message;
	flight->key = NULL;
	flight->number = ++link->submitted;
	flight->deadline = es_thread_now() + message->timeout_ms;
	flight->state = FLIGHT_HELD;
	if (link->waiting++ == 0 || flight->deadline < link->due)
		link->due = flight->deadline;
	message->data = flight;
	if (message->key != NULL && (flight->key = find_key(link, message->key)) == NULL)
	{
		kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its key", NULL);
		return;
	}
	if (flight->key != NULL)
		flight->key->messages++;
	place(flight);
}

void
kafka_order_leave(EsOutgoing *message)
{
	KafkaFlight *flight = message->data;

	if (flight->key != NULL)
		leave_key(flight->link, flight->key);
	flight->state = FLIGHT_FREE;
	flight->next = flight->link->free;
	flight->link->free = flight;
}

/* made where there is none; NULL: no memory */
static KafkaKey *
find_key(KafkaLink *link, const char *name)
{
	KafkaKey  **chain = &link->keys[kafka_hash(name) % KAFKA_CHAINS];
	KafkaKey   *key;

	for (key = *chain; key != NULL; key = key->chain)
		if (strcmp(key->name, name) == 0)
			return key;
	key = calloc(1, offsetof(KafkaKey, name) + strlen(name) + 1);
	if (key == NULL)
		return NULL;
	strcpy(key->name, name);
	key->chain = *chain;
	*chain = key;
	return key;
}

/* one of its messages was fetched */
static void
leave_key(KafkaLink *link, KafkaKey *key)
{
	KafkaKey  **at = &link->keys[kafka_hash(key->name) % KAFKA_CHAINS];

	if (--key->messages > 0)
		return;
	while (*at != key)
		at = &(*at)->chain;
	*at = key->chain;
	free(key);
}

/* gives it to librdkafka, or holds it, or finds that it cannot be sent */
static void
place(KafkaFlight *flight)
{
	KafkaLink  *link = flight->link;
	const char *name = flight->message->topic;
	char		fault[200] = "";
	KafkaTopic *topic;

	if (flight->key != NULL && flight->key->failed > 0 && flight->number > flight->key->failed)
		kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "an earlier one of its key failed", NULL);
	else if (name == NULL)
		kafka_order_finish(flight, ES_OUTCOME_REJECT, "the endpoint has no topic", NULL);
	else if (!is_topic_name(name))
		kafka_order_finish(flight, ES_OUTCOME_REJECT, "no name for a topic of Kafka (letters, digits, . _ -)", name);
	else if (link->producer == NULL && !kafka_link_make_producer(link, fault, sizeof(fault)))
		kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "could not start librdkafka", fault);
	else if ((topic = kafka_producer_topic(link->producer, name)) == NULL)
		kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its topic", NULL);
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
must_wait(const KafkaFlight *flight, const KafkaTopic *topic)
{
	return flight->key->produced > 0 && (!flight->link->idempotent || flight->key->topic != topic);
}

static void
hold(KafkaFlight *flight)
{
	KafkaKey   *key = flight->key;

	if (key->held_first == NULL)
		key->held_first = flight;
	else
		key->held_last->next = flight;
	key->held_last = flight;
}

static void
produce(KafkaFlight *flight, KafkaTopic *topic)
{
	KafkaLink  *link = flight->link;
	EsOutgoing *message = flight->message;
	rd_kafka_headers_t *headers = make_headers(message);
	size_t		key_len = message->key != NULL ? strlen(message->key) : 0;
	rd_kafka_resp_err_t code;

	if (headers == NULL)
	{
		kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its headers", NULL);
		return;
	}
	/* copied: librdkafka's threads may look at it when the message is long given up */
	code = rd_kafka_producev(link->producer->rk, RD_KAFKA_V_RKT(topic->handle), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							 RD_KAFKA_V_KEY(message->key, key_len), RD_KAFKA_V_VALUE((void *) message->body, message->body_len),
							 RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(flight), RD_KAFKA_V_END);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		rd_kafka_headers_destroy(headers);
		kafka_report_judge(flight, code, true);
		return;
	}
	flight->state = FLIGHT_PRODUCED;
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
release_held(KafkaKey *key)
{
	while (key->held_first != NULL)
	{
		KafkaFlight *flight = key->held_first;
		KafkaTopic *topic = kafka_producer_topic(flight->link->producer, flight->message->topic);

		if (topic != NULL && must_wait(flight, topic))
			return;
		key->held_first = flight->next;
		flight->next = NULL;
		if (topic == NULL)
			kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "there is no memory for its topic", NULL);
		else
			produce(flight, topic);
	}
}

void
kafka_order_take_back(KafkaFlight *flight)
{
	if (flight->state != FLIGHT_PRODUCED)
		return;
	flight->state = FLIGHT_HELD;
	flight->link->produced--;
	flight->link->bytes -= flight->message->body_len;
	if (flight->key != NULL)
		flight->key->produced--;
}

void
kafka_order_finish(KafkaFlight *flight, EsOutcome outcome, const char *text, const char *detail)
{
	KafkaLink  *link = flight->link;
	KafkaKey   *key = flight->key;

	if (flight->state == FLIGHT_PRODUCED && link->producer->one_by_one && link->one_by_one > 0 && --link->one_by_one == 0)
		link->one_by_one = -1;
	kafka_order_take_back(flight);
	link->waiting--;
	flight->state = FLIGHT_DONE;
	es_outcome_say(flight->message, outcome, text, detail);
	es_links_done(flight->message);
	if (key == NULL)
		return;
	if (outcome != ES_OUTCOME_DELIVERED && (key->failed == 0 || flight->number < key->failed))
	{
		key->failed = flight->number;
		fail_held(key);
	}
	if (key->produced == 0 && link->state == LINK_OPEN)
		release_held(key);
}

/* what is held behind the one that failed */
static void
fail_held(KafkaKey *key)
{
	KafkaFlight *held = key->held_first;

	key->held_first = key->held_last = NULL;
	while (held != NULL)
	{
		KafkaFlight *flight = held;

		held = flight->next;
		flight->next = NULL;
		if (flight->number > key->failed)
			kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, "an earlier one of its key failed", NULL);
		else
			hold(flight);
	}
}

/*
 * Going back
 */

void
kafka_order_serve(KafkaLink *link)
{
	if (link->producer != NULL)
		(void) rd_kafka_poll(link->producer->rk, 0);
	if (link->doubt)
		look_for_doubt(link);
	if (link->state != LINK_OPEN)
		settle(link);
}

/* is there something that must not be sent any more? */
static void
look_for_doubt(KafkaLink *link)
{
	link->doubt = false;
	for (int i = 0; i < link->nflights && link->state == LINK_OPEN; i++)
	{
		KafkaFlight *flight = &link->flights[i];

		if (flight->state == FLIGHT_PRODUCED && flight->key != NULL && flight->key->failed > 0 && flight->number > flight->key->failed)
			kafka_order_go_back(link, "an earlier one of its key failed", true, 0);
	}
}

void
kafka_order_look_at_time(KafkaLink *link)
{
	long long	now = es_thread_now();
	KafkaFlight *first = NULL;

	if (link->state != LINK_OPEN || link->waiting == 0 || now < link->due)
		return;
	for (int i = 0; i < link->nflights; i++)
	{
		KafkaFlight *flight = &link->flights[i];

		if ((flight->state == FLIGHT_HELD || flight->state == FLIGHT_PRODUCED) && (first == NULL || flight->deadline < first->deadline))
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
time_is_over(KafkaLink *link, const KafkaFlight *first, long long now)
{
	char		cause[200];
	long		ms = first->message->timeout_ms;

	kafka_producer_silence(link->producer, ms, cause, sizeof(cause));
	kafka_order_go_back(link, cause, link->delivered_at > first->deadline - ms, now + ms / 10);
}

void
kafka_order_go_back(KafkaLink *link, const char *cause, bool again, long long over)
{
	if (link->state != LINK_OPEN)
		return;
	snprintf(link->cause, sizeof(link->cause), "%s", cause);
	link->again = again;
	link->over = over;
	link->state = LINK_SETTLING;
	link->until = es_thread_now() + SETTLE_MS;
	(void) rd_kafka_purge(link->producer->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING);
}

static void
settle(KafkaLink *link)
{
	if (link->produced > 0 && es_thread_now() < link->until)
		return;
	if (link->produced > 0 && link->state == LINK_SETTLING)
	{
		link->state = LINK_PURGING;
		link->until = es_thread_now() + PURGE_MS;
		(void) rd_kafka_purge(link->producer->rk,
							  RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
		return;
	}
	for (int i = 0; link->produced > 0 && i < link->nflights; i++)
		if (link->flights[i].state == FLIGHT_PRODUCED)
			kafka_order_finish(&link->flights[i], ES_OUTCOME_RETRY, link->cause, NULL);
	kafka_link_drop_producer(link);
	link->state = LINK_OPEN;
	start_again(link);
}

/* what is held now is to go out with another producer, or to come back */
static void
start_again(KafkaLink *link)
{
	int			n = 0;

	for (int i = 0; i < KAFKA_CHAINS; i++)
		for (KafkaKey *key = link->keys[i]; key != NULL; key = key->chain)
			key->held_first = key->held_last = NULL;
	for (int i = 0; i < link->nflights; i++)
		if (link->flights[i].state == FLIGHT_HELD)
		{
			link->flights[i].next = NULL;
			link->sorted[n++] = &link->flights[i];
		}
	/* not the server's */
	(qsort) (link->sorted, n, sizeof(KafkaFlight *), compare_numbers);
	for (int i = 0; i < n; i++)
	{
		KafkaFlight *flight = link->sorted[i];

		if (link->again && flight->deadline > link->over)
			place(flight);
		else
			kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, link->cause, NULL);
	}
}

static int
compare_numbers(const void *a, const void *b)
{
	uint64		number = (*(KafkaFlight *const *) a)->number;
	uint64		other = (*(KafkaFlight *const *) b)->number;

	return number < other ? -1 : number > other;
}
