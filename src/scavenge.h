/*
 * scavenge.h
 *		Removing the events that deletion, truncation and policies took from the readers of streams.
 */
#ifndef ES_SCAVENGE_H
#define ES_SCAVENGE_H

#include "evtstore.h"

typedef enum EsScavengePhase
{
	ES_SCAVENGE_STATES,
	ES_SCAVENGE_POLICIES,
	ES_SCAVENGE_DONE
} EsScavengePhase;

/* how far a round over the store has come; filled by es_scavenge_begin */
typedef struct EsScavengeRound
{
	EsScavengePhase phase;
	const char *tenant;	  /* '': all; outlives the round */
	int64 state_position; /* rows of stream_state up to here are done */
	int64 state_limit;	  /* and those up to here are of this round */
	/* the policy that is under way, or was the last one; and of its streams the last one that is done, '' for none */
	bool policy_open;
	char policy_tenant[ES_MAX_NAME_BYTES + 1];
	char policy_kind[16];
	char policy_name[ES_MAX_STREAM_BYTES + 1];
	char stream_name[ES_MAX_STREAM_BYTES + 2];
} EsScavengeRound;

/*
 * A round over what is to be removed now: by the rows of stream_state above state_position and up to state_limit, which
 * have to be decided, and by all policies.
 */
extern void es_scavenge_begin(EsScavengeRound *round, const char *tenant, int64 state_position, int64 state_limit);
/*
 * A step of it, in the caller's transaction: removes at most limit events, looks at a bounded number of streams, and
 * returns how many were removed.  Where the transaction fails the round has to begin anew.  Locks: see es_scavenge_lock.
 */
extern int64 es_scavenge_step(EsScavengeRound *round, int limit);
/* the locks of a step, to the end of the transaction; without wait: false where somebody has one that conflicts */
extern bool es_scavenge_lock(bool wait);
/* removes events, by position: the one place where rows of the event table go away.  Returns how many were there */
extern int64 es_scavenge_remove(const int64 *positions, int n);

#endif
