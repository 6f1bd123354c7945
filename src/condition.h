/*
 * condition.h
 *		Append conditions (dcb.events): no event that matches may exist, and none may come before this append commits.
 */
#ifndef ES_CONDITION_H
#define ES_CONDITION_H

#include "query.h"

/*
 * Locks what these events (prepared by tag.c) and this condition (query; NULL: none) have in common with those of others,
 * to the end of the transaction, and waits for the appends in flight that a condition without tags could match.
 * True where the types of the events are locked too: then es_condition_announce has nothing to do.
 * Locks: those of the streams, held; nothing allocated yet.
 */
extern bool es_condition_lock(const char *tenant, const EsEvent *events, int n, const EsQuery *query);
/* ST003 when an event above after matches.  Locks: es_condition_lock */
extern void es_condition_check(const char *tenant, const EsQuery *query, int64 after);
/* tells conditions without tags of the types that come; waits for such a condition of somebody else.  Before allocating */
extern void es_condition_announce(const char *tenant, const EsEvent *events, int n);

extern void es_condition_init(void);

#endif
