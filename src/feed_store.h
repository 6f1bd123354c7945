/*
 * feed_store.h
 *		The shared entry of a store, and what the files of the feed share; for feed.c, feed_store.c and feed_durable.c only.
 */
#ifndef ES_FEED_STORE_H
#define ES_FEED_STORE_H

#include "port/atomics.h"

#include "storage/condition_variable.h"

#include "async_commit.h"

#define ES_FEED_CATEGORY_BITS 64

/* one event store; the numbers are about one incarnation of its sequence */
typedef struct EsStoreEntry
{
	/* under the lock, exclusive; Oid 0: free */
	Oid			database;
	Oid			sequence;
	Oid			filenumber;

	/* changes with the three above; a cached pointer is good while its number is equal; 0: none, or it changes now */
	pg_atomic_uint32 incarnation;
	/* under the lock, exclusive: the incarnation whose database the launcher did not find last time */
	uint32		missed;
	/* 1: the server did not come up cleanly and no position was allocated since; under the lock to clear */
	pg_atomic_uint32 needs_leap;
	/* 1: nobody allocated since the entry was made, so the sequence itself is asked: a restore may have set it */
	pg_atomic_uint32 untouched;

	/*
	 * The newest moment that an event was recorded at, or that somebody was told the past of: what is recorded from now on
	 * is not before it, whatever the clock says (ledger.c).  Raised only, also over incarnations.
	 */
	pg_atomic_uint64 last_recorded;
	/* highest position known to be allocated; raised after each allocation */
	pg_atomic_uint64 last_allocated;
	/*
	 * Highest head that anybody computed, for all readers and for readers of one category bit.  Readers raise these, and
	 * last_allocated, under the lock, shared, so that nobody raises with what he knows of an earlier incarnation.
	 */
	pg_atomic_uint64 head;
	pg_atomic_uint64 category_head[ES_FEED_CATEGORY_BITS];

	/* end of the newest commit record of an asynchronous commit, and how many of these are on their way */
	EsAsyncCommits async;

	/* who waits for the head to move */
	pg_atomic_uint32 waiters;
	ConditionVariable moved;
} EsStoreEntry;

/* in feed_store.c */
/* the entry of this database's store, made on first use after the server started or after the sequence was replaced */
extern EsStoreEntry *es_feed_attach(void);
/* false where the entry that es_feed_attach last returned is of another incarnation by now */
extern bool es_feed_is_attached(void);
/* its number among the entries: what a floor names it by */
extern uint32 es_feed_store_index(const EsStoreEntry *store);
/* what the sequence handed out last, whoever did */
extern uint64 es_feed_read_sequence(void);
/* the leap of the sequence after an unclean start, if nobody made it; Locks: the sequence's, RowExclusive, held */
extern void es_feed_leap(EsStoreEntry *store, Oid sequence);
extern void es_feed_raise(pg_atomic_uint64 *maximum, uint64 value);
/* raises what readers share; false, and nothing is raised, where the entry is of another incarnation by now */
extern bool es_feed_raise_shared(EsStoreEntry *store, pg_atomic_uint64 *maximum, uint64 value);
extern void es_feed_store_init(void);

#endif
