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
	MemoryContext context;
	TimestampTz now;
	bool is_new;
	bool is_changed;  /* it, or one of its steps */
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
	List *notes;  /* char *: what else the event of the transition tells, as JSON: "key": value */
} EsMove;

/* a new instance, which nobody else knows yet */
extern void es_move_start(EsMove *move, const EsSagaVersion *version, const EsSaga *saga);
/*
 * One that is there.  Waits for its lock, if it may, where this transaction has that of no other instance; else it may be BUSY, also where this
 * transaction is in the middle of a transition of it.
 */
extern EsSagaFound es_move_begin(EsMove *move, const pg_uuid_t *id, bool may_wait);
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

/* of a step that waits: what follows is done too */
extern void es_move_settle(EsMove *move, EsStep *step, const EsEnding *ending);
/* "accepted", "late" or "duplicate", of an answer to an attempt, whatever has become of that since */
extern const char *es_move_answer(EsMove *move, EsStep *step, const EsEnding *ending);
/* the times that are over by now */
extern void es_move_be_late(EsMove *move);
/* the saga failed, in that state, which is in no branch */
extern void es_move_fail(EsMove *move, EsNext at, const char *error, const char *cause);
extern void es_move_finish(EsMove *move, EsSagaStatus status, Jsonb *output);
/* at: where to try again; state NULL: it is undoing */
extern void es_move_get_stuck(EsMove *move, EsNext at, const char *reason);
/* it ends, and nothing is undone */
extern void es_move_abandon(EsMove *move, EsSagaStatus status);
/* what it is stuck at is tried again */
extern void es_move_unstick(EsMove *move);
/* in UTC, quoted */
extern char *es_move_json_time(TimestampTz time);
extern void es_move_note(EsMove *move, const char *key, const char *value);

/* in saga_task.c: a Task begins, or a Wait; what follows where it is done at once */
extern EsNext es_task_enter(EsMove *move, EsNext at);
extern EsNext es_wait_enter(EsMove *move, EsNext at);
/* the state is over, with a result or a failure; step NULL: it had no row */
extern EsNext es_state_leave(EsMove *move, EsNext at, EsStep *step, Jsonb *result);
extern EsNext es_state_fail(EsMove *move, EsNext at, EsStep *step, const EsEnding *ending);
/* what still waits ends: commands are taken back, or are unknown.  Below that row only; NULL: all */
extern void es_steps_end_waiting(EsMove *move, const EsStep *below, bool undos_too);
/* to be written with the transition */
extern void es_step_change(EsMove *move, EsStep *step);
/* a pivot of which nobody knows; NULL: none */
extern EsStep *es_steps_unknown_pivot(EsMove *move);
/* a command is taken back: true, nobody has had it */
extern bool es_step_take_back(EsMove *move, EsStep *step);

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

/* in saga_signal.c */
/* a signal of that name that came before and that nobody has had: had now by the step with this seq; NULL: none */
extern Jsonb *es_signal_take(EsMove *move, const char *name, int seq);
/* one has come.  False: it came before */
extern bool es_signal_bring(EsMove *move, const char *name, Jsonb *payload, const char *dedup_id);

/* in saga_undo.c */
/* at: where the saga is, for a pivot of which nobody knows */
extern void es_undo_begin(EsMove *move, EsSagaStatus ending);
extern void es_undo_go_on(EsMove *move);
/* it is undone, however */
extern void es_undo_mark(EsMove *move, EsStep *step);
extern void es_undo_ended(EsMove *move, EsStep *undo, const EsEnding *ending);

/* in saga_call.c: calls and commands */
/* a function in a savepoint, as the definition's owner; false: it failed, *error and *cause say how */
extern bool es_call_function(EsMove *move, const char *fn, Jsonb *input, Jsonb **output, EsEnding *failure);
/* an event, the same way; what it returns is {"version", "position"} */
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
/* the step may have its lock, or try again; seq 0: what the instance has left */
extern void es_arrival_leave_lock(const pg_uuid_t *id, const char *tenant, int parent, int seq, int tries, TimestampTz deliver_at);
extern void es_arrival_arm_timer(EsMove *move);

#endif
