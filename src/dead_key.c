/*
 * dead_key.c
 *		Keys of a subscription that were given up: their events go to the dead letters, in order (on_failure dead_letter_key).
 *
 * Runs in consumers' backends.  A row stands for a key from the event on that was given up, until somebody redrives one of its dead
 * letters or unblocks it.  It is written and looked at under the lane's heavyweight lock, so of two events of a key no second one is
 * handed out beside it.  A crash leaves what was committed.
 *
 * Nothing here is on the way of success where nothing was given up: a poll of a subscription with this policy asks once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "queue.h"
#include "spi.h"

/* $1 the subscription, $2 the tenant, $3 the key */

static EsPlan add_plan = {
	.sql = "INSERT INTO evtstore_internal.dead_key (subscription_id, tenant, key, since, error) VALUES ($1, $2, $3, $4, $5)"
	" ON CONFLICT DO NOTHING",
	.nargs = 5,
	.args = {INT4OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID},
};

static EsPlan find_plan = {
	.sql = "SELECT error FROM evtstore_internal.dead_key WHERE subscription_id = $1 AND tenant = $2 AND key = $3",
	.nargs = 3,
	.args = {INT4OID, TEXTOID, TEXTOID},
};

static EsPlan remove_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_key WHERE subscription_id = $1 AND tenant = $2 AND key = $3",
	.nargs = 3,
	.args = {INT4OID, TEXTOID, TEXTOID},
};

static EsPlan forget_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_key WHERE subscription_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static void bind(Datum *values, int32 subscription, const char *tenant, const char *key);

void
es_dead_key_add(int32 subscription, const char *tenant, const char *key, const char *error)
{
	EsSpiState	state;
	Datum		values[5];

	bind(values, subscription, tenant, key);
	values[3] = TimestampTzGetDatum(es_clock_now());
	values[4] = CStringGetTextDatum(error);
	es_queue_spi_begin(&state);
	es_spi_run(&add_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

bool
es_dead_key_find(int32 subscription, const char *tenant, const char *key, char **error)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[3];
	bool		found;

	bind(values, subscription, tenant, key);
	es_queue_spi_begin(&state);
	found = es_spi_run(&find_plan, values, NULL, false, 1) > 0;
	if (found && error != NULL)
		*error = MemoryContextStrdup(caller, es_spi_text(0, 0));
	es_spi_end(&state);
	return found;
}

bool
es_dead_key_remove(int32 subscription, const char *tenant, const char *key)
{
	EsSpiState	state;
	Datum		values[3];
	bool		removed;

	bind(values, subscription, tenant, key);
	es_queue_spi_begin(&state);
	removed = es_spi_run(&remove_plan, values, NULL, false, 0) > 0;
	es_spi_end(&state);
	return removed;
}

void
es_dead_key_forget(int32 subscription)
{
	EsSpiState	state;
	Datum		values[1] = {Int32GetDatum(subscription)};

	es_queue_spi_begin(&state);
	es_spi_run(&forget_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

static void
bind(Datum *values, int32 subscription, const char *tenant, const char *key)
{
	values[0] = Int32GetDatum(subscription);
	values[1] = CStringGetTextDatum(tenant);
	values[2] = CStringGetTextDatum(key);
}
