/*
 * failed_event.h
 *		Events of a subscription that failed, and those that wait behind one of their key.
 */
#ifndef ES_FAILED_EVENT_H
#define ES_FAILED_EVENT_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "subscription.h"

/* one that stands in front of its key, or has none */
typedef struct EsFailedEvent
{
	int64 position;
	int lane; /* for poll.c: the one that hands it out */
	char *key; /* NULL: none */
	char *tenant;
	int attempt;
	bool has_failed; /* not only waited */
	uint64 epoch;  /* of the hold that it was handed out in; 0: none */
} EsFailedEvent;

/* events that are going to wait, each behind an older one of its key; all 0 but the context, which is to outlive them */
typedef struct EsWaitingEvents
{
	MemoryContext context;
	int n;
	struct ArrayBuildState *positions;
	struct ArrayBuildState *tenants;
	struct ArrayBuildState *keys;
} EsWaitingEvents;

/* those that wait behind the one that stands in front of its key, in order, at most so many; palloc'd */
extern List *es_failed_event_behind(int32 subscription, const EsFailedEvent *front, int max_count);

/* what follows needs the lock of the lane (ES_LOCK_LANE) that the key is handed out by, held */

/*
 * An event of the lane failed for the attempt-th time: what the retry policy and on_failure say.  is_final: the policy is at its end
 * whatever it says.  delay_ms < 0: the policy's
 */
extern void es_failed_event_add(const EsSubscription *subscription, int64 position, const char *tenant, const char *key,
								int attempt, const char *cause, bool is_final, const char *error, int64 delay_ms);
/* one more that waits behind an older one of its key, or whose key was given up: put_waiting puts them all aside, in order of position */
extern void es_failed_event_wait(EsWaitingEvents *waiting, int64 position, const char *tenant, const char *key);
extern void es_failed_event_put_waiting(const EsSubscription *subscription, EsWaitingEvents *waiting);
/* one comes back without an attempt: due at once, or after the delay */
extern void es_failed_event_release(const EsSubscription *subscription, int64 position, const char *tenant, const char *key,
									int64 delay_ms);
/* handed out again, in the hold with that epoch (0: not any more): their attempts so far, with this one */
extern void es_failed_event_hand_out(const EsSubscription *subscription, EsFailedEvent *const *events, int n);

/* those that are put off, and not handed out, are due */
extern void es_failed_event_hasten(const EsSubscription *subscription, int64 *positions, int n);
/* those that were handed out again, in the hold with that epoch (0: that are not handed out), are done: how many, and into positions which, in order */
extern int es_failed_event_ack(const EsSubscription *subscription, int64 *positions, int n, uint64 epoch);
/* the same for one; 0: it is not handed out, in the hold with that epoch */
extern int es_failed_event_reject(const EsSubscription *subscription, int64 position, uint64 epoch, const char *error);
/* these two: how many are not handed out any more, with those that it had brought along; 0: it is not */
extern int es_failed_event_nack(const EsSubscription *subscription, int64 position, uint64 epoch, bool is_final, const char *error,
								int64 delay_ms);
extern int es_failed_event_give_back(const EsSubscription *subscription, int64 position, uint64 epoch, int64 delay_ms);
/* does anything stand aside for the key? */
extern bool es_failed_event_key_waits(const EsSubscription *subscription, const char *tenant, const char *key);
/* goes to the dead letters, and the next one of its key comes */
extern void es_failed_event_skip(const EsSubscription *subscription, int64 position, const char *reason);
/* a blocked one is due at once, with no attempt spent */
extern void es_failed_event_unblock(const EsSubscription *subscription, int64 position);
/* is it handed out, in the hold with that epoch? */
extern bool es_failed_event_is_out(const EsSubscription *subscription, int64 position, uint64 epoch);
/* is it there, whatever its state? */
extern bool es_failed_event_exists(const EsSubscription *subscription, int64 position);

#endif
