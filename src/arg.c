/*
 * arg.c
 *		Arguments and results of SQL-callable functions.  Runs in backends; keeps nothing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "common/int.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "arg.h"
#include "compat.h"
#include "guc.h"

/* of a bad value in a message */
#define SHOWN_BYTES 200

static void forget_row(Datum arg);

PG_FUNCTION_INFO_V1(evtstore_tenant);

/* evtstore_internal.tenant() */
Datum
evtstore_tenant(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(es_guc_tenant));
}

void
es_arg_required(FunctionCallInfo fcinfo, int n, const char *arg)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", arg),
				 errhint("Give a value for %s.", arg)));
}

void
es_arg_check_name(const char *value, const char *arg, int max_bytes)
{
	size_t		len = strlen(value);

	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", arg),
				 errhint("Give a value for %s.", arg)));
	if (len > max_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long: %zu bytes, at most %d", arg, len, max_bytes),
				 errdetail("It begins with \"%.*s\".", pg_mbcliplen(value, len, 40), value),
				 errhint("Shorten it to %d bytes.", max_bytes)));
}

char *
es_arg_shown(const char *value, int len)
{
	if (len <= SHOWN_BYTES)
		return pnstrdup(value, len);
	return psprintf("%.*s...", pg_mbcliplen(value, len, SHOWN_BYTES), value);
}

char *
es_arg_name(FunctionCallInfo fcinfo, int n, const char *arg, int max_bytes)
{
	char	   *value;

	es_arg_required(fcinfo, n, arg);
	value = text_to_cstring(PG_GETARG_TEXT_PP(n));
	es_arg_check_name(value, arg, max_bytes);
	return value;
}

char *
es_arg_optional_name(FunctionCallInfo fcinfo, int n, const char *arg, int max_bytes)
{
	if (PG_ARGISNULL(n))
		return NULL;
	return es_arg_name(fcinfo, n, arg, max_bytes);
}

int64
es_arg_interval(FunctionCallInfo fcinfo, int n, const char *arg)
{
	Interval   *interval;
	int64		days;
	int64		result;

	es_arg_required(fcinfo, n, arg);
	interval = PG_GETARG_INTERVAL_P(n);
	days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result) || pg_add_s64_overflow(result, interval->time, &result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", arg)));
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative: %s", arg,
						DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(interval)))),
				 errhint("Give an interval of zero or more.")));
	return result;
}

/*
 * fn_extra only says that the row was handed out.  The callback takes the mark back when the executor stops early
 * (LIMIT, a rescan), so that the next call through the same FmgrInfo writes again rather than ending at once.
 */
bool
es_arg_second_call(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;

	if (rsi == NULL || !IsA(rsi, ReturnSetInfo) || (rsi->allowedModes & SFRM_ValuePerCall) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	rsi->returnMode = SFRM_ValuePerCall;
	if (fcinfo->flinfo->fn_extra == NULL)
		return false;
	UnregisterExprContextCallback(rsi->econtext, forget_row, PointerGetDatum(fcinfo->flinfo));
	fcinfo->flinfo->fn_extra = NULL;
	return true;
}

void
es_arg_row_returned(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;

	rsi->isDone = ExprMultipleResult;
	fcinfo->flinfo->fn_extra = fcinfo->flinfo;
	RegisterExprContextCallback(rsi->econtext, forget_row, PointerGetDatum(fcinfo->flinfo));
}

TupleDesc
es_arg_row_desc(Oid type)
{
	static struct
	{
		Oid			type;
		TupleDesc	desc;
	}			cache[4];
	static int	next = 0;
	MemoryContext old;

	for (int i = 0; i < lengthof(cache); i++)
		if (cache[i].type == type)
			return cache[i].desc;
	next = (next + 1) % lengthof(cache);
	cache[next].type = InvalidOid;
	if (cache[next].desc != NULL)
		FreeTupleDesc(cache[next].desc);
	cache[next].desc = NULL;
	old = MemoryContextSwitchTo(TopMemoryContext);
	cache[next].desc = lookup_rowtype_tupdesc_copy(type, -1);
	MemoryContextSwitchTo(old);
	cache[next].type = type;
	return cache[next].desc;
}

static void
forget_row(Datum arg)
{
	((FmgrInfo *) DatumGetPointer(arg))->fn_extra = NULL;
}
