/*
 * kafka.c
 *		Delivery to Kafka through librdkafka: kafka://, and kafkas:// with TLS.
 *
 * Runs in relay workers, in the main thread, between transactions.  Each link has a producer (kafka_producer.c), whose threads are
 * librdkafka's; what they have to say waits in a queue that rd_kafka_poll serves, so that reports and errors come in the main
 * thread.  A crash leaves nothing but closed sockets.
 */
#include "postgres.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fmgr.h"

#include "kafka_link.h"
#include "kafka_settings.h"
#include "thread.h"

PG_MODULE_MAGIC;

/* bodies that librdkafka has copies of, in a link */
#define MAX_BYTES (64 * 1024 * 1024)
#define REST_MS 100

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
static void free_link(KafkaLink *link);
static bool has_room(KafkaLink *link);

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
	if (!prepare(link, config, fault, size) || !kafka_link_make_producer(link, fault, size))
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

	/* what has failed by now is known before more of its key is sent */
	kafka_order_serve(link);
	if (!has_room(link))
		return false;
	es_links_take(base, message);
	kafka_order_take(link, message);
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
		kafka_order_serve((KafkaLink *) link);
		kafka_order_look_at_time((KafkaLink *) link);
	}
	if (has_rest)
		has_rest = !kafka_producer_throw_rest();
}

static EsOutgoing *
next_done(void)
{
	EsOutgoing *message = es_links_next_done();

	if (message != NULL)
		kafka_order_leave(message);
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
		long long	then = link->state == LINK_OPEN ? link->due : link->produced == 0 ? 0 : link->until;

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
	rd_kafka_conf_set_dr_msg_cb(link->conf, kafka_report_take);
	rd_kafka_conf_set_error_cb(link->conf, kafka_report_take_error);
	(void) rd_kafka_conf_get(link->conf, "enable.idempotence", value, &value_size);
	link->idempotent = strcmp(value, "true") == 0;
	link->plain_text = kafka_is_plain_text(config->url);
	link->networks = strdup(config->allowed_networks);
	if (link->networks == NULL || !kafka_order_make(link, config->max_in_flight))
	{
		snprintf(fault, size, "there is no memory for the connection");
		return false;
	}
	return true;
}

bool
kafka_link_make_producer(KafkaLink *link, char *fault, size_t size)
{
	KafkaRecipe recipe = {.conf = link->conf, .host = host, .networks = link->networks, .plain_text = link->plain_text,
		.idempotent = link->idempotent, .one_by_one = link->one_by_one > 0, .wake_fd = wake_fd};

	link->producer = kafka_producer_make(&recipe, link, fault, size);
	return link->producer != NULL;
}

void
kafka_link_drop_producer(KafkaLink *link)
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
	kafka_link_drop_producer(link);
	kafka_order_free(link);
	if (link->conf != NULL)
		rd_kafka_conf_destroy(link->conf);
	free(link->networks);
	free(link);
}

static bool
has_room(KafkaLink *link)
{
	if (link->state != LINK_OPEN || !es_links_has_room(&link->base) || link->bytes > MAX_BYTES)
		return false;
	if (link->one_by_one != -1)
		return true;
	if (link->waiting > 0)
		return false;
	link->one_by_one = 0;
	kafka_link_drop_producer(link);
	return true;
}
