/*
 * crasher.c
 *		A handler that takes its process down, for the test of quarantine: crash() dies of SIGSEGV, overflow() of a stack without end.
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(crash);
PG_FUNCTION_INFO_V1(overflow);

static int	deeper(volatile char *above);

Datum
crash(PG_FUNCTION_ARGS)
{
	*(volatile int *) 8 = 0;
	PG_RETURN_VOID();
}

Datum
overflow(PG_FUNCTION_ARGS)
{
	volatile char here[4096] = {0};

	PG_RETURN_INT32(deeper(here));
}

/* without the server's look at the depth of the stack */
static int
deeper(volatile char *above)
{
	volatile char here[65536];

	here[0] = above[0] + 1;
	here[65535] = here[0];
	return deeper(here) + here[65535];
}
