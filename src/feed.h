/*
 * feed.h
 *		The exact feed: floors of appenders in flight, the stable head.  docs/architecture.md has the argument.
 */
#ifndef ES_FEED_H
#define ES_FEED_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

/* every category may be in the read */
#define ES_FEED_ALL_CATEGORIES PG_UINT64_MAX

/* the bit of a category in a floor's bitmap */
extern uint64 es_feed_category_bit(int32 category_hash);

/*
 * Allocates n positions for events of the categories with these bits (0: for events without a stream, which only readers
 * of every category see), publishing this backend's floor first.  Positions grow but need not be consecutive.  Returns the
 * moment at which the events are recorded: read behind the floor and before the first position, which is what position_at
 * needs.  Locks: those of the streams and tags written, held, and all checks passed.
 */
extern TimestampTz es_feed_allocate(int n, uint64 category_bits, int64 *positions);
/* has this transaction appended? */
extern bool es_feed_has_own_floor(void);
/* no position above this one was allocated by now, in this store: after an unclean start, until the first append, any may have been */
extern int64 es_feed_last_allocated(void);
/* the same as a place to begin at, or to come to: makes the leap that the first append would make */
extern int64 es_feed_last_position(void);

/*
 * The head for a reader of these categories and the snapshot that goes with it, taken in the right order; what the
 * snapshot shows is durable when this returns.  The snapshot is pushed active until es_feed_end_read.
 */
extern int64 es_feed_begin_read(uint64 categories);
/* for reads of one stream: a fresh snapshot that shows the caller's own writes, pushed active likewise */
extern void es_feed_begin_stream_read(void);
extern void es_feed_end_read(void);

/*
 * The same for reads that last longer than a call: the snapshot is registered with the current resource owner, not
 * active, and good until es_feed_close_read.
 */
extern int64 es_feed_open_read(uint64 categories, Snapshot *snapshot);
extern Snapshot es_feed_open_stream_read(void);
extern void es_feed_close_read(Snapshot snapshot);

/* the head now, from shared memory: not on a standby, not for a transaction with a snapshot of its own */
extern int64 es_feed_head(uint64 categories);
/*
 * True: no appender is in flight, and whoever comes records later than at; everything recorded at or before it is decided
 * and below *head.  False: *head is the head, and something recorded at or before may still come above it.
 */
extern bool es_feed_settle(TimestampTz at, int64 *head);
/*
 * Gives appenders in flight the time to end that short transactions take: waits until all that is allocated by now is
 * decided, unless the oldest of them is older than grace_ms, or gets so, or is this transaction itself.
 */
extern void es_feed_give_time(long grace_ms);
/* a moment that nothing recorded so far is later than: the clock, if nobody set it back */
extern TimestampTz es_feed_now(void);
/* flushes what the active snapshot shows; not on a standby, where it is on the primary's disk */
extern void es_feed_flush_shown(void);
/* true where the head must come from the ledger: REPEATABLE READ and above, hot standby */
extern bool es_feed_uses_ledger(void);
/* sleeps until the head reaches up_to; false when the time is up.  No snapshot, no lock that an appender needs */
extern bool es_feed_wait(int64 up_to, long timeout_ms);

/* one appender in flight, as the floor that it published */
typedef struct EsFloor
{
	int			pid;
	int64		floor;
	TimestampTz since; /* start of its transaction */
} EsFloor;

/* the appenders in flight in this store; palloc'd */
extern EsFloor *es_feed_floors(int *count);

/* launcher: forgets the shared entries of databases that are gone */
extern void es_feed_forget_databases(List *existing);
/* age in ms of the oldest appender in flight and its pid; 0 when there is none (health) */
extern int64 es_feed_oldest_appender(int *pid);

extern void es_feed_init(void);

#endif
