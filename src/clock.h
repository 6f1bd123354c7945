/*
 * clock.h
 *		Time, replaceable in tests, and the ids made from it.
 */
#ifndef ES_CLOCK_H
#define ES_CLOCK_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* the clock of leases, delays, retries and timers; evtstore.clock_offset moves it in test mode */
extern TimestampTz es_clock_now(void);
/* a new UUIDv7 (RFC 9562, method 1 with a sub-millisecond fraction), growing within this process */
extern void es_clock_uuid(pg_uuid_t *uuid, TimestampTz now);

#endif
