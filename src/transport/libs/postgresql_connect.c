/*
 * postgresql_connect.c
 *		URLs of other databases, and connections to them.
 *
 * URLs are read in backends and relay workers; connections are made in the links' threads (postgresql.c), where no function of the server
 * may be called.
 *
 * libpq looks into many places for what it is not told: variables of the environment, files in the home directory of whoever runs
 * the server, a service file.  So the URL is read here and not there, with a list of parameters that are allowed, and libpq is told
 * everything that decides where it connects and as whom: the numeric address that was checked (address.c), beside the name that the
 * certificate must have; the password, the certificates, the database's name.  Files that must not be found are given a name that
 * no file can have, and the variables are taken out of the relay's environment, where nobody else needs them.
 *
 * Encrypted and verified unless the URL says sslmode=disable, and that only to addresses of evtstore.allowed_networks.
 */
#include "postgres.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "postgresql.h"
#include "settings.h"

#define DEFAULT_PORT "5432"
#define DEFAULT_CONNECT_MS 10000L
/* of a host's addresses only so many are tried */
#define MAX_ADDRESSES 8
#define MAX_PARAMETERS 40
/* how soon a stop is seen */
#define SLICE_MS 100
/* no file: the beginning is none of a directory */
#define NO_FILE "/dev/null/none"

/* what a superuser may pass through */
static const char *const client_settings[] = {"options", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
	"tcp_user_timeout", "channel_binding", "ssl_min_protocol_version", "ssl_max_protocol_version", NULL};

/* where systems have the certificates of their authorities */
static const char *const ca_files[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem", NULL};

/* for PQconnectStartParams */
typedef struct Parameters
{
	int			n;
	const char *names[MAX_PARAMETERS + 1];
	const char *values[MAX_PARAMETERS + 1];
} Parameters;

static const char *parse_authority(const char *text, size_t len, EsPgUrl *url);
static const char *parse_parameters(const char *text, EsPgUrl *url);
static const char *parse_parameter(const char *name, size_t name_len, const char *value, size_t value_len, EsPgUrl *url);
static const char *check_values(const EsPgUrl *url);
static bool decode(const char *text, size_t len, char *buffer, size_t size);
static bool is_number(const char *text, long min, long max);
static bool is_one_of(const char *text, const char *const *list);
static bool copy_settings(EsPgTarget *target, const EsLinkConfig *config);
static bool set_password(EsPgTarget *target, const EsLinkConfig *config, char *fault, size_t size);
static PGconn *dial(EsThread *thread, const EsPgTarget *target, const struct addrinfo *address, long long deadline, char *fault,
					size_t size);
static void set_tls(const EsPgTarget *target, Parameters *parameters, const char *pem_file);
static const char *find_ca_file(void);
static int	make_pem_file(const char *pem);
static void set(Parameters *parameters, const char *name, const char *value);
static bool finish_connect(EsThread *thread, PGconn *conn, long long deadline, char *fault, size_t size);

/* SCHEME://[USER@]HOST[:PORT]/DATABASE[?NAME=VALUE&...] */
const char *
es_pg_parse_url(const char *text, EsPgUrl *url)
{
	const char *authority = strstr(text, "://");
	const char *path;
	const char *question;
	const char *fault;

	memset(url, 0, sizeof(*url));
	if (authority == NULL)
		return "it is not well-formed, with a host";
	authority += 3;
	if (strchr(authority, '#') != NULL)
		return "it has a fragment";
	path = authority + strcspn(authority, "/?");
	fault = parse_authority(authority, path - authority, url);
	if (fault != NULL)
		return fault;
	if (*path != '/')
		return "it has no database: write postgresql://host/database";
	path++;
	question = path + strcspn(path, "?");
	if (memchr(path, '/', question - path) != NULL || !decode(path, question - path, url->database, sizeof(url->database)))
		return "its database is no name, percent-encoded where need be";
	if (url->database[0] == '\0')
		return "it has no database: write postgresql://host/database";
	if (*question == '?')
		fault = parse_parameters(question + 1, url);
	return fault != NULL ? fault : check_values(url);
}

/* [USER@]HOST[:PORT], an IPv6 address in brackets */
static const char *
parse_authority(const char *text, size_t len, EsPgUrl *url)
{
	const char *end = text + len;
	const char *at = memchr(text, '@', len);
	const char *name = at == NULL ? text : at + 1;
	const char *name_end;
	const char *port;

	if (at != NULL && memchr(text, ':', at - text) != NULL)
		return "it has a password; use evtstore.set_endpoint_secret() instead";
	if (at != NULL && (!decode(text, at - text, url->user, sizeof(url->user)) || url->user[0] == '\0'))
		return "its user is no name, percent-encoded where need be";
	if (*name == '[')
	{
		name++;
		name_end = name + strspn(name, "0123456789abcdefABCDEF:.");
		port = name_end + 1;
		if (name_end >= end || *name_end != ']')
			return "its host is no IPv6 address in brackets";
	}
	else
	{
		name_end = name + strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._");
		port = name_end;
	}
	if (name_end == name || name == end)
		return "it has no host; sockets of a file system are not for endpoints";
	if (name_end - name >= (ptrdiff_t) sizeof(url->host) || (port < end && *port != ':'))
		return "its host is not one name or address";
	memcpy(url->host, name, name_end - name);
	strcpy(url->port, DEFAULT_PORT);
	if (port == end)
		return NULL;
	port++;
	if (end - port < 1 || end - port >= (ptrdiff_t) sizeof(url->port))
		return "its port is not a number from 1 to 65535";
	memcpy(url->port, port, end - port);
	url->port[end - port] = '\0';
	return is_number(url->port, 1, 65535) ? NULL : "its port is not a number from 1 to 65535";
}

static const char *
parse_parameters(const char *text, EsPgUrl *url)
{
	const char *fault = NULL;

	while (fault == NULL && *text != '\0')
	{
		size_t		len = strcspn(text, "&");
		const char *equals = memchr(text, '=', len);

		if (equals == NULL)
			return "a parameter has no value: write name=value";
		fault = parse_parameter(text, equals - text, equals + 1, text + len - equals - 1, url);
		text += len + (text[len] == '&' ? 1 : 0);
	}
	return fault;
}

static const char *
parse_parameter(const char *name, size_t name_len, const char *value, size_t value_len, EsPgUrl *url)
{
	struct
	{
		const char *name;
		char	   *buffer;
		size_t		size;
	}			allowed[] = {
		{"sslmode", url->sslmode, sizeof(url->sslmode)},
		{"connect_timeout", url->connect_timeout, sizeof(url->connect_timeout)},
		{"application_name", url->application_name, sizeof(url->application_name)},
		{"target_session_attrs", url->target_session_attrs, sizeof(url->target_session_attrs)},
	};

	for (int i = 0; i < lengthof(allowed); i++)
	{
		if (strlen(allowed[i].name) != name_len || strncmp(allowed[i].name, name, name_len) != 0)
			continue;
		if (allowed[i].buffer[0] != '\0')
			return "a parameter stands twice in it";
		if (!decode(value, value_len, allowed[i].buffer, allowed[i].size) || allowed[i].buffer[0] == '\0')
			return "the value of a parameter is empty, too long or not well-formed";
		return NULL;
	}
	if (name_len == strlen("password") && strncmp(name, "password", name_len) == 0)
		return "it has a password; use evtstore.set_endpoint_secret() instead";
	return "it has a parameter that is not sslmode, connect_timeout, application_name or target_session_attrs";
}

static const char *
check_values(const EsPgUrl *url)
{
	static const char *const sslmodes[] = {"disable", "verify-ca", "verify-full", NULL};
	static const char *const attrs[] = {"any", "read-write", "primary", NULL};

	if (url->sslmode[0] != '\0' && !is_one_of(url->sslmode, sslmodes))
		return "its sslmode is not verify-full, verify-ca or disable";
	if (url->target_session_attrs[0] != '\0' && !is_one_of(url->target_session_attrs, attrs))
		return "its target_session_attrs is not read-write, primary or any";
	if (url->connect_timeout[0] != '\0' && !is_number(url->connect_timeout, 1, 600))
		return "its connect_timeout is not a number of seconds from 1 to 600";
	for (const char *c = url->application_name; *c != '\0'; c++)
		if (*c < ' ' || *c >= 0x7f)
			return "its application_name has characters that are not printable ASCII";
	return NULL;
}

/* percent-encoding; false: not well-formed, or longer than the buffer */
static bool
decode(const char *text, size_t len, char *buffer, size_t size)
{
	size_t		n = 0;

	for (size_t i = 0; i < len; i++)
	{
		char		c = text[i];

		if (c == '%')
		{
			char		hex[3] = {0};

			if (i + 2 >= len)
				return false;
			memcpy(hex, text + i + 1, 2);
			if (strspn(hex, "0123456789abcdefABCDEF") != 2)
				return false;
			c = (char) strtol(hex, NULL, 16);
			i += 2;
		}
		if (c == '\0' || n + 1 >= size)
			return false;
		buffer[n++] = c;
	}
	buffer[n] = '\0';
	return true;
}

static bool
is_number(const char *text, long min, long max)
{
	return text[0] != '\0' && strlen(text) < 10 && strspn(text, "0123456789") == strlen(text) && atol(text) >= min && atol(text) <= max;
}

static bool
is_one_of(const char *text, const char *const *list)
{
	while (*list != NULL && strcmp(*list, text) != 0)
		list++;
	return *list != NULL;
}

bool
es_pg_check(const EsLinkConfig *config, char *fault, size_t size)
{
	EsPgUrl		url;
	const char *wrong = es_pg_parse_url(config->url, &url);

	if (wrong != NULL)
	{
		snprintf(fault, size, "%s", wrong);
		return false;
	}
	if (strcmp(url.sslmode, "verify-ca") == 0 && config->tls_ca_file == NULL)
	{
		snprintf(fault, size, "sslmode=verify-ca trusts whoever has a certificate of the authority: name your own, \"ca_file\" of \"tls\"");
		return false;
	}
	for (int i = 0; i < config->nclient; i++)
		if (!is_one_of(config->client[i].name, client_settings))
		{
			snprintf(fault, size, "unknown client setting \"%s\": PostgreSQL has \"options\", \"keepalives\", \"keepalives_idle\", "
					 "\"keepalives_interval\", \"keepalives_count\", \"tcp_user_timeout\", \"channel_binding\", "
					 "\"ssl_min_protocol_version\" and \"ssl_max_protocol_version\"", config->client[i].name);
			return false;
		}
	return true;
}

bool
es_pg_make_target(EsPgTarget *target, const EsTransportHost *core, const EsLinkConfig *config, char *fault, size_t size)
{
	if (!es_pg_check(config, fault, size))
		return false;
	(void) es_pg_parse_url(config->url, &target->url);
	target->core = core;
	target->verify = config->tls_verify;
	target->plain_text = strcmp(target->url.sslmode, "disable") == 0;
	target->connect_ms = target->url.connect_timeout[0] != '\0' ? atol(target->url.connect_timeout) * 1000 : DEFAULT_CONNECT_MS;
	target->endpoint = es_settings_copy(config->endpoint);
	target->networks = es_settings_copy(config->allowed_networks);
	target->server_name = es_settings_copy(config->tls_server_name);
	target->ca_file = es_settings_copy(config->tls_ca_file);
	target->pem = es_settings_copy(es_settings_secret(config, "tls"));
	if (target->endpoint != NULL && target->networks != NULL && copy_settings(target, config) && set_password(target, config, fault, size))
		return true;
	es_pg_free_target(target);
	return false;
}

void
es_pg_free_target(EsPgTarget *target)
{
	for (int i = 0; i < target->nclient; i++)
	{
		free(unconstify(char *, target->client[i].name));
		free(unconstify(char *, target->client[i].value));
	}
	free(target->client);
	free(target->endpoint);
	free(target->password);
	free(target->networks);
	free(target->server_name);
	free(target->ca_file);
	free(target->pem);
	memset(target, 0, sizeof(*target));
}

/* a value that is empty counts as none, so there is no other way to keep libpq from them */
void
es_pg_forget_environment(void)
{
	static const char *const others[] = {"PGSERVICEFILE", "PGDATESTYLE", "PGTZ", "PGGEQO", NULL};
	PQconninfoOption *options;

	(void) unsetenv("PGSERVICE");
	options = PQconndefaults();
	for (PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++)
		if (option->envvar != NULL)
			(void) unsetenv(option->envvar);
	PQconninfoFree(options);
	for (const char *const *name = others; *name != NULL; name++)
		(void) unsetenv(*name);
}

static bool
copy_settings(EsPgTarget *target, const EsLinkConfig *config)
{
	target->client = calloc(Max(config->nclient, 1), sizeof(EsSetting));
	if (target->client == NULL)
		return false;
	for (int i = 0; i < config->nclient; i++)
	{
		target->nclient++;
		target->client[i].name = es_settings_copy(config->client[i].name);
		target->client[i].value = es_settings_copy(config->client[i].value);
		if (target->client[i].name == NULL || target->client[i].value == NULL)
			return false;
	}
	return true;
}

/* the secret is the password, or USER:PASSWORD where the URL has no user, or that one */
static bool
set_password(EsPgTarget *target, const EsLinkConfig *config, char *fault, size_t size)
{
	const char *secret = es_settings_credentials(config);
	char	   *user = target->url.user;
	size_t		len = strlen(user);

	if (len == 0 && secret != NULL)
	{
		len = strcspn(secret, ":");
		if (secret[len] == ':' && len > 0 && len < sizeof(target->url.user))
		{
			memcpy(user, secret, len);
			user[len] = '\0';
		}
	}
	if (user[0] == '\0')
	{
		snprintf(fault, size, "neither the url nor a secret of the kind \"basic\" (user:password) says who to connect as");
		return false;
	}
	if (secret == NULL)
		return true;
	if (strncmp(secret, user, len) == 0 && secret[len] == ':')
		secret += len + 1;
	target->password = es_settings_copy(secret);
	return target->password != NULL;
}

PGconn *
es_pg_connect(EsThread *thread, const EsPgTarget *target, long long deadline, char *fault, size_t size)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *addresses = NULL;
	struct addrinfo *allowed[MAX_ADDRESSES];
	int			n = 0;
	int			rc = getaddrinfo(target->url.host, target->url.port, &hints, &addresses);
	PGconn	   *conn = NULL;

	deadline = Min(deadline, es_thread_now() + target->connect_ms);
	if (rc != 0)
	{
		snprintf(fault, size, "the host has no address: %s", gai_strerror(rc));
		return NULL;
	}
	for (struct addrinfo *address = addresses; address != NULL && n < MAX_ADDRESSES; address = address->ai_next)
		if (target->core->address_allowed(address->ai_addr, target->networks, target->plain_text))
			allowed[n++] = address;
	if (n == 0)
		snprintf(fault, size, "%s", target->plain_text
				 ? "sslmode=disable goes only to addresses of evtstore.allowed_networks, and the host has none of them"
				 : "the host has a loopback, private or special address that evtstore.allowed_networks does not have");
	/* each gets its share of the time, so that one that never answers does not hide the next */
	for (int i = 0; i < n && conn == NULL && !es_thread_is_stopping(thread); i++)
		conn = dial(thread, target, allowed[i], es_thread_now() + (deadline - es_thread_now()) / (n - i), fault, size);
	freeaddrinfo(addresses);
	return conn;
}

static PGconn *
dial(EsThread *thread, const EsPgTarget *target, const struct addrinfo *address, long long deadline, char *fault, size_t size)
{
	Parameters	parameters = {0};
	const EsPgUrl *url = &target->url;
	char		numeric[NI_MAXHOST];
	char		pem_file[40] = "";
	char		application_name[128];
	int			pem = -1;
	PGconn	   *conn;

	if (getnameinfo(address->ai_addr, address->ai_addrlen, numeric, sizeof(numeric), NULL, 0, NI_NUMERICHOST) != 0)
	{
		snprintf(fault, size, "the host has an address that is none");
		return NULL;
	}
	if (target->pem != NULL)
	{
		pem = make_pem_file(target->pem);
		if (pem < 0)
		{
			snprintf(fault, size, "could not hand over the certificate: errno %d", errno);
			return NULL;
		}
		snprintf(pem_file, sizeof(pem_file), "/proc/self/fd/%d", pem);
	}
	snprintf(application_name, sizeof(application_name), "evtstore:%s", target->endpoint);
	set(&parameters, "host", target->server_name != NULL ? target->server_name : url->host);
	set(&parameters, "hostaddr", numeric);
	set(&parameters, "port", url->port);
	set(&parameters, "dbname", url->database);
	set(&parameters, "user", url->user);
	set(&parameters, "password", target->password);
	set(&parameters, "passfile", NO_FILE);
	set(&parameters, "application_name", url->application_name[0] != '\0' ? url->application_name : application_name);
	set(&parameters, "target_session_attrs", url->target_session_attrs[0] != '\0' ? url->target_session_attrs : "read-write");
	set(&parameters, "client_encoding", "UTF8");
	set(&parameters, "gssencmode", "disable");
	set_tls(target, &parameters, pem_file);
	for (int i = 0; i < target->nclient; i++)
		set(&parameters, target->client[i].name, target->client[i].value);
	conn = PQconnectStartParams(parameters.names, parameters.values, 0);
	if (!finish_connect(thread, conn, deadline, fault, size))
	{
		PQfinish(conn);
		conn = NULL;
	}
	if (pem >= 0)
		close(pem);
	return conn;
}

static void
set_tls(const EsPgTarget *target, Parameters *parameters, const char *pem_file)
{
	set(parameters, "sslcert", pem_file[0] != '\0' ? pem_file : NO_FILE);
	set(parameters, "sslkey", pem_file[0] != '\0' ? pem_file : NO_FILE);
	set(parameters, "sslcrl", NO_FILE);
	if (target->plain_text)
		set(parameters, "sslmode", "disable");
	else if (!target->verify)
	{
		/* with a file of authorities it would verify */
		set(parameters, "sslmode", "require");
		set(parameters, "sslrootcert", NO_FILE);
	}
	else
	{
		set(parameters, "sslmode", target->url.sslmode[0] != '\0' ? target->url.sslmode : "verify-full");
		set(parameters, "sslrootcert", target->ca_file != NULL ? target->ca_file : find_ca_file());
	}
}

/* libpq knows where the system has them from version 16 on */
static const char *
find_ca_file(void)
{
	struct stat st;

	for (const char *const *file = ca_files; *file != NULL; file++)
		if (stat(*file, &st) == 0)
			return *file;
	return PQlibVersion() >= 160000 ? "system" : NO_FILE;
}

/* libpq reads certificate and key from files, and only from those that are nobody else's: one in memory.  -1: errno */
static int
make_pem_file(const char *pem)
{
	int			fd = memfd_create("evtstore", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	if (fchmod(fd, S_IRUSR | S_IWUSR) == 0 && write(fd, pem, strlen(pem)) == (ssize_t) strlen(pem))
		return fd;
	close(fd);
	return -1;
}

static void
set(Parameters *parameters, const char *name, const char *value)
{
	if (value == NULL || parameters->n == MAX_PARAMETERS)
		return;
	parameters->names[parameters->n] = name;
	parameters->values[parameters->n++] = value;
}

/* to the end of the handshake, without a wait that a stop would not end */
static bool
finish_connect(EsThread *thread, PGconn *conn, long long deadline, char *fault, size_t size)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (conn == NULL)
	{
		snprintf(fault, size, "there is no memory for the connection");
		return false;
	}
	while (PQstatus(conn) != CONNECTION_BAD && (status == PGRES_POLLING_WRITING || status == PGRES_POLLING_READING))
	{
		if (!es_pg_wait(thread, PQsocket(conn), status == PGRES_POLLING_WRITING ? POLLOUT : POLLIN, deadline))
		{
			snprintf(fault, size, "could not connect: no answer in time");
			return false;
		}
		status = PQconnectPoll(conn);
	}
	if (status == PGRES_POLLING_OK && PQsetnonblocking(conn, 1) == 0)
		return true;
	snprintf(fault, size, "%s", PQerrorMessage(conn));
	return false;
}

bool
es_pg_wait(EsThread *thread, int fd, short events, long long deadline)
{
	struct pollfd wait = {.fd = fd, .events = events};

	while (!es_thread_is_stopping(thread))
	{
		long long	left = deadline - es_thread_now();

		if (left <= 0)
			return false;
		if (poll(&wait, 1, (int) Min(left, SLICE_MS)) > 0)
			return true;
	}
	return false;
}
