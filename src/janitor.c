/*
 * janitor.c
 *		Cleaning up in the background, in small batches: a table of duties, and their turns.
 *
 * Runs in the scheduler, between its other duties.  A batch is a transaction of its own, and a turn is over after some
 * tens of milliseconds: then the ledger and the wake-ups come by before the next one.  A duty that has done all there
 * was rests for evtstore.janitor_interval; where that is 0 nothing is done at all.
 *
 * Nothing that is done here must be done: what is missed, because the server crashed, a lock was busy, or the commit was
 * lost, comes up again in a later round.  So commits are asynchronous, locks are only tried, and an error ends the turn
 * of its duty for a while and nobody else's.  How far a duty has come is in the memory of the scheduler; its successor
 * begins anew.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "command.h"
#include "compat.h"
#include "endpoint.h"
#include "feed.h"
#include "guc.h"
#include "inbox.h"
#include "janitor.h"
#include "ledger.h"
#include "participant.h"
#include "process.h"
#include "queue.h"
#include "registry.h"
#include "saga.h"
#include "scavenge.h"
#include "subscription.h"

/* rows that a batch removes at most: how long its transaction takes */
#define BATCH 200
/* µs of a turn after which no other batch is begun */
#define TURN (40 * 1000)
/* µs between two times that all of the ledger, or of the sagas that ended long ago, is looked through */
#define LONG_INTERVAL (600 * USECS_PER_SEC)
/* µs that a duty rests after an error */
#define AFTER_ERROR (60 * USECS_PER_SEC)

/*
 * Does a part of a duty in the transaction that is open: removes at most limit rows and returns how many.  As many as
 * the limit mean that there are more; a duty that removed fewer and has not come to its end sets *more.  Then it goes on
 * at once, or at the next turn.
 */
typedef int64 (*Duty) (int limit, bool *more);

typedef struct DutyState
{
	const char *activity;		/* for pg_stat_activity and the log */
	Duty		run;
	bool		more;
	TimestampTz ended;			/* its last turn; 0: none yet */
	TimestampTz not_before;		/* after an error */
} DutyState;

static int	errors = 0;

static int64 scavenge(int limit, bool *more);
static int64 trim_commands(int limit, bool *more);
static int64 trim_ledger(int limit, bool *more);
static int64 trim_checkpoints(int limit, bool *more);
static int64 trim_inbox(int limit, bool *more);
static int64 trim_guarded_steps(int limit, bool *more);
static int64 trim_dedup(int limit, bool *more);
static int64 trim_secrets(int limit, bool *more);
static int64 trim_sagas(int limit, bool *more);
static int64 now_and_then(int64 (*trim) (int64 limit), int limit, TimestampTz *next);
static void turn(DutyState *duty, MemoryContext context);
static TimestampTz due(const DutyState *duty);

static DutyState duties[] = {
	{"scavenging", scavenge},
	{"trimming commands", trim_commands},
	{"trimming the ledger", trim_ledger},
	{"trimming checkpoints", trim_checkpoints},
	{"trimming the inbox", trim_inbox},
	{"trimming guards of steps", trim_guarded_steps},
	{"trimming ids of messages", trim_dedup},
	{"trimming secrets of endpoints", trim_secrets},
	{"trimming sagas", trim_sagas},
};

TimestampTz
es_janitor_turn(MemoryContext context)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < lengthof(duties); i++)
	{
		if (due(&duties[i]) <= GetCurrentTimestamp())
			turn(&duties[i], context);
		next = Min(next, due(&duties[i]));
	}
	return next;
}

static TimestampTz
due(const DutyState *duty)
{
	TimestampTz rest = duty->more || duty->ended == 0 ? 0 : (TimestampTz) es_guc_janitor_interval * 1000;

	if (es_guc_janitor_interval == 0)
		return DT_NOEND;
	return Max(duty->ended + rest, duty->not_before);
}

static void
turn(DutyState *duty, MemoryContext context)
{
	TimestampTz begun = GetCurrentTimestamp();
	volatile bool full = true;

	while (full && GetCurrentTimestamp() < begun + TURN && !es_process_stop && !es_registry_told_to_leave())
	{
		PG_TRY();
		{
			es_process_start_transaction(duty->activity);
			(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
			duty->more = false;
			full = duty->run(BATCH, &duty->more) >= BATCH;
			duty->more |= full;
			es_process_commit();
		}
		PG_CATCH();
		{
			ErrorData  *error = es_process_recover(context);

			full = duty->more = false;
			errors++;
			duty->not_before = GetCurrentTimestamp() + AFTER_ERROR;
			es_registry_count(0, 1);
			es_process_log_error(error, duty->activity);
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
	}
	duty->ended = GetCurrentTimestamp();
}

/*
 * Rows of stream_state are walked up to the head, like a feed, so that none that is in flight is passed over.  After an
 * error it is not known what was removed.
 */
static int64
scavenge(int limit, bool *more)
{
	static EsScavengeRound round = {.phase = ES_SCAVENGE_DONE};
	static int	errors_seen = 0;
	int64		removed;

	if (!es_scavenge_lock(false))
		return 0;
	if (errors_seen != errors)
		es_scavenge_begin(&round, "", 0, 0);
	if (errors_seen != errors || round.phase == ES_SCAVENGE_DONE)
	{
		es_scavenge_begin(&round, "", round.state_position, es_feed_begin_read(ES_FEED_ALL_CATEGORIES));
		es_feed_end_read();
	}
	errors_seen = errors;
	removed = es_scavenge_step(&round, limit);
	*more = round.phase != ES_SCAVENGE_DONE;
	return removed;
}

static int64
trim_commands(int limit, bool *more)
{
	return es_command_trim(limit);
}

static int64
trim_checkpoints(int limit, bool *more)
{
	(void) es_subscription_retire_lanes();
	return es_checkpoint_trim(limit);
}

static int64
trim_inbox(int limit, bool *more)
{
	return es_inbox_trim(limit);
}

static int64
trim_guarded_steps(int limit, bool *more)
{
	return es_participant_trim(limit);
}

static int64
trim_dedup(int limit, bool *more)
{
	return es_queue_trim_dedup(limit);
}

/* it reads all of the ledger, which grows by a row a second */
static int64
trim_ledger(int limit, bool *more)
{
	static TimestampTz next = 0;

	return now_and_then(es_ledger_trim, limit, &next);
}

/* it reads all that ended long ago and may not go yet, because their parents are there */
static int64
trim_sagas(int limit, bool *more)
{
	static TimestampTz next = 0;

	return now_and_then(es_saga_trim, limit, &next);
}

/* what reads much to find little: not at every round */
static int64
now_and_then(int64 (*trim) (int64 limit), int limit, TimestampTz *next)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		trimmed;

	if (now < *next)
		return 0;
	trimmed = trim(limit);
	if (trimmed < limit)
		*next = now + LONG_INTERVAL;
	return trimmed;
}

static int64
trim_secrets(int limit, bool *more)
{
	return es_endpoint_trim_secrets(limit);
}
