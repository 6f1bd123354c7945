/*
 * identity.c
 *		Is this the place that delivers, or a copy of it?
 *
 * A copy of a store must not talk to the customers of the original.  The table evtstore_internal.identity holds one row
 * that names a place by four things, and delivery takes place only where all four are equal to what is found here:
 *
 *		system identifier	differs after dump and restore into another cluster, and after pg_upgrade
 *		database oid		differs after CREATE DATABASE ... TEMPLATE and restore into another database
 *		extension oid		differs after DROP and CREATE EXTENSION, so also after a restore into the same database
 *		location			differs for a copy of the data directory: real path and inode of PG_VERSION, a file
 *							that initdb writes and nobody ever rewrites
 *
 * The row is written by the first definition, not by CREATE EXTENSION: a restore runs CREATE EXTENSION, then copies
 * the rows, then sets the sequences, and must find no row in its way; until the row of the original arrives there is
 * none, and without a row nothing is delivered.  So no worker starts between CREATE EXTENSION and the last COPY,
 * whatever the order in which tables are restored.
 *
 * A promoted standby is the same system at another location: the row follows, but only when this server came up as a
 * standby and everything else is equal.  What cannot be told apart is a snapshot of a whole volume that is mounted at
 * the same path: there evtstore.enabled = off belongs into the configuration before the start.
 *
 * Runs in the scheduler, in delivery workers and in backends.  The row is read under the latest snapshot and changed
 * transactionally; changes are told like those of definitions.
 */
#include "postgres.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "identity.h"
#include "shmem.h"
#include "spi.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evtstore_resume_delivery);

/* in the order of the statements' arguments */
enum
{
	SYSTEM_IDENTIFIER,
	DATABASE_OID,
	EXTENSION_OID,
	LOCATION,
	NPARTS
};

static const char *const part_names[NPARTS] = {"system identifier", "database oid", "extension oid", "location"};

static EsPlan find_plan = {
	.sql = "SELECT system_identifier, database_oid, extension_oid, location FROM evtstore_internal.identity",
};

static EsPlan establish_plan = {
	.sql = "INSERT INTO evtstore_internal.identity (system_identifier, database_oid, extension_oid, location,"
	" recorded_at)"
	" VALUES ($1, $2, $3, $4, now()) ON CONFLICT (singleton) DO NOTHING",
	.nargs = NPARTS,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan move_plan = {
	.sql = "UPDATE evtstore_internal.identity SET location = $4, recorded_at = now()"
	" WHERE system_identifier = $1 AND database_oid = $2 AND extension_oid = $3 AND location <> $4",
	.nargs = NPARTS,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan resume_plan = {
	.sql = "INSERT INTO evtstore_internal.identity (system_identifier, database_oid, extension_oid, location,"
	" recorded_at) VALUES ($1, $2, $3, $4, now()) ON CONFLICT (singleton) DO UPDATE"
	" SET system_identifier = excluded.system_identifier, database_oid = excluded.database_oid,"
	" extension_oid = excluded.extension_oid, location = excluded.location,"
	" recorded_at = excluded.recorded_at",
	.nargs = NPARTS,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
};

static uint64 run_here(EsPlan *plan);
static void describe_here(char *here[NPARTS]);
static const char *location(void);

/* evtstore.resume_delivery(): evtstore_admin, by grant */
Datum
evtstore_resume_delivery(PG_FUNCTION_ARGS)
{
	es_catalog_require_writable("resume_delivery");
	run_here(&resume_plan);
	/* the scheduler reads the row again, and it is the one who hears when no worker is there */
	es_catalog_definitions_changed();
	es_wakeup_at_commit(0);
	PG_RETURN_VOID();
}

EsIdentity
es_identity_check(char **detail)
{
	EsIdentity	identity = ES_IDENTITY_NONE;
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;

	es_spi_begin(&state);
	if (es_spi_run_latest(&find_plan, NULL, NULL) > 0)
	{
		char	   *here[NPARTS];

		identity = ES_IDENTITY_HERE;
		describe_here(here);
		for (int i = 0; i < NPARTS && identity == ES_IDENTITY_HERE; i++)
		{
			char	   *there = es_spi_text(0, i);

			if (there != NULL && strcmp(there, here[i]) == 0)
				continue;
			identity = ES_IDENTITY_ELSEWHERE;
			if (detail != NULL)
			{
				MemoryContext spi = MemoryContextSwitchTo(caller);

				*detail = psprintf("The store delivers from the %s %s; here it is %s.", part_names[i],
								   there ? there : "(none)", here[i]);
				MemoryContextSwitchTo(spi);
			}
		}
	}
	es_spi_end(&state);
	return identity;
}

void
es_identity_establish(void)
{
	run_here(&establish_plan);
}

void
es_identity_follow_promotion(void)
{
	if (!es_shmem_started_as_standby())
		return;
	if (run_here(&move_plan) > 0)
		ereport(LOG,
				(errmsg("this server was promoted: the event store delivers from %s now", location())));
}

/* runs a statement whose arguments are this place; returns the number of rows */
static uint64
run_here(EsPlan *plan)
{
	char	   *here[NPARTS];
	Datum		values[NPARTS];
	uint64		rows;
	EsSpiState	state;

	describe_here(here);
	for (int i = 0; i < NPARTS; i++)
		values[i] = CStringGetTextDatum(here[i]);
	es_spi_begin(&state);
	rows = es_spi_run(plan, values, NULL, false, 0);
	es_spi_end(&state);
	return rows;
}

static void
describe_here(char *here[NPARTS])
{
	here[SYSTEM_IDENTIFIER] = psprintf(UINT64_FORMAT, GetSystemIdentifier());
	here[DATABASE_OID] = psprintf("%u", MyDatabaseId);
	here[EXTENSION_OID] = psprintf("%u", es_catalog()->extension);
	here[LOCATION] = pstrdup(location());
}

/* does not change while the server runs */
static const char *
location(void)
{
	static char *cached = NULL;
	char		path[PATH_MAX];
	struct stat st;

	if (cached != NULL)
		return cached;
	if (realpath(DataDir, path) == NULL || stat("PG_VERSION", &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not identify data directory \"%s\": %m", DataDir)));
	cached = MemoryContextStrdup(TopMemoryContext, psprintf("%s:" UINT64_FORMAT, path, (uint64) st.st_ino));
	return cached;
}
