/*
 * saga_start.c
 *		Instances of sagas begin.
 *
 * Runs in backends, in the caller's transaction; for children (saga_child.c) in a transition of their parent.  Locks: the definition's, shared,
 * against its drop; the rows of the keys.  A concurrent start with the same key is waited for.  A crash leaves nothing of it.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "lock.h"
#include "queue.h"
#include "saga_simulate.h"

static const EsSagaVersion *require_version(FunctionCallInfo fcinfo, int n, const char *name);
static bool known_start(const EsSaga *saga, const char *key, pg_uuid_t *id);
static Datum start(const EsSagaVersion *version, EsSaga *saga, TimestampTz start_at);

PG_FUNCTION_INFO_V1(evtstore_start_saga);

/*
 * start_saga(name text, input jsonb, business_key text, idempotency_key text, version int, start_at timestamptz) -> uuid; evtstore_writer
 */
Datum
evtstore_start_saga(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *idempotency_key;
	const EsSagaVersion *version;
	EsSaga		saga = {.parent_seq = 0};
	pg_uuid_t  *known = palloc(sizeof(pg_uuid_t));

	es_catalog_require_writable("start_saga");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "input");
	saga.input = PG_GETARG_JSONB_P(1);
	saga.business_key = es_arg_optional_name(fcinfo, 2, "business_key", ES_MAX_NAME_BYTES);
	idempotency_key = es_arg_optional_name(fcinfo, 3, "idempotency_key", ES_MAX_NAME_BYTES);
	version = require_version(fcinfo, 4, name);
	es_saga_require(version);
	es_saga_fill(&saga, version, PG_ARGISNULL(5) ? 0 : PG_GETARG_TIMESTAMPTZ(5));
	es_clock_uuid(&saga.id, saga.started_at);
	if (idempotency_key != NULL && known_start(&saga, idempotency_key, known))
		PG_RETURN_UUID_P(known);
	if (saga.business_key != NULL)
		es_saga_take_business_key(&saga);
	return start(version, &saga, PG_ARGISNULL(5) ? 0 : PG_GETARG_TIMESTAMPTZ(5));
}

void
es_saga_require(const EsSagaVersion *version)
{
	char	   *name = pstrdup(version->name);

	if (!es_saga_pin(version))
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("saga \"%s\" does not exist", name),
				 errdetail("It was dropped a moment ago."),
				 errhint("Define it with evtstore.define_saga().")));
}

void
es_saga_fill(EsSaga *saga, const EsSagaVersion *version, TimestampTz begin)
{
	TimestampTz now = es_clock_now();

	saga->status = ES_SAGA_RUNNING;
	saga->ending = ES_SAGA_COMPENSATED;
	saga->definition_id = version->id;
	saga->version = version->version;
	saga->started_at = es_simulation_is_open(&now) ? now : GetCurrentTimestamp();
	if (saga->tenant == NULL)
		saga->tenant = pstrdup(es_queue_tenant());
	if (saga->metadata == NULL)
		saga->metadata = DatumGetJsonbP(es_event_stamp(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))));
	if (version->definition->timeout > 0)
		saga->deadline = Max(now, begin) + (TimestampTz) (version->definition->timeout * USECS_PER_SEC);
}

static const EsSagaVersion *
require_version(FunctionCallInfo fcinfo, int n, const char *name)
{
	int			version = PG_ARGISNULL(n) ? 0 : PG_GETARG_INT32(n);

	if (!PG_ARGISNULL(n) && version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version is out of range: %d", version),
				 errhint("Versions begin at 1; leave it out for the newest.")));
	return es_saga_version_get(name, version);
}

bool
es_saga_pin(const EsSagaVersion *version)
{
	int32		id = version->id;
	int			number = version->version;

	if (!es_lock_mode(ES_LOCK_SAGA, id, AccessShareLock))
		return true;
	AcceptInvalidationMessages();
	return es_saga_version_by_id(id, number) != NULL;
}

/* somebody has started it with that key: *id is his */
static bool
known_start(const EsSaga *saga, const char *key, pg_uuid_t *id)
{
	return !es_saga_take_key(saga, "start", key, id);
}

void
es_saga_take_business_key(const EsSaga *saga)
{
	pg_uuid_t	holder;

	if (es_saga_take_key(saga, "business", saga->business_key, &holder))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("a saga with business key \"%s\" is open", saga->business_key),
			 errdetail("{\"id\": \"%s\"}", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&holder)))),
			 errhint("Wait until it has ended, cancel it, or use another key.")));
}

static Datum
start(const EsSagaVersion *version, EsSaga *saga, TimestampTz start_at)
{
	MemoryContext caller = CurrentMemoryContext;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	EsNext		begin = {version->definition->machine->start, saga->input};
	EsMove		move;

	*id = saga->id;
	es_move_start(&move, version, saga);
	if (start_at > move.now)
		es_step_new(&move, ES_STEP_START, begin, NULL)->due = start_at;
	else
		es_move_walk(&move, begin);
	es_move_end(&move);
	MemoryContextSwitchTo(caller);
	return UUIDPGetDatum(id);
}

