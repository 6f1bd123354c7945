/*
 * snapshot.c
 *		Snapshots of states: what a fold over a stream came to at a version.
 *
 * Runs in backends, in the caller's transaction.  state_of keeps those of reducers, each with a fingerprint of what made
 * it; applications that fold by themselves keep theirs with save_snapshot.  A snapshot is written where the events that
 * it stands for are visible, so it is rolled back with them.  A reducer's is written under a lock that is not waited for,
 * so a read never waits for another transaction.  Rows are transactional: a crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "history.h"
#include "lock.h"
#include "snapshot.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(evtstore_save_snapshot);
PG_FUNCTION_INFO_V1(evtstore_load_snapshot);

static EsPlan find_plan = {
	.sql = "SELECT version, state FROM evtstore_internal.snapshot"
	" WHERE stream_id = $1 AND kind = $2 AND name = $3 AND version <= $4 AND fingerprint = $5 ORDER BY version DESC LIMIT 1",
	.nargs = 5,
	.args = {INT8OID, INT4OID, TEXTOID, INT8OID, INT8OID},
};

static EsPlan save_plan = {
	.sql = "INSERT INTO evtstore_internal.snapshot (stream_id, kind, name, version, fingerprint, state, saved_at)"
	" VALUES ($1, $2, $3, $4, 0, $5, now()) ON CONFLICT (stream_id, kind, name, version) DO UPDATE"
	" SET state = excluded.state, saved_at = excluded.saved_at",
	.nargs = 5,
	.args = {INT8OID, INT4OID, TEXTOID, INT8OID, JSONBOID},
};

static EsPlan keep_plan = {
	.sql = "INSERT INTO evtstore_internal.snapshot (stream_id, kind, name, version, fingerprint, state, saved_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, now()) ON CONFLICT DO NOTHING",
	.nargs = 6,
	.args = {INT8OID, INT4OID, TEXTOID, INT8OID, INT8OID, JSONBOID},
};

static EsPlan delete_stale_plan = {
	.sql = "DELETE FROM evtstore_internal.snapshot WHERE stream_id = $1 AND kind = $2 AND name = $3 AND fingerprint <> $4",
	.nargs = 4,
	.args = {INT8OID, INT4OID, TEXTOID, INT8OID},
};

static EsPlan forget_plan = {
	.sql = "DELETE FROM evtstore_internal.snapshot WHERE kind = $1 AND name = $2",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

/* evtstore.save_snapshot(stream, name, version, state) */
Datum
evtstore_save_snapshot(PG_FUNCTION_ARGS)
{
	char	   *stream_name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	char	   *name = es_arg_name(fcinfo, 1, "name", ES_MAX_NAME_BYTES);
	EsStream   *stream;
	EsSpiState	state;
	Datum		values[5];
	int64		version;
	int64		last;

	es_catalog_require_writable("save_snapshot");
	es_arg_required(fcinfo, 2, "version");
	es_arg_required(fcinfo, 3, "state");
	version = PG_GETARG_INT64(2);
	es_feed_begin_stream_read();
	stream = es_stream_find(es_guc_tenant, stream_name);
	last = stream->id == 0 ? 0 : es_history_last_version(stream);
	es_feed_end_read();
	if (version < 1 || version > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no version " INT64_FORMAT ": it is at " INT64_FORMAT, stream_name, version, last),
				 errhint("Give the version of the last event that went into the state.")));

	values[0] = Int64GetDatum(stream->id);
	values[1] = Int32GetDatum(ES_SNAPSHOT_APPLICATION);
	values[2] = CStringGetTextDatum(name);
	values[3] = Int64GetDatum(version);
	values[4] = PG_GETARG_DATUM(3);
	es_spi_begin(&state);
	es_spi_run(&save_plan, values, NULL, false, 0);
	es_spi_end(&state);
	PG_RETURN_VOID();
}

/* evtstore.load_snapshot(stream, name, max_version) */
Datum
evtstore_load_snapshot(PG_FUNCTION_ARGS)
{
	char	   *stream_name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	char	   *name = es_arg_name(fcinfo, 1, "name", ES_MAX_NAME_BYTES);
	int64		max_version = PG_ARGISNULL(2) ? PG_INT64_MAX : PG_GETARG_INT64(2);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsStream   *stream;
	int64		version;
	Datum		state;

	if (max_version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_version must not be negative: " INT64_FORMAT, max_version),
				 errhint("NULL: the newest snapshot.")));
	InitMaterializedSRF(fcinfo, 0);
	es_feed_begin_stream_read();
	stream = es_stream_find(es_guc_tenant, stream_name);
	if (stream->id != 0 &&
		es_snapshot_find(stream, ES_SNAPSHOT_APPLICATION, name, 0, max_version, &version, &state))
	{
		Datum		values[2] = {Int64GetDatum(version), state};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	es_feed_end_read();
	return (Datum) 0;
}

bool
es_snapshot_find(const EsStream *stream, EsSnapshotKind kind, const char *name, int64 fingerprint, int64 max_version,
				 int64 *version, Datum *state)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	spi;
	Datum		values[5];
	bool		found;
	bool		isnull;

	values[0] = Int64GetDatum(stream->id);
	values[1] = Int32GetDatum(kind);
	values[2] = CStringGetTextDatum(name);
	values[3] = Int64GetDatum(max_version);
	values[4] = Int64GetDatum(fingerprint);
	es_spi_begin(&spi);
	found = es_spi_run(&find_plan, values, NULL, true, 1) > 0;
	if (found)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		*version = es_spi_int64(0, 0);
		*state = PointerGetDatum(PG_DETOAST_DATUM_COPY(es_spi_value(0, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&spi);
	return found;
}

void
es_snapshot_keep(const EsStream *stream, const char *reducer, int64 fingerprint, int64 version, Datum state)
{
	uint64		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) reducer, strlen(reducer), stream->id));
	EsSpiState	spi;
	Datum		values[6];

	/* a row that this snapshot cannot see would be an error there */
	if (IsolationUsesXactSnapshot() || !es_lock_try(ES_LOCK_SNAPSHOT, hash))
		return;
	values[0] = Int64GetDatum(stream->id);
	values[1] = Int32GetDatum(ES_SNAPSHOT_REDUCER);
	values[2] = CStringGetTextDatum(reducer);
	values[3] = Int64GetDatum(fingerprint);
	es_spi_begin(&spi);
	es_spi_run(&delete_stale_plan, values, NULL, false, 0);
	values[3] = Int64GetDatum(version);
	values[4] = Int64GetDatum(fingerprint);
	values[5] = state;
	es_spi_run(&keep_plan, values, NULL, false, 0);
	es_spi_end(&spi);
}

void
es_snapshot_forget(const char *reducer)
{
	EsSpiState	spi;
	Datum		values[2] = {Int32GetDatum(ES_SNAPSHOT_REDUCER), CStringGetTextDatum(reducer)};

	es_spi_begin(&spi);
	es_spi_run(&forget_plan, values, NULL, false, 0);
	es_spi_end(&spi);
}
