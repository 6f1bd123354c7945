/*
 * async_commit.c
 *		What leaves the database survives a crash: asynchronous commits, and the flush before what they wrote is shown.
 *
 * Runs in every process that appends, sends, reads or receives.  Shared, with what they write: how many asynchronous
 * commits are on their way, and the end of the newest commit record of one that is over.  Both are atomics;
 * docs/architecture.md has the order.  A crash loses what was not flushed, and with it both numbers; nobody was shown it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"

#include "async_commit.h"

static XLogRecPtr end_of_wal(void);

void
es_async_init(EsAsyncCommits *commits)
{
	pg_atomic_init_u32(&commits->in_flight, 0);
	pg_atomic_init_u64(&commits->lsn, 0);
}

/*
 * What leaves the database must survive a crash.  A synchronous commit is on disk before it is visible.  For the
 * others: one that the snapshot shows either has raised lsn, or counts as in flight still; so the count is
 * read first.
 */
void
es_async_make_durable(EsAsyncCommits *commits)
{
	XLogRecPtr	upto;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&commits->in_flight) > 0)
		upto = end_of_wal();
	else
	{
		pg_read_barrier();
		upto = pg_atomic_read_u64(&commits->lsn);
	}
	if (upto != InvalidXLogRecPtr)
		XLogFlush(upto);
}

void
es_async_before_commit(EsAsyncCommits *commits, bool *counted)
{
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF && !*counted)
	{
		pg_atomic_fetch_add_u32(&commits->in_flight, 1);
		*counted = true;
	}
}

void
es_async_after_end(EsAsyncCommits *commits, bool *counted, bool committed)
{
	uint64		known = pg_atomic_read_u64(&commits->lsn);

	if (!*counted)
		return;
	while (committed && known < XactLastCommitEnd && !pg_atomic_compare_exchange_u64(&commits->lsn, &known, XactLastCommitEnd))
		;
	*counted = false;
	pg_atomic_fetch_sub_u32(&commits->in_flight, 1);
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
