/*
 * transport.c
 *		Which transport takes which URL, and the loading of its library.
 *
 * Runs in backends (create_endpoint looks at URLs) and in relay workers.  What was loaded stays in the process; nothing is shared
 * or locked.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "fmgr.h"
#include "miscadmin.h"

#include "compat.h"
#include "transport.h"

/* which library has which schemes: so that none is loaded to find out */
typedef struct Library
{
	const char *name;			/* evtstore_NAME */
	const char *schemes[4];		/* ended by NULL */
	const EsTransport *transport;	/* NULL: not loaded yet */
} Library;

static Library libraries[] = {
	{"http", {"https", "http"}},
	{"kafka", {"kafka", "kafkas"}},
	{"amqp", {"amqp", "amqps"}},
	{"nats", {"nats", "tls"}},
	{"postgresql", {"postgresql", "postgres"}},
};

static const EsTransportHost host = {
	.version = ES_TRANSPORT_VERSION,
	.address_allowed = es_transport_address_allowed,
};

static Library *find_library(const char *url);
static void load(Library *library);
static int	scheme_length(const char *url);

const EsTransport *
es_transport_for_url(const char *url)
{
	Library    *library = find_library(url);

	if (library == NULL)
		return NULL;
	if (library->transport == NULL)
		load(library);
	return library->transport;
}

const EsTransport *
es_transport_loaded(int n)
{
	for (int i = 0; i < lengthof(libraries); i++)
		if (libraries[i].transport != NULL && n-- == 0)
			return libraries[i].transport;
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

static Library *
find_library(const char *url)
{
	int			len = scheme_length(url);

	if (len == 0)
		return NULL;
	for (int i = 0; i < lengthof(libraries); i++)
		for (const char **scheme = libraries[i].schemes; *scheme != NULL; scheme++)
			if (strlen(*scheme) == len && pg_strncasecmp(*scheme, url, len) == 0)
				return &libraries[i];
	return NULL;
}

/* the server would say that it could not access a file; what is missing is a library of ours, or one that it needs */
static void
load(Library *library)
{
	char		path[MAXPGPATH];
	struct stat st;
	EsTransportEntry entry;
	const EsTransport *transport;

	snprintf(path, sizeof(path), "%s/evtstore_%s%s", pkglib_path, library->name, DLSUFFIX);
	if (stat(path, &st) != 0 && errno == ENOENT)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("the transport for %s:// is not installed", library->schemes[0]),
				 errdetail("There is no library \"%s\".", path),
				 errhint("Build evtstore where the client library and its headers are, and install it again.")));
	entry = (EsTransportEntry) load_external_function(path, ES_TRANSPORT_ENTRY, true, NULL);
	transport = entry(&host);
	if (transport == NULL || transport->version != ES_TRANSPORT_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"%s\" is of another version of evtstore", path),
				 errhint("Install evtstore again, and restart the server.")));
	library->transport = transport;
}

/* length of the scheme that ends with "://"; 0: none.  A scheme is ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ) */
static int
scheme_length(const char *url)
{
	int			len = strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");

	return strncmp(url + len, "://", 3) == 0 ? len : 0;
}
