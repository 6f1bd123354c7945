/*
 * lane_effect.h
 *		Between lane.c and lane_effect.c only: what the end of a transaction does to the lanes that it polled or settled in.
 */
#ifndef ES_LANE_EFFECT_H
#define ES_LANE_EFFECT_H

#include "definition_slot.h"
#include "lane.h"

/* of lane_effect.c */

/* if it is rolled back: what is there now.  May fail */
extern void es_lane_effect_put(EsLanes *lanes, int number);
/* if it is committed: the whole entry is that of nobody */
extern void es_lane_effect_forget(EsLanes *lanes, const EsSlotKey *key);
/* what this transaction settled in the lane */
extern int es_lane_settled_here(EsLanes *lanes, int number, uint64 epoch);
/* was the subscription set elsewhere in this transaction, and the lane not put since?  Then what the entry says is over */
extern bool es_lane_is_forgotten(EsLanes *lanes, int number);
extern void es_lane_effect_init(void);

/* of lane.c, called at the end of a (sub)transaction too: raise no error */

extern LWLock *es_lanes_lock(EsLanes *lanes);
/* the subscription of an entry, while somebody uses it */
extern int32 es_lanes_subscription(EsLanes *lanes);
/* Locks: the entry's, as for the next one */
extern EsLane *es_lanes_place(EsLanes *lanes, int number);
extern void es_lane_note_loss(EsLane *lane, int64 until, bool alone);
extern void es_lane_note_lost_again(EsLane *lane, int64 last, int n, bool alone);
extern void es_lanes_forget_key(const EsSlotKey *key);

#endif
