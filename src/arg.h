/*
 * arg.h
 *		Arguments of SQL-callable functions: one clear error for each kind of bad input.
 */
#ifndef ES_ARG_H
#define ES_ARG_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/execnodes.h"

/* errors: 22004 for NULL, 22023 for empty, too long; the argument's name is in the message */
extern char *es_arg_name(FunctionCallInfo fcinfo, int n, const char *arg, int max_bytes); /* required text */
extern char *es_arg_optional_name(FunctionCallInfo fcinfo, int n, const char *arg, int max_bytes);
extern void es_arg_required(FunctionCallInfo fcinfo, int n, const char *arg);
extern void es_arg_check_name(const char *value, const char *arg, int max_bytes);
/* for a message: the value, or its beginning, cut between two characters */
extern char *es_arg_shown(const char *value, int len);
/* non-negative interval in microseconds, months and days at 30 and 1; 22023 when negative, 22004 when NULL */
extern int64 es_arg_interval(FunctionCallInfo fcinfo, int n, const char *arg);

/*
 * A function that RETURNS SETOF composite ROWS 1 and writes: hands out its one row by value-per-call, which costs a
 * tuplestore less than materialising.  Usage:
 *		if (es_arg_second_call(fcinfo)) ES_RETURN_DONE(fcinfo);
 *		...
 *		ES_RETURN_ROW(fcinfo, datum);
 */
extern bool es_arg_second_call(FunctionCallInfo fcinfo);
extern void es_arg_row_returned(FunctionCallInfo fcinfo);
/* the row type of a composite of ours, cached for the life of the backend; for heap_form_tuple */
extern TupleDesc es_arg_row_desc(Oid type);
#define ES_RETURN_ROW(fcinfo, datum) \
	do { \
		es_arg_row_returned(fcinfo); \
		return (datum); \
	} while (0)
#define ES_RETURN_DONE(fcinfo) \
	do { \
		((ReturnSetInfo *) (fcinfo)->resultinfo)->isDone = ExprEndResult; \
		PG_RETURN_NULL(); \
	} while (0)

#endif
