/*
 * cause.c
 *		The event that is being handled.
 *
 * Runs wherever handlers do: in appenders' backends and in workers.  Local to the process and to what runs; keeps nothing.
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "cause.h"

static const EsCause *current = NULL;
static bool is_replay = false;

static int	depth_of(Numeric value);

EsCauseFacts
es_cause_facts_of(Jsonb *metadata)
{
	EsCauseFacts facts = {0};
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(&metadata->root, "causation_depth", strlen("causation_depth"), &v) != NULL && v.type == jbvNumeric)
		facts.depth = depth_of(v.val.numeric);
	if (getKeyJsonValueFromContainer(&metadata->root, "correlation_id", strlen("correlation_id"), &v) != NULL && v.type == jbvString)
		facts.correlation_id = pnstrdup(v.val.string.val, v.val.string.len);
	return facts;
}

/* what somebody wrote there may be any number */
static int
depth_of(Numeric value)
{
	long		depth = strtol(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value))), NULL, 10);

	return (int) Min(Max(depth, 0), INT_MAX - 1);
}

void
es_cause_run(const EsCause *cause, void (*run)(void *arg), void *arg)
{
	const EsCause *before = current;

	current = cause;
	PG_TRY();
	{
		run(arg);
	}
	PG_FINALLY();
	{
		current = before;
	}
	PG_END_TRY();
}

const EsCause *
es_cause(void)
{
	return current;
}

bool
es_cause_is_replay(void)
{
	return is_replay;
}

void
es_cause_set_replay(void)
{
	is_replay = true;
}
