/*
 * saga_heartbeat.c
 *		Signs of life of who has a command: a Task with HeartbeatSeconds fails where there are none.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  A worker who receives a command, or extends its lease, writes nothing: what
 * the queue has in shared memory says when that was last.  So the step is due one heartbeat after its command is there, and when that time comes
 * the queue is asked: who has been heard of since is given one more heartbeat from then on.  While nobody has the command nobody can be silent.
 *
 * A crash forgets who had what: the time begins again.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "compat.h"
#include "queue.h"
#include "saga_move.h"
#include "saga_simulate.h"

static bool in_simulation(EsMove *move, EsStep *step);
static TimestampTz heard_of(EsMove *move, const EsStep *step);

bool
es_heartbeat_of(const EsAslState *state, EsStep *step, const EsAslScope *scope, EsAslFault *fault)
{
	return !state->heartbeat.is_set || es_asl_number(&state->heartbeat, scope, &step->heartbeat, fault);
}

void
es_heartbeat_begin(EsMove *move, EsStep *step, double delay)
{
	TimestampTz first = es_move_later(move->now, delay + step->heartbeat);

	/* a path may say 0, which is none */
	if (step->heartbeat <= 0 || first >= step->due)
	{
		step->heartbeat = 0;
		return;
	}
	step->deadline = step->due;
	step->due = first;
}

bool
es_heartbeat_goes_on(EsMove *move, EsStep *step)
{
	TimestampTz heard;

	if (step->heartbeat <= 0 || step->message_id == 0)
		return false;
	if (move->simulation != NULL)
		return in_simulation(move, step);
	heard = heard_of(move, step);
	step->due = Min(es_move_later(heard == 0 ? move->now : heard, step->heartbeat), step->deadline);
	if (step->due <= move->now)
		return false;
	/* nothing has happened that anybody is to be told of */
	es_step_write_later(move, step);
	return true;
}

/* who is going to answer shows signs of life until then, and nobody takes what nobody has: no other look would find more than this one */
static bool
in_simulation(EsMove *move, EsStep *step)
{
	if (es_simulation_is_silent(move->simulation, step->message_id) || step->deadline <= move->now)
		return false;
	step->due = step->deadline;
	es_step_write_later(move, step);
	return true;
}

/* 0: nobody has it, as far as is known */
static TimestampTz
heard_of(EsMove *move, const EsStep *step)
{
	EsQueueState *state;

	/* with a queue that was dropped its commands are gone: then the step's time decides */
	if (es_queue_lock(step->queue_id, AccessShareLock) == NULL)
		return 0;
	state = es_queue_state_find(step->queue_id);
	return state == NULL ? 0 : es_queue_alive(state, step->message_id, move->now);
}
