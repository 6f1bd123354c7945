/*
 * saga_why_message.c
 *		Where the command is that a step of a saga waits for: in its queue, with somebody, or in backoff.
 *
 * Runs in backends, in the caller's transaction.  The message is read under the active snapshot; who has it is shared memory's, and copied.  Writes nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "queue.h"
#include "saga_why.h"
#include "spi.h"

/* of those before it as many are counted */
#define MAX_AHEAD 100000

/* a message by its id alone: the index begins with share and rank, of which there are few */
static EsPlan message_plan = {
	.sql = "WITH RECURSIVE place AS ("
	" (SELECT share, rank FROM evtstore_internal.message WHERE queue_id = $1 ORDER BY share, rank LIMIT 1)"
	" UNION ALL"
	" SELECT next.share, next.rank FROM place CROSS JOIN LATERAL (SELECT m.share, m.rank FROM evtstore_internal.message m"
	" WHERE m.queue_id = $1 AND (m.share, m.rank) > (place.share, place.rank) ORDER BY m.share, m.rank LIMIT 1) next)"
	" SELECT m.share, m.rank, m.deliver_at, m.attempt, m.history->-1->>'error', (SELECT count(*) FROM (SELECT FROM evtstore_internal.message o"
	" WHERE o.queue_id = $1 AND o.share = m.share AND (o.rank, o.id) < (m.rank, m.id) AND (o.deliver_at <= $3) IS NOT FALSE LIMIT $4) ahead)"
	" FROM place JOIN evtstore_internal.message m ON m.queue_id = $1 AND m.share = place.share AND m.rank = place.rank AND m.id = $2",
	.nargs = 4,
	.args = {INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID},
};

static EsPlan queue_plan = {
	.sql = "SELECT name, state, spec->>'endpoint' FROM evtstore_internal.definition WHERE id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

typedef struct Place
{
	char	   *queue;
	bool		is_paused;
	char	   *endpoint;		/* NULL: consumers pull */
	bool		is_there;
	int64		share;
	int			rank;
	TimestampTz deliver_at;		/* 0: at once */
	int			attempt;
	char	   *error;			/* of the last one; NULL: none */
	int64		ahead;
	TimestampTz held_until;		/* 0: nobody has it */
} Place;

static char *ahead_text(const Place *place);
static void find_queue(const EsLookStep *step, Place *place);
static void find_message(const EsWhy *why, const EsLookStep *step, Place *place);
static void find_holder(const EsWhy *why, const EsLookStep *step, Place *place);

void
es_why_message(EsWhy *why, const EsLookStep *step, const char *who)
{
	Place		place = {0};
	char	   *given_back;

	find_queue(step, &place);
	find_message(why, step, &place);
	find_holder(why, step, &place);
	given_back = place.attempt == 0 ? "" : psprintf(", given back %s%s", place.attempt == 1 ? "once" : psprintf("%d times", place.attempt), place.error == NULL ? "" : psprintf(", the last time with \"%s\"", place.error));
	if (!place.is_there)
		es_why_tell(why, "%s waits for an answer to message %lld of queue \"%s\", which is no longer there: its answer is on the way, or somebody purged it.", who,
					(long long) step->message_id, place.queue);
	else if (place.held_until != 0)
		es_why_tell(why, "%s waits for an answer to message %lld of queue \"%s\": a consumer has it until %s%s.", who, (long long) step->message_id, place.queue,
					es_why_time(place.held_until), given_back);
	else if (place.deliver_at > why->now)
		es_why_tell(why, "%s is in backoff: message %lld comes to queue \"%s\" at %s%s.", who, (long long) step->message_id, place.queue,
					es_why_time(place.deliver_at), given_back);
	else
		es_why_tell(why, "%s waits for an answer to message %lld of queue \"%s\": nobody has it, and %s%s.", who, (long long) step->message_id, place.queue,
					ahead_text(&place), given_back);
	if (place.is_there && place.endpoint != NULL)
		es_why_tell(why, "    Workers deliver that queue to endpoint \"%s\", which the view evtstore.endpoint_status has.", place.endpoint);
	if (place.is_paused)
	{
		es_why_tell(why, "    That queue is paused. It goes on by:");
		es_why_sql(why, "SELECT evtstore.resume(%s)", quote_literal_cstr(place.queue));
	}
}

static char *
ahead_text(const Place *place)
{
	if (place->ahead == 0)
		return pstrdup("it is the next one");
	return place->ahead == 1 ? pstrdup("one other of that queue is before it") :
		psprintf("%s%lld others of that queue are before it", place->ahead >= MAX_AHEAD ? "at least " : "", (long long) place->ahead);
}

static void
find_queue(const EsLookStep *step, Place *place)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[1] = {Int32GetDatum(step->queue_id)};
	EsSpiState	state;
	MemoryContext old;

	place->queue = "?";
	es_queue_spi_begin(&state);
	if (es_spi_run(&queue_plan, values, NULL, true, 1) > 0)
	{
		old = MemoryContextSwitchTo(caller);
		place->queue = pstrdup(es_spi_text(0, 0));
		place->is_paused = strcmp(es_spi_text(0, 1), "paused") == 0;
		place->endpoint = es_spi_text(0, 2);
		if (place->endpoint != NULL)
			place->endpoint = pstrdup(place->endpoint);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
}

static void
find_message(const EsWhy *why, const EsLookStep *step, Place *place)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[4] = {Int32GetDatum(step->queue_id), Int64GetDatum(step->message_id), TimestampTzGetDatum(why->now), Int64GetDatum(MAX_AHEAD)};
	EsSpiState	state;
	bool		isnull;
	Datum		value;
	char	   *error;

	es_queue_spi_begin(&state);
	if (es_spi_run(&message_plan, values, NULL, true, 1) > 0)
	{
		place->is_there = true;
		place->share = es_spi_int64(0, 0);
		place->rank = es_spi_int32(0, 1);
		value = es_spi_value(0, 2, &isnull);
		place->deliver_at = isnull ? 0 : DatumGetTimestampTz(value);
		place->attempt = es_spi_int32(0, 3);
		error = es_spi_text(0, 4);
		if (error != NULL)
			place->error = MemoryContextStrdup(caller, error);
		place->ahead = es_spi_int64(0, 5);
	}
	es_spi_end(&state);
}

/* those before it that somebody has are in nobody's way */
static void
find_holder(const EsWhy *why, const EsLookStep *step, Place *place)
{
	EsQueueState *state = es_queue_state_find(step->queue_id);
	EsHold	   *held;
	TimestampTz *until;
	int			n;

	if (state == NULL || !place->is_there)
		return;
	held = es_queue_in_flight(state, &until, &n);
	for (int i = 0; i < n; i++)
	{
		if (until[i] <= why->now || held[i].is_key)
			continue;
		if (held[i].id == step->message_id)
			place->held_until = until[i];
		else if (held[i].share == place->share && (held[i].rank < place->rank || (held[i].rank == place->rank && held[i].id < step->message_id)))
			place->ahead = Max(place->ahead - 1, 0);
	}
}
