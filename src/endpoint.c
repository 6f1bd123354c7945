/*
 * endpoint.c
 *		Endpoints: where workers deliver.
 *
 * Runs in backends (create, alter, drop) and in delivery workers (look-up).  An endpoint is a definition of that kind;
 * its spec is {"url": ..., options}.  Nothing is connected to when it is defined: whether an address may be talked to
 * is decided by the worker at each connection.  Locks: the endpoint's name, by definition.c, to the end of the
 * transaction; whoever makes a queue that names an endpoint takes it too, so that a drop and such a queue cannot pass
 * each other.  A crash leaves the definitions as they were committed.
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "endpoint.h"
#include "error.h"
#include "evtstore.h"
#include "identity.h"
#include "options.h"
#include "transport/transport.h"

#define SQL_SCHEME "sql:"
#define DEFAULT_TIMEOUT_MS 10000
#define DEFAULT_MAX_IN_FLIGHT 16
#define MAX_SOURCE_BYTES 1024
#define MAX_HEADER_BYTES 4096
#define ALPHANUMERIC "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

/* of a spec; what create_endpoint takes beside the url begins at the second */
static const EsOption spec_keys[] = {
	{"url", ES_OPTION_STRING},
	{"format", ES_OPTION_STRING},
	{"headers", ES_OPTION_OBJECT},
	{"timeout", ES_OPTION_INTERVAL, 0.1, 300},
	{"max_in_flight", ES_OPTION_INT, 1, 1000},
	{"source", ES_OPTION_STRING},
	{NULL},
};

#define OPTION_KEYS (&spec_keys[1])

PG_FUNCTION_INFO_V1(evtstore_create_endpoint);
PG_FUNCTION_INFO_V1(evtstore_alter_endpoint);
PG_FUNCTION_INFO_V1(evtstore_drop_endpoint);

static Jsonb *make_spec(const char *url, Jsonb *options);
static void check_keys(Jsonb *changes);
static void check_spec(Jsonb *spec, Oid owner);
static void check_url(const char *url);
static void check_function(const char *fn, Oid owner);
static bool is_sql(const char *url);
static void check_format(const char *format);
static void check_source(const char *source);
static void check_headers(Jsonb *headers);
static void check_header_name(const char *name);
static void check_header_value(const char *name, const JsonbValue *value);
static void refuse_while_used(const char *name);

/*
 * evtstore.create_endpoint(name text, url text, options jsonb DEFAULT '{}') RETURNS void; evtstore_admin
 */
Datum
evtstore_create_endpoint(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *url;
	Jsonb	   *options;
	Jsonb	   *spec;
	int32		id;

	es_catalog_require_writable("create_endpoint");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	url = es_arg_name(fcinfo, 1, "url", ES_TRANSPORT_MAX_URL);
	es_arg_required(fcinfo, 2, "options");
	options = PG_GETARG_JSONB_P(2);

	es_options_check(options, OPTION_KEYS, "options");
	spec = make_spec(url, options);
	check_spec(spec, GetUserId());
	es_identity_establish();
	(void) es_definition_create("endpoint", name, spec, &id);
	PG_RETURN_VOID();
}

/*
 * evtstore.alter_endpoint(name text, changes jsonb) RETURNS void; evtstore_admin
 *
 * The owner stays: a sql: function goes on running as who created the endpoint.  So only a member of that role may name
 * the function, else whoever may call this would run functions as somebody else.
 */
Datum
evtstore_alter_endpoint(PG_FUNCTION_ARGS)
{
	char	   *name;
	Jsonb	   *changes;
	EsDefinition *definition;
	Oid			owner;
	Jsonb	   *spec;

	es_catalog_require_writable("alter_endpoint");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "changes");
	changes = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(changes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changes must be a JSON object, not %s", es_options_text(changes))));

	es_definition_lock("endpoint", name);
	definition = es_definition_get("endpoint", name);
	owner = get_role_oid(definition->owner, true);
	check_keys(changes);
	spec = es_options_merge(definition->spec, changes);
	es_options_check(spec, spec_keys, "changes");
	check_spec(spec, owner);
	if (is_sql(es_options_string(spec, "url", NULL)) && !has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("endpoint \"%s\" runs its function as role \"%s\"", name, definition->owner),
				 errhint("Change it as a member of that role, or drop it and create it as yours.")));
	es_identity_establish();
	es_definition_alter("endpoint", name, spec);
	PG_RETURN_VOID();
}

/*
 * evtstore.drop_endpoint(name text) RETURNS void; evtstore_admin
 */
Datum
evtstore_drop_endpoint(PG_FUNCTION_ARGS)
{
	char	   *name;

	es_catalog_require_writable("drop_endpoint");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_definition_lock("endpoint", name);
	(void) es_definition_get("endpoint", name);
	refuse_while_used(name);
	(void) es_definition_drop("endpoint", name);
	PG_RETURN_VOID();
}

EsEndpoint *
es_endpoint_find(const char *name)
{
	EsDefinition *definition = es_definition_find("endpoint", name);
	EsEndpoint *endpoint;
	char	   *format;

	if (definition == NULL)
		return NULL;
	endpoint = palloc0(sizeof(EsEndpoint));
	endpoint->id = definition->id;
	endpoint->name = definition->name;
	endpoint->owner = definition->owner;
	endpoint->search_path = definition->search_path;
	endpoint->url = es_options_string(definition->spec, "url", "");
	endpoint->is_sql = is_sql(endpoint->url);
	endpoint->fn = endpoint->is_sql ? endpoint->url + strlen(SQL_SCHEME) : NULL;
	format = es_options_string(definition->spec, "format", "binary");
	endpoint->format = strcmp(format, "structured") == 0 ? ES_FORMAT_STRUCTURED : ES_FORMAT_BINARY;
	endpoint->timeout_ms = es_options_interval_ms(definition->spec, "timeout", DEFAULT_TIMEOUT_MS);
	endpoint->max_in_flight = es_options_int(definition->spec, "max_in_flight", DEFAULT_MAX_IN_FLIGHT);
	endpoint->source = es_options_string(definition->spec, "source", NULL);
	endpoint->headers = es_options_object(definition->spec, "headers");
	return endpoint;
}

static Jsonb *
make_spec(const char *url, Jsonb *options)
{
	StringInfoData buf;
	Datum		url_object;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"url\": ");
	escape_json(&buf, url);
	appendStringInfoChar(&buf, '}');
	url_object = DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(options), url_object));
}

/* a null for an unknown key would be gone before the merged spec is checked */
static void
check_keys(Jsonb *changes)
{
	JsonbIterator *it = JsonbIteratorInit(&changes->root);
	JsonbValue	v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		const EsOption *key = spec_keys;
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		while (key->name != NULL && strcmp(key->name, name) != 0)
			key++;
		if (key->name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown key \"%s\" in changes", name),
					 errhint("Known keys: \"url\" and the options of evtstore.create_endpoint().")));
	}
}

/* keys and types were checked; here the values */
static void
check_spec(Jsonb *spec, Oid owner)
{
	char	   *url = es_options_string(spec, "url", NULL);
	Jsonb	   *headers = es_options_object(spec, "headers");
	char	   *source = es_options_string(spec, "source", NULL);

	if (url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an endpoint needs a url"),
				 errhint("Give another url, or drop the endpoint.")));
	if (is_sql(url))
		check_function(url + strlen(SQL_SCHEME), owner);
	else
		check_url(url);
	check_format(es_options_string(spec, "format", "binary"));
	if (source != NULL)
		check_source(source);
	if (headers != NULL)
		check_headers(headers);
}

static void
check_url(const char *url)
{
	const char *fault = es_transport_check_url(url);

	if (fault != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("url \"%s\" is not acceptable: %s", url, fault),
				 errhint("Write sql:schema.function, https://host/path, or http://host/path for networks of "
						 "evtstore.allowed_networks.")));
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

static bool
is_sql(const char *url)
{
	return strncmp(url, SQL_SCHEME, strlen(SQL_SCHEME)) == 0;
}

static void
check_format(const char *format)
{
	if (strcmp(format, "binary") != 0 && strcmp(format, "structured") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown format \"%s\"", format),
				 errhint("Formats are \"binary\" and \"structured\".")));
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
	};

	es_arg_check_name(name, "header name", ES_MAX_NAME_BYTES);
	if (name[strspn(name, token)] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header name \"%s\" has characters that HTTP does not allow", name),
				 errhint("Use letters, digits and hyphens.")));
	for (int i = 0; i < lengthof(ours); i++)
		if (pg_strcasecmp(name, ours[i]) == 0 || pg_strncasecmp(name, "ce-", 3) == 0)
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

static void
refuse_while_used(const char *name)
{
	ListCell   *lc;

	foreach(lc, es_definition_list("queue"))
	{
		EsDefinition *queue = lfirst(lc);
		char	   *endpoint = es_options_string(queue->spec, "endpoint", NULL);

		if (endpoint != NULL && strcmp(endpoint, name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("queue \"%s\" delivers to endpoint \"%s\"", queue->name, name),
					 errhint("Drop the queue first, or give it another endpoint with evtstore.alter_queue().")));
	}
}
