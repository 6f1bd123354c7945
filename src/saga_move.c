/*
 * saga_move.c
 *		A transition: from one resting place of an instance to the next.
 *
 * Runs in whatever backend brings news to an instance (a start, an answer, a timer), in its transaction; docs/architecture-sagas.md has
 * the argument.  Locks: that of the instance's row, held to the end of the transaction.  A transaction that has that of one instance waits
 * for none of another (es_move_begin), so instances cannot wait for each other in a circle.
 *
 * Nothing is written before es_move_end but what functions of steps write; all of it is in one transaction, and a crash leaves the
 * instance where it was.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "append.h"
#include "clock.h"
#include "compat.h"
#include "effect.h"
#include "error.h"
#include "event.h"
#include "saga.h"
#include "saga_event.h"
#include "saga_move.h"
#include "saga_react.h"
#include "saga_simulate.h"

/* states on one way without waiting; who passes more goes in a circle */
#define MAX_WALKED 10000
/* more steps than these are looked for in a table */
#define FEW_STEPS 32

/* an instance whose lock this transaction has */
typedef struct Held
{
	EsEffect	base;
	pg_uuid_t	id;
} Held;

static void finish_held(int from, int to, bool is_commit);
/* a step by its seq */
typedef struct StepEntry
{
	int			seq;
	EsStep	   *step;
} StepEntry;

static int	close_stops(EsMove *move, int parent);
static TimestampTz engine_now(const EsMove *move);
static EsStep *find_step(EsMove *move, int seq);
static char *execution_context(EsMove *move);
static void begin_moving(const pg_uuid_t *id);
static bool is_moving(const pg_uuid_t *id);
static bool holds_another(const pg_uuid_t *id);
static void note_held(const pg_uuid_t *id);
static EsNext enter(EsMove *move, EsNext at);
static EsNext choose(EsMove *move, EsNext at);
static EsNext pass(EsMove *move, EsNext at);
static EsNext fail_state(EsMove *move, EsNext at);
static void append_events(EsMove *move);
static void fill_event(EsMove *move, EsEvent *event, const char *type, bool has_steps);
static void append_field(StringInfo data, const char *name, const char *value);
static void append_steps(StringInfo data, List *steps);

static const char *const event_types[] = {
	[ES_SAGA_RUNNING] = "SagaMoved",
	[ES_SAGA_COMPENSATING] = "SagaCompensating",
	[ES_SAGA_STUCK] = "SagaStuck",
	[ES_SAGA_PAUSED] = "SagaPaused",
	[ES_SAGA_SUCCEEDED] = "SagaSucceeded",
	[ES_SAGA_COMPENSATED] = "SagaCompensated",
	[ES_SAGA_FAILED] = "SagaFailed",
	[ES_SAGA_CANCELLED] = "SagaCancelled",
};

static EsEffects held = {
	.size = sizeof(Held),
	.did = "changed sagas",
	.holds = "Messages for who goes on with them",
	.finish = finish_held,
};

/* transitions that have begun and not ended, the innermost last; in TopMemoryContext, for an error leaves in the middle */
static struct Moving
{
	pg_uuid_t	id;
	int			level;			/* of the (sub)transaction */
}		   *moving = NULL;
static int	nmoving = 0;
static int	moving_size = 0;

void
es_saga_move_init(void)
{
	es_effects_register(&held);
}

void
es_move_start(EsMove *move, const EsSagaVersion *version, const EsSaga *saga)
{
	memset(move, 0, sizeof(EsMove));
	move->context = AllocSetContextCreate(CurrentMemoryContext, "evtstore saga", ALLOCSET_DEFAULT_SIZES);
	move->saga = *saga;
	move->version = version;
	move->simulation = es_simulation_of_new(&saga->id);
	move->now = engine_now(move);
	move->is_new = true;
	move->is_changed = true;
	move->was = ES_SAGA_RUNNING;
	begin_moving(&saga->id);
	MemoryContextSwitchTo(move->context);
}

int
es_moves_within(void)
{
	return nmoving;
}

void
es_move_refuse_old_snapshot(const char *what)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be called in a REPEATABLE READ or SERIALIZABLE transaction", what),
				 errdetail("Its snapshot need not show what the saga has done since."),
				 errhint("Use READ COMMITTED, the default isolation level.")));
}

void
es_move_refuse_unknown(const pg_uuid_t *id)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_NOT_FOUND),
			 errmsg("saga %s does not exist", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
			 errhint("The view evtstore.sagas has them.")));
}

EsSagaFound
es_move_begin(EsMove *move, const pg_uuid_t *id, bool may_wait)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSagaFound found;

	if (is_moving(id))
		return ES_SAGA_BUSY;
	memset(move, 0, sizeof(EsMove));
	move->context = AllocSetContextCreate(caller, "evtstore saga", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(move->context);
	es_effects_reserve(&held, 1);
	found = es_saga_lock(id, may_wait && !holds_another(id), &move->saga);
	if (found == ES_SAGA_FOUND)
	{
		begin_moving(id);
		move->version = es_saga_version_by_id(move->saga.definition_id, move->saga.version);
		if (move->version == NULL)
			elog(ERROR, "version %d of definition %d of sagas is missing", move->saga.version, move->saga.definition_id);
		move->simulation = es_simulation_of(id);
		move->now = engine_now(move);
		move->was = move->saga.status;
		move->timer_was = move->saga.timer_id;
	}
	else
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(move->context);
	}
	return found;
}

void
es_move_end(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	EsSaga		ended = {.parent_seq = 0};
	MemoryContext caller = MemoryContextGetParent(move->context);

	nmoving--;
	es_semantic_locks_leave(move);
	es_steps_write(move);
	es_arrival_arm_timer(move);
	if (ES_SAGA_HAS_ENDED(saga->status) && !ES_SAGA_HAS_ENDED(move->was) && saga->business_key != NULL)
		es_saga_drop_key(saga, "business", saga->business_key);
	if (ES_SAGA_HAS_ENDED(saga->status) && !ES_SAGA_HAS_ENDED(move->was))
		es_saga_event_end(move);
	if (move->is_new)
		es_saga_insert(saga);
	else if (move->is_changed || saga->timer_id != move->timer_was)
		es_saga_update(saga);
	if ((move->is_new || move->is_changed) && !move->version->definition->is_silent && move->simulation == NULL)
		append_events(move);
	if (move->unhandled != NIL)
		es_route_unhandled(move);
	if (ES_SAGA_HAS_ENDED(saga->status) && (saga->status != move->was || move->must_tell) && !move->is_called && saga->parent_seq != 0)
		ended = *saga;
	MemoryContextSwitchTo(caller);
	if (ended.parent_seq != 0)
		es_child_tell_parent(&ended);
	MemoryContextDelete(move->context);
}

void
es_move_walk(EsMove *move, EsNext next)
{
	bool		is_outer = !move->is_walking;

	/* until it is through, for what goes on beside where it is stuck */
	move->is_walking = true;
	if (move->saga.status == ES_SAGA_STUCK && es_saga_goes_on(&move->saga))
		move->saga.status = ES_SAGA_RUNNING;
	es_move_fork(move, next);
	while (move->agenda != NIL && move->saga.status == ES_SAGA_RUNNING)
	{
		next = *(EsNext *) linitial(move->agenda);
		move->agenda = list_delete_first(move->agenda);
		while (next.state != NULL && move->saga.status == ES_SAGA_RUNNING && (next.branch == NULL || next.branch->status == ES_STEP_WAITING))
		{
			CHECK_FOR_INTERRUPTS();
			move->walked = next.walked + 1;
			if (move->scratch != NULL)
				MemoryContextReset(move->scratch);
			next = move->walked <= MAX_WALKED ? enter(move, next) :
				es_state_fail(move, next, NULL, &(EsEnding) {.error = ES_ASL_RUNTIME, .is_final = true, .retry_after = -1,
					.cause = psprintf("more than %d states without waiting, the last one \"%s\"", MAX_WALKED, next.state->name)});
			next.walked = move->walked;
		}
	}
	if (!is_outer)
		return;
	move->is_walking = false;
	if (move->saga.status == ES_SAGA_RUNNING && move->saga.reason != NULL)
		move->saga.status = ES_SAGA_STUCK;
}

void
es_move_fork(EsMove *move, EsNext next)
{
	EsNext	   *entry = palloc(sizeof(EsNext));

	if (next.state == NULL)
		return;
	*entry = next;
	entry->walked = Max(next.walked, move->walked);
	move->agenda = lappend(move->agenda, entry);
}

EsStep *
es_move_step(EsMove *move, int parent, int seq)
{
	EsStep	   *step = find_step(move, seq);

	if (step == NULL)
	{
		step = es_saga_read_step(&move->saga, parent, seq);
		if (step != NULL)
			es_move_add_step(move, step);
	}
	return step;
}

EsStep *
es_move_adopt(EsMove *move, EsStep *step)
{
	EsStep	   *known = find_step(move, step->seq);

	if (known != NULL)
		return known;
	es_move_add_step(move, step);
	return step;
}

void
es_move_add_step(EsMove *move, EsStep *step)
{
	move->steps = lappend(move->steps, step);
	if (move->by_seq != NULL)
		((StepEntry *) hash_search(move->by_seq, &step->seq, HASH_ENTER, NULL))->step = step;
	else if (list_length(move->steps) > FEW_STEPS)
	{
		HASHCTL		control = {.keysize = sizeof(int), .entrysize = sizeof(StepEntry), .hcxt = move->context};
		ListCell   *lc;

		move->by_seq = hash_create("evtstore saga steps", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		foreach(lc, move->steps)
		{
			step = lfirst(lc);
			((StepEntry *) hash_search(move->by_seq, &step->seq, HASH_ENTER, NULL))->step = step;
		}
	}
}

static EsStep *
find_step(EsMove *move, int seq)
{
	StepEntry  *entry;
	ListCell   *lc;

	if (move->by_seq != NULL)
	{
		entry = hash_search(move->by_seq, &seq, HASH_FIND, NULL);
		return entry == NULL ? NULL : entry->step;
	}
	foreach(lc, move->steps)
		if (((EsStep *) lfirst(lc))->seq == seq)
			return lfirst(lc);
	return NULL;
}

bool
es_move_is_live(const EsMove *move, const EsStep *step)
{
	const EsSaga *saga = &move->saga;

	if (step->status != ES_STEP_WAITING || saga->status == ES_SAGA_PAUSED)
		return false;
	if (step->kind == ES_STEP_UNDO)
		return !ES_SAGA_HAS_ENDED(saga->status);
	return saga->status == ES_SAGA_RUNNING || (saga->status == ES_SAGA_STUCK && es_saga_goes_on(saga));
}

bool
es_saga_goes_on(const EsSaga *saga)
{
	return saga->reason != NULL && (strcmp(saga->reason, "scope_undo_failed") == 0 || strcmp(saga->reason, "failed_after_pivot") == 0);
}

EsStep *
es_move_parent(EsMove *move, const EsStep *step)
{
	EsStep	   *parent = step->parent == 0 ? NULL : es_move_step(move, step->above, step->parent);

	if (step->parent != 0 && parent == NULL)
		elog(ERROR, "step %d, in which step %d is, is missing", step->parent, step->seq);
	return parent;
}

void
es_move_fail(EsMove *move, EsNext at, const char *error, const char *cause)
{
	EsSaga	   *saga = &move->saga;

	saga->error = pstrdup(error);
	saga->cause = cause == NULL ? NULL : pstrdup(cause);
	if (saga->has_pivot)
		es_move_get_stuck(move, at, "failed_after_pivot");
	else if (move->version->definition->on_fail == ES_ASL_STOP)
		es_move_abandon(move, ES_SAGA_FAILED);
	else
		es_undo_begin(move, saga->ending);
}

void
es_move_abandon(EsMove *move, EsSagaStatus status)
{
	/* first: its children are left as they are, too */
	move->saga.ending = ES_SAGA_FAILED;
	es_steps_end_waiting(move, NULL, true);
	es_undo_abandon(move);
	es_move_finish(move, status, NULL);
}

void
es_move_finish(EsMove *move, EsSagaStatus status, Jsonb *output)
{
	move->saga.status = status;
	move->saga.reason = NULL;
	/* a reactor's is its state */
	if (output != NULL || move->version->reactor == NULL)
		move->saga.output = output;
	move->saga.ended_at = es_move_clock(move);
}

EsStep *
es_move_get_stuck(EsMove *move, EsNext at, const char *reason)
{
	EsStep	   *stop;

	/* from here on the time of a pivot that may be done is a person's */
	if (strcmp(reason, "scope_undo_failed") != 0)
		move->saga.deadline = 0;
	move->saga.reason = pstrdup(reason);
	move->saga.status = move->is_walking && es_saga_goes_on(&move->saga) ? ES_SAGA_RUNNING : ES_SAGA_STUCK;
	move->is_changed = true;
	if (at.state == NULL)
		return NULL;
	/* it has stopped in this sequence before, and it is the same place */
	close_stops(move, at.branch == NULL ? 0 : at.branch->seq);
	stop = es_step_new(move, ES_STEP_STOP, at, NULL);
	es_step_end(move, stop, ES_STEP_FAILED, &(EsEnding) {.error = move->saga.error, .cause = move->saga.cause});
	return stop;
}

void
es_move_close_stops(EsMove *move)
{
	(void) close_stops(move, -1);
}

/* parent: of the branch; 0: of the saga's own sequence; -1: all.  Returns how many are open elsewhere */
static int
close_stops(EsMove *move, int parent)
{
	int			n = 0;
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_open_stops(&move->saga))
	{
		EsStep	   *stop = es_move_adopt(move, lfirst(lc));

		if (parent >= 0 && stop->parent != parent)
		{
			n++;
			continue;
		}
		stop->status = ES_STEP_DONE;
		es_step_change(move, stop);
	}
	return n;
}

void
es_move_leave_stop(EsMove *move, EsStep *stop)
{
	EsSaga	   *saga = &move->saga;

	if (stop != NULL && close_stops(move, stop->parent) == 0)
	{
		saga->status = ES_SAGA_RUNNING;
		saga->reason = saga->error = saga->cause = NULL;
	}
}

EsStep *
es_move_stop_of(EsMove *move, const EsStep *step)
{
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_open_stops(&move->saga))
	{
		EsStep	   *stop = lfirst(lc);
		EsStep	   *last = stop->parent == step->parent ? es_saga_stopped_at(&move->saga, stop) : NULL;

		if (last != NULL && last->first_seq == step->first_seq)
			return es_move_adopt(move, stop);
	}
	return NULL;
}

/* the time by which what is due is due */
static TimestampTz
engine_now(const EsMove *move)
{
	return move->simulation != NULL ? es_simulation_now(move->simulation) : es_clock_now();
}

TimestampTz
es_move_clock(const EsMove *move)
{
	return move->simulation != NULL ? es_simulation_now(move->simulation) : GetCurrentTimestamp();
}

char *
es_move_json_time(TimestampTz time)
{
	char		buf[MAXDATELEN + 1];
	int			utc = 0;

	return psprintf("\"%s\"", JsonEncodeDateTime(buf, TimestampTzGetDatum(time), TIMESTAMPTZOID, &utc));
}

void
es_move_note(EsMove *move, const char *key, const char *value)
{
	StringInfoData note;

	initStringInfo(&note);
	escape_json(&note, key);
	appendStringInfoString(&note, ": ");
	escape_json(&note, value);
	move->notes = lappend(move->notes, note.data);
	move->is_changed = true;
}

/* of whoever looks at a state: $ and $$ */
EsAslScope
es_move_scope(EsMove *move, const EsAslState *state, Jsonb *input, int retries, const char *map)
{
	EsAslScope	scope = {input, NULL};
	MemoryContext old;
	StringInfoData buf;

	if (!move->version->definition->uses_context)
		return scope;
	if (move->execution == NULL)
		move->execution = execution_context(move);
	if (move->scratch == NULL)
		move->scratch = AllocSetContextCreate(move->context, "evtstore saga state", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(move->scratch);
	initStringInfo(&buf);
	appendStringInfo(&buf, "{%s, \"State\": {\"Name\": ", move->execution);
	escape_json(&buf, state->name);
	appendStringInfo(&buf, ", \"EnteredTime\": %s, \"RetryCount\": %d}", es_move_json_time(move->now), retries);
	if (map != NULL)
		appendStringInfo(&buf, ", \"Map\": %s", map);
	appendStringInfoChar(&buf, '}');
	scope.context = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
	MemoryContextSwitchTo(old);
	return scope;
}

/* what is the same for all states */
static char *
execution_context(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&saga->id)));
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "\"Execution\": {\"Id\": \"%s\", \"Name\": ", id);
	escape_json(&buf, saga->business_key != NULL ? saga->business_key : id);
	appendStringInfo(&buf, ", \"StartTime\": %s, \"Input\": %s}, \"StateMachine\": {\"Name\": ", es_move_json_time(saga->started_at),
					 JsonbToCString(NULL, &saga->input->root, VARSIZE(saga->input)));
	escape_json(&buf, move->version->name);
	appendStringInfo(&buf, ", \"Id\": %d}", move->version->version);
	return buf.data;
}

static void
finish_held(int from, int to, bool is_commit)
{
	int			level = GetCurrentTransactionNestLevel();

	while (nmoving > 0 && moving[nmoving - 1].level >= level)
		nmoving--;
}

static void
begin_moving(const pg_uuid_t *id)
{
	if (nmoving == moving_size)
	{
		int			size = Max(16, 2 * moving_size);

		moving = moving == NULL ? MemoryContextAlloc(TopMemoryContext, size * sizeof(*moving)) : repalloc(moving, size * sizeof(*moving));
		moving_size = size;
	}
	note_held(id);
	moving[nmoving].id = *id;
	moving[nmoving++].level = GetCurrentTransactionNestLevel();
}

/* is this transaction in the middle of a transition of it? */
static bool
is_moving(const pg_uuid_t *id)
{
	for (int i = 0; i < nmoving; i++)
		if (memcmp(&moving[i].id, id, UUID_LEN) == 0)
			return true;
	return false;
}

bool
es_move_holds_any(void)
{
	return held.n > 0;
}

static bool
holds_another(const pg_uuid_t *id)
{
	for (int i = 0; i < held.n; i++)
		if (memcmp(&((Held *) es_effects_at(&held, i))->id, id, UUID_LEN) != 0)
			return true;
	return false;
}

static void
note_held(const pg_uuid_t *id)
{
	for (int i = 0; i < held.n; i++)
		if (memcmp(&((Held *) es_effects_at(&held, i))->id, id, UUID_LEN) == 0)
			return;
	((Held *) es_effects_add(&held))->id = *id;
}

static EsNext
enter(EsMove *move, EsNext at)
{
	switch (at.state->type)
	{
		case ES_ASL_PASS:
		case ES_ASL_SUCCEED:
			return pass(move, at);
		case ES_ASL_CHOICE:
			return choose(move, at);
		case ES_ASL_FAIL:
			return fail_state(move, at);
		case ES_ASL_WAIT:
			return es_wait_enter(move, at);
		case ES_ASL_TASK:
			return es_task_enter(move, at);
		case ES_ASL_PARALLEL:
		case ES_ASL_MAP:
			return es_branches_enter(move, at);
	}
	pg_unreachable();
}

static EsNext
pass(EsMove *move, EsNext at)
{
	EsAslScope	scope = es_move_scope(move, at.state, at.input, 0, NULL);
	EsAslFault	fault = {0};
	Jsonb	   *selected = es_asl_state_input(at.state, &scope, &fault);

	move->via = lappend(move->via, at.state->name);
	if (selected == NULL)
		return es_state_fail(move, at, NULL, &(EsEnding) {.error = fault.error, .cause = fault.cause});
	return es_state_leave(move, at, NULL, at.state->result != NULL ? at.state->result : selected);
}

static EsNext
choose(EsMove *move, EsNext at)
{
	EsAslScope	scope = es_move_scope(move, at.state, at.input, 0, NULL);
	EsAslFault	fault = {0};
	Jsonb	   *selected = es_asl_state_input(at.state, &scope, &fault);
	EsAslScope	inner = {selected, scope.context};
	const char *name = selected == NULL ? NULL : es_asl_choices_next(at.state->choices, &inner, &fault);
	EsNext		next = {name != NULL ? es_asl_find_state(move->version->definition, name) : at.state->fallback, NULL, at.branch};

	move->via = lappend(move->via, at.state->name);
	if (fault.error == NULL && next.state == NULL)
		es_asl_fail(&fault, ES_ASL_NO_CHOICE, "no rule of \"%s\" holds, and it has no Default", at.state->name);
	if (fault.error == NULL)
		next.input = es_asl_state_output(at.state, &scope, selected, &fault);
	if (fault.error != NULL)
		return es_state_fail(move, at, NULL, &(EsEnding) {.error = fault.error, .cause = fault.cause});
	return next;
}

static EsNext
fail_state(EsMove *move, EsNext at)
{
	EsAslScope	scope = es_move_scope(move, at.state, at.input, 0, NULL);
	EsAslFault	fault = {0};
	char	   *error = NULL;
	char	   *cause = NULL;

	move->via = lappend(move->via, at.state->name);
	if (!es_asl_text(&at.state->error, &scope, &error, &fault) || !es_asl_text(&at.state->cause, &scope, &cause, &fault))
	{
		error = pstrdup(fault.error);
		cause = fault.cause;
	}
	return es_state_fail(move, at, NULL, &(EsEnding) {.error = error != NULL ? error : ES_ASL_TASK_FAILED, .cause = cause});
}

/* what the transition did, to the stream saga-ID: one event, and one more for an instance that goes further than to wait in its first */
static void
append_events(EsMove *move)
{
	const EsSaga *saga = &move->saga;
	char	   *stream = psprintf("saga-%s", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&saga->id))));
	EsEvent		events[2] = {{0}};
	EsAppendResult result;
	int			n = 0;

	if (move->is_new)
		fill_event(move, &events[n++], "SagaStarted", saga->status == ES_SAGA_RUNNING);
	if (!move->is_new || saga->status != ES_SAGA_RUNNING)
		fill_event(move, &events[n++], saga->status == move->was ? "SagaMoved" : event_types[saga->status], true);
	for (int i = 0; i < n; i++)
		events[i].stream = CStringGetTextDatum(stream);
	es_append(saga->tenant, stream, events, n, ES_EXPECT_ANY, ES_REQUIRE_NONE, &result);
}

static void
fill_event(EsMove *move, EsEvent *event, const char *type, bool has_steps)
{
	const EsSaga *saga = &move->saga;
	StringInfoData data;
	ListCell   *lc;

	initStringInfo(&data);
	appendStringInfoString(&data, "{\"saga\": ");
	escape_json(&data, move->version->name);
	appendStringInfo(&data, ", \"version\": %d, \"status\": \"%s\"", saga->version, es_saga_status_name(has_steps ? saga->status : ES_SAGA_RUNNING));
	append_field(&data, "business_key", saga->business_key);
	if (move->is_new && saga->parent_seq != 0)
		append_field(&data, "parent", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&saga->parent_id))));
	if (has_steps)
	{
		append_field(&data, "error", saga->error);
		append_field(&data, "cause", saga->cause);
		append_field(&data, "reason", saga->reason);
		foreach(lc, move->notes)
			appendStringInfo(&data, ", %s", (char *) lfirst(lc));
		append_steps(&data, move->steps);
	}
	appendStringInfoChar(&data, '}');
	event->schema_version = 1;
	event->tenant = CStringGetTextDatum(saga->tenant);
	event->type = CStringGetTextDatum(type);
	event->data = DirectFunctionCall1(jsonb_in, CStringGetDatum(data.data));
	event->metadata = JsonbPGetDatum(saga->metadata);
	event->tags = es_event_no_tags();
}

/* value NULL: it is left out */
static void
append_field(StringInfo data, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(data, ", \"%s\": ", name);
	escape_json(data, value);
}

/* each as it is now, with all that saga_at shows of it (saga_past.c): who folds the events takes the last word on each */
static void
append_steps(StringInfo data, List *steps)
{
	const char *comma = "";
	ListCell   *lc;

	appendStringInfoString(data, ", \"steps\": [");
	foreach(lc, steps)
	{
		EsStep	   *step = lfirst(lc);

		if (!step->is_told)
			continue;
		appendStringInfo(data, "%s{\"seq\": %d", comma, step->seq);
		/* of most, so it says nothing */
		if (step->kind != ES_STEP_TASK)
			append_field(data, "kind", es_step_kind_name(step->kind));
		append_field(data, "state", step->state);
		append_field(data, "status", es_step_status_name(step->status));
		appendStringInfo(data, ", \"attempt\": %d", step->attempt);
		if (step->undoes > 0)
			appendStringInfo(data, ", \"undoes\": %d", step->undoes);
		append_field(data, "error", step->error);
		append_field(data, "cause", step->cause);
		appendStringInfoChar(data, '}');
		comma = ", ";
	}
	appendStringInfoChar(data, ']');
}
