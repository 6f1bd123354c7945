/*
 * registry_area.h
 *		The layout of the worker registry; for registry.c and registry_database.c only.
 */
#ifndef ES_REGISTRY_AREA_H
#define ES_REGISTRY_AREA_H

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "registry.h"

/* a worker; under the lock, unless said otherwise */
typedef struct EsRegistrySlot
{
	EsWorkerState state;
	EsWorkerKind kind;
	Oid database;				 /* InvalidOid for the launcher */
	uint32 generation;			 /* raised by each reservation */
	uint32 look;				 /* of the database, when the worker attached */
	pid_t pid;					 /* 0: reserved only */
	int procno;
	TimestampTz since;			 /* reserved, then attached */
	pg_atomic_uint32 leave;		 /* 1: end at the next safe point; read by the worker without the lock */
	pg_atomic_uint64 deliveries; /* written by the worker only */
	pg_atomic_uint64 failures;
} EsRegistrySlot;

/* when may the next worker of a kind start */
typedef struct EsRegistryPace
{
	int failures; /* in a row */
	TimestampTz next_start;
} EsRegistryPace;

/* a database; under the lock */
typedef struct EsRegistryDatabase
{
	Oid oid; /* InvalidOid: free */
	EsDatabaseState state;
	uint32 look;	/* raised by each request to look again */
	Oid appended;	/* the extension (it may be dropped and made again) in which somebody appended since the start */
	EsRegistryPace scheduler;
	EsRegistryPace delivery;
	EsRegistryPace rebuild;
	EsRegistryPace relay;
} EsRegistryDatabase;

typedef struct EsRegistry
{
	/* immutable */
	int nslots;
	int ndatabases;
	int nforbids;
	/* under the lock */
	int launcher_procno;   /* -1: none runs */
	bool rescan;		   /* pg_database changed */
	bool full;			   /* some database found no entry */
	TimestampTz exhausted; /* since when the server has no worker slot for us */
	/* broadcast when a worker has gone */
	ConditionVariable gone;
} EsRegistry;

extern EsRegistry *es_registry;
extern LWLockPadded *es_registry_locks;
#define ES_REGISTRY_LOCK (&es_registry_locks[0].lock)

/* in registry.c; the three tables behind the head of the area */
extern EsRegistrySlot *es_registry_slots(void);
extern EsRegistryDatabase *es_registry_databases(void);
/* by proc number: the database in which that backend wants no worker, or InvalidOid */
extern Oid *es_registry_forbids(void);
/* Locks: the registry's, held */
extern void es_registry_ask_to_leave(Oid database);
extern void es_registry_wake_launcher(void);

/* in registry_database.c; Locks: the registry's, held */
/* with InvalidOid: a free entry */
extern EsRegistryDatabase *es_registry_find_database(Oid oid);
extern bool es_registry_is_forbidden(Oid oid);
/* by kind of worker */
extern EsRegistryPace *es_registry_pace(EsRegistryDatabase *db, EsWorkerKind kind);
/* the worker of that slot ends */
extern void es_registry_note_end(EsRegistryPace *pace, EsRegistrySlot *slot, bool failed);

#endif
