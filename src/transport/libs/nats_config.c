/*
 * nats_config.c
 *		What a link to NATS is made from: hosts, who we are, TLS; and what may be a subject.
 *
 * Runs in relay workers, and in backends that define endpoints; opens no connection, resolves no name.
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>

#include "nats_config.h"
#include "settings.h"

#define DEFAULT_PORT "4222"
#define MAX_SUBJECT 2000		/* a line of the protocol has 4096 bytes at most */
#define MAX_PREFIX 200

static const char *parse_hosts(const char *url, NatsHost *hosts, int *nhosts);
static const char *parse_host(const char *text, size_t len, NatsHost *into);
static bool check(const EsLinkConfig *config, char *fault, size_t size);
static bool is_key(const char *secret);
static bool take_texts(NatsConfig *into, const EsLinkConfig *from);
static bool take_secrets(NatsConfig *into, const EsLinkConfig *from);
static char *make_inbox(const char *prefix);
static SSL_CTX *make_tls(const EsLinkConfig *config, char *fault, size_t size);
static int	no_password(char *buffer, int size, int writing, void *arg);
static bool load_pem(SSL_CTX *tls, const char *pem);
static const char *shape_fault(const char *subject);

const char *
nats_config_check_url(const char *url)
{
	NatsHost	hosts[NATS_MAX_HOSTS];
	int			nhosts = 0;
	const char *fault = parse_hosts(url, hosts, &nhosts);

	nats_hosts_free(hosts, nhosts);
	return fault;
}

bool
nats_config_take(NatsConfig *into, const EsLinkConfig *from, char *fault, size_t size)
{
	memset(into, 0, sizeof(NatsConfig));
	if (!check(from, fault, size))
		return false;
	snprintf(fault, size, "there is no memory for the connection");
	if (take_texts(into, from) && take_secrets(into, from) &&
		(strncasecmp(from->url, "tls:", 4) != 0 || (into->tls = make_tls(from, fault, size)) != NULL))
		return true;
	nats_config_free(into);
	return false;
}

void
nats_config_free(NatsConfig *config)
{
	SSL_CTX_free(config->tls);
	nats_hosts_free(config->hosts, config->nhosts);
	free(config->networks);
	free(config->server_name);
	free(config->name);
	free(config->user);
	free(config->password);
	free(config->token);
	free(config->jwt);
	free(config->inbox);
	OPENSSL_cleanse(config->seed, sizeof(config->seed));
	memset(config, 0, sizeof(NatsConfig));
}

static const char *
parse_hosts(const char *url, NatsHost *hosts, int *nhosts)
{
	const char *at = strstr(url, "://") + 3;
	const char *end = at + strcspn(at, "/?#");
	const char *fault = NULL;

	*nhosts = 0;
	if (memchr(at, '@', strlen(at)) != NULL)
		return "it has a user or a password; use evtstore.set_endpoint_secret() instead";
	if (end[0] != '\0' && strcmp(end, "/") != 0)
		return "it has a path; the subject is the option \"topic\"";
	while (fault == NULL)
	{
		const char *comma = memchr(at, ',', end - at);
		const char *stop = comma != NULL ? comma : end;

		if (*nhosts == NATS_MAX_HOSTS)
			return "it has more than 16 hosts";
		fault = parse_host(at, stop - at, &hosts[*nhosts]);
		if (fault == NULL)
			(*nhosts)++;
		if (comma == NULL)
			break;
		at = comma + 1;
	}
	return fault;
}

/* HOST[:PORT]; an IPv6 address in brackets */
static const char *
parse_host(const char *text, size_t len, NatsHost *into)
{
	const char *end = text + len;
	const char *name_end;
	const char *port = NULL;

	if (len > 0 && text[0] == '[')
	{
		name_end = memchr(text, ']', len);
		if (name_end == NULL)
			return "it is not well-formed, with a host";
		text++;
		if (name_end + 1 != end && name_end[1] != ':')
			return "it is not well-formed, with a host";
		if (name_end + 1 != end)
			port = name_end + 2;
	}
	else
	{
		const char *colon = memchr(text, ':', len);

		name_end = colon != NULL ? colon : end;
		if (colon != NULL)
			port = colon + 1;
	}
	if (name_end == text)
		return "it has no host";
	for (const char *c = text; c < name_end; c++)
		if (*c <= ' ' || *c >= 0x7f)
			return "it is not well-formed, with a host";
	if (port != NULL && (port == end || end - port > 5 || (int) strspn(port, "0123456789") < end - port ||
						 atoi(port) < 1 || atoi(port) > 65535))
		return "its port is not a number from 1 to 65535";
	into->name = strndup(text, name_end - text);
	into->port = port != NULL ? strndup(port, end - port) : strdup(DEFAULT_PORT);
	if (into->name != NULL && into->port != NULL)
		return NULL;
	nats_hosts_free(into, 1);
	return "there is no memory to look at it";
}

void
nats_hosts_free(NatsHost *hosts, int nhosts)
{
	for (int i = 0; i < nhosts; i++)
	{
		free(hosts[i].name);
		free(hosts[i].port);
	}
}

bool
nats_hosts_copy(NatsHost *into, const NatsHost *hosts, int nhosts)
{
	bool		ok = true;

	for (int i = 0; i < nhosts; i++)
	{
		into[i].name = strdup(hosts[i].name);
		into[i].port = strdup(hosts[i].port);
		ok = ok && into[i].name != NULL && into[i].port != NULL;
	}
	return ok;
}

/* but for TLS, which make_tls looks at */
static bool
check(const EsLinkConfig *config, char *fault, size_t size)
{
	const char *prefix = es_settings_client(config, "inbox_prefix");
	const char *user = es_settings_credentials(config);

	for (int i = 0; i < config->nclient; i++)
		if (strcmp(config->client[i].name, "name") != 0 && strcmp(config->client[i].name, "inbox_prefix") != 0)
		{
			snprintf(fault, size, "unknown client setting \"%s\": NATS has \"name\" and \"inbox_prefix\"", config->client[i].name);
			return false;
		}
	if (prefix != NULL && (shape_fault(prefix) != NULL || strlen(prefix) > MAX_PREFIX))
	{
		snprintf(fault, size, "inbox_prefix is a subject, not \"%s\"", prefix);
		return false;
	}
	if (user != NULL && !is_key(user) && strchr(user, ':') == NULL)
	{
		snprintf(fault, size, "the secret of the user is \"user:password\", a seed (SU...) or a file of credentials");
		return false;
	}
	if (strncasecmp(config->url, "tls:", 4) != 0 &&
		(config->tls_server_name != NULL || config->tls_ca_file != NULL || es_settings_secret(config, "tls") != NULL))
	{
		snprintf(fault, size, "settings and secrets of TLS are for tls://, not for nats://");
		return false;
	}
	return true;
}

/* rather than user and password */
static bool
is_key(const char *secret)
{
	unsigned char seed[NATS_SEED_BYTES];
	char	   *jwt;
	bool		is = nats_key_parse(secret, seed, &jwt);

	OPENSSL_cleanse(seed, sizeof(seed));
	free(jwt);
	return is;
}

/* false: no memory */
static bool
take_texts(NatsConfig *into, const EsLinkConfig *from)
{
	const char *name = es_settings_client(from, "name");
	const char *prefix = es_settings_client(from, "inbox_prefix");

	return parse_hosts(from->url, into->hosts, &into->nhosts) == NULL &&
		(into->networks = strdup(from->allowed_networks)) != NULL &&
		(into->name = strdup(name != NULL ? name : from->endpoint)) != NULL &&
		(into->inbox = make_inbox(prefix != NULL ? prefix : "_INBOX")) != NULL &&
		(from->tls_server_name == NULL || (into->server_name = strdup(from->tls_server_name)) != NULL);
}

/* false: no memory */
static bool
take_secrets(NatsConfig *into, const EsLinkConfig *from)
{
	const char *user = es_settings_credentials(from);
	const char *token = es_settings_secret(from, "bearer");

	if (user != NULL && is_key(user))
		return into->has_key = nats_key_parse(user, into->seed, &into->jwt);
	if (user != NULL)
	{
		into->user = strndup(user, strchr(user, ':') - user);
		into->password = strdup(strchr(user, ':') + 1);
		return into->user != NULL && into->password != NULL;
	}
	return token == NULL || (into->token = strdup(token)) != NULL;
}

/* nobody else is to have the same; NULL: no memory, no random numbers */
static char *
make_inbox(const char *prefix)
{
	unsigned char bytes[12];
	size_t		len = strlen(prefix);
	char	   *inbox = malloc(len + 2 + 2 * sizeof(bytes));

	if (inbox == NULL || getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) != sizeof(bytes))
	{
		free(inbox);
		return NULL;
	}
	sprintf(inbox, "%s.", prefix);
	for (size_t i = 0; i < sizeof(bytes); i++)
		sprintf(inbox + len + 1 + 2 * i, "%02x", bytes[i]);
	return inbox;
}

static SSL_CTX *
make_tls(const EsLinkConfig *config, char *fault, size_t size)
{
	SSL_CTX    *tls = SSL_CTX_new(TLS_client_method());
	const char *pem = es_settings_secret(config, "tls");

	fault[0] = '\0';
	if (tls == NULL || SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1)
		snprintf(fault, size, "could not set TLS up");
	else if (config->tls_ca_file != NULL && SSL_CTX_load_verify_locations(tls, config->tls_ca_file, NULL) != 1)
		snprintf(fault, size, "could not read certificates of authorities from \"%s\"", config->tls_ca_file);
	else if (config->tls_ca_file == NULL && SSL_CTX_set_default_verify_paths(tls) != 1)
		snprintf(fault, size, "could not read the system's certificates of authorities");
	else if (pem != NULL && !load_pem(tls, pem))
		snprintf(fault, size, "the secret \"tls\" is a certificate and its private key, both as PEM");
	ERR_clear_error();
	if (fault[0] != '\0')
	{
		SSL_CTX_free(tls);
		return NULL;
	}
	SSL_CTX_set_verify(tls, config->tls_verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	return tls;
}

/* a password of the key is not asked for on the terminal */
static int
no_password(char *buffer, int size, int writing, void *arg)
{
	return 0;
}

/* the certificate, those between it and its authority, and the key, in any order of certificates and key */
static bool
load_pem(SSL_CTX *tls, const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	X509	   *certificate;
	EVP_PKEY   *key;
	bool		ok = false;
	int			n = 0;

	if (bio == NULL)
		return false;
	while ((certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL)
	{
		ok = n++ == 0 ? SSL_CTX_use_certificate(tls, certificate) == 1 : ok && SSL_CTX_add1_chain_cert(tls, certificate) == 1;
		X509_free(certificate);
	}
	BIO_free(bio);
	bio = BIO_new_mem_buf(pem, -1);
	key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
	ok = ok && key != NULL && SSL_CTX_use_PrivateKey(tls, key) == 1;
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok;
}

/* NULL: it is well-formed, and means one subject */
static const char *
shape_fault(const char *subject)
{
	size_t		len = strlen(subject);

	if (len == 0)
		return "the subject is empty";
	if (len > MAX_SUBJECT)
		return "the subject is longer than 2000 bytes";
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) subject[i] <= ' ' || subject[i] == 0x7f || subject[i] == '*' || subject[i] == '>')
			return "a subject has no spaces, no control characters, no \"*\" and no \">\"";
		if (subject[i] == '.' && (i == 0 || i + 1 == len || subject[i + 1] == '.'))
			return "a subject has no empty parts between its dots";
	}
	return NULL;
}

/* The server's own subjects are commands: nothing in an event may come to one.  A bucket of keys and values is a stream */
const char *
nats_subject_fault(const char *subject)
{
	if ((subject[0] == '$' && strncmp(subject, "$KV.", 4) != 0) || strncmp(subject, "_INBOX.", 7) == 0)
		return "subjects that begin with \"$\" or \"_INBOX.\" are the server's own";
	return shape_fault(subject);
}
