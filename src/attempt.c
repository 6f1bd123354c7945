/*
 * attempt.c
 *		Doing something that may fail, and going on.
 *
 * Runs in workers and backends, inside a transaction: in a subtransaction, which takes the effects of a failure with it.  Also the transaction
 * that a worker's turn is in: its own, or that of a client who does in a call what workers would do (pending.c).  Keeps nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "attempt.h"
#include "compat.h"

/* of what is told of an error */
#define MAX_ERROR_BYTES 1000

static char *error_text(const ErrorData *edata);

bool
es_turn_transaction_begin(void)
{
	bool		is_own = !IsTransactionState();
	MemoryContext context = CurrentMemoryContext;

	if (is_own)
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
	}
	else
		CommandCounterIncrement();
	/* what is read may be toasted, which takes a snapshot */
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	return is_own;
}

void
es_turn_transaction_end(bool is_own)
{
	MemoryContext context = CurrentMemoryContext;

	PopActiveSnapshot();
	if (is_own)
		CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

char *
es_attempt(void (*run)(void *arg), void *arg)
{
	ErrorData  *edata = es_attempt_error(run, arg);
	char	   *error = NULL;

	if (edata != NULL)
	{
		error = error_text(edata);
		FreeErrorData(edata);
	}
	return error;
}

ErrorData *
es_attempt_error(void (*run)(void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		run(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;
		int			code;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		code = edata->sqlerrcode;
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		/* whoever catches it further up, as PL/pgSQL can, ends a subtransaction of his own, and not this one */
		if (code == ERRCODE_QUERY_CANCELED || code == ERRCODE_ADMIN_SHUTDOWN || code == ERRCODE_CRASH_SHUTDOWN)
			ReThrowError(edata);
		error = edata;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

static char *
error_text(const ErrorData *edata)
{
	char	   *text = psprintf("%s: %s", unpack_sql_state(edata->sqlerrcode),
								edata->message != NULL ? edata->message : "missing error text");

	text[pg_mbcliplen(text, strlen(text), MAX_ERROR_BYTES)] = '\0';
	return text;
}
