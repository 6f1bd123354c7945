/*
 * history.h
 *		What of one stream existed at a position, and what of it is still there.
 */
#ifndef ES_HISTORY_H
#define ES_HISTORY_H

#include "stream.h"

/* the first and the last version that are there under the active snapshot; 0 where there is none */
extern int64 es_history_first_version(const EsStream *stream);
extern int64 es_history_last_version(const EsStream *stream);
/*
 * The version of the stream at the moment at, whose position is known: 0 where it had no event yet.  ST012 where the
 * event that it ended with is gone, and nothing tells which it was.
 */
extern int64 es_history_version_at(const EsStream *stream, int64 position, TimestampTz at);
/* ST012 where events from this version up to last are wanted and the first of them is gone */
extern void es_history_require(const EsStream *stream, int64 from, int64 last);

#endif
