/*
 * lane_layout.h
 *		Which lanes a subscription has, and which of them a key belongs to: the present ones, and those of former numbers of
 *		lanes that are not emptied yet.
 */
#ifndef ES_LANE_LAYOUT_H
#define ES_LANE_LAYOUT_H

#include "lane.h"

/* the end of a lane that has none */
#define ES_LANE_NO_END PG_INT64_MAX

/* lanes first to first + lanes - 1 */
typedef struct EsLaneGeneration
{
	int first;
	int lanes;
	int ngroups; /* 0: the newest generation, which has no ends */
	int64 *ends; /* of lane i: number i % ngroups.  An event above it belongs to the next generation */
} EsLaneGeneration;

typedef struct EsLaneLayout
{
	int n; /* at least one, the oldest first, numbers without a gap */
	EsLaneGeneration *generations;
} EsLaneLayout;

/* a flag for each lane of a layout, by es_lane_place(number) */
typedef bool EsLaneFlags[ES_LANE_SLOTS];

static inline int
es_lane_place(int number)
{
	return number % ES_LANE_SLOTS;
}

/* the newest committed one; lanes: what to take for it where there is none, in a store that is being restored */
extern EsLaneLayout *es_lane_layout_read(int32 subscription, int lanes);
extern const EsLaneGeneration *es_lane_layout_newest(const EsLaneLayout *layout);

/* where an event belongs; hash: of its key */
extern int es_lane_layout_lane(const EsLaneLayout *layout, uint32 hash, int64 position);
/* all lanes of a key, in order; returns how many */
extern int es_lane_layout_lanes_of(const EsLaneLayout *layout, uint32 hash, int *numbers);
/* the one of them that hands out what failed: the oldest that is not over */
extern int es_lane_layout_serving(const EsLaneLayout *layout, uint32 hash, const bool *is_over);
/* ES_LANE_NO_END where it has none */
extern int64 es_lane_layout_end(const EsLaneLayout *layout, int number);

/* which lanes are over, as far as somebody said so; others stay as they are */
extern void es_lane_layout_see_over(const EsLaneLayout *layout, EsLanes *lanes, bool *is_over);
/* those that are not over, of whose group all are that came before */
extern void es_lane_layout_open(const EsLaneLayout *layout, const bool *is_over, EsOpenLanes *open);

#endif
