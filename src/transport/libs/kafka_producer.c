/*
 * kafka_producer.c
 *		A producer of librdkafka: how it is made and ended, whom it may talk to, and what it says is wrong.
 *
 * Runs in relay workers.  The main thread makes producers; take_log and connect_checked run in librdkafka's threads.  They look at what does
 * not change, and write under the producer's mutex.  The end of a producer is waited for in a thread of its own, because librdkafka
 * waits for all of its threads there, and one may be asking a name server.  A crash ends all threads with the process.
 */
#include "postgres.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "kafka_producer.h"
#include "kafka_settings.h"
#include "thread.h"

static KafkaProducer *rest = NULL;	/* main thread */

static KafkaProducer *new_producer(const KafkaRecipe *recipe);
static bool complete(rd_kafka_conf_t *conf, const KafkaRecipe *recipe, KafkaProducer *producer, char *fault, size_t size);
static void free_producer(KafkaProducer *producer);
static void destroy_aside(KafkaProducer *producer);
static void run_destroy(EsThread *thread, void *arg);
static void take_log(const rd_kafka_t *rk, int level, const char *facility, const char *text);
static int	connect_checked(int fd, const struct sockaddr *address, int len, const char *broker, void *opaque);

KafkaProducer *
kafka_producer_make(const KafkaRecipe *recipe, void *owner, char *fault, size_t size)
{
	/* librdkafka looks at it at any time */
	static const uint64 one = 1;
	KafkaProducer *producer = new_producer(recipe);
	rd_kafka_conf_t *conf;
	sigset_t	all;
	sigset_t	saved;

	if (producer == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		return NULL;
	}
	producer->owner = owner;
	conf = rd_kafka_conf_dup(recipe->conf);
	if (!complete(conf, recipe, producer, fault, size))
	{
		rd_kafka_conf_destroy(conf);
		free_producer(producer);
		return NULL;
	}
	/* the server's handlers must not run in librdkafka's threads */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	producer->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, fault, size);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (producer->rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		free_producer(producer);
		return NULL;
	}
	producer->queue = rd_kafka_queue_get_main(producer->rk);
	rd_kafka_queue_io_event_enable(producer->queue, recipe->wake_fd, &one, sizeof(one));
	return producer;
}

void
kafka_producer_throw_away(KafkaProducer *producer)
{
	producer->owner = NULL;
	for (int i = 0; i < KAFKA_CHAINS; i++)
		while (producer->topics[i] != NULL)
		{
			KafkaTopic *topic = producer->topics[i];

			producer->topics[i] = topic->chain;
			rd_kafka_topic_destroy(topic->handle);
			free(topic);
		}
	(void) rd_kafka_purge(producer->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(producer->queue);
	destroy_aside(producer);
}

bool
kafka_producer_throw_rest(void)
{
	KafkaProducer *again = rest;

	rest = NULL;
	while (again != NULL)
	{
		KafkaProducer *producer = again;

		again = producer->next;
		destroy_aside(producer);
	}
	return rest == NULL;
}

/* librdkafka would look for the name in a list, message by message */
KafkaTopic *
kafka_producer_topic(KafkaProducer *producer, const char *name)
{
	KafkaTopic **chain = &producer->topics[kafka_hash(name) % KAFKA_CHAINS];
	KafkaTopic *topic;

	for (topic = *chain; topic != NULL; topic = topic->chain)
		if (strcmp(topic->name, name) == 0)
			return topic;
	topic = calloc(1, sizeof(KafkaTopic) + strlen(name) + 1);
	if (topic == NULL)
		return NULL;
	strcpy(topic->name, name);
	topic->handle = rd_kafka_topic_new(producer->rk, name, NULL);
	if (topic->handle == NULL)
	{
		free(topic);
		return NULL;
	}
	topic->chain = *chain;
	*chain = topic;
	return topic;
}

void
kafka_producer_note(KafkaProducer *producer, const char *text)
{
	pthread_mutex_lock(&producer->mutex);
	snprintf(producer->last_error, sizeof(producer->last_error), "%s", text);
	pthread_mutex_unlock(&producer->mutex);
}

bool
kafka_producer_refused(KafkaProducer *producer, char *text, size_t size)
{
	bool		refused;

	pthread_mutex_lock(&producer->mutex);
	refused = producer->refused[0] != '\0';
	if (refused)
		snprintf(text, size, producer->plain_text
				 ? "without TLS only addresses of evtstore.allowed_networks are talked to, and %s has none"
				 : "%s has a loopback, private or special address that evtstore.allowed_networks does not have", producer->refused);
	pthread_mutex_unlock(&producer->mutex);
	return refused;
}

void
kafka_producer_silence(KafkaProducer *producer, long ms, char *text, size_t size)
{
	if (kafka_producer_refused(producer, text, size))
		return;
	pthread_mutex_lock(&producer->mutex);
	snprintf(text, size, "no answer within %ld ms%s%s", ms, producer->last_error[0] != '\0' ? ": " : "", producer->last_error);
	pthread_mutex_unlock(&producer->mutex);
}

uint32_t
kafka_hash(const char *text)
{
	uint32_t	hash = 2166136261u;

	for (; *text != '\0'; text++)
		hash = (hash ^ (unsigned char) *text) * 16777619u;
	return hash;
}

/* NULL: no memory */
static KafkaProducer *
new_producer(const KafkaRecipe *recipe)
{
	KafkaProducer *producer = calloc(1, sizeof(KafkaProducer));

	if (producer == NULL)
		return NULL;
	producer->networks = strdup(recipe->networks);
	if (producer->networks == NULL)
	{
		free(producer);
		return NULL;
	}
	producer->host = recipe->host;
	producer->plain_text = recipe->plain_text;
	producer->one_by_one = recipe->one_by_one;
	pthread_mutex_init(&producer->mutex, NULL);
	return producer;
}

static bool
complete(rd_kafka_conf_t *conf, const KafkaRecipe *recipe, KafkaProducer *producer, char *fault, size_t size)
{
	rd_kafka_conf_set_opaque(conf, producer);
	rd_kafka_conf_set_log_cb(conf, take_log);
	rd_kafka_conf_set_connect_cb(conf, connect_checked);
	return (!recipe->idempotent || kafka_set(conf, "enable.gapless.guarantee", "true", fault, size)) &&
		(!recipe->one_by_one || kafka_set(conf, "batch.num.messages", "1", fault, size));
}

static void
free_producer(KafkaProducer *producer)
{
	pthread_mutex_destroy(&producer->mutex);
	free(producer->networks);
	free(producer);
}

static void
destroy_aside(KafkaProducer *producer)
{
	EsThread   *thread = es_thread_start(run_destroy, producer);

	if (thread != NULL)
	{
		es_thread_stop(thread);
		return;
	}
	producer->next = rest;
	rest = producer;
}

static void
run_destroy(EsThread *thread, void *arg)
{
	KafkaProducer *producer = arg;

	rd_kafka_destroy_flags(producer->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	free_producer(producer);
}

/* any thread */
static void
take_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
	/* warnings, as syslog counts; not those about settings, which come with each producer and explain nothing */
	if (level <= 4 && strcmp(facility, "CONFWARN") != 0)
		kafka_producer_note(rd_kafka_opaque(rk), text);
}

/*
 * To an address of a broker, of the url's or of one that the cluster named.  In the broker's thread; the socket does not block.
 */
static int
connect_checked(int fd, const struct sockaddr *address, int len, const char *broker, void *opaque)
{
	KafkaProducer *producer = opaque;

	if (!producer->host->address_allowed(address, producer->networks, producer->plain_text))
	{
		pthread_mutex_lock(&producer->mutex);
		snprintf(producer->refused, sizeof(producer->refused), "%s", broker);
		pthread_mutex_unlock(&producer->mutex);
		return EACCES;
	}
	return connect(fd, address, len) == 0 || errno == EINPROGRESS ? 0 : errno;
}
