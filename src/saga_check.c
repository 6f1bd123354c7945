/*
 * saga_check.c
 *		Looking at definitions of sagas: what is wrong with one, and a drawing of one.
 *
 * Runs in backends; keeps nothing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "arg.h"
#include "compat.h"
#include "evtstore.h"
#include "saga_version.h"

PG_FUNCTION_INFO_V1(evtstore_check_saga);
PG_FUNCTION_INFO_V1(evtstore_explain_definition);

/* evtstore.check_saga(definition json) -> table(path text, fault text) */
Datum
evtstore_check_saga(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StringInfoData faults;
	text	   *json;
	const char *fault;
	const char *end;
	int			path_length;

	es_arg_required(fcinfo, 0, "definition");
	json = PG_GETARG_TEXT_PP(0);
	initStringInfo(&faults);
	es_asl_find_duplicates(json, &faults);
	es_asl_parse(DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(json)))), &faults);
	InitMaterializedSRF(fcinfo, 0);
	for (fault = faults.data; (end = es_asl_next_fault(fault, &path_length)) != NULL; fault = *end == '\n' ? end + 1 : end)
	{
		const char *told = fault + path_length + strlen(": ");
		Datum		values[2] = {PointerGetDatum(cstring_to_text_with_len(fault, path_length)),
		PointerGetDatum(cstring_to_text_with_len(told, end - told))};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* evtstore.explain_definition(name text, version int) -> text */
Datum
evtstore_explain_definition(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	int			version = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);

	if (!PG_ARGISNULL(1) && version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version must be 1 or more, not %d", version),
				 errhint("Leave it out for the active one.")));
	PG_RETURN_TEXT_P(cstring_to_text(es_asl_draw(es_saga_version_get(name, version)->definition, NULL)));
}
