/*
 * inbox.h
 *		What consumers took already.
 */
#ifndef ES_INBOX_H
#define ES_INBOX_H

/* Janitor: deletes up to limit ids that are older than evtstore.inbox_retention, the oldest first, and returns how many */
extern int64 es_inbox_trim(int limit);

#endif
