/*
 * failed_read.h
 *		What stands aside of a subscription, for those who look for work: what is due, and which keys wait.
 */
#ifndef ES_FAILED_READ_H
#define ES_FAILED_READ_H

#include "failed_event.h"
#include "read.h"

/* of one subscription, under one snapshot; in the current context, until closed */
typedef struct EsFailedReader EsFailedReader;

extern EsFailedReader *es_failed_reader_open(const EsSubscription *subscription, Snapshot snapshot);
extern void es_failed_reader_close(EsFailedReader *reader);

/*
 * Those that stand in front of their keys, or have none, and are due at that time, the longest due first: the next one, palloc'd;
 * NULL: no more.  Blocked ones are never due, and none that is due later is looked at.
 */
extern void es_failed_reader_begin_due(EsFailedReader *reader, TimestampTz now);
extern EsFailedEvent *es_failed_reader_next_due(EsFailedReader *reader);
/* when the first one after that time is; DT_NOEND: none */
extern TimestampTz es_failed_reader_due_after(EsFailedReader *reader, TimestampTz now);

/* does anything of that key stand aside, or was it given up? */
extern bool es_failed_reader_key_waits(EsFailedReader *reader, const char *tenant, const char *key);
/* from here on it does, or does not: what this transaction did, which the snapshot does not show */
extern void es_failed_reader_set_key(EsFailedReader *reader, const char *tenant, const char *key, bool waits);

/* a reader of the events at these positions, in that order; who is gone is left out.  They live as long as the reader */
extern EsReader *es_failed_reader_events(const int64 *positions, int n);

#endif
