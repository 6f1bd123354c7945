/*
 * async_commit.h
 *		What leaves the database survives a crash: asynchronous commits, and the flush before what they wrote is shown.
 */
#ifndef ES_ASYNC_COMMIT_H
#define ES_ASYNC_COMMIT_H

#include "port/atomics.h"

/* in shared memory */
typedef struct EsAsyncCommits
{
	pg_atomic_uint64 lsn; /* end of the newest commit record of one that is over */
	pg_atomic_uint32 in_flight;
} EsAsyncCommits;

extern void es_async_init(EsAsyncCommits *commits);
/* before what a snapshot shows leaves the database, and after it was taken */
extern void es_async_make_durable(EsAsyncCommits *commits);
/* for the transaction callbacks of who writes.  counted: this process's, false at first */
extern void es_async_before_commit(EsAsyncCommits *commits, bool *counted);
extern void es_async_after_end(EsAsyncCommits *commits, bool *counted, bool committed);

#endif
