/*
 * nats_message.c
 *		The messages of a link to NATS: which can be published, how, and what JetStream answers.
 *
 * Runs in relay workers, in the main thread, between transactions.  Each message that is under way has a slot, and a subject of its own for
 * the answer that names the slot.  A crash leaves nothing: what was not acknowledged is published again, and the stream knows its id.
 */
#include "postgres.h"

#include "nats_json.h"
#include "nats_link.h"
#include "outcome.h"

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

static void judge_error(NatsLink *link, NatsSlot *slot, const char *error, size_t len);

bool
nats_message_refuse(EsOutgoing *message)
{
	const char *fault;

	if (message->topic == NULL)
	{
		es_outcome_say(message, ES_OUTCOME_REJECT, "the endpoint has no topic, which NATS needs for the subject", NULL);
		return true;
	}
	fault = nats_subject_fault(message->topic);
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

void
nats_message_publish(NatsLink *link, NatsSlot *slot)
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
		nats_message_finish(link, slot, certain ? ES_OUTCOME_REJECT : ES_OUTCOME_RETRY, 0, text, NULL);
		return;
	}
	snprintf(token, sizeof(token), "%x-%x", (unsigned) (slot - link->slots), slot->turn);
	slot->at = nats_wire_queued(link->wire);
	if (nats_wire_publish(link->wire, token, message))
		slot->published = true;
	else
		nats_message_finish(link, slot, ES_OUTCOME_UNAVAILABLE, 0, "there is no memory to send it", NULL);
}

void
nats_message_finish(NatsLink *link, NatsSlot *slot, EsOutcome outcome, int status, const char *text, const char *detail)
{
	EsOutgoing *message = slot->message;

	message->status = status;
	es_outcome_say(message, outcome, text, detail);
	slot->message = NULL;
	link->free_slots[link->nfree++] = (int) (slot - link->slots);
	es_links_done(message);
}

/*
 * {"stream": ..., "seq": ...}, also for one that the stream had already, or {"error": {"code", "err_code", "description"}}
 */
void
nats_message_on_answer(void *arg, const char *token, size_t token_len, int status, const char *body, size_t body_len)
{
	NatsLink   *link = arg;
	NatsSlot   *slot;
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
		nats_message_finish(link, slot, ES_OUTCOME_UNAVAILABLE, status, "no stream takes the subject", slot->message->topic);
	else if (nats_json_get(body, body_len, "error", &value, &value_len))
		judge_error(link, slot, value, value_len);
	else if (nats_json_get(body, body_len, "stream", &value, &value_len) && nats_json_get(body, body_len, "seq", &value, &value_len))
		nats_message_finish(link, slot, ES_OUTCOME_DELIVERED, 0, "", NULL);
	else
		nats_message_finish(link, slot, ES_OUTCOME_RETRY, status, "the answer is not JetStream's: somebody else answers on the subject",
			   slot->message->topic);
}

/* what the message's size is to blame for stays; room, quorum, and what is switched off a person or time puts right */
static void
judge_error(NatsLink *link, NatsSlot *slot, const char *error, size_t len)
{
	int			code = nats_json_int(error, len, "code");
	int			err_code = nats_json_int(error, len, "err_code");
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
	nats_message_finish(link, slot, outcome, err_code != 0 ? err_code : code, text, detail);
}

/* nothing else will come for these */
void
nats_message_on_forbidden(void *arg, const char *subject, size_t subject_len)
{
	NatsLink   *link = arg;

	for (int i = 0; i < link->nslots; i++)
	{
		NatsSlot   *slot = &link->slots[i];

		if (slot->message != NULL && slot->published && strlen(slot->message->topic) == subject_len &&
			memcmp(slot->message->topic, subject, subject_len) == 0)
			nats_message_finish(link, slot, ES_OUTCOME_RETRY, 403, "the server does not let this user publish to", slot->message->topic);
	}
}
