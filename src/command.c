/*
 * command.c
 *		Idempotent commands: begin_command() and finish_command(), and the results that they keep.
 *
 * Runs in backends, in the caller's transaction; the janitor calls es_command_trim.  A command is locked by the hash of
 * its tenant, scope and key to the end of the transaction: who has the lock is the only one that can finish it, and sees
 * what every earlier holder committed (locks are released after the commit is visible), because it looks with the latest
 * snapshot, whatever the isolation level.  Begin writes nothing.  Finish inserts the result, so it commits or vanishes
 * together with the effects of the handler; the commit is forced to be synchronous, because whoever reads the result
 * answers somebody outside with it.
 *
 * Rows are never updated.  One that has expired is invisible to begin, and stays beside its successor until the janitor
 * deletes it.  A crash leaves what was committed.
 *
 * What this transaction has begun is kept in the backend until the transaction ends; a savepoint that is rolled back
 * takes what was begun in it along, as the server takes its locks, and makes unfinished what was finished in it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "command.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "guc.h"
#include "lock.h"
#include "spi.h"
#include "stream.h"

PG_FUNCTION_INFO_V1(evtstore_begin_command);
PG_FUNCTION_INFO_V1(evtstore_finish_command);
PG_FUNCTION_INFO_V1(evtstore_trim_commands);

/* a command that this transaction began */
typedef struct Begun
{
	char	   *tenant;
	char	   *scope;
	char	   *key;
	char	   *fingerprint;	/* NULL: none given */
	SubTransactionId begun_in;
	SubTransactionId finished_in;	/* InvalidSubTransactionId: not finished */
} Begun;

static List *begun = NIL;		/* of Begun, newest first, in TopTransactionContext */

static EsPlan find_plan = {
	.sql = "SELECT fingerprint, result FROM evtstore_internal.command"
	" WHERE tenant = $1 AND scope = $2 AND key = $3 AND finished_at > $4 ORDER BY finished_at DESC LIMIT 1",
	.nargs = 4,
	.args = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.command (finished_at, tenant, scope, key, fingerprint, result)"
	" VALUES ($1, $2, $3, $4, $5, $6)",
	.nargs = 6,
	.args = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID},
};

static EsPlan trim_plan = {
	.sql = "DELETE FROM evtstore_internal.command WHERE ctid = ANY (ARRAY("
	"SELECT ctid FROM evtstore_internal.command WHERE finished_at <= $1 ORDER BY finished_at LIMIT $2))",
	.nargs = 2,
	.args = {TIMESTAMPTZOID, INT8OID},
};

static void lock_command(const char *scope, const char *key);
static bool find_result(const char *scope, const char *key, const char *fingerprint, Datum *result);
static void refuse_fingerprint(const char *scope, const char *key, const char *fingerprint) es_noreturn;
static Begun *find_begun(const char *scope, const char *key);
static void remember_begun(const char *scope, const char *key, const char *fingerprint);
static TimestampTz oldest_kept(void);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_command_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/* evtstore.begin_command(scope, key, fingerprint) */
Datum
evtstore_begin_command(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *scope = es_arg_name(fcinfo, 0, "scope", ES_MAX_NAME_BYTES);
	char	   *key = es_arg_name(fcinfo, 1, "key", ES_MAX_KEY_BYTES);
	char	   *fingerprint = es_arg_optional_name(fcinfo, 2, "fingerprint", ES_MAX_KEY_BYTES);
	Datum		values[2] = {0};
	bool		nulls[2] = {false, false};
	Begun	   *mine;

	es_catalog_require_writable("begin_command");
	InitMaterializedSRF(fcinfo, 0);
	mine = find_begun(scope, key);
	if (mine != NULL && mine->finished_in == InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this transaction has begun command \"%s\" of scope \"%s\" already", key, scope),
				 errdetail("Its effects would be done twice."),
				 errhint("Finish it with finish_command first, or begin it inside the savepoint that is rolled back before a retry.")));

	lock_command(scope, key);
	nulls[1] = !find_result(scope, key, fingerprint, &values[1]);
	values[0] = BoolGetDatum(nulls[1]);
	if (nulls[1])
		remember_begun(scope, key, fingerprint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* evtstore.finish_command(scope, key, result) */
Datum
evtstore_finish_command(PG_FUNCTION_ARGS)
{
	char	   *scope = es_arg_name(fcinfo, 0, "scope", ES_MAX_NAME_BYTES);
	char	   *key = es_arg_name(fcinfo, 1, "key", ES_MAX_KEY_BYTES);
	Datum		values[6];
	char		nulls[] = "      ";
	Begun	   *mine;
	EsSpiState	state;

	es_arg_required(fcinfo, 2, "result");
	es_catalog_require_writable("finish_command");
	mine = find_begun(scope, key);
	if (mine == NULL || mine->finished_in != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this transaction has not begun command \"%s\" of scope \"%s\"", key, scope),
				 mine != NULL ? errdetail("It has finished it already.") : 0,
				 errhint("Call begin_command first, in the same transaction and for the same tenant, and finish_command once where it says first.")));

	values[0] = TimestampTzGetDatum(es_clock_now());
	values[1] = CStringGetTextDatum(mine->tenant);
	values[2] = CStringGetTextDatum(scope);
	values[3] = CStringGetTextDatum(key);
	values[4] = mine->fingerprint == NULL ? (Datum) 0 : CStringGetTextDatum(mine->fingerprint);
	nulls[4] = mine->fingerprint == NULL ? 'n' : ' ';
	values[5] = PG_GETARG_DATUM(2);
	es_spi_begin(&state);
	es_spi_run(&insert_plan, values, nulls, false, 0);
	es_spi_end(&state);
	mine->finished_in = GetCurrentSubTransactionId();
	ForceSyncCommit();
	PG_RETURN_VOID();
}

/* evtstore_internal.trim_commands(max_count) */
Datum
evtstore_trim_commands(PG_FUNCTION_ARGS)
{
	es_arg_required(fcinfo, 0, "max_count");
	es_catalog_require_writable("trim_commands");
	PG_RETURN_INT64(es_command_trim(PG_GETARG_INT32(0)));
}

int64
es_command_trim(int limit)
{
	Datum		values[2] = {TimestampTzGetDatum(oldest_kept()), Int64GetDatum(limit)};
	uint64		rows;
	EsSpiState	state;

	es_spi_begin(&state);
	rows = es_spi_run(&trim_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return (int64) rows;
}

/* commands whose hashes collide share a lock, which costs a wait and nothing else */
static void
lock_command(const char *scope, const char *key)
{
	StringInfoData name;

	initStringInfo(&name);
	appendStringInfo(&name, "%s%c%s", scope, '\0', key);
	es_lock(ES_LOCK_COMMAND, es_stream_hash(es_guc_tenant, name.data, name.len));
	pfree(name.data);
}

/* the result that is committed now, or our own; false where there is none that is still kept */
static bool
find_result(const char *scope, const char *key, const char *fingerprint, Datum *result)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[4];
	char	   *known = NULL;
	bool		found;
	EsSpiState	state;

	values[0] = CStringGetTextDatum(es_guc_tenant);
	values[1] = CStringGetTextDatum(scope);
	values[2] = CStringGetTextDatum(key);
	values[3] = TimestampTzGetDatum(oldest_kept());
	es_spi_begin(&state);
	found = es_spi_run_latest(&find_plan, values, NULL) > 0;
	if (found)
	{
		bool		isnull;
		Datum		value = es_spi_value(0, 1, &isnull);
		MemoryContext spi;

		known = es_spi_text(0, 0);
		spi = MemoryContextSwitchTo(caller);
		*result = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		if (known != NULL)
			known = pstrdup(known);
		MemoryContextSwitchTo(spi);
	}
	es_spi_end(&state);
	if (known != NULL && fingerprint != NULL && strcmp(known, fingerprint) != 0)
		refuse_fingerprint(scope, key, fingerprint);
	return found;
}

static void
refuse_fingerprint(const char *scope, const char *key, const char *fingerprint)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"scope\":");
	escape_json(&detail, scope);
	appendStringInfoString(&detail, ",\"key\":");
	escape_json(&detail, key);
	appendStringInfoString(&detail, ",\"fingerprint\":");
	escape_json(&detail, fingerprint);
	appendStringInfoChar(&detail, '}');
	ereport(ERROR,
			(errcode(ES_ERRCODE_ID_CONFLICT),
			 errmsg("command \"%s\" of scope \"%s\" was finished with another fingerprint", key, scope),
			 errdetail("%s", detail.data),
			 errhint("Give each request a key of its own; a retry repeats key and request exactly.")));
}

static Begun *
find_begun(const char *scope, const char *key)
{
	ListCell   *lc;

	foreach(lc, begun)
	{
		Begun	   *b = lfirst(lc);

		if (strcmp(b->key, key) == 0 && strcmp(b->scope, scope) == 0 && strcmp(b->tenant, es_guc_tenant) == 0)
			return b;
	}
	return NULL;
}

static void
remember_begun(const char *scope, const char *key, const char *fingerprint)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Begun	   *b = palloc0(sizeof(Begun));

	b->tenant = pstrdup(es_guc_tenant);
	b->scope = pstrdup(scope);
	b->key = pstrdup(key);
	b->fingerprint = fingerprint == NULL ? NULL : pstrdup(fingerprint);
	b->begun_in = GetCurrentSubTransactionId();
	begun = lcons(b, begun);
	MemoryContextSwitchTo(old);
}

/* results that were finished then or before count as gone */
static TimestampTz
oldest_kept(void)
{
	return es_clock_now() - (TimestampTz) es_guc_command_retention * USECS_PER_SEC;
}

static void
xact_callback(XactEvent event, void *arg)
{
	/* the list's memory goes with the transaction */
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		begun = NIL;
}

/*
 * Numbers of subtransactions grow, and those that are open form a stack: what carries this number or a higher one was
 * done inside.
 */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	foreach(lc, begun)
	{
		Begun	   *b = lfirst(lc);

		if (b->begun_in >= subid)
			begun = foreach_delete_current(begun, lc);
		else if (b->finished_in >= subid)
			b->finished_in = InvalidSubTransactionId;
	}
}
