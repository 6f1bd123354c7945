/*
 * ledger.h
 *		The past: which positions belong to a moment, for ever.  docs/architecture.md has the argument.
 */
#ifndef ES_LEDGER_H
#define ES_LEDGER_H

#include "datatype/timestamp.h"
#include "fmgr.h"

/*
 * The position up to which events belong to the moment: the same answer for ever.  22023 for a moment to come.  May write a
 * row of the ledger, which stays even if the transaction is rolled back.
 */
extern int64 es_ledger_position_at(TimestampTz at);
/* same, and pushes a snapshot that shows all of it, whatever the isolation level; until es_feed_end_read */
extern int64 es_ledger_begin_read(TimestampTz at);
/* argument n as a moment */
extern TimestampTz es_ledger_moment(FunctionCallInfo fcinfo, int n, const char *arg);

/* scheduler: writes the ledger's row when the head moved since the last; true when it did.  In its own transaction */
extern bool es_ledger_record(void);
/*
 * Janitor: deletes up to limit rows of each kind that no answer depends on, and returns how many.  In a READ COMMITTED
 * transaction of its own.
 */
extern int64 es_ledger_trim(int64 limit);

#endif
