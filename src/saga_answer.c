/*
 * saga_answer.c
 *		What applications and workers say to sagas: start, reply, fail.
 *
 * Runs in backends, in the caller's transaction.  Locks: the instance's row, to its end.  An answer to an instance that somebody else has, where
 * this transaction may not wait for it, is left as an arrival (saga_arrival.c).  A crash leaves nothing of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "lock.h"
#include "queue.h"
#include "queue_command.h"
#include "receipt.h"
#include "saga.h"
#include "saga_move.h"

static const EsSagaVersion *require_version(FunctionCallInfo fcinfo, int n, const char *name);
static void lock_definition(const EsSagaVersion *version);
static void require_supported(const EsSagaVersion *version);
static bool known_start(const EsSaga *saga, const char *key, pg_uuid_t *id);
static void take_business_key(const EsSaga *saga);
static Datum start(const EsSagaVersion *version, EsSaga *saga, TimestampTz start_at);
static const char *answer(const EsAnswer *answered);
static const char *bring(const EsCommand *command, const EsEnding *ending, bool is_stale);
static const char *leave(const EsCommand *command, const EsEnding *ending);
static void command_ended(const EsCommand *command, const EsCommandEnd *end);
static bool find_command(int32 queue_id, int64 message_id, EsCommand *command);
static bool is_unwanted(int32 queue_id, int64 message_id);

PG_FUNCTION_INFO_V1(evtstore_start_saga);
PG_FUNCTION_INFO_V1(evtstore_reply);
PG_FUNCTION_INFO_V1(evtstore_fail);

void
es_saga_init(void)
{
	es_saga_move_init();
	es_queue_register_command_hook(command_ended);
	es_queue_register_find_command_hook(find_command);
	es_queue_register_answer_hook(answer);
	es_queue_register_unwanted_hook(is_unwanted);
}

/*
 * start_saga(name text, input jsonb, business_key text, idempotency_key text, version int, start_at timestamptz) -> uuid; evtstore_writer
 */
Datum
evtstore_start_saga(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *idempotency_key;
	const EsSagaVersion *version;
	EsSaga		saga = {.status = ES_SAGA_RUNNING, .ending = ES_SAGA_COMPENSATED};
	pg_uuid_t  *known = palloc(sizeof(pg_uuid_t));

	es_catalog_require_writable("start_saga");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "input");
	saga.input = PG_GETARG_JSONB_P(1);
	saga.business_key = es_arg_optional_name(fcinfo, 2, "business_key", ES_MAX_NAME_BYTES);
	idempotency_key = es_arg_optional_name(fcinfo, 3, "idempotency_key", ES_MAX_NAME_BYTES);
	version = require_version(fcinfo, 4, name);
	require_supported(version);
	lock_definition(version);
	saga.definition_id = version->id;
	saga.version = version->version;
	saga.tenant = pstrdup(es_queue_tenant());
	saga.started_at = GetCurrentTimestamp();
	saga.metadata = DatumGetJsonbP(es_event_stamp(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))));
	es_clock_uuid(&saga.id, saga.started_at);
	if (idempotency_key != NULL && known_start(&saga, idempotency_key, known))
		PG_RETURN_UUID_P(known);
	if (saga.business_key != NULL)
		take_business_key(&saga);
	if (version->definition->timeout > 0)
		saga.deadline = (PG_ARGISNULL(5) ? es_clock_now() : Max(es_clock_now(), PG_GETARG_TIMESTAMPTZ(5))) + (TimestampTz) (version->definition->timeout * USECS_PER_SEC);
	return start(version, &saga, PG_ARGISNULL(5) ? 0 : PG_GETARG_TIMESTAMPTZ(5));
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

static const EsSagaVersion *
require_version(FunctionCallInfo fcinfo, int n, const char *name)
{
	int			version = PG_ARGISNULL(n) ? 0 : PG_GETARG_INT32(n);

	if (!PG_ARGISNULL(n) && version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version is out of range: %d", version),
				 errhint("Versions begin at 1; leave it out for the newest.")));
	return es_saga_version_get(name, version);
}

/* against its drop, which looks for instances that are open */
static void
lock_definition(const EsSagaVersion *version)
{
	char	   *name = pstrdup(version->name);
	int32		id = version->id;
	int			number = version->version;

	if (!es_lock_mode(ES_LOCK_SAGA, id, AccessShareLock))
		return;
	AcceptInvalidationMessages();
	if (es_saga_version_by_id(id, number) == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("saga \"%s\" does not exist", name),
				 errdetail("It was dropped a moment ago."),
				 errhint("Define it with evtstore.define_saga().")));
}

/* what this version of the library can define, and not run yet */
static void
require_supported(const EsSagaVersion *version)
{
	EsAslDefinition *definition = version->definition;

	for (int i = 0; i < definition->nstates; i++)
	{
		const EsAslState *state = definition->states[i];
		const char *what = NULL;

		if (state->is_scope)
			what = "Scope";
		else if (state->type == ES_ASL_TASK && state->call.kind == ES_ASL_SAGA)
			what = "a Resource saga:";
		else if (state->has_undo && state->undo.kind == ES_ASL_SAGA)
			what = "an Undo saga:";
		else if (state->reply_events != NIL)
			what = "ReplyEvents";
		if (what != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("saga \"%s\" cannot be started by evtstore %s: state \"%s\" has %s", version->name, ES_VERSION, state->name, what),
					 errhint("Use other Resources, and leave that out.")));
	}
}

/* somebody has started it with that key: *id is his */
static bool
known_start(const EsSaga *saga, const char *key, pg_uuid_t *id)
{
	return !es_saga_take_key(saga, "start", key, id);
}

static void
take_business_key(const EsSaga *saga)
{
	pg_uuid_t	holder;

	if (es_saga_take_key(saga, "business", saga->business_key, &holder))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("a saga with business key \"%s\" is open", saga->business_key),
			 errdetail("{\"id\": \"%s\"}", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&holder)))),
			 errhint("Wait until it has ended, cancel it, or use another key.")));
}

static Datum
start(const EsSagaVersion *version, EsSaga *saga, TimestampTz start_at)
{
	MemoryContext caller = CurrentMemoryContext;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	EsNext		begin = {version->definition->machine->start, saga->input};
	EsMove		move;

	*id = saga->id;
	es_move_start(&move, version, saga);
	if (start_at > move.now)
		es_step_new(&move, ES_STEP_START, begin, NULL)->due = start_at;
	else
		es_move_walk(&move, begin);
	es_move_end(&move);
	MemoryContextSwitchTo(caller);
	return UUIDPGetDatum(id);
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
	es_queue_settle_command(&parsed, &command);
	if (parsed.stale != NULL && !es_saga_of_message(parsed.queue_id, parsed.message_id, &command.saga_id, &command.parent, &command.seq))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("receipt \"%s\" is of no command of a saga", answered->receipt),
				 errhint("Messages that no saga sent are answered with evtstore.ack().")));
	return bring(&command, &ending, parsed.stale != NULL);
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

/* by what is committed of the step: whoever has the instance may be about to give it up */
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
