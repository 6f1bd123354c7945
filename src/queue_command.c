/*
 * queue_command.c
 *		Messages that are commands of sagas: answered, never acknowledged, and taken back where nobody has had them.
 *
 * Runs in the transaction of who answers, or of a transition of the saga.  A command is a message like others, whose row names the saga and
 * its step.  Locks: the queue's, shared.  The row is the transaction's, and what it does to shared memory is undone when that is rolled back;
 * a crash forgets who holds what.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "queue.h"

/* of what is taken to be deleted: longer than a transaction lasts */
#define TAKE_MS INT64CONST(86400000)

/* from one share and rank to the next: there is no index by id alone, which every send would pay for */
static EsPlan find_plan = {
	.sql = "WITH RECURSIVE place AS ("
	" (SELECT share, rank FROM evtstore_internal.message WHERE queue_id = $1 ORDER BY share, rank LIMIT 1)"
	" UNION ALL"
	" SELECT next.share, next.rank FROM place CROSS JOIN LATERAL (SELECT m.share, m.rank FROM evtstore_internal.message m"
	" WHERE m.queue_id = $1 AND (m.share, m.rank) > (place.share, place.rank) ORDER BY m.share, m.rank LIMIT 1) next)"
	" SELECT m.share, m.rank, m.key_hash, m.tenant, m.attempt, m.enqueued_at, m.ctid"
	" FROM place JOIN evtstore_internal.message m ON m.queue_id = $1 AND m.share = place.share AND m.rank = place.rank AND m.id = $2",
	.nargs = 2,
	.args = {INT4OID, INT8OID},
};

static EsCommandHook command_hook = NULL;
static EsAnswerHook answer_hook = NULL;
static EsUnwantedHook unwanted_hook = NULL;
static EsFindCommandHook find_command_hook = NULL;

static bool find(int32 queue_id, int64 id, EsReady *ready, bool *was_had);

void
es_queue_register_command_hook(EsCommandHook hook)
{
	command_hook = hook;
}

void
es_queue_register_answer_hook(EsAnswerHook hook)
{
	answer_hook = hook;
}

void
es_queue_register_unwanted_hook(EsUnwantedHook hook)
{
	unwanted_hook = hook;
}

bool
es_queue_is_unwanted(int32 queue_id, int64 message_id)
{
	return unwanted_hook(queue_id, message_id);
}

void
es_queue_register_find_command_hook(EsFindCommandHook hook)
{
	find_command_hook = hook;
}

bool
es_queue_find_command(int32 queue_id, int64 message_id, EsCommand *command)
{
	return find_command_hook(queue_id, message_id, command);
}

const char *
es_queue_answer(const EsAnswer *answer)
{
	return answer_hook(answer);
}

bool
es_queue_tell_command_ended(const EsCommand *command, const EsCommandEnd *end)
{
	if (command->is_one && command_hook != NULL)
		command_hook(command, end);
	return command->is_one;
}

bool
es_queue_withdraw(int32 queue_id, int64 message_id, bool takes_away)
{
	EsTake		take = {.want = 1, .now = es_clock_now()};
	bool		was_had;
	EsCommand	command;
	EsReady		ready;
	EsQueueState *state;
	EsHold		hold;

	/* with a queue that was dropped its messages are gone, whoever had them */
	if (es_queue_lock(queue_id, AccessShareLock) == NULL || !find(queue_id, message_id, &ready, &was_had))
		return false;
	state = es_queue_state_open(queue_id);
	take.until = take.now + TAKE_MS * 1000;
	if (es_queue_take_own(state, &ready, &take, &hold))
		(void) es_queue_hold(state, message_id, hold.epoch, 0, &hold);
	else if (!takes_away || !es_queue_hold_idle(state, message_id, &hold))
		return false;
	else
		was_had = true;
	if (!es_queue_delete_row(queue_id, &hold, &command))
		return false;
	es_queue_gone(&hold);
	return !was_had && hold.lost == 0;
}

/* false: there is no such message.  was_had: somebody may have had it */
static bool
find(int32 queue_id, int64 id, EsReady *ready, bool *was_had)
{
	Datum		values[2] = {Int32GetDatum(queue_id), Int64GetDatum(id)};
	EsSpiState	spi;
	bool		found;
	bool		isnull;

	memset(ready, 0, sizeof(EsReady));
	es_queue_spi_begin(&spi);
	found = es_spi_run(&find_plan, values, NULL, false, 1) > 0;
	if (found)
	{
		char	   *tenant = es_spi_text(0, 3);

		ready->id = id;
		ready->share = es_spi_int64(0, 0);
		ready->rank = es_spi_int32(0, 1);
		ready->key_hash = (uint64) es_spi_int64(0, 2);
		ready->tenant_hash = es_queue_tenant_hash(tenant, strlen(tenant));
		ready->tid = *(ItemPointer) DatumGetPointer(es_spi_value(0, 6, &isnull));
		/* who had it before a crash is forgotten: then anybody may have had it */
		*was_had = es_spi_int32(0, 4) > 0 || DatumGetTimestampTz(es_spi_value(0, 5, &isnull)) < es_queue_remembers_since();
	}
	es_spi_end(&spi);
	return found;
}
