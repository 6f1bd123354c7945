/*
 * deliver.h
 *		One batch of a pushed queue to its endpoint.
 */
#ifndef ES_DELIVER_H
#define ES_DELIVER_H

#include <signal.h>

#include "queue.h"

/*
 * Claims one batch, delivers it and settles it; called by a delivery worker outside any transaction.  Returns how many
 * messages were handled: 0 when there is nothing to do.  What is not finished when *stop becomes true is given back.
 */
extern int es_deliver_queue(const EsQueue *queue, int slot, volatile sig_atomic_t *stop);

#endif
