/*
 * kafka_producer.h
 *		A producer of librdkafka, as a link has one after the other.
 */
#ifndef ES_KAFKA_PRODUCER_H
#define ES_KAFKA_PRODUCER_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>

#include "../transport.h"

/* chains in a table of topics */
#define KAFKA_CHAINS 256

typedef struct KafkaTopic
{
	rd_kafka_topic_t *handle;
	struct KafkaTopic *chain;
	char name[];
} KafkaTopic;

/* librdkafka's threads see it, too, and it outlives its link where they need time to end */
typedef struct KafkaProducer
{
	/* what belongs to the main thread */
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;
	void *owner; /* NULL: thrown away, nothing that it says matters */
	bool worked; /* it has delivered something */
	KafkaTopic *topics[KAFKA_CHAINS];
	struct KafkaProducer *next; /* of those for which no thread was to be had */
	/* what does not change */
	const EsTransportHost *host;
	char *networks;
	bool plain_text;
	bool one_by_one; /* batches of one message */
	/* under the mutex */
	pthread_mutex_t mutex;
	char last_error[160]; /* '' none since the last delivery */
	char refused[100];	  /* the broker whose address may not be talked to; '' none */
} KafkaProducer;

/* what a producer is made from, with the callbacks that the owner wants; owner is the opaque's owner */
typedef struct KafkaRecipe
{
	const rd_kafka_conf_t *conf;
	const EsTransportHost *host;
	const char *networks;
	bool plain_text;
	bool idempotent;
	bool one_by_one; /* batches of one message */
	int wake_fd;	 /* eventfd, written to when rd_kafka_poll has something */
} KafkaRecipe;

/* begins to connect; NULL and why not */
extern KafkaProducer *kafka_producer_make(const KafkaRecipe *recipe, void *owner, char *fault, size_t size);
/* what it still has is reported to nobody; waits for nothing */
extern void kafka_producer_throw_away(KafkaProducer *producer);
/* those for which there was no thread before; false: there still is none for one */
extern bool kafka_producer_throw_rest(void);
/* made where there is none; NULL: it could not be */
extern KafkaTopic *kafka_producer_topic(KafkaProducer *producer, const char *name);
/* what may be why nothing comes; any thread */
extern void kafka_producer_note(KafkaProducer *producer, const char *text);
/* false: no address was refused */
extern bool kafka_producer_refused(KafkaProducer *producer, char *text, size_t size);
/* "no answer within ...", and why, as far as is known */
extern void kafka_producer_silence(KafkaProducer *producer, long ms, char *text, size_t size);
/* FNV-1a */
extern uint32_t kafka_hash(const char *text);

#endif
