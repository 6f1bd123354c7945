/*
 * saga_call.c
 *		What steps have done by others: functions of this database, and commands in queues.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  A function is called in a savepoint, as the owner of the
 * definition under his search_path; its error is the step's.  Commands are messages, sent when the transition ends.
 *
 * Locks: those that the function takes; those of sending.  Everything is the caller's transaction's: a crash leaves nothing of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "append.h"
#include "arg.h"
#include "compat.h"
#include "condition_name.h"
#include "definition.h"
#include "event.h"
#include "options.h"
#include "queue.h"
#include "saga_simulate.h"
#include "spi.h"

/* bytes of a message that are kept as a cause */
#define MAX_CAUSE 2000

/* functions that were called, with their plans; for the life of the backend */
typedef struct Function
{
	char	   *fn;
	int			nargs;			/* 1 or 2 */
	char	   *sql;
	SPIPlanPtr	plan;
	struct Function *next;
} Function;

/* a command to send */
typedef struct Command
{
	EsStep	   *step;
	const EsAslCall *call;
	const char *queue;
	bool		is_for_endpoint;
	double		delay;
	TimestampTz deadline;
} Command;

static Function *functions = NULL;

/* what is done in a savepoint */
typedef struct Attempt
{
	EsMove	   *move;
	const char *name;
	Jsonb	   *input;
	Jsonb	   *output;
	MemoryContext context;		/* for the output */
} Attempt;

static void run_function(void *arg);
static void run_append(void *arg);
static void append_part(StringInfo buf, Jsonb *input, const char *key, bool is_required);
static Jsonb *null_jsonb(void);
static Function *function_plan(const char *fn, int nargs);
static bool is_of_the_transaction(int code);
static void describe_error(const ErrorData *edata, EsEnding *failure);
static void send_command(EsMove *move, const Command *command);
static Jsonb *command_headers(EsMove *move, const Command *command);

bool
es_call_function(EsMove *move, const char *fn, Jsonb *input, Jsonb **output, EsEnding *failure)
{
	Attempt		attempt = {.move = move, .name = fn, .input = input, .context = CurrentMemoryContext};
	bool		ok = es_call_attempt(run_function, &attempt, failure);

	*output = attempt.output;
	return ok;
}

bool
es_call_append(EsMove *move, const char *type, Jsonb *input, Jsonb **output, EsEnding *failure)
{
	Attempt		attempt = {.move = move, .name = type, .input = input, .context = CurrentMemoryContext};
	bool		ok = es_call_attempt(run_append, &attempt, failure);

	*output = attempt.output;
	return ok;
}

bool
es_call_now(EsMove *move, const EsAslCall *call, Jsonb *input, Jsonb **output, EsEnding *failure)
{
	bool		was_open;
	bool		ok;

	if (move->simulation != NULL && es_simulation_call(move, call, &ok, output, failure))
		return ok;
	was_open = es_simulation_call_begin();
	ok = call->kind == ES_ASL_SQL ? es_call_function(move, call->name, input, output, failure) :
		es_call_append(move, call->name, input, output, failure);
	es_simulation_call_end(was_open);
	return ok;
}

bool
es_call_send(EsMove *move, EsStep *step, const EsAslCall *call, double delay, EsEnding *failure)
{
	Command    *command = palloc(sizeof(Command));
	bool		is_for_endpoint = call->kind == ES_ASL_ENDPOINT;
	const char *name = is_for_endpoint ? es_queue_of_endpoint(call->name) : call->name;
	const EsQueue *queue = es_queue_find(name);

	/* its queue is left when it is dropped */
	if (queue == NULL || (is_for_endpoint && es_definition_find("endpoint", call->name) == NULL))
	{
		*failure = (EsEnding) {.error = ES_ASL_TASK_FAILED, .is_final = true, .retry_after = -1,
			.cause = psprintf("%s \"%s\" does not exist", is_for_endpoint ? "endpoint" : "queue", call->name)};
		return false;
	}

	command->step = step;
	command->call = call;
	command->queue = name;
	command->is_for_endpoint = is_for_endpoint;
	command->delay = delay;
	command->deadline = step->deadline != 0 ? step->deadline : step->due;
	/* the row says whose the message is */
	step->queue_id = queue->id;
	move->commands = lappend(move->commands, command);
	return true;
}

void
es_call_send_all(EsMove *move)
{
	ListCell   *lc;

	foreach(lc, move->commands)
	{
		Command    *command = lfirst(lc);

		/* something later in this transition may have ended it */
		if (command->step->status == ES_STEP_WAITING)
			send_command(move, command);
	}
	move->commands = NIL;
}

/* false: somebody has it, or had it */
bool
es_step_take_back(EsMove *move, EsStep *step)
{
	EsEnding	ending;
	ListCell   *lc;

	foreach(lc, move->commands)
		if (((Command *) lfirst(lc))->step == step)
		{
			move->commands = foreach_delete_current(move->commands, lc);
			return true;
		}
	if ((step->kind == ES_STEP_CHILD || (step->kind == ES_STEP_UNDO && step->message_id == 0)) &&
		(!es_child_take_back(move, step, NULL, NULL, &ending) || ending.is_success))
		return false;
	if (step->message_id == 0)
		return true;
	return move->simulation != NULL ? es_simulation_withdraw(move->simulation, step->message_id) :
		es_queue_withdraw(step->queue_id, move->saga.tenant, step->message_id, true);
}

/* the commands of a queue together */
bool *
es_steps_take_back(EsMove *move, List *steps)
{
	int			n = list_length(steps);
	bool	   *results = palloc(Max(n, 1) * sizeof(bool));
	bool	   *of_queue = palloc(Max(n, 1) * sizeof(bool));
	int64	   *ids = palloc(Max(n, 1) * sizeof(int64));
	int		   *places = palloc(Max(n, 1) * sizeof(int));
	List	   *queues = NIL;
	bool		is_alone;
	ListCell   *lc;
	int			i = 0;

	/* what is simulated is in no queue */
	foreach(lc, steps)
	{
		EsStep	   *step = lfirst(lc);

		is_alone = step->message_id == 0 || move->simulation != NULL;
		results[i++] = is_alone && es_step_take_back(move, step);
		if (!is_alone)
			queues = list_append_unique_int(queues, step->queue_id);
	}
	foreach(lc, queues)
	{
		int			nids = 0;

		for (i = 0; i < n; i++)
		{
			const EsStep *step = list_nth(steps, i);

			if (step->message_id == 0 || step->queue_id != lfirst_int(lc))
				continue;
			ids[nids] = step->message_id;
			places[nids++] = i;
		}
		es_queue_withdraw_all(lfirst_int(lc), move->saga.tenant, ids, nids, true, of_queue);
		for (i = 0; i < nids; i++)
			results[places[i]] = of_queue[i];
	}
	return results;
}

bool
es_call_attempt(void (*run) (void *arg), void *arg, EsEnding *failure)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		run(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* the subtransaction ends in any case: whoever catches the error further up has others to end */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (is_of_the_transaction(error->sqlerrcode))
			ReThrowError(error);
		describe_error(error, failure);
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ok;
}

static void
run_function(void *arg)
{
	Attempt    *attempt = arg;
	Datum		argument = JsonbPGetDatum(attempt->input);

	attempt->output = es_call_as_owner(attempt->move, attempt->name, &argument, 1, attempt->context);
	if (attempt->output == NULL)
		attempt->output = null_jsonb();
}

Jsonb *
es_call_as_owner(EsMove *move, const char *fn, Datum *arguments, int n, MemoryContext context)
{
	const EsSagaVersion *version = move->version;
	Function   *function;
	EsSpiState	state;
	Datum		result;
	bool		isnull;

	es_spi_become(&state, version->owner, version->search_path);
	/* what it appends or sends is the tenant's */
	if (strcmp(move->saga.tenant, es_queue_tenant()) != 0)
		(void) set_config_option("evtstore.tenant", move->saga.tenant, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	function = function_plan(fn, n);
	result = es_spi_call_foreign(function->plan, arguments, function->sql, context, &isnull);
	es_spi_check_constraints();
	es_spi_unbecome(&state);
	return isnull ? NULL : DatumGetJsonbP(result);
}

static void
run_append(void *arg)
{
	Attempt    *attempt = arg;
	EsAppendResult result;

	es_call_append_one(attempt->move, attempt->name, attempt->input, &result);
	MemoryContextSwitchTo(attempt->context);
	attempt->output = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("{\"version\": %lld, \"position\": %lld}",
																							(long long) result.version, (long long) result.position))));
}

void
es_call_append_one(EsMove *move, const char *type, Jsonb *input, EsAppendResult *result)
{
	static const EsOption keys[] = {
		{"stream", ES_OPTION_STRING},
		{"data", ES_OPTION_ANY},
		{"metadata", ES_OPTION_OBJECT},
		{"tags", ES_OPTION_STRINGS},
		{"expected_version", ES_OPTION_VERSION},
		{NULL}
	};
	StringInfoData element;
	EsEvent    *events;
	char	   *stream;
	int			n;

	es_options_check(input, keys, "what the event is made of");
	stream = es_options_string(input, "stream", NULL);
	if (stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an event of a saga has no \"stream\""),
				 errhint("Give it in Parameters: {\"stream.$\": \"…\", \"data\": {…}}.")));
	es_arg_check_name(stream, "stream", ES_MAX_STREAM_BYTES);
	initStringInfo(&element);
	appendStringInfoString(&element, "[{\"type\": ");
	escape_json(&element, type);
	append_part(&element, input, "data", true);
	append_part(&element, input, "metadata", false);
	append_part(&element, input, "tags", false);
	appendStringInfoString(&element, "}]");
	events = es_event_parse_array(DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(element.data))), &n);
	events[0].tenant = CStringGetTextDatum(move->saga.tenant);
	events[0].stream = CStringGetTextDatum(stream);
	es_append(move->saga.tenant, stream, events, n, es_options_version(input, "expected_version", ES_EXPECT_ANY), ES_REQUIRE_NONE, result);
}

static void
append_part(StringInfo buf, Jsonb *input, const char *key, bool is_required)
{
	Jsonb	   *part = es_options_any(input, key);

	if (part != NULL)
		appendStringInfo(buf, ", \"%s\": %s", key, JsonbToCString(NULL, &part->root, VARSIZE(part)));
	else if (is_required)
		appendStringInfo(buf, ", \"%s\": {}", key);
}

static Jsonb *
null_jsonb(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("null")));
}

/* the plan follows the function when that is replaced: it is saved under the name, as definitions keep it */
static Function *
function_plan(const char *fn, int nargs)
{
	Function   *function;
	Oid			types[] = {JSONBOID, JSONBOID};
	Oid			oid;
	char	   *sql;

	for (function = functions; function != NULL; function = function->next)
		if (function->nargs == nargs && strcmp(function->fn, fn) == 0)
			return function;
	oid = es_definition_function_of(fn, JSONBOID, nargs);
	sql = psprintf("SELECT %s(%s)::pg_catalog.jsonb", quote_qualified_identifier(get_namespace_name(get_func_namespace(oid)), get_func_name(oid)),
				   nargs == 1 ? "$1" : "$1, $2");
	function = MemoryContextAllocZero(TopMemoryContext, sizeof(Function));
	function->fn = MemoryContextStrdup(TopMemoryContext, fn);
	function->nargs = nargs;
	function->sql = MemoryContextStrdup(TopMemoryContext, sql);
	function->plan = es_spi_prepare_foreign_generic(sql, nargs, types);
	function->next = functions;
	functions = function;
	return function;
}

/* of the whole transaction, not of the function: trying the step again in it would not help */
static bool
is_of_the_transaction(int code)
{
	switch (code)
	{
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_ADMIN_SHUTDOWN:
		case ERRCODE_CRASH_SHUTDOWN:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
			return true;
		default:
			return ERRCODE_TO_CATEGORY(code) == ERRCODE_INSUFFICIENT_RESOURCES;
	}
}

/* 'SQLSTATE condition_name', either of which Retry and Catch may name */
static void
describe_error(const ErrorData *edata, EsEnding *failure)
{
	const char *condition = es_condition_name(edata->sqlerrcode);
	char	   *cause = edata->message != NULL ? edata->message : pstrdup("missing error text");

	cause[pg_mbcliplen(cause, strlen(cause), MAX_CAUSE)] = '\0';
	failure->error = condition == NULL ? pstrdup(unpack_sql_state(edata->sqlerrcode)) : psprintf("%s %s", unpack_sql_state(edata->sqlerrcode), condition);
	failure->cause = cause;
}

static void
send_command(EsMove *move, const Command *command)
{
	EsStep	   *step = command->step;
	Jsonb	   *headers = command_headers(move, command);
	EsMessage	message = {.body = JsonbPGetDatum(step->sent), .headers = JsonbPGetDatum(headers),
		.delay_ms = (int64) (command->delay * 1000), .tenant = move->saga.tenant, .is_command = true, .event_id = move->saga.id,
		.position = step->parent, .version = step->seq};

	if (move->simulation != NULL)
	{
		step->message_id = es_simulation_send(move, step, command->call, command->delay, headers);
		return;
	}
	es_queue_send(es_queue_get(command->queue), &message, 1);
	step->message_id = message.id;
}

static Jsonb *
command_headers(EsMove *move, const Command *command)
{
	const EsStep *step = command->step;
	const EsSaga *saga = &move->saga;
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&saga->id)));
	StringInfoData buf;
	Datum		headers;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"saga_id\": \"%s\", \"saga\": ", id);
	escape_json(&buf, move->version->name);
	/* the type of the event that goes out */
	if (command->is_for_endpoint)
	{
		appendStringInfoString(&buf, ", \"type\": ");
		escape_json(&buf, psprintf("%s.%s%s", move->version->name, step->state, step->kind == ES_STEP_UNDO ? ".undo" : ""));
	}
	appendStringInfoString(&buf, ", \"state\": ");
	escape_json(&buf, step->state);
	appendStringInfo(&buf, ", \"attempt\": %d, \"idempotency_key\": \"%s/%d\", \"deadline\": %s, \"undo\": %s", step->attempt, id,
					 step->first_seq, es_move_json_time(command->deadline), step->kind == ES_STEP_UNDO ? "true" : "false");
	if (step->heartbeat > 0)
		appendStringInfo(&buf, ", \"heartbeat\": %g", step->heartbeat);
	if (step->kind == ES_STEP_UNDO)
	{
		EsStep	   *undone = es_move_step(move, step->parent, step->undoes);

		appendStringInfo(&buf, ", \"forward\": \"%s\", \"forward_key\": \"%s/%d\"", undone->status == ES_STEP_UNKNOWN ? "unknown" : "done",
						 id, undone->first_seq);
	}
	appendStringInfoChar(&buf, '}');
	headers = DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
	/* correlation and trace of whoever started it */
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(saga->metadata), headers));
}
