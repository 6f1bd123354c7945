/*
 * cause.c
 *		The event that is being handled.
 *
 * Runs wherever handlers do: in appenders' backends and in workers.  Local to the process and to what runs; keeps nothing.
 */
#include "postgres.h"

#include "cause.h"

static const EsCause *current = NULL;
static bool is_replay = false;

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
