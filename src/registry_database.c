/*
 * registry_database.c
 *		The worker registry in shared memory: what is known of each database, and who wants no worker there.
 *
 * A database is unknown until a scheduler has looked at it, then absent (no extension), disabled (evtstore.enabled is
 * off) or running (a scheduler belongs there).  Absent and disabled ones get no session of ours until somebody says
 * look again.
 *
 * Reports of schedulers carry the database's look counter as it was when the scheduler attached.  If somebody asked
 * for another look meanwhile the report is old and the database stays what it was, so that no request is lost between
 * a look and its answer.
 *
 * The launcher, schedulers and backends call this; registry.c says which of them writes what.  All of it is under the
 * registry's lock, and made anew after a crash: then every database is unknown.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "registry.h"
#include "registry_area.h"

/* a worker that lived this long ended a row of failures */
#define HEALTHY_TIME (60 * USECS_PER_SEC)
#define MAX_BACKOFF (60 * USECS_PER_SEC)
/* databases looked at for the first time at once: a cluster of many must not use up the worker slots of the server */
#define MAX_PROBES 3

static bool is_unknown(Oid oid);
static bool has_scheduler(Oid oid);
static void look_again(EsRegistryDatabase *db);

void
es_registry_set_forbidden(Oid database)
{
	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	es_registry_forbids()[es_my_procno()] = database;
	LWLockRelease(ES_REGISTRY_LOCK);
}

void
es_registry_clear_forbidden(Oid database)
{
	EsRegistryDatabase *db;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	es_registry_forbids()[es_my_procno()] = InvalidOid;
	db = es_registry_find_database(database);
	if (db != NULL)
		db->scheduler.next_start = db->delivery.next_start = db->rebuild.next_start = db->relay.next_start = 0;
	es_registry_wake_launcher();
	LWLockRelease(ES_REGISTRY_LOCK);
}

/* runs after a commit: must not raise errors */
void
es_registry_look_at(const Oid *oids, int n, bool all, bool databases_changed)
{
	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	if (databases_changed)
		es_registry->rescan = true;
	for (int i = 0; i < es_registry->ndatabases; i++)
	{
		EsRegistryDatabase *db = &es_registry_databases()[i];
		bool		wanted = all && db->state != ES_DATABASE_ABSENT;

		if (!OidIsValid(db->oid))
			continue;
		for (int j = 0; j < n; j++)
		{
			if (oids[j] == db->oid)
				wanted = true;
		}
		if (wanted)
			look_again(db);
	}
	es_registry_wake_launcher();
	LWLockRelease(ES_REGISTRY_LOCK);
}

void
es_registry_set_databases(List *found)
{
	ListCell   *lc;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < es_registry->ndatabases; i++)
	{
		EsRegistryDatabase *db = &es_registry_databases()[i];
		bool		keep = false;

		if (!OidIsValid(db->oid))
			continue;
		foreach(lc, found)
		{
			EsFoundDatabase *f = lfirst(lc);

			if (f->oid == db->oid && f->eligible)
				keep = true;
		}
		if (!keep)
		{
			es_registry_ask_to_leave(db->oid);
			MemSet(db, 0, sizeof(*db));
		}
	}

	es_registry->full = false;
	foreach(lc, found)
	{
		EsFoundDatabase *f = lfirst(lc);
		EsRegistryDatabase *db = es_registry_find_database(f->oid);

		if (!f->eligible)
			continue;
		if (db == NULL)
			db = es_registry_find_database(InvalidOid);
		if (db == NULL)
		{
			es_registry->full = true;
			break;
		}
		db->oid = f->oid;
	}
	LWLockRelease(ES_REGISTRY_LOCK);
}

/* configuration was reloaded: databases may have been enabled; an extension cannot have appeared that way */
void
es_registry_settings_changed(void)
{
	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < es_registry->ndatabases; i++)
	{
		EsRegistryDatabase *db = &es_registry_databases()[i];

		if (!OidIsValid(db->oid) || db->state == ES_DATABASE_ABSENT)
			continue;
		db->look++;
		db->scheduler.next_start = db->delivery.next_start = db->rebuild.next_start = db->relay.next_start = 0;
		if (db->state == ES_DATABASE_DISABLED)
			db->state = ES_DATABASE_UNKNOWN;
	}
	LWLockRelease(ES_REGISTRY_LOCK);
}

bool
es_registry_take_rescan(void)
{
	bool		rescan;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	rescan = es_registry->rescan;
	es_registry->rescan = false;
	LWLockRelease(ES_REGISTRY_LOCK);
	return rescan;
}

Oid
es_registry_scheduler_due(TimestampTz now, TimestampTz *next)
{
	Oid			due = InvalidOid;
	int			probes = 0;

	*next = 0;
	LWLockAcquire(ES_REGISTRY_LOCK, LW_SHARED);
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state == ES_STATE_FREE || slot->kind != ES_WORKER_SCHEDULER)
			continue;
		probes += is_unknown(slot->database);
	}
	for (int i = 0; i < es_registry->ndatabases && !OidIsValid(due); i++)
	{
		EsRegistryDatabase *db = &es_registry_databases()[i];

		if (!OidIsValid(db->oid) || db->state == ES_DATABASE_ABSENT || db->state == ES_DATABASE_DISABLED)
			continue;
		if (db->state == ES_DATABASE_UNKNOWN && probes >= MAX_PROBES)
			continue;
		/* who forbids wakes the launcher when it allows again */
		if (has_scheduler(db->oid) || es_registry_is_forbidden(db->oid))
			continue;
		if (db->scheduler.next_start <= now)
			due = db->oid;
		else if (*next == 0 || db->scheduler.next_start < *next)
			*next = db->scheduler.next_start;
	}
	LWLockRelease(ES_REGISTRY_LOCK);
	return due;
}

void
es_registry_report(EsDatabaseState state)
{
	EsRegistrySlot *slot = &es_registry_slots()[es_registry_slot()];
	EsRegistryDatabase *db;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	db = es_registry_find_database(slot->database);
	if (db != NULL && db->look == slot->look && db->state != state)
	{
		db->state = state;
		es_registry_wake_launcher();
	}
	LWLockRelease(ES_REGISTRY_LOCK);
}

bool
es_registry_note_append(Oid extension)
{
	EsRegistryDatabase *db;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	db = es_registry_find_database(MyDatabaseId);
	if (db != NULL)
		db->appended = extension;
	LWLockRelease(ES_REGISTRY_LOCK);
	return db != NULL;
}

bool
es_registry_appended(Oid extension)
{
	EsRegistryDatabase *db;
	bool		appended;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_SHARED);
	db = es_registry_find_database(MyDatabaseId);
	appended = db != NULL && db->appended == extension;
	LWLockRelease(ES_REGISTRY_LOCK);
	return appended;
}

bool
es_registry_database(Oid database, EsDatabaseRow *row)
{
	EsRegistryDatabase *db;

	MemSet(row, 0, sizeof(*row));
	LWLockAcquire(ES_REGISTRY_LOCK, LW_SHARED);
	db = es_registry_find_database(database);
	if (db != NULL)
	{
		row->state = db->state;
		row->failures = db->scheduler.failures;
		row->next_start = db->scheduler.next_start;
		for (int i = 0; i < es_registry->nforbids; i++)
		{
			if (es_registry_forbids()[i] == database)
				row->forbidden_by = es_proc_by_number(i)->pid;
		}
	}
	LWLockRelease(ES_REGISTRY_LOCK);
	return db != NULL;
}

bool
es_registry_full(void)
{
	return es_registry->full;
}

/* with InvalidOid: a free entry */
EsRegistryDatabase *
es_registry_find_database(Oid oid)
{
	for (int i = 0; i < es_registry->ndatabases; i++)
	{
		if (es_registry_databases()[i].oid == oid)
			return &es_registry_databases()[i];
	}
	return NULL;
}

/* a session that ended gave its entry back; one that was killed took shared memory with it */
bool
es_registry_is_forbidden(Oid oid)
{
	for (int i = 0; i < es_registry->nforbids; i++)
	{
		if (es_registry_forbids()[i] == oid && es_proc_by_number(i)->pid != 0)
			return true;
	}
	return false;
}

EsRegistryPace *
es_registry_pace(EsRegistryDatabase *db, EsWorkerKind kind)
{
	switch (kind)
	{
		case ES_WORKER_LAUNCHER:
		case ES_WORKER_SCHEDULER:
			return &db->scheduler;
		case ES_WORKER_DELIVERY:
			return &db->delivery;
		case ES_WORKER_REBUILD:
			return &db->rebuild;
		case ES_WORKER_RELAY:
			return &db->relay;
	}
	return NULL;
}

/* when may the next one start: at once after a request to leave, else after 1 s, 2 s, 4 s … 60 s */
void
es_registry_note_end(EsRegistryPace *pace, EsRegistrySlot *slot, bool failed)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz backoff = USECS_PER_SEC;

	if (!failed)
	{
		pace->failures = 0;
		pace->next_start = pg_atomic_read_u32(&slot->leave) ? 0 : now + USECS_PER_SEC;
		return;
	}
	if (now - slot->since > HEALTHY_TIME)
		pace->failures = 0;
	pace->failures++;
	for (int i = 1; i < pace->failures && backoff < MAX_BACKOFF; i++)
		backoff *= 2;
	pace->next_start = now + Min(backoff, MAX_BACKOFF);
}

static bool
is_unknown(Oid oid)
{
	EsRegistryDatabase *db = es_registry_find_database(oid);

	return db != NULL && db->state == ES_DATABASE_UNKNOWN;
}

static bool
has_scheduler(Oid oid)
{
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state != ES_STATE_FREE && slot->kind == ES_WORKER_SCHEDULER && slot->database == oid)
			return true;
	}
	return false;
}

static void
look_again(EsRegistryDatabase *db)
{
	db->look++;
	db->state = ES_DATABASE_UNKNOWN;
	MemSet(&db->scheduler, 0, sizeof(db->scheduler));
	MemSet(&db->delivery, 0, sizeof(db->delivery));
	MemSet(&db->rebuild, 0, sizeof(db->rebuild));
	MemSet(&db->relay, 0, sizeof(db->relay));
	es_registry_ask_to_leave(db->oid);
}
