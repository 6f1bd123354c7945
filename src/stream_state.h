/*
 * stream_state.h
 *		Whether a stream is live, deleted or tombstoned, and from which version on it is there.
 */
#ifndef ES_STREAM_STATE_H
#define ES_STREAM_STATE_H

#include "utils/snapshot.h"

typedef struct EsStream EsStream; /* stream.h */

typedef enum EsStreamStatus
{
	ES_STREAM_LIVE,
	ES_STREAM_DELETED,	  /* an append undeletes it */
	ES_STREAM_TOMBSTONED /* for ever */
} EsStreamStatus;

typedef struct EsStreamState
{
	EsStreamStatus status;
	int64 truncate_before; /* first version that readers see; 1 where nothing was cut */
} EsStreamState;

/* what a stream remembers of its state; valid while both numbers are the present ones */
typedef struct EsStreamStateMemo
{
	EsStreamState state;
	uint64 raised;
	uint64 epoch; /* 0: never looked at */
} EsStreamStateMemo;

/* the newest state, committed or own; nearly free while nobody deletes.  Locks: the stream's, held */
extern EsStreamState es_stream_state(EsStream *stream);
/* as it was at a position (PG_INT64_MAX: now), as far as the snapshot shows */
extern EsStreamState es_stream_state_at(int64 stream_id, int64 position, Snapshot snapshot);

/*
 * The first version of the life that a version belongs to: a stream that was deleted and is appended to again begins anew.
 * 1 where it was not deleted before that version.
 */
extern int64 es_stream_life_start(int64 stream_id, int64 version, Snapshot snapshot);

/* ST002 where the stream is tombstoned.  Locks: the stream's, held */
extern void es_stream_refuse_tombstoned(EsStream *stream);
/* before the events of an append go in: makes a deleted stream live, a no-op for others.  Locks: the stream's, held */
extern void es_stream_undelete(EsStream *stream);
/* writes a state row; the stream exists.  Locks: the stream's, held */
extern void es_stream_set_state(EsStream *stream, EsStreamState state);

/* called whenever a state row is written: the guard notes that the store is in use */
extern void es_stream_state_on_write(void (*hook) (void));
extern void es_stream_state_init(void);

#endif
