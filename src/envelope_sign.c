/*
 * envelope_sign.c
 *		Signatures of Standard Webhooks: HMAC-SHA256 of "ID.TIMESTAMP.BODY".
 *
 * Runs in relay workers; keeps nothing.  A message is signed with every key that holds, so that a receiver may change its own at
 * any time while the old one and the new one do.
 */
#include "postgres.h"

#include <time.h>

#include "common/base64.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"

#include "clock.h"
#include "compat.h"
#include "envelope.h"

/* base64 of a SHA-256 */
#define SIGNATURE_TEXT_BYTES 44

static void digest(const EsSigningKey *key, const char *head, int head_len, const char *body, size_t body_len, uint8 *result);

/* the receiver compares the timestamp with its own clock, which evtstore.clock_offset does not move */
char *
es_envelope_sign(const EsEndpoint *endpoint, const char *id, const char *body, size_t body_len, char *timestamp)
{
	StringInfoData head;
	StringInfoData signatures;
	TimestampTz now = es_clock_now();

	snprintf(timestamp, ES_ENVELOPE_TIMESTAMP_BYTES, "%lld", (long long) time(NULL));
	initStringInfo(&head);
	appendStringInfo(&head, "%s.%s.", id, timestamp);
	initStringInfo(&signatures);
	for (int i = 0; i < endpoint->nsigning; i++)
	{
		uint8		result[PG_SHA256_DIGEST_LENGTH];
		char		text[SIGNATURE_TEXT_BYTES + 1];
		int			len;

		if (endpoint->signing[i].until != 0 && endpoint->signing[i].until <= now)
			continue;
		digest(&endpoint->signing[i], head.data, head.len, body, body_len, result);
		len = pg_b64_encode((const void *) result, sizeof(result), text, SIGNATURE_TEXT_BYTES);
		Assert(len == SIGNATURE_TEXT_BYTES);
		appendStringInfo(&signatures, "%sv1,%.*s", signatures.len == 0 ? "" : " ", len, text);
	}
	return signatures.data;
}

static void
digest(const EsSigningKey *key, const char *head, int head_len, const char *body, size_t body_len, uint8 *result)
{
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);

	if (context == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	if (pg_hmac_init(context, key->bytes, key->len) < 0 ||
		pg_hmac_update(context, (const uint8 *) head, head_len) < 0 ||
		pg_hmac_update(context, (const uint8 *) body, body_len) < 0 ||
		pg_hmac_final(context, result, PG_SHA256_DIGEST_LENGTH) < 0)
	{
		char	   *why = pstrdup(pg_hmac_error(context));

		pg_hmac_free(context);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not sign a message: %s", why)));
	}
	pg_hmac_free(context);
}
