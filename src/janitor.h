/*
 * janitor.h
 *		What the scheduler cleans up in the background.
 */
#ifndef ES_JANITOR_H
#define ES_JANITOR_H

#include "datatype/timestamp.h"
#include "utils/palloc.h"

/*
 * Gives each duty that is due a turn of some tens of milliseconds.  Returns when the next one is due.  Called without a
 * transaction; context lives to the end of the scheduler's pass.
 */
extern TimestampTz es_janitor_turn(MemoryContext context);

#endif
