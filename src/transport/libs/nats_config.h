/*
 * nats_config.h
 *		What a link to NATS is made from: hosts, who we are, TLS; and what may be a subject.
 */
#ifndef ES_NATS_CONFIG_H
#define ES_NATS_CONFIG_H

#include <openssl/ssl.h>

#include "../transport.h"
#include "nats_key.h"

#define NATS_MAX_HOSTS 16

typedef struct NatsHost
{
	char	   *name;
	char	   *port;
} NatsHost;

/* copies, all of malloc; all zero is an empty one */
typedef struct NatsConfig
{
	int			nhosts;
	NatsHost	hosts[NATS_MAX_HOSTS];
	char	   *networks;
	char	   *server_name;	/* NULL: the host's */
	char	   *name;			/* of the connection */
	char	   *user;			/* NULL: none */
	char	   *password;
	char	   *token;			/* NULL: none */
	bool		has_key;
	unsigned char seed[NATS_SEED_BYTES];	/* of the key */
	char	   *jwt;			/* that says whose the key is; NULL: the server knows it */
	char	   *inbox;			/* where answers come to, with .something; nobody else has the same */
	SSL_CTX    *tls;			/* NULL: plain text */
} NatsConfig;

/* NULL: the URL is acceptable */
extern const char *nats_config_check_url(const char *url);
/* false: it is not acceptable, or there is no memory; then nothing is to be freed */
extern bool nats_config_take(NatsConfig *into, const EsLinkConfig *from, char *fault, size_t size);
extern void nats_config_free(NatsConfig *config);
extern bool nats_hosts_copy(NatsHost *into, const NatsHost *hosts, int nhosts);
extern void nats_hosts_free(NatsHost *hosts, int nhosts);
/* NULL: messages may be published to it */
extern const char *nats_subject_fault(const char *subject);

#endif
