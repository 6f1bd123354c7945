/*
 * subscription.c
 *		Subscriptions: definition, lock, the key and the lane of an event.  subscription_place.c has where it is.
 *
 * Runs in backends and, for look-ups, in workers.  poll.c hands events out, subscription_settle.c takes them back;
 * docs/architecture-subscriptions.md has the argument.
 *
 * A subscription is a definition (definition.c), the rows with its id, and an entry in shared memory (lane.c).  Who polls
 * or settles holds its lock, shared, to the end of the transaction; who drops it or sets it elsewhere holds it
 * exclusively, so no row can appear for a subscription that is gone.  Rows are transactional, and the entry goes with the
 * commit: a crash leaves what was committed, and no entry.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "dead_key.h"
#include "error.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "identity.h"
#include "lane.h"
#include "lane_change.h"
#include "ledger.h"
#include "lock.h"
#include "options.h"
#include "spi.h"
#include "subscription.h"
#include "waiter.h"
#include "wakeup.h"

#define DEFAULT_LANES 8
#define DEFAULT_MAX_IN_FLIGHT 1000
#define MAX_IN_FLIGHT 10000
/* names of rules where other names are meant, too */
#define RULE_PREFIX "rule:"
#define REACTOR_PREFIX "reactor:"
/* ms until an event whose instance somebody has is tried again, the first time and at most */
#define REACTOR_RETRY_MS 20
#define REACTOR_MAX_RETRY_MS 2000

/* the options of create_subscription */
static const EsOption options_allowed[] = {
	{"key", ES_OPTION_STRING},
	{"retry", ES_OPTION_OBJECT},
	{"max_in_flight", ES_OPTION_INT, 1, MAX_IN_FLIGHT},
	{"rate", ES_OPTION_NUMBER, 0.001, 1000000000},
	{"notify", ES_OPTION_STRING},
	{NULL}
};

/* what alter_subscription may change */
static const EsOption changes_allowed[] = {
	{"filter", ES_OPTION_OBJECT},
	{"on_failure", ES_OPTION_STRING},
	{"retry", ES_OPTION_OBJECT},
	{"max_in_flight", ES_OPTION_INT, 1, MAX_IN_FLIGHT},
	{"rate", ES_OPTION_NUMBER, 0.001, 1000000000},
	{"notify", ES_OPTION_STRING},
	{"lanes", ES_OPTION_INT, 1, ES_MAX_LANES},
	{"endpoint", ES_OPTION_STRING},
	{NULL}
};

static bool wants(const EsDefinition *definition);
static void fill(void *entry, const EsDefinition *definition);
static List *types_handled(Jsonb *handlers);
static List *read_keys(Jsonb *routes);
static Jsonb *make_spec(FunctionCallInfo fcinfo);
static void append_options(StringInfo buf, Jsonb *options);
static void append_start(StringInfo buf, FunctionCallInfo fcinfo);
static int64 start_position(Jsonb *spec);
static EsOnFailure parse_on_failure(const char *text);
static EsPlaceholder *parse_key(const char *text);
static void change_lanes(int32 id, int lanes);
static void work_from_here(void);
static void check_endpoint(Jsonb *spec);

static EsDefinitionCache cache = {
	.kind = "subscription",
	.other_kind = "projection",
	.aside_kinds = {"rebuild", "rule", "reactor"},
	.wants = wants,
	.size = sizeof(EsSubscription),
	.fill = fill,
};

PG_FUNCTION_INFO_V1(evtstore_create_subscription);
PG_FUNCTION_INFO_V1(evtstore_alter_subscription);
PG_FUNCTION_INFO_V1(evtstore_drop_subscription);

/*
 * create_subscription(name, filter, endpoint, start_at, start_position, start_time, lanes, on_failure, options) -> void;
 * evtstore_admin
 */
Datum
evtstore_create_subscription(PG_FUNCTION_ARGS)
{
	char	   *name;
	Jsonb	   *spec;
	int32		id;

	es_catalog_require_writable("create_subscription");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	spec = make_spec(fcinfo);
	check_endpoint(spec);
	if (es_options_has(spec, "notify") || es_options_has(spec, "endpoint"))
		work_from_here();
	if (es_definition_create("subscription", name, spec, &id))
		es_subscription_begin(id, start_position(spec), es_options_int(spec, "lanes", DEFAULT_LANES));
	PG_RETURN_VOID();
}

/* alter_subscription(name text, changes jsonb) -> void; evtstore_admin */
Datum
evtstore_alter_subscription(PG_FUNCTION_ARGS)
{
	char	   *name;

	es_catalog_require_writable("alter_subscription");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "changes");
	es_options_check_changes(PG_GETARG_JSONB_P(1), changes_allowed, "changes of a subscription");
	es_definition_lock("subscription", name);
	AcceptInvalidationMessages();
	(void) es_subscription_get_own(name);
	es_subscription_alter("subscription", name, PG_GETARG_JSONB_P(1), DEFAULT_LANES);
	PG_RETURN_VOID();
}

/* drop_subscription(name text) -> void; evtstore_admin.  Waits for the transactions that use it */
Datum
evtstore_drop_subscription(PG_FUNCTION_ARGS)
{
	char	   *name;
	int32		id;

	es_catalog_require_writable("drop_subscription");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_subscription_refuse_snapshot("a subscription cannot be dropped");
	es_definition_lock("subscription", name);
	AcceptInvalidationMessages();
	id = es_subscription_get_own(name)->definition.id;
	es_subscription_end(id);
	(void) es_definition_drop("subscription", name);
	PG_RETURN_VOID();
}

const EsSubscription *
es_subscription_find(const char *name)
{
	const EsSubscription *subscription = es_definition_cache_by_name(&cache, name);

	/* a sync projection has none; what has its name is not meant */
	if (subscription == NULL && es_definition_find("projection", name) == NULL)
		subscription = es_definition_cache_by_kind(&cache, "rule", es_subscription_rule_name(name));
	if (subscription == NULL && es_definition_find("projection", name) == NULL)
		subscription = es_definition_cache_by_kind(&cache, "reactor", es_subscription_reactor_name(name));
	return subscription != NULL && es_subscription_is_visible(subscription) ? subscription : NULL;
}

const char *
es_subscription_rule_name(const char *name)
{
	return strncmp(name, RULE_PREFIX, strlen(RULE_PREFIX)) == 0 ? name + strlen(RULE_PREFIX) : name;
}

const char *
es_subscription_reactor_name(const char *name)
{
	return strncmp(name, REACTOR_PREFIX, strlen(REACTOR_PREFIX)) == 0 ? name + strlen(REACTOR_PREFIX) : name;
}

const EsSubscription *
es_subscription_get(const char *name)
{
	const EsSubscription *subscription = es_subscription_find(name);

	if (subscription == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("Create it with evtstore.create_subscription().")));
	return subscription;
}

const EsSubscription *
es_subscription_get_own(const char *name)
{
	const EsSubscription *subscription = es_subscription_get(name);

	if (subscription->is_projection)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a projection", name),
				 errdetail("Its events are for the workers, which keep its place together with its tables."),
				 errhint("There are alter_projection(), switch_projection(), pause_projection() and drop_projection(); to consume the same "
						 "events create a subscription.")));
	if (subscription->is_rule)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a rule", name),
				 errdetail("Its events are for the workers."),
				 errhint("There are alter_rule() and drop_rule(); to consume the same events create a subscription.")));
	if (subscription->is_reactor)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a reactor", name),
				 errdetail("Its events are for the workers."),
				 errhint("There are define_reactor() and drop_reactor(); to consume the same events create a subscription.")));
	return subscription;
}

void
es_subscription_alter(const char *kind, const char *name, Jsonb *changes, int default_lanes)
{
	int32		id = es_subscription_get(name)->definition.id;
	int			lanes = 0;
	Jsonb	   *old;
	Jsonb	   *spec;

	if (es_options_has(changes, "lanes"))
	{
		lanes = es_options_is_null(changes, "lanes") ? default_lanes : es_options_int(changes, "lanes", 0);
		change_lanes(id, lanes);
	}
	/* what is handed out was chosen by the old filter: it comes again, chosen by the new one */
	if (es_options_has(changes, "filter"))
	{
		(void) es_subscription_lock(id, AccessExclusiveLock);
		es_lanes_forget(id);
	}
	old = es_definition_get(kind, name)->spec;
	spec = es_options_merge(old, changes);
	if (lanes > 0)
		spec = es_options_merge(spec, es_options_of_int("lanes", lanes));
	if (es_options_has(changes, "filter") && es_options_has(spec, "filter"))
		(void) es_filter_parse(es_options_object(spec, "filter"), "filter");
	(void) parse_on_failure(es_options_string(spec, "on_failure", "block"));
	if (es_options_has(changes, "retry") && es_options_has(spec, "retry"))
	{
		StringInfoData buf;

		initStringInfo(&buf);
		appendStringInfoString(&buf, "{\"retry\": ");
		es_retry_append(&buf, es_retry_change(es_options_object(old, "retry"), es_options_object(changes, "retry")));
		appendStringInfoChar(&buf, '}');
		spec = es_options_merge(spec, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data))));
	}
	if (es_options_has(spec, "notify"))
	{
		es_arg_check_name(es_options_string(spec, "notify", NULL), "notify", NAMEDATALEN - 1);
		work_from_here();
	}
	if (es_options_has(changes, "endpoint"))
	{
		check_endpoint(spec);
		work_from_here();
	}
	/* another policy gives up no keys, and one that comes back begins anew */
	if (es_options_has(changes, "on_failure"))
		es_dead_key_forget(id);
	es_definition_alter(kind, name, spec);
	es_waiter_wake_at_commit(id, INT_MAX);
}

const EsSubscription *
es_subscription_lock(int32 id, LOCKMODE mode)
{
	/* who waited for a drop must hear of it: invalidation messages are not read by taking this kind of lock */
	if (es_lock_mode(ES_LOCK_SUBSCRIPTION, id, mode))
		AcceptInvalidationMessages();
	return es_definition_cache_by_id(&cache, id);
}

const EsSubscription *
es_subscription_all(int *n)
{
	return es_definition_cache_all(&cache, n);
}

bool
es_subscription_is_visible(const EsSubscription *subscription)
{
	return subscription->is_for_workers || es_guc_tenant[0] == '\0' || strcmp(es_guc_tenant, subscription->tenant) == 0;
}

const EsPlaceholder *
es_subscription_key_place(const EsSubscription *subscription, Datum type)
{
	text	   *packed;
	ListCell   *lc;

	if (!subscription->is_reactor)
		return subscription->key;
	packed = DatumGetTextPP(type);
	foreach(lc, subscription->keys)
	{
		const EsTypeKey *key = lfirst(lc);

		if (key->len == VARSIZE_ANY_EXHDR(packed) && memcmp(key->type, VARDATA_ANY(packed), key->len) == 0)
			return key->key;
	}
	return NULL;
}

char *
es_subscription_key(const EsPlaceholder *place, const char *stream, int len, Datum data, Datum metadata)
{
	char	   *key;

	if (place == NULL)
		return NULL;
	if (place->root == ES_KEY_STREAM)
		return stream == NULL ? NULL : pnstrdup(stream, len);
	key = es_placeholder_text(place, place->root == ES_KEY_DATA ? data : metadata);
	/* it goes into an index: of what is longer, the beginning and a hash of all of it */
	if (key != NULL && strlen(key) > ES_MAX_KEY_BYTES)
		key = psprintf("%.*s#%016llx", pg_mbcliplen(key, strlen(key), ES_MAX_KEY_BYTES - 20), key,
					   (unsigned long long) es_stream_hash("", key, strlen(key)));
	return key;
}

/* stable over servers and machines: checkpoints are stored by lane */
uint32
es_subscription_hash(const char *tenant, const char *key, int64 position)
{
	char		number[32];

	if (key != NULL)
		return (uint32) (es_stream_hash(tenant, key, strlen(key)) >> 32);
	snprintf(number, sizeof(number), INT64_FORMAT, position);
	return (uint32) (es_stream_hash("", number, strlen(number)) >> 32);
}

int
es_subscription_lane(const EsSubscription *subscription, const char *tenant, const char *key, int64 position)
{
	const EsLaneLayout *layout = subscription->layout;

	/* no need to hash where every key is in the only lane */
	if (layout->n == 1 && layout->generations[0].lanes == 1)
		return layout->generations[0].first;
	return es_lane_layout_lane(layout, es_subscription_hash(tenant, key, position), position);
}

bool
es_subscription_try_lane(int32 id, int lane)
{
	return es_lock_try(ES_LOCK_LANE, (uint64) id << 32 | (uint32) lane);
}

void
es_subscription_lock_lane(int32 id, int lane)
{
	es_lock(ES_LOCK_LANE, (uint64) id << 32 | (uint32) lane);
}

void
es_subscription_unlock_lane(int32 id, int lane)
{
	es_lock_release(ES_LOCK_LANE, (uint64) id << 32 | (uint32) lane, ExclusiveLock);
}

void
es_subscription_lock_keys(const EsSubscription *subscription, const uint32 *hashes, int n)
{
	const EsLaneGeneration *newest = es_lane_layout_newest(subscription->layout);
	int			first = subscription->layout->generations[0].first;
	int32		id = subscription->definition.id;
	int			end = newest->first + newest->lanes;
	EsLaneFlags wanted = {0};

	for (int i = 0; i < n; i++)
	{
		int			numbers[ES_LANE_SLOTS];
		int			count = es_lane_layout_lanes_of(subscription->layout, hashes[i], numbers);

		for (int j = 0; j < count; j++)
			wanted[es_lane_place(numbers[j])] = true;
	}
	for (int number = first; number < end; number++)
		if (wanted[es_lane_place(number)])
			es_subscription_lock_lane(id, number);
}

int64
es_subscription_retire_lanes(void)
{
	int			n;
	const EsSubscription *all = es_definition_cache_all(&cache, &n);
	int32	   *ids = palloc(Max(n, 1) * sizeof(int32));
	int			nids = 0;
	int64		removed = 0;

	for (int i = 0; i < n; i++)
		if (all[i].layout->n > 1)
			ids[nids++] = all[i].definition.id;
	for (int i = 0; i < nids; i++)
	{
		const EsSubscription *subscription;

		/* who changes it right now leaves us the next time */
		if (es_lock_acquire(ES_LOCK_SUBSCRIPTION, ids[i], AccessShareLock, true) == LOCKACQUIRE_NOT_AVAIL)
			continue;
		AcceptInvalidationMessages();
		subscription = es_definition_cache_by_id(&cache, ids[i]);
		if (subscription != NULL)
			removed += es_lane_change_retire(ids[i], subscription->layout);
	}
	return removed;
}

static bool
wants(const EsDefinition *definition)
{
	return (strcmp(definition->kind, "projection") != 0 && strcmp(definition->kind, "rule") != 0) ||
		strcmp(es_options_string(definition->spec, "mode", ""), "async") == 0;
}

static void
fill(void *entry, const EsDefinition *definition)
{
	EsSubscription *subscription = entry;
	Jsonb	   *filter = es_options_object(definition->spec, "filter");

	subscription->is_rebuild = strcmp(definition->kind, "rebuild") == 0;
	subscription->is_projection = subscription->is_rebuild || strcmp(definition->kind, "projection") == 0;
	subscription->is_rule = strcmp(definition->kind, "rule") == 0;
	subscription->is_reactor = strcmp(definition->kind, "reactor") == 0;
	subscription->is_for_workers = subscription->is_projection || subscription->is_rule || subscription->is_reactor;
	subscription->is_paused = strcmp(definition->state, ES_DEFINITION_ACTIVE) != 0;
	subscription->tenant = es_options_string(definition->spec, "tenant", "");
	subscription->filter = filter == NULL ? palloc0(sizeof(EsFilter)) : es_filter_parse(filter, "filter");
	if (subscription->is_projection && subscription->filter->query == NULL && subscription->filter->types == NIL)
		subscription->filter->types = types_handled(es_options_object(definition->spec, "handlers"));
	subscription->layout = es_lane_layout_read(definition->id, es_options_int(definition->spec, "lanes", DEFAULT_LANES));
	subscription->on_failure = parse_on_failure(es_options_string(definition->spec, "on_failure", "block"));
	/* of a rule whatever the key of its messages: what waits behind an event that failed is its stream */
	subscription->key = parse_key(es_options_string(definition->spec, "key", "${stream}"));
	if (subscription->is_reactor)
		subscription->keys = read_keys(es_options_array(definition->spec, "routes"));
	subscription->use = es_use_read(definition->grants);
	subscription->retry = es_retry_read(es_options_object(definition->spec, "retry"));
	/* its policy is for its function; what fails here finds an instance that somebody has, or the server in trouble */
	if (subscription->is_reactor)
		subscription->retry = (EsRetry) {.initial = REACTOR_RETRY_MS, .multiplier = 2, .max_delay = REACTOR_MAX_RETRY_MS};
	subscription->max_in_flight = es_options_int(definition->spec, "max_in_flight",
												 subscription->is_for_workers ? MAX_IN_FLIGHT : DEFAULT_MAX_IN_FLIGHT);
	subscription->rate = es_options_number(definition->spec, "rate", 0);
	subscription->notify = es_options_string(definition->spec, "notify", NULL);
	subscription->endpoint = es_options_string(definition->spec, "endpoint", NULL);
	subscription->has_endpoint = subscription->endpoint != NULL ||
		(subscription->is_rule && strncmp(es_options_string(definition->spec, "target", ""), "endpoint:", strlen("endpoint:")) == 0);
	if (es_options_has(definition->spec, "replay_to"))
		subscription->replay_to = strtoll(es_options_string(definition->spec, "replay_to", "0"), NULL, 10);
}

/*
 * A projection wants no type that it has no handler for: those are left to the index of types, where the filter itself names
 * none.
 */
static List *
types_handled(Jsonb *handlers)
{
	JsonbIterator *it = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	List	   *types = NIL;

	if (es_options_has(handlers, "*"))
		return NIL;
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_KEY)
			types = lappend(types, pnstrdup(v.val.string.val, v.val.string.len));
	return types;
}

/* of a reactor's routes, which were checked when it was defined */
static List *
read_keys(Jsonb *routes)
{
	int			n;
	Jsonb	  **elements = es_options_elements(routes, "routes", "", &n);
	List	   *keys = NIL;

	for (int i = 0; i < n; i++)
	{
		EsPlaceholder *place = parse_key(es_subscription_key_of_path(es_options_string(elements[i], "correlate", "")));
		ListCell   *lc;

		foreach(lc, es_options_strings(elements[i], "types"))
		{
			EsTypeKey  *key = palloc(sizeof(EsTypeKey));

			key->type = lfirst(lc);
			key->len = strlen(key->type);
			key->key = place;
			keys = lappend(keys, key);
		}
	}
	return keys;
}

/* $.data.order is ${data.order} */
char *
es_subscription_key_of_path(const char *path)
{
	return psprintf("${%s}", strncmp(path, "$.", 2) == 0 ? path + 2 : path);
}

/* the arguments of create_subscription, checked, in one form */
static Jsonb *
make_spec(FunctionCallInfo fcinfo)
{
	StringInfoData buf;
	Jsonb	   *filter;
	Jsonb	   *options;
	char	   *endpoint;
	char	   *on_failure;
	char	   *key;
	int			lanes;

	es_arg_required(fcinfo, 1, "filter");
	filter = PG_GETARG_JSONB_P(1);
	(void) es_filter_parse(filter, "filter");
	endpoint = es_arg_optional_name(fcinfo, 2, "endpoint", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 6, "lanes");
	lanes = PG_GETARG_INT32(6);
	if (lanes < 1 || lanes > ES_MAX_LANES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lanes is out of range: %d", lanes),
				 errhint("It lies between 1 and %d: as many consumers can work at a time.", ES_MAX_LANES)));
	on_failure = es_arg_name(fcinfo, 7, "on_failure", 64);
	(void) parse_on_failure(on_failure);
	es_arg_required(fcinfo, 8, "options");
	options = PG_GETARG_JSONB_P(8);
	es_options_check(options, options_allowed, "options of a subscription");
	key = es_options_string(options, "key", NULL);
	if (key != NULL)
		(void) parse_key(key);

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"filter\": %s, \"lanes\": %d, \"on_failure\": \"%s\"", es_options_text(filter), lanes, on_failure);
	append_start(&buf, fcinfo);
	if (endpoint != NULL)
	{
		appendStringInfoString(&buf, ", \"endpoint\": ");
		escape_json(&buf, endpoint);
	}
	if (key != NULL)
	{
		appendStringInfoString(&buf, ", \"key\": ");
		escape_json(&buf, key);
	}
	append_options(&buf, options);
	if (es_guc_tenant[0] != '\0')
	{
		appendStringInfoString(&buf, ", \"tenant\": ");
		escape_json(&buf, es_guc_tenant);
	}
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

/* all but the key */
static void
append_options(StringInfo buf, Jsonb *options)
{
	if (es_options_has(options, "retry"))
	{
		es_retry_check(es_options_object(options, "retry"));
		appendStringInfoString(buf, ", \"retry\": ");
		es_retry_append(buf, es_options_object(options, "retry"));
	}
	if (es_options_has(options, "max_in_flight"))
		appendStringInfo(buf, ", \"max_in_flight\": %d", es_options_int(options, "max_in_flight", 0));
	if (es_options_has(options, "rate"))
		appendStringInfo(buf, ", \"rate\": %s",
						 DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(es_options_number(options, "rate", 0)))));
	if (es_options_has(options, "notify"))
	{
		char	   *channel = es_options_string(options, "notify", NULL);

		es_arg_check_name(channel, "notify", NAMEDATALEN - 1);
		appendStringInfoString(buf, ", \"notify\": ");
		escape_json(buf, channel);
	}
}

/* as it was said, so that the same call later says the same; numbers of positions as text, which JSON readers do not round */
static void
append_start(StringInfo buf, FunctionCallInfo fcinfo)
{
	char	   *start_at = es_arg_name(fcinfo, 3, "start_at", 64);
	bool		is_end = strcmp(start_at, "end") == 0;

	if (!is_end && strcmp(start_at, "beginning") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown start_at \"%s\"", start_at),
				 errhint("It is 'beginning' or 'end'; for other places there are start_position and start_time.")));
	if ((is_end ? 1 : 0) + (PG_ARGISNULL(4) ? 0 : 1) + (PG_ARGISNULL(5) ? 0 : 1) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_at, start_position and start_time exclude each other"),
				 errhint("Give one of them.")));
	if (!PG_ARGISNULL(4))
	{
		if (PG_GETARG_INT64(4) < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("start_position must not be negative: " INT64_FORMAT, PG_GETARG_INT64(4)),
					 errhint("0 is the beginning.")));
		appendStringInfo(buf, ", \"start_position\": \"" INT64_FORMAT "\"", PG_GETARG_INT64(4));
	}
	else if (!PG_ARGISNULL(5))
		appendStringInfo(buf, ", \"start_time\": \"" INT64_FORMAT "\"", es_ledger_moment(fcinfo, 5, "start_time"));
	else
		appendStringInfo(buf, ", \"start_at\": \"%s\"", start_at);
}

/* where a new subscription begins: everything at or below is not for it */
static int64
start_position(Jsonb *spec)
{
	char	   *position = es_options_string(spec, "start_position", NULL);
	char	   *moment = es_options_string(spec, "start_time", NULL);

	if (position != NULL)
		return Max(strtoll(position, NULL, 10) - 1, 0);
	if (moment != NULL)
		return es_ledger_position_at(strtoll(moment, NULL, 10));
	return strcmp(es_options_string(spec, "start_at", ""), "end") == 0 ? es_feed_head(ES_FEED_ALL_CATEGORIES) : 0;
}

static EsOnFailure
parse_on_failure(const char *text)
{
	if (strcmp(text, "block") == 0)
		return ES_FAILURE_BLOCK;
	if (strcmp(text, "dead_letter") == 0)
		return ES_FAILURE_DEAD_LETTER;
	if (strcmp(text, "dead_letter_key") == 0)
		return ES_FAILURE_DEAD_LETTER_KEY;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown on_failure \"%s\"", text),
			 errhint("It is 'block', 'dead_letter' or 'dead_letter_key'.")));
}

void
es_subscription_check_on_failure(const char *text)
{
	(void) parse_on_failure(text);
}

void
es_subscription_check_key(const char *text)
{
	(void) parse_key(text);
}

static EsPlaceholder *
parse_key(const char *text)
{
	static const EsPlaceholderRoot roots[] = {
		[ES_KEY_STREAM] = {"stream", false},
		[ES_KEY_DATA] = {"data", true},
		[ES_KEY_METADATA] = {"metadata", true},
		{NULL}
	};

	return es_placeholder_parse(text, "key", roots, "It is ${stream}, or a field such as ${data.customerId} or ${metadata.region}.");
}

/* waits for the transactions that poll or settle; what is handed out stays so */
static void
change_lanes(int32 id, int lanes)
{
	const EsSubscription *subscription;

	es_subscription_refuse_snapshot("the lanes of a subscription cannot be changed");
	subscription = es_subscription_lock(id, AccessExclusiveLock);
	if (subscription != NULL && es_lane_layout_newest(subscription->layout)->lanes != lanes)
		es_lane_change(id, subscription->layout, lanes);
}

/* a copy delivers to nobody and notifies nobody, so this place has to be known; and the scheduler has to know what there is */
static void
work_from_here(void)
{
	es_identity_establish();
	es_wakeup_at_commit(0);
}

/* its name stays locked, so that it is not dropped before this is committed */
static void
check_endpoint(Jsonb *spec)
{
	char	   *endpoint = es_options_string(spec, "endpoint", NULL);

	if (endpoint == NULL)
		return;
	es_definition_lock("endpoint", endpoint);
	(void) es_definition_get("endpoint", endpoint);
}

void
es_subscription_refuse_snapshot(const char *what)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s in a REPEATABLE READ or SERIALIZABLE transaction", what),
				 errhint("Use READ COMMITTED, the default isolation level.")));
}
