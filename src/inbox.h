/*
 * inbox.h
 *		What consumers took already.
 */
#ifndef ES_INBOX_H
#define ES_INBOX_H

/* an id that a consumer meets */
typedef struct EsInboxEntry
{
	const char *consumer;
	const char *message_id; /* a uuid in lower case */
	bool is_first;			/* out: nobody had it before, in the table nor in the array */
} EsInboxEntry;

/* once() for all of them, in one statement: rows of the inbox are made in the order of consumer and id, whatever that of the array */
extern void es_inbox_take(EsInboxEntry *entries, int n);
/* Janitor: deletes up to limit ids that are older than evtstore.inbox_retention, the oldest first, and returns how many */
extern int64 es_inbox_trim(int limit);

#endif
