/*
 * registry.h
 *		The worker registry in shared memory: who runs in which database, who may not, and why.
 */
#ifndef ES_REGISTRY_H
#define ES_REGISTRY_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

typedef enum EsWorkerKind
{
	ES_WORKER_LAUNCHER,
	ES_WORKER_SCHEDULER,
	ES_WORKER_DELIVERY,
	ES_WORKER_REBUILD,
	ES_WORKER_RELAY
} EsWorkerKind;

typedef enum EsWorkerState
{
	ES_STATE_FREE,	   /* nobody has this slot */
	ES_STATE_STARTING, /* reserved for a process that has not come up yet, or is connecting */
	ES_STATE_IDLE,
	ES_STATE_BUSY
} EsWorkerState;

typedef enum EsDatabaseState
{
	ES_DATABASE_UNKNOWN,  /* nobody looked yet, or something changed since */
	ES_DATABASE_ABSENT,	  /* the extension is not there: no session of ours until somebody says look again */
	ES_DATABASE_DISABLED, /* evtstore.enabled is off there */
	ES_DATABASE_RUNNING	  /* a scheduler belongs there */
} EsDatabaseState;

/* copies out of shared memory, for those who show them */
typedef struct EsWorkerRow
{
	int slot;
	EsWorkerKind kind;
	EsWorkerState state;
	bool leaving;
	Oid database;
	int pid; /* 0: not up yet */
	TimestampTz since;
	int64 deliveries;
	int64 failures;
} EsWorkerRow;

typedef struct EsDatabaseRow
{
	EsDatabaseState state;
	int failures;			/* of the scheduler, in a row */
	TimestampTz next_start; /* not before then */
	int forbidden_by;		/* pid of the session that wants nobody here, or 0 */
} EsDatabaseRow;

/* a database as the launcher finds it in pg_database */
typedef struct EsFoundDatabase
{
	Oid oid;
	bool eligible; /* takes connections and is no template */
} EsFoundDatabase;

extern void es_registry_init(void);
extern const char *es_registry_kind_name(EsWorkerKind kind);

/* somebody appends to the store of this extension, here and now: it is not being restored */
extern bool es_registry_note_append(Oid extension); /* false: nobody would know, try again */
extern bool es_registry_appended(Oid extension);

/* request.c, for the sessions */
/* this backend wants no worker in the database; one database at a time */
extern void es_registry_set_forbidden(Oid database);
extern void es_registry_clear_forbidden(Oid database);
/* signals every worker of the database but this process; true when there was one */
extern bool es_registry_stop_workers(Oid database);
/* sleeps until some worker has gone; true when the time is up.  ConditionVariableCancelSleep() ends the waiting */
extern bool es_registry_wait_for_end(long ms);
/* these databases, or all that have the extension: workers there end, and the launcher looks again */
extern void es_registry_look_at(const Oid *oids, int n, bool all, bool databases_changed);

/* launcher */
extern void es_registry_set_databases(List *found); /* list of EsFoundDatabase * */
extern void es_registry_settings_changed(void);
extern bool es_registry_take_rescan(void);
/* a database that wants a scheduler now, or InvalidOid; then *next is when one will (0: not by time) */
extern Oid es_registry_scheduler_due(TimestampTz now, TimestampTz *next);
/* frees reservations whose process never came up */
extern void es_registry_expire(TimestampTz now);

/* launcher and scheduler: starts a worker in the database; false when the server has no worker slot left */
extern bool es_registry_start(EsWorkerKind kind, Oid database);
/* after a start that failed: when to try again */
extern TimestampTz es_registry_retry_start(TimestampTz now);

/* every worker */
/* takes the slot reserved for this process; false: it was meant for another time, or nobody may be there: exit 0 */
extern bool es_registry_attach(EsWorkerKind kind, Oid *database);
extern bool es_registry_told_to_leave(void);
extern void es_registry_set_state(EsWorkerState state);
extern int es_registry_slot(void);

/* scheduler: what it found; kept only when nobody said look again since it attached */
extern void es_registry_report(EsDatabaseState state);
/*
 * scheduler: how many workers of a kind are missing; dismisses those above wanted.  They may be started from *next on
 * (0: now), which is later after failures.
 */
extern int es_registry_missing_workers(EsWorkerKind kind, int wanted, TimestampTz *next);

/* delivery, rebuild and relay worker */
extern void es_registry_count(int deliveries, int failures);

/* health and views */
extern int es_registry_workers(EsWorkerRow **rows);
extern bool es_registry_database(Oid database, EsDatabaseRow *row);
/*
 * The server has had no worker slot for us for a while.  A moment without is normal: the postmaster gives a slot back
 * only after it has heard of the end of a worker.
 */
extern bool es_registry_exhausted(void);
/* databases do not fit the registry */
extern bool es_registry_full(void);

#endif
