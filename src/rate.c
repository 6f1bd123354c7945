/*
 * rate.c
 *		So many a second, exactly, whoever takes them: a bucket of tokens in shared memory.
 *
 * Runs wherever something is handed out, under the lock of what the bucket is a part of.  A second's worth, and at least one, may
 * go out at once.  A crash makes it anew, and full.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "compat.h"
#include "rate.h"

int
es_rate_room(EsRate *rate, double per_second, TimestampTz now)
{
	double		full = Max(per_second, 1);

	if (rate->filled_at == 0)
		rate->tokens = full;
	else if (now > rate->filled_at)
		rate->tokens = Min(full, rate->tokens + per_second * (now - rate->filled_at) / USECS_PER_SEC);
	if (now > rate->filled_at)
		rate->filled_at = now;
	return (int) Min(Max(rate->tokens, 0), INT_MAX);
}

void
es_rate_spend(EsRate *rate, int n)
{
	rate->tokens -= n;
}

TimestampTz
es_rate_next(const EsRate *rate, double per_second, TimestampTz now)
{
	return now + (TimestampTz) ((1 - rate->tokens) / per_second * USECS_PER_SEC) + 1;
}
