/*
 * envelope.h
 *		A delivery as a CloudEvent 1.0.2 over HTTP.
 */
#ifndef ES_ENVELOPE_H
#define ES_ENVELOPE_H

#include "endpoint.h"
#include "queue.h"

typedef struct EsEnvelopeHeader
{
	const char *name;
	const char *value; /* printable ASCII */
} EsEnvelopeHeader;

/* everything palloc'd in the context of the call; text is UTF-8 whatever the database has */
typedef struct EsEnvelope
{
	EsEnvelopeHeader *headers;
	int nheaders;
	char *body;
	size_t body_len;
} EsEnvelope;

/* in the endpoint's format and with its extra headers.  Needs a transaction where the database is not UTF-8 */
extern void es_envelope_http(const EsDelivery *delivery, const char *queue, const EsEndpoint *endpoint,
							 EsEnvelope *envelope);

#endif
