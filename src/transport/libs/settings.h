/*
 * settings.h
 *		What an endpoint says, by name: what every transport looks for in its settings and secrets.
 *
 * Compiled into each library; nothing is kept.
 */
#ifndef ES_SETTINGS_H
#define ES_SETTINGS_H

#include "../transport.h"

/* a setting of the client library; NULL: it is not given */
extern const char *es_settings_client(const EsLinkConfig *config, const char *name);
/* NULL: there is no secret of that kind */
extern const char *es_settings_secret(const EsLinkConfig *config, const char *kind);
/* who to be and how to prove it, mostly USER:PASSWORD: the secret "sasl", or else "basic"; NULL: neither is there */
extern const char *es_settings_credentials(const EsLinkConfig *config);
/* of malloc; NULL of NULL */
extern char *es_settings_copy(const char *text);

#endif
