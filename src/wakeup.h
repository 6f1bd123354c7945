/*
 * wakeup.h
 *		From a commit to a sleeping worker through shared memory, never through NOTIFY.
 */
#ifndef ES_WAKEUP_H
#define ES_WAKEUP_H

/*
 * Called while a transaction makes work for the delivery workers of this database (a message sent, given back, freed
 * by an ack of the same key): at commit, after the work became visible, that many idle workers get their latch set.
 * Rolled-back work wakes nobody; work of a rolled-back savepoint may wake in vain.  With 0: something becomes ready by
 * time, so the scheduler has to look when.
 */
extern void es_wakeup_at_commit(int messages);
/* the same for work that is already visible, from a process without a transaction */
extern void es_wakeup_now(int messages);

/* the worker's side: attach once; say idle, then look for work, then sleep on MyLatch */
extern void es_wakeup_attach(void);
extern void es_wakeup_idle(void);
extern void es_wakeup_busy(void);
/* nobody has chosen us since we said idle */
extern bool es_wakeup_is_idle(void);
/* the scheduler's side: gets what no worker is there for, and what becomes ready by time */
extern void es_wakeup_attach_scheduler(void);

extern void es_wakeup_init(void);

#endif
