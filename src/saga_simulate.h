/*
 * saga_simulate.h
 *		Within sagas only: the world that a simulated saga is in.
 */
#ifndef ES_SAGA_SIMULATE_H
#define ES_SAGA_SIMULATE_H

#include "saga_move.h"

typedef struct EsSimulation EsSimulation;

/* the simulation that the instance is of; NULL: it is real */
extern EsSimulation *es_simulation_of(const pg_uuid_t *id);
/* the same of one that is made: who is started by a simulated one is simulated, but for those that functions start */
extern EsSimulation *es_simulation_of_new(const pg_uuid_t *id);

extern TimestampTz es_simulation_now(const EsSimulation *simulation);
/* is what is started now simulated?  Then *now is its time */
extern bool es_simulation_is_open(TimestampTz *now);

/* a function, or an event: does the script answer in its place?  Then *is_success, and *output or *failure */
extern bool es_simulation_call(EsMove *move, const EsAslCall *call, bool *is_success, Jsonb **output, EsEnding *failure);
/* the same of a child that is to be started */
extern bool es_simulation_child(EsMove *move, const EsAslCall *call, EsEnding *ending);
/* around a call that is really made: what it starts is real.  Returns what end is given */
extern bool es_simulation_call_begin(void);
extern void es_simulation_call_end(bool was_open);

/* a command, delay s from now; returns the id of its message */
extern int64 es_simulation_send(EsMove *move, const EsStep *step, const EsAslCall *call, double delay, Jsonb *headers);
/* the step begins to wait for a signal */
extern void es_simulation_wait_for_signal(EsMove *move, int seq);
/* an arrival, or a timer; returns its id */
extern int64 es_simulation_leave(EsSimulation *simulation, Jsonb *body, TimestampTz deliver_at);
/* a timer, or a command; true: nobody has had it */
extern bool es_simulation_withdraw(EsSimulation *simulation, int64 id);
/* somebody has the command, and neither answers nor shows a sign of life */
extern bool es_simulation_is_silent(const EsSimulation *simulation, int64 id);

#endif
