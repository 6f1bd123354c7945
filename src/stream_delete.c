/*
 * stream_delete.c
 *		delete_stream() and truncate_stream(): what readers of a stream see no longer.
 *
 * Runs in the caller's backend and transaction.  Takes the locks of an append, in the same order, checks, and writes one
 * row of state; every refusal comes before anything was allocated.  The events themselves stay in the table until they
 * are scavenged, and in the feed until then.  A crash leaves the row, or a gap in the positions.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "guc.h"
#include "stream.h"
#include "table.h"

PG_FUNCTION_INFO_V1(evtstore_delete_stream);
PG_FUNCTION_INFO_V1(evtstore_truncate_stream);

static int64 version_argument(FunctionCallInfo fcinfo, int n, const char *arg, const char *hint);
static EsStream *lock_stream(const char *name);
static void check_version(EsStream *stream, bool deleted, int64 expected, int64 version);

/* evtstore.delete_stream(stream, hard, expected_version) */
Datum
evtstore_delete_stream(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	bool		hard = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	bool		any = PG_ARGISNULL(2);
	int64		expected = any ? 0 : version_argument(fcinfo, 2, "expected_version",
													  "NULL: any version; 0: the stream must not exist; n: exactly n.");
	EsStream   *stream;
	EsStreamState state;
	int64		version;

	es_catalog_require_writable("delete_stream");
	stream = lock_stream(name);
	state = es_stream_state(stream);
	version = es_stream_current_version(stream);
	if (!any)
		check_version(stream, state.status == ES_STREAM_DELETED, expected, version);

	/* nothing is there to delete; a name that was never used can be closed all the same */
	if (!hard && (version == 0 || state.status == ES_STREAM_DELETED))
		PG_RETURN_VOID();
	if (stream->id == 0)
		es_stream_create(stream);
	state.status = hard ? ES_STREAM_TOMBSTONED : ES_STREAM_DELETED;
	state.truncate_before = version + 1;
	es_stream_set_state(stream, state);
	PG_RETURN_VOID();
}

/* evtstore.truncate_stream(stream, before_version) */
Datum
evtstore_truncate_stream(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	int64		before;
	int64		version;
	EsStream   *stream;
	EsStreamState state;

	es_arg_required(fcinfo, 1, "before_version");
	before = version_argument(fcinfo, 1, "before_version", "Events of lower versions are gone; 1 keeps all.");
	es_catalog_require_writable("truncate_stream");
	stream = lock_stream(name);
	state = es_stream_state(stream);
	version = es_stream_current_version(stream);
	if (before > version + 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("before_version is above the end of stream \"%s\": " INT64_FORMAT, name, before),
				 errdetail("The stream is at version " INT64_FORMAT ".", version),
				 errhint("Give at most " INT64_FORMAT ", which keeps no event.", version + 1)));
	if (before <= state.truncate_before)
		PG_RETURN_VOID();
	state.truncate_before = before;
	es_stream_set_state(stream, state);
	PG_RETURN_VOID();
}

static int64
version_argument(FunctionCallInfo fcinfo, int n, const char *arg, const char *hint)
{
	int64		version = PG_GETARG_INT64(n);

	if (version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative: " INT64_FORMAT, arg, version),
				 errhint("%s", hint)));
	return version;
}

/* tables first, then the stream, as an append does */
static EsStream *
lock_stream(const char *name)
{
	EsStream   *stream;

	AcceptInvalidationMessages();
	es_table_open(ES_TABLE_EVENT, es_catalog()->event);
	es_stream_lock(es_guc_tenant, &name, 1);
	stream = es_stream_find(es_guc_tenant, name);
	es_stream_refuse_tombstoned(stream);
	return stream;
}

/* of a deleted stream both may be expected, as by an append: that it does not exist, and where its versions go on */
static void
check_version(EsStream *stream, bool deleted, int64 expected, int64 version)
{
	StringInfoData name;

	if (expected == version || (deleted && expected == 0))
		return;
	initStringInfo(&name);
	escape_json(&name, stream->name);
	ereport(ERROR,
			(errcode(ES_ERRCODE_WRONG_EXPECTED_VERSION),
			 errmsg("stream \"%s\" is at version " INT64_FORMAT ", expected " INT64_FORMAT, stream->name, version, expected),
			 errdetail("{\"stream\":%s,\"expected\":" INT64_FORMAT ",\"actual\":" INT64_FORMAT "}",
					   name.data, expected, version),
			 errhint("Read the stream again and retry the whole transaction.")));
}
