/*
 * participant.h
 *		The guard of who takes part in sagas: what was done and undone here already.
 */
#ifndef ES_PARTICIPANT_H
#define ES_PARTICIPANT_H

/* Janitor: deletes up to limit guards that are older than evtstore.guard_retention, the oldest first, and returns how many */
extern int64 es_participant_trim(int limit);

#endif
