/*
 * subscription.h
 *		Subscriptions: definition, key and lane of an event, polling, settling.
 */
#ifndef ES_SUBSCRIPTION_H
#define ES_SUBSCRIPTION_H

#include "storage/lockdefs.h"
#include "utils/jsonb.h"

#include "definition_cache.h"
#include "filter.h"
#include "lane_layout.h"
#include "placeholder.h"
#include "retry.h"
#include "use.h"

typedef enum EsOnFailure
{
	ES_FAILURE_BLOCK,
	ES_FAILURE_DEAD_LETTER,
	ES_FAILURE_DEAD_LETTER_KEY
} EsOnFailure;

/* what the key of an event is: its stream, or a field of data or metadata */
typedef enum EsKeySource
{
	ES_KEY_STREAM,
	ES_KEY_DATA,
	ES_KEY_METADATA
} EsKeySource;

/* the key of events of a type */
typedef struct EsTypeKey
{
	char *type;
	int len;
	EsPlaceholder *key;
} EsTypeKey;

typedef struct EsSubscription
{
	EsCachedDefinition definition; /* must be first */
	bool is_projection; /* of a projection that workers keep: nobody polls it or sets it elsewhere by hand */
	bool is_rule;		/* of a rule that workers serve, by the rule's id */
	bool is_reactor;	/* of a reactor, by its id; its events have the key that their type says */
	bool has_endpoint;	/* its own, or one for each event of a rule: delivered, and polled by nobody */
	bool is_for_workers; /* of a projection, a rule or a reactor */
	bool is_rebuild;	/* and it fills the tables anew (rebuild.h) */
	bool is_paused;
	char *tenant; /* '': of the events of every tenant, or of none */
	EsFilter *filter;
	EsLaneLayout *layout;
	EsOnFailure on_failure;
	EsPlaceholder *key; /* root: EsKeySource */
	List *keys; /* EsTypeKey *: of a reactor, instead of that one */
	EsUse use;
	EsRetry retry;
	int max_in_flight; /* of a lane */
	double rate;	   /* events a second; 0: any */
	char *endpoint;	   /* workers deliver to it, and nobody polls; NULL: consumers poll */
	int64 replay_to;   /* of a replay: its end, after which it goes away; 0: it is none */
	char *notify;	   /* channel on which listeners are told of work; NULL: none */
} EsSubscription;

/*
 * ST008 when unknown, or another tenant's.  Valid until the next look-up.  An async projection has a subscription of its
 * name: get finds it, for who operates on failures; get_own refuses it with 42809, for who consumes or defines.  An async rule's is found
 * by rule:NAME, and by NAME where nothing else has it, because rules have names of their own; so is a reactor's, by reactor:NAME.
 */
extern const EsSubscription *es_subscription_get(const char *name);
extern const EsSubscription *es_subscription_get_own(const char *name);
/* NULL instead of an error */
extern const EsSubscription *es_subscription_find(const char *name);
/* the name of the rule that is meant by that name, whether there is one or not: without rule: before it */
extern const char *es_subscription_rule_name(const char *name);
extern const char *es_subscription_reactor_name(const char *name);
/* alters the definition, checked but for what needs the other parts of it.  Locks: the name's, held */
extern void es_subscription_alter(const char *kind, const char *name, Jsonb *changes, int default_lanes);
/* all there are, in order of id.  Valid until the next look-up */
extern const EsSubscription *es_subscription_all(int *n);

/* in subscription_place.c, to es_subscription_take_place: the rows of a new subscription, which begins behind the position */
extern void es_subscription_begin(int32 id, int64 position, int lanes);
/* removes them again, waiting for who polls or settles.  Locks: the name's, held */
extern void es_subscription_end(int32 id);
/*
 * What is settled, what failed and what is dead of the one are the other's, whose own are forgotten.  Locks: both
 * subscriptions', exclusive
 */
extern void es_subscription_take_place(int32 id, int32 from);
/*
 * Locks the subscription to the end of the transaction and returns it as it is then; NULL when it was dropped.
 * AccessShareLock for who polls or settles, AccessExclusiveLock for who drops it, sets it elsewhere or changes its lanes.
 */
extern const EsSubscription *es_subscription_lock(int32 id, LOCKMODE mode);
/* may this session, with its tenant, use it? */
extern bool es_subscription_is_visible(const EsSubscription *subscription);

/* where the key of events of that type (text) is; NULL: they have none */
extern const EsPlaceholder *es_subscription_key_place(const EsSubscription *subscription, Datum type);
/*
 * The key of an event, palloc'd, NULL where it has none; stream NULL where the event has none.
 */
extern char *es_subscription_key(const EsPlaceholder *place, const char *stream, int len, Datum data, Datum metadata);
/* what decides the lane of an event: the hash of its key; without a key, of its position */
extern uint32 es_subscription_hash(const char *tenant, const char *key, int64 position);
/* where that event belongs */
extern int es_subscription_lane(const EsSubscription *subscription, const char *tenant, const char *key, int64 position);

/* in subscription_settled.c: is everything up to there settled, and nothing of it aside?  Locks: the subscription's, held */
extern bool es_subscription_is_settled(int32 id, int64 up_to);
/* the same, where one that waits for a person is no error */
extern bool es_subscription_is_done(int32 id, int64 up_to);

/* 25001 in a transaction that keeps its snapshot: what cannot be done there */
extern void es_subscription_refuse_snapshot(const char *what);

/* 22023 where they are none */
extern void es_subscription_check_on_failure(const char *text);
extern void es_subscription_check_key(const char *text);
/* the key that a path into an event stands for: $.data.order is ${data.order} */
extern char *es_subscription_key_of_path(const char *path);

/* the lock of a lane; false: somebody has it */
extern bool es_subscription_try_lane(int32 id, int lane);
extern void es_subscription_lock_lane(int32 id, int lane);
/* gives back what one of the two took, before the end of the transaction */
extern void es_subscription_unlock_lane(int32 id, int lane);
/* for who works on failed events of a key, of whatever lane: the locks of all its lanes, in order */
extern void es_subscription_lock_keys(const EsSubscription *subscription, const uint32 *hashes, int n);

/* Janitor: removes what is left of former numbers of lanes; returns how many rows */
extern int64 es_subscription_retire_lanes(void);

/*
 * In poll.c: frees the lanes of a consumer at once, waiting for transactions that poll or settle in them; false: no such
 * consumer.  Locks: the subscription's, held
 */
extern bool es_subscription_end_consumer(int32 id, const char *consumer);

#endif
