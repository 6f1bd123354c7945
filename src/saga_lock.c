/*
 * saga_lock.c
 *		Semantic locks: what a saga works on, until it has ended, and whom others wait for.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  A resource is a text within a tenant; saga_lock has a row for each instance
 * that has it or waits for it, in order of number.  Who has it keeps it until he has ended; his last transition gives it to the next one, who is
 * told by an arrival.
 *
 * Locks: ES_LOCK_SEMANTIC of the resource for who reads and writes its rows, and ES_LOCK_SEMANTIC_WAITS of the tenant for who begins to wait while
 * he has something that others may wait for; both are held to the end of the transaction and never waited for: where one is not to be
 * had, the instance leaves an arrival for itself, and tries again in a moment.  So they stand in no circle of locks.
 *
 * Everything is a row: a crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "asl_value.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "lock.h"
#include "queue.h"
#include "saga_move.h"
#include "spi.h"

/* until what was not to be had is tried again, the first time and at most */
#define AGAIN_MS 20
#define MAX_AGAIN_MS 2000

static EsPlan own_plan = {
	.sql = "SELECT number, seq, held_since IS NOT NULL FROM evtstore_internal.saga_lock WHERE saga_id = $1 AND resource = $2 ORDER BY held_since, seq",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan last_plan = {
	.sql = "SELECT number FROM evtstore_internal.saga_lock WHERE tenant = $1 AND resource = $2 ORDER BY number DESC LIMIT 1",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_lock (tenant, resource, saga_id, number, parent, seq, since, held_since) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
	.nargs = 8,
	.args = {TEXTOID, TEXTOID, UUIDOID, INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID},
};

static EsPlan use_plan = {
	.sql = "UPDATE evtstore_internal.saga_lock SET seq = 0 WHERE saga_id = $1 AND resource = $2 AND held_since IS NOT NULL",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan any_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_lock WHERE saga_id = $1 LIMIT 1",
	.nargs = 1,
	.args = {UUIDOID},
};

/*
 * From one resource to those for which somebody waits who is in front there, or a child that he waits for: is that instance in front anywhere, or one that
 * waits for it as its child?  Its own row need not be there yet
 */
static EsPlan circle_plan = {
	.sql = "WITH RECURSIVE mine AS ("
	" SELECT id FROM unnest($4) id"
	" UNION"
	" SELECT s.parent_id FROM mine JOIN evtstore_internal.saga s ON s.id = mine.id WHERE s.parent_id IS NOT NULL),"
	" reached AS ("
	" SELECT $2::text COLLATE \"C\" AS resource, $3::bigint AS number"
	" UNION"
	" SELECT waits.resource, waits.number FROM reached r"
	" JOIN evtstore_internal.saga_lock ahead ON ahead.tenant = $1 AND ahead.resource = r.resource AND ahead.number < r.number"
	" CROSS JOIN LATERAL (WITH RECURSIVE below AS (SELECT ahead.saga_id AS id UNION ALL"
	" SELECT s.id FROM below JOIN evtstore_internal.saga s ON s.parent_id = below.id AND s.ended_at IS NULL) SELECT id FROM below) below"
	" JOIN evtstore_internal.saga_lock waits ON waits.saga_id = below.id AND waits.held_since IS NULL AND waits.resource <> r.resource)"
	" SELECT 1 FROM mine JOIN evtstore_internal.saga_lock l ON l.saga_id = mine.id JOIN reached r ON l.resource = r.resource AND l.number < r.number LIMIT 1",
	.nargs = 4,
	.args = {TEXTOID, TEXTOID, INT8OID, UUIDARRAYOID},
};

static EsPlan all_plan = {
	.sql = "SELECT resource, number, parent, seq, held_since IS NOT NULL FROM evtstore_internal.saga_lock WHERE saga_id = $1 ORDER BY resource, number, seq",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.saga_lock WHERE tenant = $1 AND resource = $2 AND number = $3 AND seq = $4",
	.nargs = 4,
	.args = {TEXTOID, TEXTOID, INT8OID, INT4OID},
};

static EsPlan next_plan = {
	.sql = "SELECT saga_id, number, parent, seq FROM evtstore_internal.saga_lock WHERE tenant = $1 AND resource = $2 AND number ="
	" (SELECT number FROM evtstore_internal.saga_lock WHERE tenant = $1 AND resource = $2 ORDER BY number LIMIT 1) ORDER BY seq",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static EsPlan hold_plan = {
	.sql = "UPDATE evtstore_internal.saga_lock SET held_since = $5 WHERE tenant = $1 AND resource = $2 AND number = $3 AND seq = $4",
	.nargs = 5,
	.args = {TEXTOID, TEXTOID, INT8OID, INT4OID, TIMESTAMPTZOID},
};

/* a row of an instance */
typedef struct Place
{
	pg_uuid_t	saga;
	char	   *resource;
	int64		number;
	int			parent;
	int			seq;			/* of the step that waits for it, or was given it; 0: it was used */
	bool		is_held;
} Place;

static bool enter_queue(EsMove *move, EsStep *step, bool *is_held);
static bool closes_circle(EsMove *move, const EsStep *step, int64 number);
static void insert(EsMove *move, const EsStep *step, int64 number, bool is_held);
static bool try_resource(EsMove *move, const char *resource);
static void try_again(EsMove *move, int parent, int seq);
static bool has_any(EsMove *move);
static int64 last_number(EsMove *move, const char *resource);
static List *places(EsPlan *plan, Datum *values, bool is_of_one);
static bool is_stale(EsMove *move, const Place *place);
static bool leave_resource(EsMove *move, List *own, const char *resource);
static void run(EsPlan *plan, Datum *values);
static void hand_on(EsMove *move, const char *resource);

bool
es_semantic_lock_of(EsMove *move, const EsAslState *state, EsStep *step, const EsAslScope *scope, EsAslFault *fault)
{
	JsonbValue	v;
	EsAslFault	own = {0};
	int			len;

	/* the same for all attempts, whatever functions are in it */
	if (state->lock == NULL || step->resource != NULL)
		return true;
	if (!es_asl_expression_value(state->lock, scope, &v, &own))
		return es_asl_fail(fault, ES_ASL_RUNTIME, "Lock: %s", own.cause);
	if (v.type != jbvString && v.type != jbvNumeric)
		return es_asl_fail(fault, ES_ASL_RUNTIME, "Lock: %s is neither a string nor a number", es_asl_value_shown(&v));
	step->resource = es_asl_value_text(&v, &len);
	if (len == 0 || len > ES_MAX_NAME_BYTES)
		return es_asl_fail(fault, ES_ASL_RUNTIME, "Lock: %s does not have 1 to %d bytes", es_asl_value_shown(&v), ES_MAX_NAME_BYTES);
	step->resource = pnstrdup(step->resource, len);
	return true;
}

EsSemanticLock
es_semantic_lock_take(EsMove *move, EsStep *step, EsEnding *failure)
{
	bool		is_held = false;

	if (!try_resource(move, step->resource))
		try_again(move, step->parent, step->seq);
	else if (!enter_queue(move, step, &is_held))
	{
		*failure = (EsEnding) {.error = "evtstore.LockDeadlock", .retry_after = -1,
			.cause = psprintf("who is in front at lock \"%s\" waits for this saga", step->resource)};
		return ES_SEMANTIC_DEADLOCK;
	}
	move->saga.has_lock = true;
	step->has_lock = is_held;
	return is_held ? ES_SEMANTIC_HELD : ES_SEMANTIC_WAITS;
}

void
es_semantic_lock_arrived(EsMove *move, int parent, int seq, int tries)
{
	EsStep	   *step = seq == 0 ? NULL : es_move_step(move, parent, seq);

	move->lock_tries = tries + 1;
	if (step != NULL && ES_WAITS_FOR_LOCK(step) && es_move_is_live(move, step))
		es_move_walk(move, es_task_go_on(move, step));
	else
		move->has_left_lock = true;
}

void
es_semantic_locks_leave(EsMove *move)
{
	Datum		values[1] = {UUIDPGetDatum(&move->saga.id)};
	List	   *own;
	const char *resource = NULL;
	bool		is_complete = true;
	ListCell   *lc;

	if (!move->saga.has_lock || !(move->has_left_lock || ES_SAGA_HAS_ENDED(move->saga.status)))
		return;
	own = places(&all_plan, values, true);
	foreach(lc, own)
	{
		Place	   *place = lfirst(lc);

		if (resource != NULL && strcmp(resource, place->resource) == 0)
			continue;
		resource = place->resource;
		is_complete &= leave_resource(move, own, resource);
	}
	if (!is_complete)
		try_again(move, 0, 0);
}

/* false: it may not wait there.  Locks: the resource's */
static bool
enter_queue(EsMove *move, EsStep *step, bool *is_held)
{
	Datum		values[2] = {UUIDPGetDatum(&move->saga.id), CStringGetTextDatum(step->resource)};
	EsSpiState	state;
	uint64		n;
	int64		number = 0;
	bool		is_known = false;
	bool		isnull;

	es_queue_spi_begin(&state);
	n = es_spi_run(&own_plan, values, NULL, false, 0);
	for (uint64 i = 0; i < n; i++)
	{
		number = es_spi_int64(i, 0);
		is_known |= es_spi_int32(i, 1) == step->seq;
		*is_held |= DatumGetBool(es_spi_value(i, 2, &isnull));
	}
	es_spi_end(&state);
	if (*is_held)
	{
		run(&use_plan, values);
		return true;
	}
	if (is_known)
		return true;
	/* another step of this instance waits: they wait together */
	if (number == 0)
	{
		number = last_number(move, step->resource) + 1;
		*is_held = number == 1;
		/* who has nothing is waited for by nobody, but by his parent */
		if (!*is_held && (move->saga.parent_seq != 0 || has_any(move)))
		{
			if (!es_lock_try(ES_LOCK_SEMANTIC_WAITS, es_queue_tenant_hash(move->saga.tenant, strlen(move->saga.tenant))))
			{
				try_again(move, step->parent, step->seq);
				return true;
			}
			if (closes_circle(move, step, number))
				return false;
		}
	}
	insert(move, step, number, *is_held);
	return true;
}

/*
 * Would it wait for itself, with that number?  Whoever gets a lock was first among those who wait for it, so only who begins to wait makes
 * anybody wait for somebody else than before; and all who may close a circle do that one after the other.  Locks: the resource's, ES_LOCK_SEMANTIC_WAITS
 */
static bool
closes_circle(EsMove *move, const EsStep *step, int64 number)
{
	Datum	   *ids = palloc((es_moves_within() + 2) * sizeof(Datum));
	int			n = 0;
	Datum		values[4] = {CStringGetTextDatum(move->saga.tenant), CStringGetTextDatum(step->resource), Int64GetDatum(number)};
	EsSpiState	state;
	bool		found;

	/* those that are in their first transition have no rows yet */
	for (const EsMove *m = move; m != NULL; m = m->above)
	{
		ids[n++] = UUIDPGetDatum(&m->saga.id);
		if (m->above == NULL && m->saga.parent_seq != 0)
			ids[n++] = UUIDPGetDatum(&m->saga.parent_id);
	}
	values[3] = PointerGetDatum(construct_array(ids, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	es_queue_spi_begin(&state);
	found = es_spi_run(&circle_plan, values, NULL, false, 1) > 0;
	es_spi_end(&state);
	return found;
}

static void
insert(EsMove *move, const EsStep *step, int64 number, bool is_held)
{
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[8] = {CStringGetTextDatum(move->saga.tenant), CStringGetTextDatum(step->resource), UUIDPGetDatum(&move->saga.id), Int64GetDatum(number),
		Int32GetDatum(step->parent), Int32GetDatum(is_held ? 0 : step->seq), TimestampTzGetDatum(now), TimestampTzGetDatum(now)};
	EsSpiState	state;

	es_queue_spi_begin(&state);
	(void) es_spi_run(&insert_plan, values, is_held ? NULL : "       n", false, 0);
	es_spi_end(&state);
}

/* false: somebody is at it, or this transaction need not see what others did there */
static bool
try_resource(EsMove *move, const char *resource)
{
	const char *tenant = move->saga.tenant;
	uint64		seed = hash_bytes_extended((const unsigned char *) tenant, strlen(tenant), 0);

	return !IsolationUsesXactSnapshot() && es_lock_try(ES_LOCK_SEMANTIC, hash_bytes_extended((const unsigned char *) resource, strlen(resource), seed));
}

/* seq 0: what it has left is to be given back */
static void
try_again(EsMove *move, int parent, int seq)
{
	int64		ms = Min(AGAIN_MS << Min(move->lock_tries, 10), MAX_AGAIN_MS);

	es_arrival_leave_lock(&move->saga.id, move->saga.tenant, parent, seq, move->lock_tries, move->now + ms * 1000);
}

static bool
has_any(EsMove *move)
{
	Datum		values[1] = {UUIDPGetDatum(&move->saga.id)};
	EsSpiState	state;
	bool		result;

	es_queue_spi_begin(&state);
	result = es_spi_run(&any_plan, values, NULL, false, 1) > 0;
	es_spi_end(&state);
	return result;
}

/* 0: nobody has it */
static int64
last_number(EsMove *move, const char *resource)
{
	Datum		values[2] = {CStringGetTextDatum(move->saga.tenant), CStringGetTextDatum(resource)};
	EsSpiState	state;
	int64		number;

	es_queue_spi_begin(&state);
	number = es_spi_run(&last_plan, values, NULL, false, 1) > 0 ? es_spi_int64(0, 0) : 0;
	es_spi_end(&state);
	return number;
}

/* all of an instance, or those who are next */
static List *
places(EsPlan *plan, Datum *values, bool is_of_one)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;
	EsSpiState	state;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(plan, values, NULL, false, 0);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		Place	   *place = palloc0(sizeof(Place));
		bool		isnull;

		if (is_of_one)
		{
			place->resource = text_to_cstring(DatumGetTextPP(es_spi_value(i, 0, &isnull)));
			place->is_held = DatumGetBool(es_spi_value(i, 4, &isnull));
		}
		else
			place->saga = *DatumGetUUIDP(es_spi_value(i, 0, &isnull));
		place->number = es_spi_int64(i, 1);
		place->parent = es_spi_int32(i, 2);
		place->seq = es_spi_int32(i, 3);
		result = lappend(result, place);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	return result;
}

/* nobody needs it any more: the instance has ended, or the step that asked for it has without having had it */
static bool
is_stale(EsMove *move, const Place *place)
{
	EsStep	   *step;

	if (ES_SAGA_HAS_ENDED(move->saga.status))
		return true;
	if (place->seq == 0)
		return false;
	step = es_move_step(move, place->parent, place->seq);
	return step == NULL || step->status != ES_STEP_WAITING;
}

/* false: not now */
static bool
leave_resource(EsMove *move, List *own, const char *resource)
{
	bool		is_ours = false;
	bool		is_free = false;
	ListCell   *lc;

	foreach(lc, own)
	{
		Place	   *place = lfirst(lc);
		Datum		values[4] = {CStringGetTextDatum(move->saga.tenant), CStringGetTextDatum(resource), Int64GetDatum(place->number), Int32GetDatum(place->seq)};

		if (strcmp(place->resource, resource) != 0 || !is_stale(move, place))
			continue;
		if (!is_ours && !try_resource(move, resource))
			return false;
		is_ours = true;
		run(&delete_plan, values);
		is_free |= place->is_held;
	}
	if (is_free)
		hand_on(move, resource);
	return true;
}

static void
run(EsPlan *plan, Datum *values)
{
	EsSpiState	state;

	es_queue_spi_begin(&state);
	(void) es_spi_run(plan, values, NULL, false, 0);
	es_spi_end(&state);
}

/* to the next instance: one row has it, and all its steps that wait for it are told.  Locks: the resource's */
static void
hand_on(EsMove *move, const char *resource)
{
	Datum		values[5] = {CStringGetTextDatum(move->saga.tenant), CStringGetTextDatum(resource)};
	bool		is_first = true;
	ListCell   *lc;

	foreach(lc, places(&next_plan, values, false))
	{
		Place	   *place = lfirst(lc);

		values[2] = Int64GetDatum(place->number);
		values[3] = Int32GetDatum(place->seq);
		values[4] = TimestampTzGetDatum(GetCurrentTimestamp());
		run(is_first ? &hold_plan : &delete_plan, values);
		is_first = false;
		es_arrival_leave_lock(&place->saga, move->saga.tenant, place->parent, place->seq, 0, 0);
	}
}
