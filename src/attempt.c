/*
 * attempt.c
 *		Doing something that may fail, and going on.
 *
 * Runs in workers and backends, inside a transaction: in a subtransaction, which takes the effects of a failure with it.  Keeps
 * nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "attempt.h"
#include "compat.h"

/* of what is told of an error */
#define MAX_ERROR_BYTES 1000

static char *error_text(void);

char *
es_attempt(void (*run)(void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		run(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		if (code == ERRCODE_QUERY_CANCELED || code == ERRCODE_ADMIN_SHUTDOWN || code == ERRCODE_CRASH_SHUTDOWN)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		error = error_text();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

static char *
error_text(void)
{
	ErrorData  *edata = CopyErrorData();
	char	   *text = psprintf("%s: %s", unpack_sql_state(edata->sqlerrcode),
								edata->message != NULL ? edata->message : "missing error text");

	text[pg_mbcliplen(text, strlen(text), MAX_ERROR_BYTES)] = '\0';
	FreeErrorData(edata);
	return text;
}
