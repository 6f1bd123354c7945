/*
 * lane.h
 *		Who holds the lanes of subscriptions, until when, and how far each was handed out: shared memory.
 */
#ifndef ES_LANE_H
#define ES_LANE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "evtstore.h"

#define ES_MAX_LANES 256
/* numbers that the lanes of a subscription have at a time, with those of former generations (lane_layout.h) */
#define ES_LANE_SLOTS 512

/* a consumer that gave no name */
#define ES_LANE_ANONYMOUS (-1)

/* after so many losses in a row a lane hands out one event at a time */
#define ES_LANE_MAX_LOST 2

/* one lane; what is below epoch is about the hold that has it */
typedef struct EsLane
{
	uint64 epoch; /* random, of one hold and no other; 0: nobody has the lane */
	int32 consumer;
	int32 in_flight; /* handed out and not settled */
	TimestampTz lease_until;
	int64 fetched;	 /* everything up to here was handed out or passed over */
	int64 delivered; /* the last event handed out, or where the hold began */
	/* what was handed out and came back unsettled: by rollback or with the end of the lease */
	int64 lost_until;
	int32 lost; /* so many times in a row, at most ES_LANE_MAX_LOST */
	int32 suspect_lost;
	int64 suspect; /* the event that was lost when it was handed out alone, so many times; 0: none */
	/* the same of those that failed before and are handed out again */
	int32 again;	  /* so many in this hold */
	int32 again_left; /* so many were lost together: the next ones go one at a time */
	int64 again_last; /* the one of the last batch, where it was alone; 0: it was not */
	int64 again_suspect;
	int32 again_suspect_lost;
	int64 over_at; /* if is_over: it came to its end, this one, and nothing was in flight any more */
	int32 number;
	bool is_over;
} EsLane;

/* what may be polled now: lanes, and which of them come to an end */
typedef struct EsOpenLanes
{
	int n;
	int numbers[ES_LANE_SLOTS];
	bool is_closing[ES_LANE_SLOTS];
} EsOpenLanes;

/* the lanes of a subscription */
typedef struct EsLanes EsLanes;

/* finds or makes them; 53400 when evtstore.max_subscriptions are in use */
extern EsLanes *es_lanes_open(int32 subscription);
/* the same, but NULL where nobody has polled since the start of the server */
extern EsLanes *es_lanes_find(int32 subscription);

/*
 * For a poll.  Enters the consumer (NULL: no name) and says which lanes to try, in order: his, and what he may take more;
 * returns how many.  *give_up: so many of his first ones are more than his share.
 */
extern int es_lanes_enter(EsLanes *lanes, const EsOpenLanes *open, const char *consumer, TimestampTz now, TimestampTz until,
						  int *numbers, int *give_up, int *index);

typedef enum EsLaneState
{
	ES_LANE_MINE,
	ES_LANE_FREE,  /* nobody's, or its lease ran out; or it closes, and nothing of it is out */
	ES_LANE_TAKEN
} EsLaneState;

/* Locks: the lane's (ES_LOCK_LANE), held; until it is given back nobody else changes what *lane is filled with */
extern EsLaneState es_lane_look(EsLanes *lanes, int number, bool is_closing, int consumer, TimestampTz now, EsLane *lane);
/* begins a hold, from position on */
extern void es_lane_begin(EsLane *lane, int consumer, int64 position);
/* puts what a poll made of it; the end of this (sub)transaction undoes it if it is rolled back.  Locks: the lane's, held */
extern void es_lane_put(EsLanes *lanes, int number, const EsLane *lane);
/* the attempt that handing out this event is, as far as the lane knows */
extern int es_lane_attempt(const EsLane *lane, int64 position);
/* of one that failed before: the attempts that its row does not show */
extern int es_lane_lost_again(const EsLane *lane, int64 position);
/* Locks: the lane's, held */
extern void es_lane_give_up(EsLanes *lanes, int number);
/*
 * It came to its end: nothing is in flight, and what is settled up to there is committed.  At once, whatever becomes of the
 * transaction.  Locks: the lane's, held
 */
extern void es_lane_close(EsLanes *lanes, int number, int64 end);

/* is the hold with this epoch the present one?  Then it is copied.  Locks: the lane's, held */
extern bool es_lane_is_held(EsLanes *lanes, int number, uint64 epoch, EsLane *lane);
/* n of its events are settled, if this transaction commits */
extern void es_lane_settled(EsLanes *lanes, int number, uint64 epoch, int n);
/* nobody's, if this transaction commits */
extern void es_lane_released(EsLanes *lanes, int number, uint64 epoch);
/* handed out and not settled, if this transaction commits */
extern int es_lane_in_flight(EsLanes *lanes, int number, uint64 epoch);
/* false: the hold is another by now */
extern bool es_lane_extend(EsLanes *lanes, int number, uint64 epoch, TimestampTz until);

/* all lanes of a consumer, into numbers; -1: no such consumer */
extern int es_lanes_of_consumer(EsLanes *lanes, const char *consumer, int *numbers);
extern void es_lanes_forget_consumer(EsLanes *lanes, const char *consumer);
/* with the commit of this transaction, which drops the subscription or sets it elsewhere: its lanes are nobody's */
extern void es_lanes_forget(int32 subscription);
/* the same for all of a store, which has that table of definitions; one that somebody uses right now keeps its entry until they are short */
extern void es_lanes_forget_store(Oid definition);

/* launcher: forgets the entries of databases that are gone */
extern void es_lanes_forget_databases(List *existing);

/* copies for views */
typedef struct EsConsumer
{
	char name[ES_MAX_NAME_BYTES + 1];
	TimestampTz last_seen;
	TimestampTz until; /* of the longest lease that it took */
} EsConsumer;

extern EsLane es_lane_copy(EsLanes *lanes, int number);
/* did anybody have it since the start of the server? */
extern bool es_lane_is_known(EsLanes *lanes, int number);
/* the numbers of those that somebody holds or held, up to ES_LANE_SLOTS; returns how many */
extern int es_lanes_numbers(EsLanes *lanes, int *numbers);
/* palloc'd; consumers[i] may have an empty name: gone */
extern EsConsumer *es_lanes_consumers(EsLanes *lanes, int *n);

/* how many of the events that are wanted may go out now, by the rate, of all consumers: those are spent.  0: not before *next */
extern int es_lanes_take_rate(EsLanes *lanes, double per_second, int want, TimestampTz now, TimestampTz *next);
/* so many of them did not go out */
extern void es_lanes_give_rate(EsLanes *lanes, int n);

extern void es_lane_init(void);

#endif
