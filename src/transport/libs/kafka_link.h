/*
 * kafka_link.h
 *		What the files that make up a link to Kafka know of each other: kafka.c has links and their producers, kafka_order.c the messages that
 *		are under way, kafka_report.c what librdkafka says of them.
 *
 * For these three only, in the main thread.
 */
#ifndef ES_KAFKA_LINK_H
#define ES_KAFKA_LINK_H

#include "kafka_producer.h"
#include "links.h"

/* a key with messages that next_done has not handed out */
typedef struct KafkaKey
{
	int			messages;
	int			produced;		/* of these, librdkafka has */
	KafkaTopic *topic;			/* of what it has */
	struct KafkaFlight *held_first;
	struct KafkaFlight *held_last;
	uint64		failed;			/* number of the first one that failed; 0: none */
	struct KafkaKey *chain;
	char		name[FLEXIBLE_ARRAY_MEMBER];
} KafkaKey;

typedef enum KafkaFlightState
{
	FLIGHT_FREE,
	FLIGHT_HELD,
	FLIGHT_PRODUCED,			/* librdkafka has it */
	FLIGHT_DONE					/* in the list of next_done */
} KafkaFlightState;

/* the place of a message in its link */
typedef struct KafkaFlight
{
	KafkaFlightState state;
	struct KafkaLink *link;
	EsOutgoing *message;
	KafkaKey   *key;			/* NULL: no order */
	uint64		number;			/* of submission, from 1 */
	long long	deadline;
	struct KafkaFlight *next;	/* free ones; held ones of a key */
} KafkaFlight;

typedef enum KafkaLinkState
{
	LINK_OPEN,
	LINK_SETTLING,				/* going back, see kafka_order.c: waits for reports */
	LINK_PURGING				/* ... for those of what librdkafka was told to forget */
} KafkaLinkState;

typedef struct KafkaLink
{
	EsLink		base;
	KafkaLinkState state;
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
	KafkaFlight *flights;
	KafkaFlight **sorted;		/* room for so many */
	KafkaFlight *free;
	int			waiting;		/* held or produced */
	int			produced;
	size_t		bytes;			/* of these */
	uint64		submitted;
	long long	due;			/* no deadline is before */
	long long	delivered_at;	/* the last one; 0: none */
	KafkaKey   *keys[KAFKA_CHAINS];
} KafkaLink;

/* kafka.c; false and why not */
extern bool kafka_link_make_producer(KafkaLink *link, char *fault, size_t size);
extern void kafka_link_drop_producer(KafkaLink *link);

/* kafka_order.c; false: no memory, and kafka_order_free is called all the same */
extern bool kafka_order_make(KafkaLink *link, int max_in_flight);
extern void kafka_order_free(KafkaLink *link);
/* a message of the link; there is room for it */
extern void kafka_order_take(KafkaLink *link, EsOutgoing *message);
/* next_done hands it out */
extern void kafka_order_leave(EsOutgoing *message);
/* what librdkafka has to say, and what comes of it */
extern void kafka_order_serve(KafkaLink *link);
/* is the time of one over? */
extern void kafka_order_look_at_time(KafkaLink *link);
/* the message's outcome; text and detail as in es_outcome_say */
extern void kafka_order_finish(KafkaFlight *flight, EsOutcome outcome, const char *text, const char *detail);
/* librdkafka has it no more */
extern void kafka_order_take_back(KafkaFlight *flight);
/* no more with this producer.  again: what was not sent goes out with another, but for that whose deadline is not after over */
extern void kafka_order_go_back(KafkaLink *link, const char *cause, bool again, long long over);

/* kafka_report.c; librdkafka's callbacks, in rd_kafka_poll: what became of a message; something is wrong, not with one message */
extern void kafka_report_take(rd_kafka_t *rk, const rd_kafka_message_t *report, void *opaque);
extern void kafka_report_take_error(rd_kafka_t *rk, int code, const char *reason, void *opaque);
/* it failed */
extern void kafka_report_judge(KafkaFlight *flight, rd_kafka_resp_err_t code, bool was_not_sent);

#endif
