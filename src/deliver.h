/*
 * deliver.h
 *		One batch of a queue or subscription to a function of this database (sql: endpoints).
 */
#ifndef ES_DELIVER_H
#define ES_DELIVER_H

#include <signal.h>

#include "datatype/timestamp.h"

#include "push.h"

/*
 * Claims one batch, calls the function and settles; called by a delivery worker outside any transaction.  Returns how much was
 * handled: 0 when there is nothing to do; *due (by es_clock_now()) is then when there may be something by time, DT_NOEND: not by time.
 * What is not finished when *stop becomes true is given back.
 */
extern int es_deliver(const EsPush *push, int slot, volatile sig_atomic_t *stop, TimestampTz *due);

#endif
