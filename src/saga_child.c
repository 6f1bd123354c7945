/*
 * saga_child.c
 *		Sagas within sagas: children that are started, end, and are taken back.
 *
 * Runs within a transition of the parent, or at the end of one of the child (saga_move.c), under the lock of that one.  Locks: the other's row,
 * where it is free; whoever has the one waits for none of the other.  What cannot be told at once is left as an arrival (saga_arrival.c), in
 * the same transaction, so that a crash leaves both as they were, or as they are to be.  docs/architecture-sagas.md, section 8.
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "saga_simulate.h"

/* sagas that start each other without waiting; or are told, or taken back, within each other: the next one by an arrival */
#define MAX_WITHIN 50

/* that of uuids whose content is the application's, RFC 9562 */
#define UUID_VERSION 8

/* parents that are told by the end of their child, each within the other */
static int	telling = 0;

static void child_id(const pg_uuid_t *parent, int seq, pg_uuid_t *id);
static bool end_called(EsMove *move, EsMove *child, EsEnding *ending);
static void describe_end(const EsSaga *saga, EsEnding *ending);
static bool take_back(EsMove *child, const EsTakeBack *request);

bool
es_child_start(EsMove *move, EsStep *step, const EsAslCall *call, EsEnding *ending)
{
	const EsSagaVersion *version = es_saga_version_find(call->name, call->version);
	EsSaga		saga = {.parent_id = move->saga.id, .parent_parent = step->parent, .parent_seq = step->seq};
	const char *why = version == NULL || !es_saga_pin(version) ? psprintf("saga \"%s\" does not exist", call->name) : NULL;
	EsMove		child;

	if (why == NULL && move->simulation != NULL && es_simulation_child(move, call, ending))
		return true;
	if (why == NULL && es_moves_within() >= MAX_WITHIN)
		why = psprintf("more than %d sagas start each other without waiting, the last one \"%s\"", MAX_WITHIN, call->name);
	if (why != NULL)
	{
		*ending = (EsEnding) {.error = ES_ASL_RUNTIME, .cause = pstrdup(why), .is_final = true, .retry_after = -1};
		return true;
	}
	saga.tenant = move->saga.tenant;
	saga.metadata = move->saga.metadata;
	saga.input = step->sent != NULL ? step->sent : step->input;
	es_saga_fill(&saga, version, 0);
	child_id(&move->saga.id, step->seq, &saga.id);
	es_move_start(&child, version, &saga);
	child.above = move;
	es_move_walk(&child, (EsNext) {version->definition->machine->start, saga.input});
	return end_called(move, &child, ending);
}

bool
es_child_take_back(EsMove *move, EsStep *step, EsStep *undo, const char *error, EsEnding *ending)
{
	EsTakeBack	request = {.compensates = move->saga.ending != ES_SAGA_FAILED, .error = error};
	pg_uuid_t	id;
	EsMove		child;

	if (undo != NULL)
	{
		request.parent = undo->parent;
		request.seq = undo->seq;
	}
	child_id(&move->saga.id, step->seq, &id);
	/* those that are within each other do not take more stack than those that start each other */
	if (es_moves_within() >= MAX_WITHIN && es_child_is_there(move, step))
	{
		es_arrival_leave_take_back(&id, move->saga.tenant, &request);
		return false;
	}
	switch (es_move_begin(&child, &id, false))
	{
		case ES_SAGA_NONE:
			/* it was never started, or removed; that of a simulation may be an answer only */
			*ending = undo != NULL && move->simulation != NULL ? (EsEnding) {.is_success = true, .retry_after = -1} :
				(EsEnding) {.error = "evtstore.ChildGone", .cause = "the child saga is not there any more", .is_final = true, .retry_after = -1};
			return true;
		case ES_SAGA_BUSY:
			es_arrival_leave_take_back(&id, move->saga.tenant, &request);
			return false;
		case ES_SAGA_FOUND:
			break;
	}
	if (take_back(&child, &request))
		return end_called(move, &child, ending);
	(void) end_called(move, &child, ending);
	*ending = es_child_refusal();
	return undo != NULL;
}

bool
es_child_is_there(EsMove *move, const EsStep *step)
{
	pg_uuid_t	id;

	child_id(&move->saga.id, step->seq, &id);
	return es_saga_exists(&id);
}

void
es_child_be_taken_back(EsMove *child, const EsTakeBack *request)
{
	/* the end of its transition tells the parent when it is through */
	if (!take_back(child, request) && request->seq != 0)
	{
		EsEnding	refusal = es_child_refusal();

		es_arrival_leave(&child->saga.parent_id, child->saga.tenant, request->parent, request->seq, &refusal);
	}
	else if (ES_SAGA_HAS_ENDED(child->saga.status))
		child->must_tell = request->seq != 0;
}

void
es_child_tell_parent(const EsSaga *child)
{
	EsEnding	ending = {.retry_after = -1};
	EsMove		parent;

	describe_end(child, &ending);
	switch (telling < MAX_WITHIN ? es_move_begin(&parent, &child->parent_id, false) : ES_SAGA_BUSY)
	{
		case ES_SAGA_NONE:
			/* it was removed */
			return;
		case ES_SAGA_BUSY:
			es_arrival_leave(&child->parent_id, child->tenant, child->parent_parent, child->parent_seq, &ending);
			return;
		case ES_SAGA_FOUND:
			break;
	}
	telling++;
	PG_TRY();
	{
		EsStep	   *step = es_move_step(&parent, child->parent_parent, child->parent_seq);

		if (step != NULL)
			(void) es_move_answer(&parent, step, &ending);
		es_move_end(&parent);
	}
	PG_FINALLY();
	{
		telling--;
	}
	PG_END_TRY();
}

EsEnding
es_child_refusal(void)
{
	return (EsEnding) {.error = "evtstore.PastPivot", .cause = "the child saga has passed its pivot, behind which nothing is undone", .is_final = true,
		.retry_after = -1};
}

/* what has the step has the child */
static void
child_id(const pg_uuid_t *parent, int seq, pg_uuid_t *id)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL || pg_cryptohash_init(hash) < 0 || pg_cryptohash_update(hash, parent->data, UUID_LEN) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) &seq, sizeof(seq)) < 0 || pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "the id of a child of a saga cannot be made");
	pg_cryptohash_free(hash);
	memcpy(id->data, digest, UUID_LEN);
	id->data[6] = (id->data[6] & 0x0f) | (UUID_VERSION << 4);
	id->data[8] = (id->data[8] & 0x3f) | 0x80;
}

/* the end of its transition, within one of the parent.  True: it has ended, *ending says how */
static bool
end_called(EsMove *move, EsMove *child, EsEnding *ending)
{
	bool		has_ended = ES_SAGA_HAS_ENDED(child->saga.status);

	child->is_called = true;
	if (has_ended)
	{
		MemoryContext old = MemoryContextSwitchTo(move->context);

		describe_end(&child->saga, ending);
		MemoryContextSwitchTo(old);
	}
	es_move_end(child);
	return has_ended;
}

/* as the step that waits for it is told; in the current context */
static void
describe_end(const EsSaga *saga, EsEnding *ending)
{
	/* by a person, while it was taken back */
	bool		is_abandoned = saga->status == ES_SAGA_CANCELLED && saga->ending == ES_SAGA_FAILED;

	*ending = (EsEnding) {.retry_after = -1};
	ending->is_success = saga->is_taken_back ? saga->status != ES_SAGA_SUCCEEDED && !is_abandoned : saga->status == ES_SAGA_SUCCEEDED;
	if (ending->is_success && saga->output != NULL)
	{
		ending->output = palloc(VARSIZE(saga->output));
		memcpy(ending->output, saga->output, VARSIZE(saga->output));
	}
	if (ending->is_success)
		return;
	if (saga->is_taken_back)
	{
		*ending = is_abandoned ? (EsEnding) {.error = "evtstore.ChildAbandoned", .is_final = true, .retry_after = -1,
			.cause = "somebody cancelled the child saga without compensation: what it did is as it was left"} : es_child_refusal();
		return;
	}
	ending->error = pstrdup(saga->error != NULL ? saga->error : ES_ASL_TASK_FAILED);
	ending->cause = saga->cause != NULL ? pstrdup(saga->cause) : saga->status == ES_SAGA_CANCELLED ? "the child saga was cancelled" : NULL;
}

/* false: it goes on, because it has passed its pivot */
static bool
take_back(EsMove *child, const EsTakeBack *request)
{
	EsSaga	   *saga = &child->saga;

	/* it stays paused, and goes on when it is resumed */
	if (saga->status == ES_SAGA_PAUSED && request->compensates && es_pause_passes_pivot(child))
		return false;
	/* as one that somebody cancels */
	if (saga->status == ES_SAGA_PAUSED)
	{
		es_pause_end(child);
		if (saga->status == ES_SAGA_COMPENSATING)
			es_undo_resume(child);
	}
	if (request->compensates && saga->has_pivot && (saga->status == ES_SAGA_SUCCEEDED || !ES_SAGA_HAS_ENDED(saga->status)))
		return false;
	if (request->seq != 0)
	{
		saga->parent_parent = request->parent;
		saga->parent_seq = request->seq;
		saga->is_taken_back = true;
		child->is_changed = true;
	}
	/* compensated, failed, cancelled: there is nothing left of it */
	if ((ES_SAGA_HAS_ENDED(saga->status) && saga->status != ES_SAGA_SUCCEEDED) || saga->status == ES_SAGA_COMPENSATING)
		return true;
	/* in time after all: its parent hears of that, and undoes it as it undoes what is done.  Or it is left as it is */
	if ((!request->compensates || request->seq == 0) && ES_SAGA_HAS_ENDED(saga->status))
		return true;
	saga->error = pstrdup(request->error != NULL ? request->error : "evtstore.TakenBack");
	saga->cause = request->error != NULL ? "the time that its parent has for it is over" : "its parent no longer wants it";
	es_move_note(child, "verb", "take_back");
	if (request->compensates)
		es_undo_begin(child, ES_SAGA_CANCELLED);
	else
		es_move_abandon(child, ES_SAGA_CANCELLED);
	return true;
}
