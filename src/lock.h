/*
 * lock.h
 *		Heavyweight locks of ours, held to the end of the transaction: streams, tags and types, queues and their keys,
 *		names of definitions, commands, imports, scavenging, the ledger, the making of snapshots.
 *
 * They are advisory locks of the server with a fourth field that pg_advisory_lock() never uses, so that no application
 * can take or block them; pg_locks shows them with that number, as a negative smallint, in objsubid.
 */
#ifndef ES_LOCK_H
#define ES_LOCK_H

#include "miscadmin.h"
#include "storage/lock.h"

typedef enum EsLockSpace
{
	ES_LOCK_STREAM = 0xE501,
	ES_LOCK_KEY = 0xE502,
	ES_LOCK_DEFINITION = 0xE503,
	ES_LOCK_QUEUE = 0xE504,
	ES_LOCK_ALL_TAGS = 0xE505, /* every tag of a tenant (condition.c) */
	ES_LOCK_TAG = 0xE506,	   /* a tag, or a tag with a type */
	ES_LOCK_TYPE = 0xE507,	   /* a type, or every type */
	ES_LOCK_EVENT_ID = 0xE508, /* an event id outside of streams (append.c) */
	ES_LOCK_COMMAND = 0xE511,
	ES_LOCK_IMPORT = 0xE512,
	ES_LOCK_LEDGER = 0xE50A,
	ES_LOCK_SNAPSHOT = 0xE50B,
	ES_LOCK_SCAVENGE = 0xE50C /* one for the store */
} EsLockSpace;

/* waits; detects deadlocks; released at the end of the (sub)transaction that took it */
static inline void
es_lock(EsLockSpace space, uint64 hash)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* false instead of waiting */
static inline bool
es_lock_try(EsLockSpace space, uint64 hash)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* in another mode than exclusive; true when this transaction did not hold it in that mode yet */
static inline bool
es_lock_mode(EsLockSpace space, uint64 hash, LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	return LockAcquire(&tag, mode, false, false) != LOCKACQUIRE_ALREADY_HELD;
}

/* gives back what es_lock_mode took, before the end of the transaction */
static inline void
es_lock_release(EsLockSpace space, uint64 hash, LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	(void) LockRelease(&tag, mode, false);
}

#endif
