/*
 * checkpoint.h
 *		What is settled in the lanes of a subscription.
 */
#ifndef ES_CHECKPOINT_H
#define ES_CHECKPOINT_H

#include "utils/snapshot.h"

#include "evtstore.h"

/* the lane of the row where a subscription begins */
#define ES_CHECKPOINT_BEGIN (-1)

/* everything at or below position is settled, and everything in the ranges (from, to], which ascend and do not touch */
typedef struct EsCheckpoint
{
	int64 seq;
	int64 position;
	int nranges;
	int64 *ranges; /* from, to, from, to, ... */
	bool is_own; /* written by this transaction, which may be rolled back */
} EsCheckpoint;

/* the readers of one subscription's rows under one snapshot; in the current context, until closed */
typedef struct EsCheckpoints EsCheckpoints;
extern EsCheckpoints *es_checkpoints_open(int32 subscription, Snapshot snapshot);
/* Locks: the lane's, held from before the snapshot was taken.  In the current context */
extern EsCheckpoint *es_checkpoints_read(EsCheckpoints *checkpoints, int lane);
extern void es_checkpoints_close(EsCheckpoints *checkpoints);

extern bool es_checkpoint_covers(const EsCheckpoint *checkpoint, int64 position);
/* settles (from, to] */
extern void es_checkpoint_add(EsCheckpoint *checkpoint, int64 from, int64 to);
/* inserts it as the newest one of the lane, and numbers it so.  Locks: the lane's, held */
extern void es_checkpoint_write(int32 subscription, int lane, EsCheckpoint *checkpoint);

/* Janitor: deletes up to limit rows that do not count any more, of whatever lane, and returns how many */
extern int64 es_checkpoint_trim(int64 limit);

#endif
