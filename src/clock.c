/*
 * clock.c
 *		Time, and UUIDv7 made from it.  Runs in every process; keeps nothing shared.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "clock.h"
#include "compat.h"
#include "guc.h"

/* random bytes are fetched in blocks: a system call per id would cost more than the rest of an append's ids */
#define RANDOM_POOL 4096

static uint8 random_pool[RANDOM_POOL];
static int	random_left = 0;
static uint64 last_stamp = 0;

static void take_random(uint8 *dst, int len);

PG_FUNCTION_INFO_V1(evtstore_clock);

/* evtstore_internal.clock() */
Datum
evtstore_clock(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(es_clock_now());
}

TimestampTz
es_clock_now(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (es_guc_test_mode)
		now += (TimestampTz) es_guc_clock_offset * USECS_PER_SEC;
	return now;
}

/*
 * 48 bits of milliseconds, 12 bits of the millisecond's fraction (both from the microsecond clock), 62 random bits.
 * The 60-bit stamp never goes back and never repeats within a process, so ids of one process sort in order of
 * making even when the clock steps back.
 */
void
es_clock_uuid(pg_uuid_t *uuid, TimestampTz now)
{
	uint64		usec = (uint64) (now + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
	uint64		stamp = ((usec / 1000) << 12) | ((usec % 1000) * 4096 / 1000);
	uint8	   *b = uuid->data;

	if (stamp <= last_stamp)
		stamp = last_stamp + 1;
	last_stamp = stamp;

	b[0] = (uint8) (stamp >> 52);
	b[1] = (uint8) (stamp >> 44);
	b[2] = (uint8) (stamp >> 36);
	b[3] = (uint8) (stamp >> 28);
	b[4] = (uint8) (stamp >> 20);
	b[5] = (uint8) (stamp >> 12);
	b[6] = (uint8) (0x70 | ((stamp >> 8) & 0x0f));
	b[7] = (uint8) stamp;
	take_random(b + 8, 8);
	b[8] = (b[8] & 0x3f) | 0x80;
}

static void
take_random(uint8 *dst, int len)
{
	if (random_left < len)
	{
		if (!pg_strong_random(random_pool, RANDOM_POOL))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values for an event id")));
		random_left = RANDOM_POOL;
	}
	random_left -= len;
	memcpy(dst, random_pool + random_left, len);
}
