/*
 * queue_command.c
 *		Messages that are commands of sagas: answered, not acknowledged but where an event answers them, and taken back where nobody has had them.
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

#define FOUND "w.n, m.share, m.rank, m.key_hash, m.tenant, m.ctid"

/* where commands and arrivals are, but for queues that are fair by something */
static EsPlan find_plan = {
	.sql = "SELECT " FOUND " FROM unnest($2) WITH ORDINALITY w (id, n)"
	" JOIN evtstore_internal.message m ON m.queue_id = $1 AND m.share = $3 AND m.rank = 0 AND m.id = w.id",
	.nargs = 3,
	.args = {INT4OID, INT8ARRAYOID, INT8OID},
};

static EsPlan find_anywhere_plan = {
	.sql = ES_QUEUE_PLACES " SELECT " FOUND " FROM place CROSS JOIN unnest($2) WITH ORDINALITY w (id, n)"
	" JOIN evtstore_internal.message m ON m.queue_id = $1 AND m.share = place.share AND m.rank = place.rank AND m.id = w.id",
	.nargs = 2,
	.args = {INT4OID, INT8ARRAYOID},
};

static EsCommandHook command_hook = NULL;
static EsAnswerHook answer_hook = NULL;
static EsAcknowledgeHook acknowledge_hook = NULL;
static EsUnwantedHook unwanted_hook = NULL;
static EsFindCommandHook find_command_hook = NULL;

static EsReady *find(int32 queue_id, const char *tenant, const int64 *ids, int n);
static void note_found(uint64 nrows, const int64 *ids, const int *places, EsReady *found);
static bool withdraw(int32 queue_id, const EsReady *ready, bool takes_away);

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
es_queue_register_acknowledge_hook(EsAcknowledgeHook hook)
{
	acknowledge_hook = hook;
}

bool
es_queue_may_acknowledge(const EsCommand *command)
{
	return acknowledge_hook != NULL && acknowledge_hook(command);
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
es_queue_withdraw(int32 queue_id, const char *tenant, int64 message_id, bool takes_away)
{
	bool		result;

	es_queue_withdraw_all(queue_id, tenant, &message_id, 1, takes_away, &result);
	return result;
}

void
es_queue_withdraw_all(int32 queue_id, const char *tenant, const int64 *ids, int n, bool takes_away, bool *results)
{
	EsReady    *found = NULL;

	/* with a queue that was dropped its messages are gone, whoever had them */
	if (es_queue_lock(queue_id, AccessShareLock) != NULL)
		found = find(queue_id, tenant, ids, n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		results[i] = found != NULL && found[i].id != 0 && withdraw(queue_id, &found[i], takes_away);
	}
	if (found != NULL)
		pfree(found);
}

bool
es_queue_is_left(int32 queue_id, int64 message_id)
{
	EsQueueState *state = es_queue_state_find(queue_id);

	return state != NULL && es_queue_is_others(state, message_id);
}

bool
es_queue_is_there(int32 queue_id, int64 message_id)
{
	EsReady    *found = find(queue_id, es_queue_tenant(), &message_id, 1);
	bool		result = found->id != 0;

	pfree(found);
	return result;
}

static bool
withdraw(int32 queue_id, const EsReady *ready, bool takes_away)
{
	EsTake		take = {.want = 1, .now = es_clock_now()};
	EsQueueState *state = es_queue_state_open(queue_id);
	bool		was_held = false;
	EsCommand	command = {false};
	EsHold		hold;

	take.until = take.now + TAKE_MS * 1000;
	if (es_queue_take_own(state, ready, &take, &hold))
		(void) es_queue_hold(state, ready->id, hold.epoch, 0, &hold, NULL);
	else if (!takes_away || !es_queue_hold_idle(state, ready->id, &hold))
		return false;
	else
		was_held = true;
	if (!es_queue_delete_row(queue_id, &hold, &command))
	{
		/* somebody deleted it since it was found: whoever takes it finds out */
		es_queue_given_back(&hold);
		return false;
	}
	es_queue_gone(&hold);
	return !was_held && !command.was_had && hold.lost == 0;
}

/*
 * Where the messages are; id is 0 where there is none.  All at once: what this transaction has deleted stands in the way of who looks from
 * the first row on.  palloc'd
 */
static EsReady *
find(int32 queue_id, const char *tenant, const int64 *ids, int n)
{
	EsReady    *found = MemoryContextAllocExtended(CurrentMemoryContext, n * sizeof(EsReady), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	int64	   *missing = palloc(n * sizeof(int64));
	int		   *places = palloc(n * sizeof(int));
	int			nmissing = 0;
	Datum		values[3] = {Int32GetDatum(queue_id), es_queue_id_array(ids, n),
		Int64GetDatum((int64) es_queue_tenant_hash(tenant, strlen(tenant)))};
	EsSpiState	spi;

	es_queue_spi_begin(&spi);
	note_found(es_spi_run(&find_plan, values, NULL, false, 0), ids, NULL, found);
	for (int i = 0; i < n; i++)
		if (found[i].id == 0)
		{
			missing[nmissing] = ids[i];
			places[nmissing++] = i;
		}
	if (nmissing > 0)
	{
		values[1] = es_queue_id_array(missing, nmissing);
		note_found(es_spi_run(&find_anywhere_plan, values, NULL, false, 0), missing, places, found);
	}
	es_spi_end(&spi);
	pfree(missing);
	pfree(places);
	return found;
}

/* the rows of a plan that looked for these ids; places: where they are in found, NULL: they are all of it */
static void
note_found(uint64 nrows, const int64 *ids, const int *places, EsReady *found)
{
	for (uint64 row = 0; row < nrows; row++)
	{
		int			i = (int) es_spi_int64(row, 0) - 1;
		EsReady    *ready = &found[places == NULL ? i : places[i]];
		char	   *tenant = es_spi_text(row, 4);
		bool		isnull;

		ready->id = ids[i];
		ready->share = es_spi_int64(row, 1);
		ready->rank = es_spi_int32(row, 2);
		ready->key_hash = (uint64) es_spi_int64(row, 3);
		ready->tenant_hash = es_queue_tenant_hash(tenant, strlen(tenant));
		ready->tid = *(ItemPointer) DatumGetPointer(es_spi_value(row, 5, &isnull));
	}
}
