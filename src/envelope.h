/*
 * envelope.h
 *		A delivery as the message that goes out: a CloudEvent 1.0.2 in the binding of its transport, or another format.
 */
#ifndef ES_ENVELOPE_H
#define ES_ENVELOPE_H

#include "endpoint.h"
#include "queue.h"
#include "transport/transport.h"

/*
 * Fills id, topic, key, headers, body and timeout_ms of the message; all of it is palloc'd in the current context, or points into the
 * delivery or the endpoint.  source_name: the queue or subscription.  The message is signed as of now.  Raises an error for what cannot be put into a message.  Needs a transaction where the database is not UTF-8, and where
 * jsonb is toasted.
 */
extern void es_envelope_make(const EsDelivery *delivery, const char *source_name, bool is_replay, const EsEndpoint *endpoint,
							 const EsTransport *transport, EsOutgoing *out);
/* the same for format batched, several in one message.  Which of them an error is about, who makes each alone finds out */
extern void es_envelope_make_batch(const EsDelivery *const *deliveries, int n, const char *source_name, bool is_replay,
								   const EsEndpoint *endpoint, const EsTransport *transport, EsOutgoing *out);

/* before an attempt: a signature is as old as its attempt and no older.  What is new is palloc'd */
extern void es_envelope_sign_again(const EsEndpoint *endpoint, EsOutgoing *out);

/*
 * Between envelope.c and envelope_sign.c only
 */

/* at least so many bytes: see es_envelope_sign */
#define ES_ENVELOPE_TIMESTAMP_BYTES 24
/* the value of webhook-signature, by all keys of the endpoint; fills timestamp */
extern char *es_envelope_sign(const EsEndpoint *endpoint, const char *id, const char *body, size_t body_len, char *timestamp);

#endif
