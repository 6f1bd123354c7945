/*
 * lane_change.h
 *		Another number of lanes for a subscription, and what is left of the one before.
 */
#ifndef ES_LANE_CHANGE_H
#define ES_LANE_CHANGE_H

#include "lane_layout.h"

/* of a new subscription */
extern void es_lane_change_begin(int32 subscription, int lanes);
/*
 * What is above all that was settled or handed out belongs to so many lanes.  53400 when too many lanes of former changes are
 * not emptied yet.  Locks: the subscription's, exclusive
 */
extern void es_lane_change(int32 subscription, const EsLaneLayout *layout, int lanes);
/* the newest generation is all there is, because its lanes are set elsewhere.  Locks: the subscription's, exclusive */
extern void es_lane_change_forget_past(int32 subscription, const EsLaneLayout *layout);
/* of a subscription that is dropped */
extern void es_lane_change_end(int32 subscription);

/*
 * Janitor: removes the generations of a subscription whose lanes are all over; returns how many rows.  Locks: the
 * subscription's, shared
 */
extern int64 es_lane_change_retire(int32 subscription, const EsLaneLayout *layout);

#endif
