/*
 * read.h
 *		Events out of the table, for other modules.
 */
#ifndef ES_READ_H
#define ES_READ_H

#include "stream.h"

/*
 * Every committed event in order of position, for a projection that catches up.  Locks: the event table, against
 * writers, held.
 */
typedef void (*EsReadCallback)(EsEvent *event, void *arg);
extern void es_read_history(EsReadCallback callback, void *arg);

#endif
