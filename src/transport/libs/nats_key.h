/*
 * nats_key.h
 *		Who we are, by a key (NKEY) or by a credentials file (JWT and key): what the server sent is signed.
 */
#ifndef ES_NATS_KEY_H
#define ES_NATS_KEY_H

#include <stdbool.h>
#include <stddef.h>

#define NATS_SEED_BYTES 32
#define NATS_PUBLIC_TEXT 57		/* with its end */
#define NATS_SIGNATURE_TEXT 87

/* a user's seed (SU...), or a file of credentials: *jwt is a copy of what the file has, NULL for a seed alone.  false: it is neither */
extern bool nats_key_parse(const char *secret, unsigned char *seed, char **jwt);
/* the public key (U...) */
extern bool nats_key_public(const unsigned char *seed, char *text);
/* as base64 of URLs, without padding */
extern bool nats_key_sign(const unsigned char *seed, const char *nonce, size_t len, char *text);

#endif
