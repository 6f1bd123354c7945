/*
 * rate.h
 *		So many a second, exactly, whoever takes them: a bucket of tokens in shared memory.
 */
#ifndef ES_RATE_H
#define ES_RATE_H

#include "datatype/timestamp.h"

/* zeroed: full.  Locks: those of what it is a part of */
typedef struct EsRate
{
	double tokens;
	TimestampTz filled_at;
} EsRate;

/* how many may go out now; per_second > 0 */
extern int es_rate_room(EsRate *rate, double per_second, TimestampTz now);
/* n went out; < 0: they did not after all */
extern void es_rate_spend(EsRate *rate, int n);
/* after es_rate_room said 0: when the next one may */
extern TimestampTz es_rate_next(const EsRate *rate, double per_second, TimestampTz now);

#endif
