/*
 * feed_durable.c
 *		What leaves the database survives a crash: asynchronous commits of events, and the flush before they are shown.
 *
 * Runs in every process that appends or reads.  Shared, in the store's entry: how many asynchronous commits are on
 * their way, and the end of the newest commit record of one that is over.  Both are atomics; docs/architecture.md has
 * the order.  A crash loses what was not flushed, and with it both numbers; nobody was shown it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"

#include "feed_store.h"

/* this transaction is counted as an asynchronous commit in flight */
static bool my_async = false;

static XLogRecPtr end_of_wal(void);

/*
 * What leaves the database must survive a crash.  A synchronous commit is on disk before it is visible.  For the
 * others: one that the snapshot shows either has raised async_commit_lsn, or counts as in flight still; so the count is
 * read first.
 */
void
es_feed_make_durable(EsStoreEntry *store)
{
	XLogRecPtr	upto;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&store->async_in_flight) > 0)
		upto = end_of_wal();
	else
	{
		pg_read_barrier();
		upto = pg_atomic_read_u64(&store->async_commit_lsn);
	}
	if (upto != InvalidXLogRecPtr)
		XLogFlush(upto);
}

void
es_feed_before_commit(EsStoreEntry *store)
{
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF && !my_async)
	{
		pg_atomic_fetch_add_u32(&store->async_in_flight, 1);
		my_async = true;
	}
}

void
es_feed_after_end(EsStoreEntry *store, bool committed)
{
	if (!my_async)
		return;
	if (committed)
		es_feed_raise(&store->async_commit_lsn, XactLastCommitEnd);
	my_async = false;
	pg_atomic_fetch_sub_u32(&store->async_in_flight, 1);
}

/*
 * The end of what was inserted into WAL.  Where that is the end of a page, the insert position is behind the header of
 * the next page, which is not there yet: flushing up to it would be an error.
 */
static XLogRecPtr
end_of_wal(void)
{
	XLogRecPtr	ptr = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(ptr, wal_segment_size) == SizeOfXLogLongPHD)
		return ptr - SizeOfXLogLongPHD;
	if (ptr % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return ptr - SizeOfXLogShortPHD;
	return ptr;
}
