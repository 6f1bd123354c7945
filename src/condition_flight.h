/*
 * condition_flight.h
 *		Append conditions without tags, and the types of the appends in flight.
 */
#ifndef ES_CONDITION_FLIGHT_H
#define ES_CONDITION_FLIGHT_H

#include "stream.h"

/* a type of a tenant, by hash */
typedef struct EsConditionKind
{
	uint32 tenant;
	uint32 type;
} EsConditionKind;

/* a condition as far as it has no tags: which types no event may have */
typedef struct EsConditionKinds
{
	bool any;
	bool every_type;
	EsConditionKind *kinds;
	int nkinds;
} EsConditionKinds;

/* no type is empty: the empty one stands for every type */
extern EsConditionKind es_condition_kind(const char *tenant, const char *type, int len);
extern EsConditionKind es_condition_event_kind(const char *tenant, const EsEvent *event);
/* for locks */
extern uint64 es_condition_kind_hash(EsConditionKind kind);

/*
 * Announces the types of these events to the end of the transaction, without waiting.  False where a condition without
 * tags is in flight: then nothing is announced that was not before, and the caller locks the types.
 */
extern bool es_condition_try_announce(const char *tenant, const EsEvent *events, int n);
/* counts this transaction as a condition's and waits for those that announced one of the types.  Locks: the types, held */
extern void es_condition_wait_for_announced(const EsConditionKinds *forbidden);

extern void es_condition_flight_init(void);

#endif
