/*
 * saga_move.h
 *		Within sagas only: a transition, from one resting place of an instance to the next.
 */
#ifndef ES_SAGA_MOVE_H
#define ES_SAGA_MOVE_H

#include "saga_row.h"

/* in a transaction; what it points to is of its context */
typedef struct EsMove
{
	EsSaga saga;
	const EsSagaVersion *version;
	struct EsSimulation *simulation; /* NULL: it is real (saga_simulate.h) */
	MemoryContext context;
	TimestampTz now;
	bool is_new;
	bool is_changed;  /* it, or one of its steps */
	bool is_walking;
	const struct EsMove *above; /* of its parent, which starts it; NULL: none that is under way */
	bool is_called;	  /* from a transition of its parent, which sees what comes of it */
	bool must_tell;	  /* its parent asked, though nothing has changed */
	EsSagaStatus was; /* its status when this began */
	int64 timer_was;
	List *steps;  /* EsStep *: those that were looked at, in order */
	List *via;	  /* states without a row that were passed since the last one with a row */
	int walked;	  /* of the state that is entered, see EsNext */
	List *dirty;  /* EsStep *: to be written */
	struct HTAB *by_seq; /* of steps, where there are many; NULL: few */
	MemoryContext scratch; /* what paths see, until the next state */
	char *execution; /* $$.Execution and $$.StateMachine, as JSON; NULL: not made */
	List *agenda; /* EsNext *: where branches begin, or go on */
	int lock_tries; /* of this arrival, at semantic locks */
	bool has_left_lock; /* a step that asked for a semantic lock has ended without it */
	List *commands; /* saga_call.c's: to be sent */
	List *unhandled; /* EsStep *: of a reactor that is done, events that waited for it */
	List *notes;  /* char *: what else the event of the transition tells, as JSON: "key": value */
} EsMove;

/* a new instance, which nobody else knows yet */
extern void es_move_start(EsMove *move, const EsSagaVersion *version, const EsSaga *saga);
/*
 * One that is there.  Waits for its lock, if it may, where this transaction has that of no other instance; else it may be BUSY, also where this
 * transaction is in the middle of a transition of it.
 */
extern EsSagaFound es_move_begin(EsMove *move, const pg_uuid_t *id, bool may_wait);
/* has this transaction the lock of an instance?  Then it waits for nobody who may want that */
extern bool es_move_holds_any(void);
/* writes what has changed, sends, arms the timer, appends the event */
extern void es_move_end(EsMove *move);

/* where to go on; state NULL: nowhere.  branch: the row of the branch that it is in; NULL: none */
typedef struct EsNext
{
	const EsAslState *state;
	Jsonb *input;
	EsStep *branch;
	int walked; /* states on the way there since something was waited for */
} EsNext;

/* transitions that this is within, and itself */
extern int es_moves_within(void);
/* 25001: in a transaction whose snapshot need not show what the saga has done */
extern void es_move_refuse_old_snapshot(const char *what);
/* ST008 */
extern void es_move_refuse_unknown(const pg_uuid_t *id);

/* from there on, until every branch waits */
extern void es_move_walk(EsMove *move, EsNext next);
/* and from there, too */
extern void es_move_fork(EsMove *move, EsNext next);
/* one that is not among its steps yet */
extern void es_move_add_step(EsMove *move, EsStep *step);
extern EsStep *es_move_step(EsMove *move, int parent, int seq);
/* the same of a row that was just read */
extern EsStep *es_move_adopt(EsMove *move, EsStep *step);
/* the row of the branch that a step is in, or of the Parallel or Map of a branch; NULL: none */
extern EsStep *es_move_parent(EsMove *move, const EsStep *step);

/* how a step ended; in saga_task.c */
typedef struct EsEnding
{
	bool is_success;
	Jsonb *output; /* of a success */
	const char *error;
	const char *cause;
	bool is_final;		 /* not to be tried again, whatever Retry says */
	double retry_after; /* s; < 0: as Retry says */
} EsEnding;

/* can an answer for the step, or its time, do something now? */
extern bool es_move_is_live(const EsMove *move, const EsStep *step);
/* of a step that waits: what follows is done too */
extern void es_move_settle(EsMove *move, EsStep *step, const EsEnding *ending);
/* "accepted", "late" or "duplicate", of an answer to an attempt, whatever has become of that since.  Written down where it changed nothing */
extern const char *es_move_answer(EsMove *move, EsStep *step, const EsEnding *ending);
/* the same, not written down; of a saga that is not paused */
extern const char *es_move_apply(EsMove *move, EsStep *step, const EsEnding *ending);
/* it is known to be done, or was before it was undone */
extern bool es_step_is_known(const EsStep *step);
/* the times that are over by now */
extern void es_move_be_late(EsMove *move);
/* the saga failed, in that state, which is in no branch */
extern void es_move_fail(EsMove *move, EsNext at, const char *error, const char *cause);
extern void es_move_finish(EsMove *move, EsSagaStatus status, Jsonb *output);
/* at: where to try again; state NULL: it is undoing.  The row of kind stop; NULL: it has none */
extern EsStep *es_move_get_stuck(EsMove *move, EsNext at, const char *reason);
/* does what waits elsewhere in the saga go on? */
extern bool es_saga_goes_on(const EsSaga *saga);
/* nobody goes on from where it is stuck */
extern void es_move_close_stops(EsMove *move);
/* somebody goes on from there, so that it may no longer be stuck; stop NULL: it was not */
extern void es_move_leave_stop(EsMove *move, EsStep *stop);
/* where it is stuck because of that attempt, or another one at the same; NULL: nowhere */
extern EsStep *es_move_stop_of(EsMove *move, const EsStep *step);
/* it ends, and nothing is undone */
extern void es_move_abandon(EsMove *move, EsSagaStatus status);
/* what it is stuck at is tried again */
extern void es_move_unstick(EsMove *move);
/* now, as history has it */
extern TimestampTz es_move_clock(const EsMove *move);
/* in UTC, quoted */
extern char *es_move_json_time(TimestampTz time);
extern void es_move_note(EsMove *move, const char *key, const char *value);

/* in saga_task.c: a Task begins, or a Wait; what follows where it is done at once */
extern EsNext es_task_enter(EsMove *move, EsNext at);
extern EsNext es_wait_enter(EsMove *move, EsNext at);
/* one more attempt at a Task, with the key of the previous one */
extern EsNext es_task_again(EsMove *move, EsNext at, const EsStep *previous);
/* a step that is done, or skipped, was left before: so it is again */
extern EsNext es_task_leave(EsMove *move, EsNext at, EsStep *step);
/* the state is over, with a result or a failure; step NULL: it had no row */
extern EsNext es_state_leave(EsMove *move, EsNext at, EsStep *step, Jsonb *result);
extern EsNext es_state_fail(EsMove *move, EsNext at, EsStep *step, const EsEnding *ending);
/* what still waits ends: commands are taken back, or are unknown.  Below that row only; NULL: all */
extern void es_steps_end_waiting(EsMove *move, const EsStep *below, bool undos_too);
/* to be written with the transition */
extern void es_step_change(EsMove *move, EsStep *step);
/* a pivot of which nobody knows; NULL: none */
extern EsStep *es_steps_unknown_pivot(EsMove *move);
/* of an instance that is stuck because nobody knew: this attempt was not done */
extern void es_pivot_failed(EsMove *move, EsStep *step, const EsEnding *ending);
/* a command is taken back: true, nobody has had it */
extern bool es_step_take_back(EsMove *move, EsStep *step);
/* those of many steps, that are written; palloc'd, in the order of the list */
extern bool *es_steps_take_back(EsMove *move, List *steps);

/* the same, where nothing of it is told */
extern void es_step_write_later(EsMove *move, EsStep *step);
/* time + seconds, or the last time that there is */
extern TimestampTz es_move_later(TimestampTz time, double seconds);

/* in saga_heartbeat.c */
/* how often it is to be heard of.  false: that is no number */
extern bool es_heartbeat_of(const EsAslState *state, EsStep *step, const EsAslScope *scope, EsAslFault *fault);
/* of an attempt whose due is when its time is over; delay in s, until its command is there */
extern void es_heartbeat_begin(EsMove *move, EsStep *step, double delay);
/* one that is due: true, there was a sign of life, or nobody has it; then due is when to look again */
extern bool es_heartbeat_goes_on(EsMove *move, EsStep *step);

/* a new step, waiting; previous: an earlier attempt at the same, or NULL */
extern EsStep *es_step_new(EsMove *move, EsStepKind kind, EsNext at, const EsStep *previous);
extern void es_step_end(EsMove *move, EsStep *step, EsStepStatus status, const EsEnding *ending);
extern void es_steps_write(EsMove *move);
/* what paths see in a state; map: text of JSON that $$.Map is, or NULL */
extern EsAslScope es_move_scope(EsMove *move, const EsAslState *state, Jsonb *input, int retries, const char *map);

/* in saga_branch.c: Parallel and Map */
extern EsNext es_branches_enter(EsMove *move, EsNext at);
/* the next attempt at one, now or when its time comes */
extern EsNext es_branches_again(EsMove *move, EsNext at, EsStep *previous, double delay);
/* the time of an attempt has come */
extern EsNext es_branches_begin(EsMove *move, EsStep *container);
/* a branch has ended */
extern EsNext es_branch_leave(EsMove *move, EsStep *branch, Jsonb *output);
extern EsNext es_branch_fail(EsMove *move, EsStep *branch, const EsEnding *ending);

/* does a Retry, a Catch or a tolerance of what the branch is in see that failure? */
extern bool es_branch_is_guarded(EsMove *move, EsStep *branch, const char *error);
/* how many of them may run at once */
extern int es_branches_at_once(EsMove *move, const EsStep *container);

/* in saga_start.c */
/* against its drop, which looks for instances that are open.  False: it is dropped */
extern bool es_saga_pin(const EsSagaVersion *version);
/* ST008: it is dropped */
extern void es_saga_require(const EsSagaVersion *version);
/* what every instance begins with; begin: when its time begins to run, 0: now.  Tenant, metadata and input are there, or the session's */
extern void es_saga_fill(EsSaga *saga, const EsSagaVersion *version, TimestampTz begin);

/* in saga_child.c */
/* a parent no longer wants a child */
typedef struct EsTakeBack
{
	bool compensates;
	const char *error; /* NULL: no error of its own */
	int parent;		   /* the step that waits for that; */
	int seq;		   /* 0: none but the one that started it */
} EsTakeBack;

/* for the step.  True: it has ended, or could not begin, *ending says how; else the step is told when it has */
extern bool es_child_start(EsMove *move, EsStep *step, const EsAslCall *call, EsEnding *ending);
/* of the step; undo: who waits for that, or NULL.  True: that is over, *ending says how */
extern bool es_child_take_back(EsMove *move, EsStep *step, EsStep *undo, const char *error, EsEnding *ending);
extern bool es_child_is_there(EsMove *move, const EsStep *step);
extern void es_child_be_taken_back(EsMove *child, const EsTakeBack *request);
/* of the child as its transition left it */
extern void es_child_tell_parent(const EsSaga *child);
extern EsEnding es_child_refusal(void);

/* in saga_signal.c */
/* a signal of that name that came before and that nobody has had: had now by the step with this seq; NULL: none */
extern Jsonb *es_signal_take(EsMove *move, const char *name, int seq);
/* one has come.  False: it came before */
extern bool es_signal_bring(EsMove *move, const char *name, Jsonb *payload, const char *dedup_id);

/* of those that nobody has had: EsSignal *, the oldest first */
typedef struct EsSignal
{
	int number;
	TimestampTz sent_at;
	char *name;
	Jsonb *payload;
} EsSignal;
extern List *es_signals_untaken(const EsSaga *saga);
/* the step that waits for it has it; without one it waits on */
extern void es_signal_hand(EsMove *move, const EsSignal *signal);

/* in saga_pause.c */
/* of a saga that is paused: the answer is kept until it is resumed */
extern const char *es_pause_hold(EsMove *move, EsStep *step, const EsEnding *ending);
/* it is to be ended, and is paused no more: what was answered meanwhile is known, and nothing follows of it */
extern void es_pause_end(EsMove *move);
/* has it passed its pivot, by what was answered meanwhile, too? */
extern bool es_pause_passes_pivot(EsMove *move);

/* in saga_start.c */
/* 23505: another one that is open has it */
extern void es_saga_take_business_key(const EsSaga *saga);

/* in saga_unwind.c */
extern void es_undo_begin(EsMove *move, EsSagaStatus ending);
/* what is stuck in undoing is tried again */
extern void es_undo_resume(EsMove *move);
/* nothing more is undone: what was being undone in branches is not */
extern void es_undo_abandon(EsMove *move);
/* an undo failed for good */
extern void es_undo_get_stuck(EsMove *move);
/* what was done in a Parallel or Map that failed.  True: nothing is left; else Retry and Catch see the failure later */
extern bool es_undo_scope(EsMove *move, EsStep *container);
/* the step is undone, or left: the next one */
extern void es_undo_leave(EsMove *move, EsStep *step);
/* what became of a child that was given up is known: who waited for that to undo something goes on */
extern void es_undo_child_ended(EsMove *move, EsStep *step);
/* the step has become known to be done when its instance had gone on: undone where that is */
extern void es_undo_late(EsMove *move, EsStep *step);
/* the scope that the step is in is undone, or its thread is through, and does not come to it any more */
extern bool es_undo_is_passed(EsMove *move, const EsStep *step);
/* the saga has come to its end: true, it has something to undo yet, and ends behind that */
extern bool es_undo_defers_end(EsMove *move, Jsonb *output);

/* in saga_undo.c */
/* true: there is nothing to undo of it, or it is done */
extern bool es_undo_step(EsMove *move, EsStep *step);
/* it is undone, however */
extern void es_undo_mark(EsMove *move, EsStep *step);
extern void es_undo_ended(EsMove *move, EsStep *undo, const EsEnding *ending);

/* in saga_call.c: calls and commands */
struct EsAppendResult;
/* a function in a savepoint, as the definition's owner; false: it failed, *error and *cause say how */
extern bool es_call_function(EsMove *move, const char *fn, Jsonb *input, Jsonb **output, EsEnding *failure);
/* whatever it is, in a savepoint; false: it failed, and its effects are undone */
extern bool es_call_attempt(void (*run)(void *arg), void *arg, EsEnding *failure);
/* a function of n jsonb, as the definition's owner; NULL: NULL */
extern Jsonb *es_call_as_owner(EsMove *move, const char *fn, Datum *arguments, int n, MemoryContext context);
/* input: {"stream", "data", "metadata"?, "tags"?, "expected_version"?} */
extern void es_call_append_one(EsMove *move, const char *type, Jsonb *input, struct EsAppendResult *result);
/* an event, in a savepoint; what it returns is {"version", "position"} */
extern bool es_call_append(EsMove *move, const char *type, Jsonb *input, Jsonb **output, EsEnding *failure);
/* a call that is done at once: a function or an event */
extern bool es_call_now(EsMove *move, const EsAslCall *call, Jsonb *input, Jsonb **output, EsEnding *failure);
#define ES_CALL_IS_NOW(call) ((call)->kind == ES_ASL_SQL || (call)->kind == ES_ASL_EVENT)
/* the command that a step waits for is sent when the transition ends; delay in s.  false: there is no such queue */
extern bool es_call_send(EsMove *move, EsStep *step, const EsAslCall *call, double delay, EsEnding *failure);
extern void es_call_send_all(EsMove *move);

/* in saga_lock.c: semantic locks */
typedef enum EsSemanticLock
{
	ES_SEMANTIC_HELD,
	ES_SEMANTIC_WAITS, /* an arrival tells that it is there */
	ES_SEMANTIC_DEADLOCK
} EsSemanticLock;

/* one that has not begun, for want of its lock and of nothing else; else it waits for its time, or somebody has its command */
#define ES_WAITS_FOR_LOCK(step) \
	((step)->resource != NULL && (step)->kind == ES_STEP_TASK && (step)->status == ES_STEP_WAITING && (step)->queue_id == 0 && (step)->due == (step)->deadline)

/* which lock the step needs: resource.  false: it cannot be known */
extern bool es_semantic_lock_of(EsMove *move, const EsAslState *state, EsStep *step, const EsAslScope *scope, EsAslFault *fault);
/* Waits for nobody */
extern EsSemanticLock es_semantic_lock_take(EsMove *move, EsStep *step, EsEnding *failure);
/* one that was given, or is to be tried again */
extern void es_semantic_lock_arrived(EsMove *move, int parent, int seq, int tries);
/* gives back what is not needed any more, to who is next */
extern void es_semantic_locks_leave(EsMove *move);
/* in saga_task.c: a step that waited for a lock begins */
extern EsNext es_task_go_on(EsMove *move, EsStep *step);

/* in saga_arrival.c: what is left for an instance that somebody else has */
extern void es_arrival_leave(const pg_uuid_t *id, const char *tenant, int parent, int seq, const EsEnding *ending);
extern void es_arrival_leave_signal(const pg_uuid_t *id, const char *tenant, const char *name, Jsonb *payload, const char *dedup_id);
extern void es_arrival_leave_take_back(const pg_uuid_t *id, const char *tenant, const EsTakeBack *request);
/* the step may have its lock, or try again; seq 0: what the instance has left */
extern void es_arrival_leave_lock(const pg_uuid_t *id, const char *tenant, int parent, int seq, int tries, TimestampTz deliver_at);
extern void es_arrival_arm_timer(EsMove *move);
/* what the two leave */
extern Jsonb *es_arrival_of_answer(const pg_uuid_t *id, int parent, int seq, const EsEnding *ending);
extern Jsonb *es_arrival_of_signal(const pg_uuid_t *id, const char *name, Jsonb *payload, const char *dedup_id);
/* one is brought, at once and here, to who has to be free; timer_id: that it has where it is a timer */
extern void es_arrival_bring(Jsonb *body, int64 timer_id);

#endif
