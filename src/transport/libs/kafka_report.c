/*
 * kafka_report.c
 *		What librdkafka says of messages and of itself, and what that means for them.
 *
 * Runs in relay workers, in the main thread, between transactions: librdkafka's threads put reports into a queue, and rd_kafka_poll calls
 * what is here.  It keeps nothing, so a crash leaves nothing.
 */
#include "postgres.h"

#include "kafka_link.h"
#include "thread.h"

static void producer_ended(KafkaLink *link);
static bool refused_batch(KafkaFlight *flight);
static void given_back(KafkaFlight *flight, const char *text, bool was_not_sent);

void
kafka_report_take(rd_kafka_t *rk, const rd_kafka_message_t *report, void *opaque)
{
	KafkaProducer *producer = opaque;
	KafkaFlight *flight = report->_private;

	if (producer->owner == NULL)
		return;
	if (report->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		kafka_report_judge(flight, report->err, rd_kafka_message_status(report) == RD_KAFKA_MSG_STATUS_NOT_PERSISTED);
		return;
	}
	if (!producer->worked)
		kafka_producer_note(producer, "");
	producer->worked = true;
	flight->link->delivered_at = es_thread_now();
	/* never so where brokers mind the numbers; should it be so, it is not to be told as if it were in order */
	if (flight->key != NULL && flight->key->failed > 0 && flight->number > flight->key->failed)
		kafka_order_finish(flight, ES_OUTCOME_RETRY, "it arrived, but an earlier one of its key failed", NULL);
	else
		kafka_order_finish(flight, ES_OUTCOME_DELIVERED, "", NULL);
}

void
kafka_report_take_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
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
		kafka_order_go_back(producer->owner, text, false, 0);
}

/* by a refusal, which concerns one partition; or because brokers want no such producer at all */
static void
producer_ended(KafkaLink *link)
{
	char		text[200] = "";
	char		cause[200];
	rd_kafka_resp_err_t code = rd_kafka_fatal_error(link->producer->rk, text, sizeof(text));

	snprintf(cause, sizeof(cause), "%s%s", code == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE ? "another message failed: " : "", text);
	kafka_order_go_back(link, cause, code == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE, 0);
}

/* what is wrong with a message is so the next time, too; what is wrong with a topic, a person puts right */
void
kafka_report_judge(KafkaFlight *flight, rd_kafka_resp_err_t code, bool was_not_sent)
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
				kafka_order_finish(flight, ES_OUTCOME_REJECT, rd_kafka_err2str(code), flight->message->topic);
			break;
		case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
		case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
		case RD_KAFKA_RESP_ERR__FATAL:
			if (code == RD_KAFKA_RESP_ERR__FATAL)
				producer_ended(link);
			given_back(flight, rd_kafka_err2str(code), was_not_sent && code != RD_KAFKA_RESP_ERR__PURGE_INFLIGHT);
			break;
		case RD_KAFKA_RESP_ERR__QUEUE_FULL:
			kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, rd_kafka_err2str(code), NULL);
			break;
		default:
			kafka_order_finish(flight, ES_OUTCOME_RETRY, rd_kafka_err2str(code), flight->message->topic);
			break;
	}
	link->doubt = true;
}

/*
 * Brokers judge batches.  What is refused together with others may be fine: then all that is there goes out one by one, to see which
 * it is.  false: it was alone.
 */
static bool
refused_batch(KafkaFlight *flight)
{
	KafkaLink  *link = flight->link;

	if (flight->state != FLIGHT_PRODUCED || link->producer->one_by_one || link->waiting < 2)
		return false;
	if (link->one_by_one <= 0)
		link->one_by_one = link->waiting;
	kafka_order_go_back(link, "a batch was refused", true, 0);
	kafka_order_take_back(flight);
	return true;
}

/* by librdkafka, which was told to: to go out again, or for good */
static void
given_back(KafkaFlight *flight, const char *text, bool was_not_sent)
{
	KafkaLink  *link = flight->link;

	if (link->state != LINK_OPEN)
		text = link->cause;
	if (!was_not_sent)
		kafka_order_finish(flight, ES_OUTCOME_RETRY, text, NULL);
	else if (link->state == LINK_OPEN)
		kafka_order_finish(flight, ES_OUTCOME_UNAVAILABLE, text, NULL);
	else
		kafka_order_take_back(flight);
}
