/*
 * settings.c
 *		Settings and secrets of an endpoint, by name.
 *
 * Runs in backends (create_endpoint has them checked) and in relay workers, in the main thread.  Keeps nothing.
 */
#include "postgres.h"

#include <stdlib.h>

#include "settings.h"

static const char *find(const EsSetting *settings, int n, const char *name);

const char *
es_settings_client(const EsLinkConfig *config, const char *name)
{
	return find(config->client, config->nclient, name);
}

const char *
es_settings_secret(const EsLinkConfig *config, const char *kind)
{
	return find(config->secrets, config->nsecrets, kind);
}

const char *
es_settings_credentials(const EsLinkConfig *config)
{
	const char *secret = es_settings_secret(config, "sasl");

	return secret != NULL ? secret : es_settings_secret(config, "basic");
}

char *
es_settings_copy(const char *text)
{
	return text == NULL ? NULL : strdup(text);
}

static const char *
find(const EsSetting *settings, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(settings[i].name, name) == 0)
			return settings[i].value;
	return NULL;
}
