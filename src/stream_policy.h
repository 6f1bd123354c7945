/*
 * stream_policy.h
 *		What streams keep by policy, and the first version that readers see.
 */
#ifndef ES_STREAM_POLICY_H
#define ES_STREAM_POLICY_H

#include "stream.h"

/* of a stream: its own policy, completed by its category's; 0: no limit */
typedef struct EsStreamPolicy
{
	int64 max_age_ms;
	int64 max_count;
	int64 truncate_before;
} EsStreamPolicy;

/* all as far as the snapshot shows */
extern EsStreamPolicy es_stream_policy(const EsStream *stream, Snapshot snapshot);
extern bool es_stream_policy_is_empty(const EsStreamPolicy *policy);

/* the first version that readers of the stream see now, by state and policy */
extern int64 es_stream_first_visible(const EsStream *stream, Snapshot snapshot);
/* its version for readers: that of the last event where it is live, whether or not that one is still there; else 0 */
extern int64 es_stream_visible_version(const EsStream *stream, int64 last_event, Snapshot snapshot);
/* the first version that a policy keeps for good: as above, but never the last event; 1: all */
extern int64 es_stream_policy_cut(const EsStream *stream, Snapshot snapshot);

#endif
