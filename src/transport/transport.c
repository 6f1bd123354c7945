/*
 * transport.c
 *		Which transport takes which URL.
 *
 * Runs in backends (create_endpoint looks at URLs) and in delivery workers.  The table is constant: nothing is kept,
 * shared or locked.
 */
#include "postgres.h"

#include <signal.h>

#include "transport.h"

static const EsTransport *const transports[] = {
	&es_transport_http,
};

static int	scheme_length(const char *url);

const EsTransport *
es_transport_for_url(const char *url)
{
	int			len = scheme_length(url);

	if (len == 0)
		return NULL;
	for (int i = 0; i < lengthof(transports); i++)
		for (const char *const *scheme = transports[i]->schemes; *scheme != NULL; scheme++)
			if (strlen(*scheme) == len && pg_strncasecmp(*scheme, url, len) == 0)
				return transports[i];
	return NULL;
}

const char *
es_transport_check_url(const char *url)
{
	const EsTransport *transport;

	if (strlen(url) > ES_TRANSPORT_MAX_URL)
		return "it is longer than 2048 bytes";
	/* what is not plain ASCII is read in different ways by different parsers */
	for (const char *c = url; *c != '\0'; c++)
		if (*c <= ' ' || *c >= 0x7f)
			return "it has characters that must be percent-encoded";
	transport = es_transport_for_url(url);
	if (transport == NULL)
		return "its scheme is none that endpoints know";
	return transport->check_url(url);
}

/* length of the scheme that ends with "://"; 0: none.  A scheme is ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ) */
static int
scheme_length(const char *url)
{
	int			len = strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");

	return strncmp(url + len, "://", 3) == 0 ? len : 0;
}
