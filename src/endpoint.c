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

#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"

#include "arg.h"
#include "catalog.h"
#include "cloudevent.h"
#include "compat.h"
#include "definition.h"
#include "endpoint.h"
#include "error.h"
#include "evtstore.h"
#include "guc.h"
#include "identity.h"
#include "options.h"
#include "spi.h"
#include "transport/transport.h"

#define DEFAULT_TIMEOUT_MS 10000
#define DEFAULT_BREAKER_FAILURES 10
#define DEFAULT_BREAKER_OPEN_MS 5000
#define DEFAULT_BREAKER_MAX_OPEN_MS (5 * 60 * 1000)

/* of a spec; what create_endpoint takes beside the url begins at the second */
static const EsOption spec_keys[] = {
	{"url", ES_OPTION_STRING},
	{"breaker", ES_OPTION_OBJECT},
	{"client", ES_OPTION_OBJECT},
	{"format", ES_OPTION_STRING},
	{"headers", ES_OPTION_OBJECT},
	{"key", ES_OPTION_STRING},
	{"max_in_flight", ES_OPTION_INT, 1, 10000},
	{"rate", ES_OPTION_NUMBER, 0.001, 1000000000},
	{"source", ES_OPTION_STRING},
	{"timeout", ES_OPTION_INTERVAL, 0.1, 300},
	{"tls", ES_OPTION_OBJECT},
	{"topic", ES_OPTION_STRING},
	{NULL},
};

#define OPTION_KEYS (&spec_keys[1])

/* names of definitions that are nobody's begin so (queue.h, which is above this) */
#define RESERVED_PREFIX "evtstore:"

static EsPlan messages_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.message WHERE queue_id = $1 LIMIT 1",
	.nargs = 1,
	.args = {INT4OID},
};

PG_FUNCTION_INFO_V1(evtstore_create_endpoint);
PG_FUNCTION_INFO_V1(evtstore_alter_endpoint);
PG_FUNCTION_INFO_V1(evtstore_drop_endpoint);

static Jsonb *make_spec(const char *url, Jsonb *options);
static void check_keys(Jsonb *changes);
static void require_superuser(const char *name, Jsonb *old_spec, Jsonb *changes, Jsonb *new_spec);
static void refuse_move(const EsDefinition *definition, Jsonb *new_spec);
static EsHeader *read_headers(Jsonb *headers, int *n);
static EsSetting *read_settings(Jsonb *settings, int *n);
static char *fingerprint(const EsEndpoint *endpoint, const EsDefinition *definition);
static void refuse_while_used(const char *name);
static bool has_messages(int32 queue_id);

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
	require_superuser(name, NULL, spec, spec);
	es_endpoint_check_spec(0, name, spec, GetUserId());
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
	require_superuser(name, definition->spec, changes, spec);
	refuse_move(definition, spec);
	if (es_endpoint_is_sql(es_options_string(spec, "url", "")) && !has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("endpoint \"%s\" runs its function as role \"%s\"", name, definition->owner),
				 errhint("Change it as a member of that role, or drop it and create it as yours.")));
	es_endpoint_check_spec(definition->id, name, spec, owner);
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
	es_endpoint_drop_secrets(es_definition_drop("endpoint", name));
	PG_RETURN_VOID();
}

EsEndpoint *
es_endpoint_find(const char *name)
{
	EsDefinition *definition = es_definition_find("endpoint", name);
	EsEndpoint *endpoint;

	if (definition == NULL)
		return NULL;
	endpoint = es_endpoint_of_spec(definition->spec);
	endpoint->id = definition->id;
	endpoint->name = definition->name;
	endpoint->owner = definition->owner;
	endpoint->search_path = definition->search_path;
	endpoint->is_disabled = strcmp(definition->state, ES_DEFINITION_ACTIVE) != 0;
	es_endpoint_read_secrets(endpoint);
	endpoint->fingerprint = fingerprint(endpoint, definition);
	return endpoint;
}

/* of secrets a hash: it is compared, and nothing else */
static char *
fingerprint(const EsEndpoint *endpoint, const EsDefinition *definition)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%s %s", definition->owner, es_options_text(definition->spec));
	for (int i = 0; i < endpoint->nsecrets; i++)
		appendStringInfo(&buf, " %s %016llx", endpoint->secrets[i].name, (unsigned long long)
						 hash_bytes_extended((const unsigned char *) endpoint->secrets[i].value, strlen(endpoint->secrets[i].value), 0));
	for (int i = 0; i < endpoint->nsigning; i++)
		appendStringInfo(&buf, " %016llx " INT64_FORMAT, (unsigned long long)
						 hash_bytes_extended(endpoint->signing[i].bytes, endpoint->signing[i].len, 0), endpoint->signing[i].until);
	if (endpoint->missing_secret != NULL)
		appendStringInfo(&buf, " without %s", endpoint->missing_secret);
	return buf.data;
}

EsEndpoint *
es_endpoint_of_spec(Jsonb *spec)
{
	EsEndpoint *endpoint = palloc0(sizeof(EsEndpoint));
	char	   *url = es_options_string(spec, "url", "");
	Jsonb	   *breaker = es_options_object(spec, "breaker");
	Jsonb	   *tls = es_options_object(spec, "tls");
	char	   *topic = es_options_string(spec, "topic", NULL);
	char	   *key = es_options_string(spec, "key", NULL);

	endpoint->url = url;
	endpoint->is_sql = es_endpoint_is_sql(url);
	endpoint->fn = endpoint->is_sql ? url + strlen(ES_ENDPOINT_SQL_SCHEME) : NULL;
	endpoint->format = es_endpoint_format(es_options_string(spec, "format", "binary"));
	endpoint->timeout_ms = es_options_interval_ms(spec, "timeout", DEFAULT_TIMEOUT_MS);
	endpoint->max_in_flight = es_options_int(spec, "max_in_flight", es_endpoint_default_in_flight(url));
	endpoint->rate = es_options_number(spec, "rate", 0);
	endpoint->breaker_failures = breaker == NULL ? DEFAULT_BREAKER_FAILURES : es_options_int(breaker, "failures", DEFAULT_BREAKER_FAILURES);
	endpoint->breaker_open_ms = breaker == NULL ? DEFAULT_BREAKER_OPEN_MS : es_options_interval_ms(breaker, "open_for", DEFAULT_BREAKER_OPEN_MS);
	endpoint->breaker_max_open_ms = Max(endpoint->breaker_open_ms, DEFAULT_BREAKER_MAX_OPEN_MS);
	if (breaker != NULL)
		endpoint->breaker_max_open_ms = es_options_interval_ms(breaker, "max_open_for", endpoint->breaker_max_open_ms);
	endpoint->topic = topic == NULL ? NULL : es_endpoint_template(topic, "topic");
	endpoint->key = key == NULL ? NULL : es_endpoint_template(key, "key");
	endpoint->source = es_options_string(spec, "source", NULL);
	if (endpoint->source == NULL)
		endpoint->source = es_cloudevent_default_source();
	endpoint->headers = read_headers(es_options_object(spec, "headers"), &endpoint->nheaders);
	endpoint->tls_verify = tls == NULL || es_options_bool(tls, "verify", true);
	endpoint->tls_ca_file = tls == NULL ? NULL : es_options_string(tls, "ca_file", NULL);
	endpoint->tls_server_name = tls == NULL ? NULL : es_options_string(tls, "server_name", NULL);
	endpoint->client = read_settings(es_options_object(spec, "client"), &endpoint->nclient);
	return endpoint;
}

void
es_endpoint_link_config(const EsEndpoint *endpoint, EsLinkConfig *config)
{
	memset(config, 0, sizeof(EsLinkConfig));
	config->endpoint = endpoint->name;
	config->url = endpoint->url;
	config->timeout_ms = (long) endpoint->timeout_ms;
	config->max_in_flight = endpoint->max_in_flight;
	config->allowed_networks = es_guc_allowed_networks;
	config->tls_verify = endpoint->tls_verify;
	config->tls_ca_file = endpoint->tls_ca_file;
	config->tls_server_name = endpoint->tls_server_name;
	config->client = endpoint->client;
	config->nclient = endpoint->nclient;
	config->secrets = endpoint->secrets;
	config->nsecrets = endpoint->nsecrets;
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

/*
 * Settings of a client library may name files and programs of the server, and "tls" may turn the check of certificates off:
 * both are a superuser's.  Whoever could then send what he set to another address would have his rights: so that is one's
 * too.  old_spec: NULL for a new endpoint.
 */
static void
require_superuser(const char *name, Jsonb *old_spec, Jsonb *changes, Jsonb *new_spec)
{
	static const char *const keys[] = {"client", "tls"};
	bool		moves = old_spec != NULL && strcmp(es_options_string(old_spec, "url", ""), es_options_string(new_spec, "url", "")) != 0;

	if (superuser())
		return;
	for (int i = 0; i < lengthof(keys); i++)
	{
		if (es_options_has(changes, keys[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set \"%s\" of endpoint \"%s\"", keys[i], name),
					 errhint("Leave it out, or ask a superuser: it can open files of the server and turn checks off.")));
		if (moves && es_options_has(old_spec, keys[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to change the url of endpoint \"%s\"", name),
					 errdetail("A superuser has set \"%s\" for the url that it has.", keys[i]),
					 errhint("Ask a superuser, or create another endpoint.")));
	}
}

/* nobody can read a secret; so nobody may have it sent to where he can */
static void
refuse_move(const EsDefinition *definition, Jsonb *new_spec)
{
	if (superuser() ||
		!es_endpoint_moves_secrets(definition->id, es_options_string(definition->spec, "url", ""), es_options_string(new_spec, "url", "")))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to change the url of endpoint \"%s\"", definition->name),
			 errdetail("It has secrets, which would go to the new url."),
			 errhint("Remove them first, with NULL for the secret in evtstore.set_endpoint_secret().")));
}

static EsHeader *
read_headers(Jsonb *headers, int *n)
{
	EsSetting  *settings = read_settings(headers, n);
	EsHeader   *result = palloc(sizeof(EsHeader) * (*n + 1));

	for (int i = 0; i < *n; i++)
	{
		result[i].name = settings[i].name;
		result[i].value = settings[i].value;
	}
	return result;
}

/* scalars, as text; names and values were checked when the endpoint was defined */
static EsSetting *
read_settings(Jsonb *settings, int *n)
{
	EsSetting  *result;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	*n = 0;
	if (settings == NULL)
		return NULL;
	result = palloc(sizeof(EsSetting) * (JB_ROOT_COUNT(settings) + 1));
	it = JsonbIteratorInit(&settings->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			result[*n].name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token != WJB_VALUE)
			continue;
		else if (v.type == jbvString)
			result[(*n)++].value = pnstrdup(v.val.string.val, v.val.string.len);
		else if (v.type == jbvNumeric)
			result[(*n)++].value = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric)));
		else
			result[(*n)++].value = v.val.boolean ? "true" : "false";
	}
	return result;
}

static void
refuse_while_used(const char *name)
{
	ListCell   *lc;

	foreach(lc, list_concat(es_definition_list("queue"), es_definition_list("subscription")))
	{
		EsDefinition *user = lfirst(lc);
		char	   *endpoint = es_options_string(user->spec, "endpoint", NULL);

		if (endpoint == NULL || strcmp(endpoint, name) != 0)
			continue;
		/* that of steps of sagas is nobody's to drop */
		if (strncmp(user->name, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("%s \"%s\" delivers to endpoint \"%s\"", user->kind, user->name, name),
					 errhint("Drop the %s first, or give it another endpoint with evtstore.alter_%s().", user->kind, user->kind)));
		if (has_messages(user->id))
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("steps of sagas wait for endpoint \"%s\"", name),
					 errhint("Wait until they are done, or cancel their sagas: the view evtstore.sagas says which wait for it.")));
	}
}

static bool
has_messages(int32 queue_id)
{
	Datum		values[1] = {Int32GetDatum(queue_id)};
	EsSpiState	state;
	bool		result;

	es_spi_begin(&state);
	result = es_spi_run_latest(&messages_plan, values, NULL) > 0;
	es_spi_end(&state);
	return result;
}
