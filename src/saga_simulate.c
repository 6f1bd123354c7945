/*
 * saga_simulate.c
 *		simulate_saga(): a saga from its start to its end, with answers by script and a clock that leaps, of which nothing stays.
 *
 * Runs in the backend of who calls it, in a subtransaction that is rolled back in any case.  The engine is the one that sagas run by, on rows of the same
 * tables; what is outside of it is made here: instead of sending a command its answer is looked up in the script, timers and arrivals are kept in
 * a list, and when nothing is left for now, now is when the next of them is due.  Functions and events of steps are really called and undone with
 * the rest, unless the script answers for them; they see the real time, and what they send or start is real, in the subtransaction.
 *
 * The clock is of the simulated instances alone.  Queues and leases, which are in shared memory and everybody's, never see it.
 *
 * Locks: what functions take, to the end of the subtransaction; the definition's, shared.  Everything here is local to the process.  Nobody sees any of it, and a
 * crash leaves nothing.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "options.h"
#include "queue.h"
#include "saga_script.h"
#include "saga_simulate.h"

/* what comes to sagas in one simulation, and the time that it may take */
#define MAX_NEWS 10000
#define MAX_TIME ((TimestampTz) 100 * 365 * USECS_PER_DAY)

/* what comes to an instance, in the form of an arrival */
typedef struct News
{
	int64		id;
	TimestampTz due;
	Jsonb	   *body;
} News;

/* a command that was sent */
typedef struct Sent
{
	int64		id;
	bool		was_had;
	bool		is_silent;		/* who has it says nothing of it */
} Sent;

/* an instance */
typedef struct Member
{
	pg_uuid_t	id;
	EsScript   *script;			/* NULL: everything is answered as where a script says nothing */
} Member;

struct EsSimulation
{
	MemoryContext context;
	TimestampTz start;
	TimestampTz now;
	List	   *members;		/* the first is who is simulated */
	const EsSagaVersion *version;	/* of the first */
	EsScript   *next_script;	/* of who is started next; NULL: none */
	List	   *news;			/* in no order */
	List	   *sent;
	int64		last_id;		/* negative: no message has it */
	int			nnews;			/* that came */
	StringInfoData commands;	/* JSON, without its brackets */
	EsSimulation *outer;		/* in whose function this one is */
};

/* what simulate_saga was asked */
typedef struct Request
{
	const char *name;
	Jsonb	   *input;
	Jsonb	   *script;
	MemoryContext caller;
	Jsonb	   *result;			/* in caller */
} Request;

/* the innermost is first; each is local to the call of simulate_saga that made it */
static EsSimulation *simulations = NULL;
/* what is started now is a part of the innermost */
static bool is_open = false;

static void in_subtransaction(Request *request);
static void simulate(Request *request, EsSimulation *simulation);
static void start(EsSimulation *simulation, Jsonb *input);
static const char *run(EsSimulation *simulation);
static News *next_news(EsSimulation *simulation);
static Member *find_member(EsSimulation *simulation, const pg_uuid_t *id);
static void leave_answer(EsMove *move, const EsStep *step, const EsScriptAnswer *answer, double delay);
static void leave_signal(EsMove *move, const char *name, const EsScriptAnswer *answer);
static Jsonb *tell(EsSimulation *simulation, const char *stopped, MemoryContext context);
static void tell_member(EsSimulation *simulation, const Member *member, StringInfo text);
static void mask(char *text, const EsSimulation *simulation);

static EsPlan tell_plan = {
	.sql = "SELECT jsonb_build_object('status', s.status, 'duration', round(extract(epoch FROM COALESCE(s.ended_at, $3) - s.started_at)::numeric, 3)::float8,"
	" 'steps', (SELECT COALESCE(jsonb_agg(jsonb_build_object('seq', t.seq, 'state', t.state, 'kind', t.kind, 'status', t.status, 'attempt', t.attempt,"
	"   'at', round(extract(epoch FROM t.started_at - $2)::numeric, 3)::float8, 'input', COALESCE(t.sent, t.input))"
	"  || CASE WHEN t.ended_at IS NULL THEN '{}' ELSE jsonb_build_object('until', round(extract(epoch FROM t.ended_at - $2)::numeric, 3)::float8) END"
	"  || CASE WHEN t.output IS NULL THEN '{}' ELSE jsonb_build_object('output', t.output) END"
	"  || CASE WHEN t.error IS NULL THEN '{}' ELSE jsonb_build_object('error', t.error) END"
	"  || CASE WHEN t.cause IS NULL THEN '{}' ELSE jsonb_build_object('cause', t.cause) END"
	"  || CASE WHEN t.undoes = 0 THEN '{}' ELSE jsonb_build_object('undoes', t.undoes) END"
	"  || CASE WHEN t.parent = 0 THEN '{}' ELSE jsonb_build_object('in', t.parent) END"
	"  || CASE WHEN t.via IS NULL THEN '{}' ELSE jsonb_build_object('via', t.via) END ORDER BY t.seq), '[]')"
	"  FROM evtstore_internal.saga_step t WHERE t.saga_id = s.id AND t.kind <> 'stop'),"
	" 'undone', (SELECT COALESCE(jsonb_agg(t.state ORDER BY t.ended), '[]') FROM evtstore_internal.saga_step t"
	"  WHERE t.saga_id = s.id AND t.kind = 'undo' AND t.status = 'done'))"
	" || CASE WHEN s.output IS NULL THEN '{}' ELSE jsonb_build_object('output', s.output) END"
	" || CASE WHEN s.error IS NULL THEN '{}' ELSE jsonb_build_object('error', s.error) END"
	" || CASE WHEN s.cause IS NULL THEN '{}' ELSE jsonb_build_object('cause', s.cause) END"
	" || CASE WHEN s.reason IS NULL THEN '{}' ELSE jsonb_build_object('reason', s.reason) END"
	" || CASE WHEN s.ended_at IS NOT NULL THEN '{}' ELSE (SELECT jsonb_build_object('waiting', COALESCE(jsonb_agg(t.state ORDER BY t.seq), '[]'))"
	"  FROM evtstore_internal.saga_step t WHERE t.saga_id = s.id AND t.status = 'waiting' AND t.kind NOT IN ('parallel', 'map', 'branch')) END"
	" || CASE WHEN s.parent_id IS NULL THEN '{}' ELSE jsonb_build_object('parent', s.parent_id, 'saga',"
	"  (SELECT d.name FROM evtstore_internal.definition d WHERE d.id = s.definition_id)) END"
	" FROM evtstore_internal.saga s WHERE s.id = $1",
	.nargs = 3,
	.args = {UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
};

PG_FUNCTION_INFO_V1(evtstore_simulate_saga);

/* simulate_saga(name text, input jsonb, script jsonb) -> jsonb; evtstore_admin */
Datum
evtstore_simulate_saga(PG_FUNCTION_ARGS)
{
	Request		request = {.caller = CurrentMemoryContext};

	/* functions may write */
	es_catalog_require_writable("simulate_saga");
	request.name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "input");
	request.input = PG_GETARG_JSONB_P(1);
	es_arg_required(fcinfo, 2, "script");
	request.script = PG_GETARG_JSONB_P(2);
	in_subtransaction(&request);
	PG_RETURN_JSONB_P(request.result);
}

/* what is changed here of the process is as it was after it, however it ends; random delays are the same each time */
static void
in_subtransaction(Request *request)
{
	ResourceOwner owner = CurrentResourceOwner;
	EsSimulation simulation = {.outer = simulations};
	bool		was_open = is_open;
	pg_prng_state random = pg_global_prng_state;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(request->caller);
	PG_TRY();
	{
		pg_prng_seed(&pg_global_prng_state, 0);
		simulations = &simulation;
		simulate(request, &simulation);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(request->caller);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	simulations = simulation.outer;
	is_open = was_open;
	pg_global_prng_state = random;
	/* also after an error: whoever catches it further up ends a subtransaction of his own, and not this one */
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(request->caller);
	CurrentResourceOwner = owner;
	if (error != NULL)
		ReThrowError(error);
	MemoryContextDelete(simulation.context);
}

static void
simulate(Request *request, EsSimulation *simulation)
{
	const char *stopped;

	simulation->context = AllocSetContextCreate(CurrentMemoryContext, "evtstore simulation", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(simulation->context);
	initStringInfo(&simulation->commands);
	simulation->start = simulation->now = es_clock_now();
	simulation->version = es_saga_version_get(request->name, 0);
	es_saga_require(simulation->version);
	simulation->next_script = es_script_make(simulation->version, request->script);
	start(simulation, request->input);
	stopped = run(simulation);
	request->result = tell(simulation, stopped, request->caller);
}

static void
start(EsSimulation *simulation, Jsonb *input)
{
	const EsSagaVersion *version = simulation->version;
	EsSaga		saga = {.input = input};
	EsMove		move;

	is_open = true;
	es_saga_fill(&saga, version, 0);
	es_clock_uuid(&saga.id, GetCurrentTimestamp());
	es_move_start(&move, version, &saga);
	es_move_walk(&move, (EsNext) {version->definition->machine->start, input});
	es_move_end(&move);
	MemoryContextSwitchTo(simulation->context);
}

/* one after the other, in order of time; also what comes when it has ended.  Returns why it went no further; NULL: nothing was left */
static const char *
run(EsSimulation *simulation)
{
	MemoryContext scratch = AllocSetContextCreate(simulation->context, "evtstore simulation step", ALLOCSET_DEFAULT_SIZES);
	News	   *news;

	while ((news = next_news(simulation)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (++simulation->nnews > MAX_NEWS)
			return psprintf("after %d answers, signals and times", MAX_NEWS);
		if (news->due - simulation->start > MAX_TIME)
			return "the next time is in more than 100 years";
		simulation->now = Max(simulation->now, news->due);
		simulation->news = list_delete_ptr(simulation->news, news);
		MemoryContextSwitchTo(scratch);
		es_arrival_bring(news->body, news->id);
		MemoryContextSwitchTo(simulation->context);
		MemoryContextReset(scratch);
	}
	return NULL;
}

/* the earliest, of these the one that was left first; what is due is not before now */
static News *
next_news(EsSimulation *simulation)
{
	News	   *next = NULL;
	ListCell   *lc;

	foreach(lc, simulation->news)
	{
		News	   *news = lfirst(lc);
		TimestampTz due = Max(news->due, simulation->now);

		if (next == NULL || due < Max(next->due, simulation->now) || (due == Max(next->due, simulation->now) && news->id > next->id))
			next = news;
	}
	return next;
}

EsSimulation *
es_simulation_of(const pg_uuid_t *id)
{
	for (EsSimulation *simulation = simulations; simulation != NULL; simulation = simulation->outer)
		if (find_member(simulation, id) != NULL)
			return simulation;
	return NULL;
}

EsSimulation *
es_simulation_of_new(const pg_uuid_t *id)
{
	EsSimulation *simulation = simulations;
	MemoryContext old;
	Member	   *member;

	if (!is_open)
		return NULL;
	old = MemoryContextSwitchTo(simulation->context);
	member = palloc0(sizeof(Member));
	member->id = *id;
	member->script = simulation->next_script;
	simulation->next_script = NULL;
	simulation->members = lappend(simulation->members, member);
	MemoryContextSwitchTo(old);
	return simulation;
}

static Member *
find_member(EsSimulation *simulation, const pg_uuid_t *id)
{
	ListCell   *lc;

	foreach(lc, simulation->members)
		if (memcmp(&((Member *) lfirst(lc))->id, id, UUID_LEN) == 0)
			return lfirst(lc);
	return NULL;
}

TimestampTz
es_simulation_now(const EsSimulation *simulation)
{
	return simulation->now;
}

bool
es_simulation_call(EsMove *move, const EsAslCall *call, bool *is_success, Jsonb **output, EsEnding *failure)
{
	EsScriptAnswer answer;

	if (!es_script_answer(find_member(move->simulation, &move->saga.id)->script, call, &answer))
		return false;
	*is_success = answer.ending.is_success;
	*output = answer.ending.output;
	*failure = answer.ending;
	return true;
}

bool
es_simulation_is_open(TimestampTz *now)
{
	if (is_open)
		*now = simulations->now;
	return is_open;
}

bool
es_simulation_child(EsMove *move, const EsAslCall *call, EsEnding *ending)
{
	EsScriptAnswer answer;

	if (!es_script_answer(find_member(move->simulation, &move->saga.id)->script, call, &answer))
		return false;
	if (answer.script != NULL)
	{
		move->simulation->next_script = answer.script;
		return false;
	}
	*ending = answer.ending;
	return true;
}

bool
es_simulation_call_begin(void)
{
	bool		was_open = is_open;

	is_open = false;
	return was_open;
}

void
es_simulation_call_end(bool was_open)
{
	is_open = was_open;
}

int64
es_simulation_send(EsMove *move, const EsStep *step, const EsAslCall *call, double delay, Jsonb *headers)
{
	EsSimulation *simulation = move->simulation;
	EsScriptAnswer answer;
	MemoryContext old;
	Sent	   *sent;
	StringInfo	buf = &simulation->commands;

	/* who says nothing of a state has it done, with the output that a worker gives who says nothing of that */
	if (!es_script_answer(find_member(simulation, &move->saga.id)->script, call, &answer))
		answer = (EsScriptAnswer) {.ending = {.is_success = true, .output = es_script_null(), .retry_after = -1}};
	old = MemoryContextSwitchTo(simulation->context);
	sent = palloc(sizeof(Sent));
	sent->id = --simulation->last_id;
	sent->was_had = !answer.is_unseen;
	sent->is_silent = answer.is_never && sent->was_had;
	simulation->sent = lappend(simulation->sent, sent);
	appendStringInfo(buf, "%s{\"at\": %.15g, \"state\": ", buf->len > 0 ? ", " : "",
					 rint((simulation->now - simulation->start) / 1000.0 + delay * 1000) / 1000);
	escape_json(buf, step->state);
	appendStringInfoString(buf, ", \"queue\": ");
	escape_json(buf, call->name);
	appendStringInfo(buf, ", \"attempt\": %d, \"undo\": %s, \"key\": ", step->attempt, step->kind == ES_STEP_UNDO ? "true" : "false");
	escape_json(buf, es_options_string(headers, "idempotency_key", ""));
	if (step->kind == ES_STEP_UNDO)
		appendStringInfo(buf, ", \"forward\": \"%s\"", es_options_string(headers, "forward", ""));
	appendStringInfo(buf, ", \"body\": %s}", JsonbToCString(NULL, &step->sent->root, VARSIZE(step->sent)));
	MemoryContextSwitchTo(old);
	if (!answer.is_never)
		leave_answer(move, step, &answer, delay);
	return sent->id;
}

void
es_simulation_wait_for_signal(EsMove *move, int seq)
{
	const EsStep *step = es_move_step(move, 0, seq);
	const EsAslCall *call = &es_asl_find_state(move->version->definition, step->state)->call;
	EsScriptAnswer answer;

	if (es_script_answer(find_member(move->simulation, &move->saga.id)->script, call, &answer) && !answer.is_never)
		leave_signal(move, call->name, &answer);
}

static void
leave_answer(EsMove *move, const EsStep *step, const EsScriptAnswer *answer, double delay)
{
	Jsonb	   *body = es_arrival_of_answer(&move->saga.id, step->parent, step->seq, &answer->ending);

	(void) es_simulation_leave(move->simulation, body, es_simulation_now(move->simulation) + (TimestampTz) rint((delay + answer->after) * USECS_PER_SEC));
}

static void
leave_signal(EsMove *move, const char *name, const EsScriptAnswer *answer)
{
	Jsonb	   *body = es_arrival_of_signal(&move->saga.id, name, answer->ending.output, NULL);

	(void) es_simulation_leave(move->simulation, body, es_simulation_now(move->simulation) + (TimestampTz) rint(answer->after * USECS_PER_SEC));
}

int64
es_simulation_leave(EsSimulation *simulation, Jsonb *body, TimestampTz deliver_at)
{
	MemoryContext old = MemoryContextSwitchTo(simulation->context);
	News	   *news = palloc(sizeof(News));

	news->id = --simulation->last_id;
	news->due = deliver_at;
	news->body = (Jsonb *) memcpy(palloc(VARSIZE(body)), body, VARSIZE(body));
	simulation->news = lappend(simulation->news, news);
	MemoryContextSwitchTo(old);
	return news->id;
}

bool
es_simulation_withdraw(EsSimulation *simulation, int64 id)
{
	ListCell   *lc;

	foreach(lc, simulation->news)
		if (((News *) lfirst(lc))->id == id)
		{
			simulation->news = foreach_delete_current(simulation->news, lc);
			return true;
		}
	foreach(lc, simulation->sent)
		if (((Sent *) lfirst(lc))->id == id)
			return !((Sent *) lfirst(lc))->was_had;
	return false;
}

bool
es_simulation_is_silent(const EsSimulation *simulation, int64 id)
{
	ListCell   *lc;

	foreach(lc, simulation->sent)
		if (((Sent *) lfirst(lc))->id == id)
			return ((Sent *) lfirst(lc))->is_silent;
	return false;
}

/* everything that is left of it */
static Jsonb *
tell(EsSimulation *simulation, const char *stopped, MemoryContext context)
{
	StringInfoData text;
	MemoryContext old;
	Jsonb	   *result;
	ListCell   *lc;

	initStringInfo(&text);
	tell_member(simulation, linitial(simulation->members), &text);
	/* the members of an object: what is of the whole simulation, too */
	text.data[--text.len] = '\0';
	appendStringInfo(&text, ", \"commands\": [%s]", simulation->commands.data);
	if (stopped != NULL)
		appendStringInfo(&text, ", \"stopped\": \"%s\"", stopped);
	for_each_from(lc, simulation->members, 1)
	{
		appendStringInfoString(&text, lc == list_second_cell(simulation->members) ? ", \"children\": [" : ", ");
		tell_member(simulation, lfirst(lc), &text);
	}
	appendStringInfoString(&text, list_length(simulation->members) > 1 ? "]}" : "}");
	mask(text.data, simulation);
	old = MemoryContextSwitchTo(context);
	result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data)));
	MemoryContextSwitchTo(old);
	return result;
}

/* an instance, as JSON */
static void
tell_member(EsSimulation *simulation, const Member *member, StringInfo text)
{
	Datum		values[3] = {UUIDPGetDatum(&member->id), TimestampTzGetDatum(simulation->start), TimestampTzGetDatum(simulation->now)};
	Jsonb	   *result;
	EsSpiState	state;
	bool		isnull;

	es_queue_spi_begin(&state);
	if (es_spi_run(&tell_plan, values, NULL, false, 1) != 1)
		elog(ERROR, "a simulated saga is missing");
	result = DatumGetJsonbP(es_spi_value(0, 0, &isnull));
	appendStringInfoString(text, JsonbToCString(NULL, &result->root, VARSIZE(result)));
	es_spi_end(&state);
}

/* ids are others each time: the first saga is ...0, what it started ...1 and so on */
static void
mask(char *text, const EsSimulation *simulation)
{
	int			number = 0;
	ListCell   *lc;

	foreach(lc, simulation->members)
	{
		char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&((Member *) lfirst(lc))->id)));
		char	   *masked = psprintf("00000000-0000-0000-0000-%012d", number++);

		for (char *found = strstr(text, id); found != NULL; found = strstr(found, id))
			memcpy(found, masked, strlen(masked));
	}
}
