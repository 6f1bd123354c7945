/*
 * waiter.h
 *		From whatever makes work to the sessions that sleep until there is some, through shared memory.
 */
#ifndef ES_WAITER_H
#define ES_WAITER_H

/* names that one wait may have */
#define ES_WAITER_MAX_NAMES 16

/*
 * What a waiter sleeps for: queues and subscriptions, by the ids of their definitions, and the categories in which an event may
 * be for one of them (bits, see feed.h).
 */
typedef struct EsWaitFor
{
	int n;
	int32 ids[ES_WAITER_MAX_NAMES];
	uint64 categories;
} EsWaitFor;

/*
 * The waiter's side: begin, then look for work, then sleep, then look again.  es_waiter_sleep returns when somebody made work or the
 * time is over; end in every path (PG_ENSURE_ERROR_CLEANUP).
 */
extern void es_waiter_begin(const EsWaitFor *wait_for);
/* true: somebody made work */
extern bool es_waiter_sleep(long timeout_ms);
/* for who sleeps on his latch by himself, and works in between: has somebody chosen us since begin? */
extern bool es_waiter_is_chosen(void);
extern void es_waiter_end(void);

/*
 * The other side, when the work can be seen by everybody: in callbacks at the end of a transaction, and where something is
 * done at once.  n entries of a queue or subscription wake as many waiters; events wake all that wait for their categories.
 * Raise no error.
 */
extern void es_waiter_wake(int32 id, int n);
extern void es_waiter_wake_categories(uint64 categories);
/* with the commit of this transaction, for what has no callback of its own; a rolled-back savepoint may wake in vain */
extern void es_waiter_wake_at_commit(int32 id, int n);

extern void es_waiter_init(void);

#endif
