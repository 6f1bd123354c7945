/*
 * saga_answer.c
 *		What workers say to sagas: reply, fail.
 *
 * Runs in backends, in the caller's transaction.  Locks: the instance's row, to its end.  An answer to an instance that somebody else has, or to a
 * command that somebody else answers, where this transaction may not wait for it, is left as an arrival (saga_arrival.c).  A crash leaves nothing of it.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "evtstore.h"
#include "queue.h"
#include "queue_command.h"
#include "receipt.h"
#include "saga.h"
#include "saga_event.h"
#include "saga_move.h"

static const char *answer(const EsAnswer *answered);
static const char *bring(const EsCommand *command, const EsEnding *ending, bool is_stale);
static const char *leave(const EsCommand *command, const EsEnding *ending);
static void command_ended(const EsCommand *command, const EsCommandEnd *end);
static bool find_command(int32 queue_id, int64 message_id, EsCommand *command);
static bool is_unwanted(int32 queue_id, int64 message_id);

PG_FUNCTION_INFO_V1(evtstore_reply);
PG_FUNCTION_INFO_V1(evtstore_fail);

void
es_saga_init(void)
{
	es_saga_move_init();
	es_queue_register_command_hook(command_ended);
	es_queue_register_find_command_hook(find_command);
	es_queue_register_answer_hook(answer);
	es_saga_event_init();
	es_queue_register_unwanted_hook(is_unwanted);
}

/* reply(receipt text, output jsonb) -> text; evtstore_writer, or who may consume from the queue */
Datum
evtstore_reply(PG_FUNCTION_ARGS)
{
	EsAnswer	answered = {.is_success = true, .retry_after = -1};

	es_catalog_require_writable("reply");
	es_arg_required(fcinfo, 0, "receipt");
	answered.receipt = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
		answered.output = PG_GETARG_JSONB_P(1);
	PG_RETURN_TEXT_P(cstring_to_text(answer(&answered)));
}

/* fail(receipt text, error text, cause text, retryable boolean, retry_after interval) -> text; as reply */
Datum
evtstore_fail(PG_FUNCTION_ARGS)
{
	EsAnswer	answered = {.retry_after = -1};

	es_catalog_require_writable("fail");
	es_arg_required(fcinfo, 0, "receipt");
	answered.receipt = text_to_cstring(PG_GETARG_TEXT_PP(0));
	answered.error = es_arg_name(fcinfo, 1, "error", ES_MAX_NAME_BYTES);
	if (!PG_ARGISNULL(2))
		answered.cause = text_to_cstring(PG_GETARG_TEXT_PP(2));
	es_arg_required(fcinfo, 3, "retryable");
	answered.is_final = !PG_GETARG_BOOL(3);
	if (!PG_ARGISNULL(4))
		answered.retry_after = es_arg_interval(fcinfo, 4, "retry_after") / (double) USECS_PER_SEC;
	PG_RETURN_TEXT_P(cstring_to_text(answer(&answered)));
}

/* of a worker to the command that it has, or had */
static const char *
answer(const EsAnswer *answered)
{
	EsEnding	ending = {.is_success = answered->is_success, .output = answered->output, .error = answered->error,
		.cause = es_queue_clip_reason(answered->cause), .is_final = answered->is_final, .retry_after = answered->retry_after};
	EsMessageReceipt parsed;
	EsCommand	command;

	es_move_refuse_old_snapshot(ending.is_success ? "reply" : "fail");
	if (ending.is_success && ending.output == NULL)
		ending.output = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("null")));
	if (!es_queue_parse_receipt(answered->receipt, &parsed))
		es_receipt_refuse(answered->receipt);
	/* who settles it may wait for an instance that this transaction has */
	es_queue_settle_command(&parsed, !es_move_holds_any(), &command);
	if ((parsed.stale != NULL || parsed.is_busy) &&
		!es_saga_of_message(parsed.queue_id, parsed.message_id, &command.saga_id, &command.parent, &command.seq))
	{
		/* with an instance that was removed nothing says any more whose it was */
		if (!es_queue_is_there(parsed.queue_id, parsed.message_id))
			return "late";
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("receipt \"%s\" is of no command of a saga", answered->receipt),
				 errhint("Messages that no saga sent are answered with evtstore.ack().")));
	}
	return parsed.is_busy ? leave(&command, &ending) : bring(&command, &ending, parsed.stale != NULL);
}

static const char *
bring(const EsCommand *command, const EsEnding *ending, bool is_stale)
{
	const char *outcome = "late";
	EsMove		move;
	EsStep	   *step;

	switch (es_move_begin(&move, &command->saga_id, true))
	{
		case ES_SAGA_BUSY:
			return leave(command, ending);
		case ES_SAGA_NONE:
			/* it was removed, or is another tenant's */
			return outcome;
		case ES_SAGA_FOUND:
			break;
	}
	step = es_move_step(&move, command->parent, command->seq);
	/* somebody else may have been handed it since */
	if (step != NULL && is_stale && step->status == ES_STEP_WAITING && es_step_take_back(&move, step))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the receipt is of a command that nobody has had since"),
				 errdetail("It was released, or never handed out."),
				 errhint("Receive the command again and answer with that receipt.")));
	if (step != NULL)
		outcome = es_move_answer(&move, step, ending);
	es_move_end(&move);
	return outcome;
}

/* by what is committed of the step: whoever has the instance, or answers the same command, may be about to give it up */
static const char *
leave(const EsCommand *command, const EsEnding *ending)
{
	EsSaga		saga = {.id = command->saga_id};
	EsStep	   *step = es_saga_read_step(&saga, command->parent, command->seq);

	es_arrival_leave(&command->saga_id, es_queue_tenant(), command->parent, command->seq, ending);
	if (step == NULL || step->status == ES_STEP_WAITING)
		return "accepted";
	return ending->is_success && (step->status == ES_STEP_DONE || step->status == ES_STEP_UNDONE) ? "duplicate" : "late";
}

/* its message was given up by the queue's policy, or rejected, or an endpoint has taken it; in the transaction of who did that */
static void
command_ended(const EsCommand *command, const EsCommandEnd *end)
{
	EsEnding	ending = {.is_success = end->is_done, .output = end->output, .cause = end->error, .retry_after = -1};

	if (!end->is_done)
	{
		ending.error = !end->is_pushed ? ES_ASL_TASK_FAILED : end->is_rejected ? "evtstore.EndpointRefused" : "evtstore.EndpointFailed";
		/* an endpoint that could not be reached for so long may be there later */
		ending.is_final = !end->is_pushed || end->is_rejected;
	}
	es_arrival_leave(&command->saga_id, command->tenant, command->parent, command->seq, &ending);
}

/* in whatever tenant */
static bool
find_command(int32 queue_id, int64 message_id, EsCommand *command)
{
	command->is_one = es_saga_of_message(queue_id, message_id, &command->saga_id, &command->parent, &command->seq);
	command->tenant = "";
	return command->is_one;
}

/* the attempt whose command it was has been given up, by its time or because its saga goes another way */
static bool
is_unwanted(int32 queue_id, int64 message_id)
{
	EsSaga		saga;
	int			parent;
	int			seq;
	EsStep	   *step;

	if (!es_saga_of_message(queue_id, message_id, &saga.id, &parent, &seq))
		return false;
	step = es_saga_read_step(&saga, parent, seq);
	return step != NULL && (step->status == ES_STEP_UNKNOWN || step->status == ES_STEP_WITHDRAWN || step->status == ES_STEP_SKIPPED || step->status == ES_STEP_UNDONE);
}
