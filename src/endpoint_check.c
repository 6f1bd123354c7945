/*
 * endpoint_check.c
 *		Endpoints: which urls, formats and options are acceptable.
 *
 * Runs in backends (create, alter), and what knows the kinds of urls in relay workers too.  Keeps nothing but the library of a
 * transport that it loaded; opens no connection.
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "endpoint.h"
#include "error.h"
#include "evtstore.h"
#include "options.h"

#define MAX_SOURCE_BYTES 1024
#define MAX_TEMPLATE_BYTES 1024
#define MAX_HEADER_BYTES 4096
#define MAX_CLIENT_BYTES 4096
#define MAX_PATH_BYTES 1023
#define ALPHANUMERIC "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

#define FORMAT(format) (1 << (format))

typedef enum TopicUse
{
	TOPIC_NEVER,
	TOPIC_OPTIONAL,
	TOPIC_ALWAYS
} TopicUse;

/* what an endpoint of a scheme may have; known without its library, which a restored database may lack */
typedef struct Kind
{
	const char *schemes[3];
	const char *name;			/* for messages */
	bool		is_outside;
	TopicUse	topic;
	int			max_in_flight;	/* by default */
	int			formats;		/* bits */
} Kind;

static const Kind kinds[] = {
	{{"https", "http"}, "HTTP", true, TOPIC_NEVER, 64,
	FORMAT(ES_FORMAT_BINARY) | FORMAT(ES_FORMAT_STRUCTURED) | FORMAT(ES_FORMAT_BATCHED) | FORMAT(ES_FORMAT_PLAIN)},
	{{"kafka", "kafkas"}, "Kafka", true, TOPIC_ALWAYS, 1000,
	FORMAT(ES_FORMAT_BINARY) | FORMAT(ES_FORMAT_STRUCTURED) | FORMAT(ES_FORMAT_DEBEZIUM) | FORMAT(ES_FORMAT_PLAIN)},
	{{"nats", "tls"}, "NATS", true, TOPIC_ALWAYS, 1000, FORMAT(ES_FORMAT_BINARY) | FORMAT(ES_FORMAT_STRUCTURED) | FORMAT(ES_FORMAT_PLAIN)},
	{{"amqp", "amqps"}, "AMQP", true, TOPIC_ALWAYS, 250, FORMAT(ES_FORMAT_BINARY) | FORMAT(ES_FORMAT_STRUCTURED) | FORMAT(ES_FORMAT_PLAIN)},
	{{"postgresql", "postgres"}, "PostgreSQL", true, TOPIC_OPTIONAL, 1000, FORMAT(ES_FORMAT_BINARY)},
	{{"sql"}, "sql:", false, TOPIC_NEVER, 64, FORMAT(ES_FORMAT_BINARY)},
};

static const char *const formats[] = {
	[ES_FORMAT_BINARY] = "binary",
	[ES_FORMAT_STRUCTURED] = "structured",
	[ES_FORMAT_BATCHED] = "batched",
	[ES_FORMAT_DEBEZIUM] = "debezium",
	[ES_FORMAT_PLAIN] = "plain",
};

static const EsOption breaker_keys[] = {
	{"failures", ES_OPTION_INT, 1, 1000000},
	{"max_open_for", ES_OPTION_INTERVAL, 0.1, 86400},
	{"open_for", ES_OPTION_INTERVAL, 0.1, 86400},
	{NULL},
};

static const EsOption tls_keys[] = {
	{"ca_file", ES_OPTION_STRING},
	{"server_name", ES_OPTION_STRING},
	{"verify", ES_OPTION_BOOL},
	{NULL},
};

/* in order of EsEndpointRoot */
static const EsPlaceholderRoot roots[] = {
	{"category", false},
	{"stream", false},
	{"type", false},
	{"key", false},
	{"source", false},
	{"data", true},
	{"metadata", true},
	{"body", true},
	{"headers", true},
	{NULL},
};

#define ROOTS_HINT "There are ${category}, ${stream}, ${type}, ${key}, ${source}, and fields such as ${data.customerId} and ${metadata.region}."

static const Kind *find_kind(const char *url);
static void check_url(const char *url);
static void check_function(const char *fn, Oid owner);
static void check_format(const char *name, const Kind *kind);
static void check_topic(const char *topic, const Kind *kind);
static void check_template(const char *text, const char *option);
static void check_source(const char *source);
static void check_breaker(Jsonb *breaker);
static void check_tls(Jsonb *tls, const Kind *kind);
static void check_client(Jsonb *client, const Kind *kind);
static void check_headers(Jsonb *headers);
static void check_header_name(const char *name);
static void check_header_value(const char *name, const JsonbValue *value);

void
es_endpoint_check_spec(int32 id, const char *name, Jsonb *spec, Oid owner)
{
	char	   *url = es_options_string(spec, "url", NULL);
	Jsonb	   *headers = es_options_object(spec, "headers");
	Jsonb	   *breaker = es_options_object(spec, "breaker");
	char	   *source = es_options_string(spec, "source", NULL);
	char	   *key = es_options_string(spec, "key", NULL);
	const Kind *kind;

	if (url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an endpoint needs a url"),
				 errhint("Give another url, or drop the endpoint.")));
	if (es_endpoint_is_sql(url))
		check_function(url + strlen(ES_ENDPOINT_SQL_SCHEME), owner);
	else
		check_url(url);
	kind = find_kind(url);
	check_format(es_options_string(spec, "format", "binary"), kind);
	check_topic(es_options_string(spec, "topic", NULL), kind);
	if (key != NULL)
		check_template(key, "key");
	if (source != NULL)
		check_source(source);
	if (headers != NULL)
		check_headers(headers);
	if (breaker != NULL)
		check_breaker(breaker);
	check_tls(es_options_object(spec, "tls"), kind);
	check_client(es_options_object(spec, "client"), kind);
	if (kind->is_outside)
	{
		EsEndpoint *endpoint = es_endpoint_of_spec(spec);

		endpoint->id = id;
		endpoint->name = unconstify(char *, name);
		es_endpoint_read_secrets(endpoint);
		es_endpoint_check_transport(endpoint);
	}
}

bool
es_endpoint_is_sql(const char *url)
{
	return strncmp(url, ES_ENDPOINT_SQL_SCHEME, strlen(ES_ENDPOINT_SQL_SCHEME)) == 0;
}

bool
es_endpoint_is_http(const char *url)
{
	return find_kind(url) == &kinds[0];
}

int
es_endpoint_default_in_flight(const char *url)
{
	return find_kind(url)->max_in_flight;
}

int
es_endpoint_format(const char *name)
{
	for (int i = 0; i < lengthof(formats); i++)
		if (strcmp(formats[i], name) == 0)
			return i;
	return -1;
}

EsTextTemplate *
es_endpoint_template(const char *text, const char *option)
{
	return es_text_template_parse(text, option, roots, ROOTS_HINT);
}

/* a scheme that is none passes for HTTP: check_url knows better, and a definition was checked */
static const Kind *
find_kind(const char *url)
{
	int			len = strcspn(url, ":");

	for (int i = 0; i < lengthof(kinds); i++)
		for (const char *const *scheme = kinds[i].schemes; scheme < kinds[i].schemes + 3 && *scheme != NULL; scheme++)
			if (strlen(*scheme) == len && pg_strncasecmp(*scheme, url, len) == 0)
				return &kinds[i];
	return &kinds[0];
}

static void
check_url(const char *url)
{
	const char *fault = es_transport_check_url(url);

	if (fault != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("url \"%s\" is not acceptable: %s", url, fault),
				 errhint("Write sql:schema.function, https://host/path, kafka://host:port, amqp://host, nats://host:port or "
						 "postgresql://host/database; http:// and other plain text only for networks of evtstore.allowed_networks.")));
}

/* asked again at each delivery; here so that the mistake shows where it is made */
static void
check_function(const char *fn, Oid owner)
{
	Oid			oid = es_definition_function(fn, es_catalog()->delivery_type);

	if (get_func_prokind(oid) != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a plain function", fn),
				 errhint("Name a function that takes one evtstore.delivery.")));
	if (!OidIsValid(owner) || !es_may_execute(oid, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", fn),
				 errdetail("The owner of the endpoint may not execute it."),
				 errhint("Run: GRANT EXECUTE ON FUNCTION %s(evtstore.delivery) TO the owner.", fn)));
}

static void
check_format(const char *name, const Kind *kind)
{
	int			format = es_endpoint_format(name);
	StringInfoData known;

	if (format >= 0 && (kind->formats & FORMAT(format)) != 0)
		return;
	initStringInfo(&known);
	for (int i = 0; i < lengthof(formats); i++)
		if ((kind->formats & FORMAT(i)) != 0)
			appendStringInfo(&known, "%s\"%s\"", known.len == 0 ? "" : ", ", formats[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 format < 0 ? errmsg("unknown format \"%s\"", es_arg_shown(name, strlen(name)))
			 : errmsg("format \"%s\" is not for %s endpoints", name, kind->name),
			 errhint("They have: %s.", known.data)));
}

static void
check_topic(const char *topic, const Kind *kind)
{
	if (topic == NULL && kind->topic == TOPIC_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s endpoints need \"topic\" in options", kind->name),
				 errhint("Name the topic, subject or routing key, such as \"orders\" or \"orders.${category}\".")));
	if (topic != NULL && kind->topic == TOPIC_NEVER)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"topic\" is not for %s endpoints", kind->name),
				 errhint("Leave it out: the url says where messages go.")));
	if (topic != NULL)
		check_template(topic, "topic");
}

static void
check_template(const char *text, const char *option)
{
	es_arg_check_name(text, option, MAX_TEMPLATE_BYTES);
	(void) es_endpoint_template(text, option);
}

/* a URI-reference (RFC 3986), as far as characters go: it becomes an attribute of every event */
static void
check_source(const char *source)
{
	static const char allowed[] = ALPHANUMERIC "-._~:/?#[]@!$&'()*+,;=%";

	es_arg_check_name(source, "source", MAX_SOURCE_BYTES);
	if (source[strspn(source, allowed)] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" is not a URI reference", source),
				 errhint("Percent-encode every character that a URI may not have.")));
}

static void
check_breaker(Jsonb *breaker)
{
	es_options_check(breaker, breaker_keys, "\"breaker\"");
	if (es_options_has(breaker, "open_for") && es_options_has(breaker, "max_open_for") &&
		es_options_interval_ms(breaker, "max_open_for", 0) < es_options_interval_ms(breaker, "open_for", 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"max_open_for\" in \"breaker\" is shorter than \"open_for\": %s, %s",
						es_options_string(breaker, "max_open_for", ""), es_options_string(breaker, "open_for", "")),
				 errhint("It is open for open_for at first, and longer each time that a trial fails.")));
}

static void
check_tls(Jsonb *tls, const Kind *kind)
{
	static const char *const texts[] = {"ca_file", "server_name"};

	if (tls == NULL)
		return;
	if (!kind->is_outside)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"tls\" is not for %s endpoints", kind->name)));
	es_options_check(tls, tls_keys, "\"tls\"");
	for (int i = 0; i < lengthof(texts); i++)
	{
		char	   *text = es_options_string(tls, texts[i], NULL);

		if (text != NULL)
			es_arg_check_name(text, texts[i], MAX_PATH_BYTES);
	}
}

/* values may be secrets, so errors name the setting only */
static void
check_client(Jsonb *client, const Kind *kind)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	char	   *name = NULL;

	if (client == NULL)
		return;
	if (!kind->is_outside)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"client\" is not for %s endpoints", kind->name)));
	it = JsonbIteratorInit(&client->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(v.val.string.val, v.val.string.len);
			es_arg_check_name(name, "name of a client setting", ES_MAX_NAME_BYTES);
		}
		else if (token == WJB_VALUE && v.type != jbvString && v.type != jbvNumeric && v.type != jbvBool)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" in \"client\" must be a string, a number, true or false", name)));
		else if (token == WJB_VALUE && v.type == jbvString && v.val.string.len > MAX_CLIENT_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" in \"client\" is too long: %d bytes, at most %d", name, v.val.string.len, MAX_CLIENT_BYTES)));
	}
}

static void
check_headers(Jsonb *headers)
{
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	char	   *name = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(v.val.string.val, v.val.string.len);
			check_header_name(name);
		}
		else if (token == WJB_VALUE)
			check_header_value(name, &v);
	}
}

/* the headers that frame the message or carry the event are ours */
static void
check_header_name(const char *name)
{
	static const char token[] = ALPHANUMERIC "!#$%&'*+-.^_`|~";
	static const char *const ours[] = {
		"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive",
		"proxy-connection", "upgrade", "te", "trailer", "expect", "idempotency-key", "evtstore-attempt",
		"evtstore-replay", "webhook-id", "webhook-timestamp", "webhook-signature", "nats-msg-id",
	};

	es_arg_check_name(name, "header name", ES_MAX_NAME_BYTES);
	if (name[strspn(name, token)] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header name \"%s\" has characters that HTTP does not allow", name),
				 errhint("Use letters, digits and hyphens.")));
	for (int i = 0; i < lengthof(ours); i++)
		if (pg_strcasecmp(name, ours[i]) == 0 || pg_strncasecmp(name, "ce-", 3) == 0 || pg_strncasecmp(name, "ce_", 3) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("header \"%s\" cannot be set", name),
					 errhint("Leave it out: evtstore makes this header itself.")));
}

/* values may be secrets, so errors name the header only */
static void
check_header_value(const char *name, const JsonbValue *value)
{
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("value of header \"%s\" must be a string", name)));
	if (value->val.string.len > MAX_HEADER_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("value of header \"%s\" is too long: %d bytes, at most %d", name, value->val.string.len,
						MAX_HEADER_BYTES)));
	for (int i = 0; i < value->val.string.len; i++)
	{
		char		c = value->val.string.val[i];

		if (c < ' ' || c >= 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("value of header \"%s\" has characters that a header may not have", name),
					 errhint("Use printable ASCII characters: no line breaks, no control characters.")));
	}
}


/* what only the client library knows */
void
es_endpoint_check_transport(const EsEndpoint *endpoint)
{
	const EsTransport *transport = es_transport_for_url(endpoint->url);
	EsLinkConfig config;
	char		fault[256] = "";

	es_endpoint_link_config(endpoint, &config);
	if (transport->check != NULL && !transport->check(&config, fault, sizeof(fault)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("endpoint \"%s\" is not acceptable: %s", endpoint->name, fault)));
}
