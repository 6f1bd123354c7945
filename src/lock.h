/*
 * lock.h
 *		Heavyweight locks of ours, held to the end of the transaction: streams, tags and types, queues and their keys,
 *		shares of queues that somebody reads, subscriptions and their lanes, names of definitions, commands, imports, scavenging, the ledger, the making
 *		of snapshots and of shadows, semantic locks of sagas.
 *
 * They are advisory locks of the server with a fourth field that pg_advisory_lock() never uses, so that no application
 * can take or block them; pg_locks shows them with that number, as a negative smallint, in objsubid.
 */
#ifndef ES_LOCK_H
#define ES_LOCK_H

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/resowner.h"

typedef enum EsLockSpace
{
	ES_LOCK_STREAM = 0xE501,
	ES_LOCK_KEY = 0xE502,
	ES_LOCK_DEFINITION = 0xE503,
	ES_LOCK_QUEUE = 0xE504,
	ES_LOCK_ALL_TAGS = 0xE505, /* every tag of a tenant (condition.c) */
	ES_LOCK_TAG = 0xE506,	   /* a tag, or a tag with a type */
	ES_LOCK_TYPE = 0xE507,	   /* a type, or every type */
	ES_LOCK_ALL_TYPES = 0xE50D, /* very many types of a tenant at once */
	ES_LOCK_EVENT_ID = 0xE508, /* an event id outside of streams (append.c) */
	ES_LOCK_COMMAND = 0xE511,
	ES_LOCK_IMPORT = 0xE512,
	ES_LOCK_SUBSCRIPTION = 0xE50E,
	ES_LOCK_LANE = 0xE50F, /* of a subscription (poll.c) */
	ES_LOCK_WALK = 0xE513, /* of a share of a queue (queue_walk.c) */
	ES_LOCK_LEDGER = 0xE50A,
	ES_LOCK_SNAPSHOT = 0xE50B,
	ES_LOCK_SCAVENGE = 0xE50C, /* one for the store */
	ES_LOCK_SAGA = 0xE515, /* a definition of sagas: shared by who starts one (saga_answer.c) */
	ES_LOCK_SEMANTIC = 0xE516,		 /* what sagas work on (saga_lock.c) */
	ES_LOCK_SEMANTIC_WAITS = 0xE517, /* of a tenant: who begins to wait for another of these */
	ES_LOCK_SHADOW = 0xE514	   /* the privileges on the schema of shadows (shadow.c) */
} EsLockSpace;

/*
 * The owner of a lock is the (sub)transaction, whose rows the lock is about, and not the portal that happens to run: the
 * server gives a portal that failed in a savepoint to that savepoint, with all that it owns, and what an earlier FETCH
 * locked outside of the savepoint would be released with it.
 */
static inline LockAcquireResult
es_lock_acquire(EsLockSpace space, uint64 hash, LOCKMODE mode, bool dont_wait)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	LockAcquireResult result;
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	CurrentResourceOwner = CurTransactionResourceOwner;
	result = LockAcquire(&tag, mode, false, dont_wait);
	CurrentResourceOwner = old_owner;
	return result;
}

/* waits; detects deadlocks; released at the end of the (sub)transaction that took it */
static inline void
es_lock(EsLockSpace space, uint64 hash)
{
	(void) es_lock_acquire(space, hash, ExclusiveLock, false);
}

/* false instead of waiting */
static inline bool
es_lock_try(EsLockSpace space, uint64 hash)
{
	return es_lock_acquire(space, hash, ExclusiveLock, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* in another mode than exclusive; true when this transaction did not hold it in that mode yet */
static inline bool
es_lock_mode(EsLockSpace space, uint64 hash, LOCKMODE mode)
{
	return es_lock_acquire(space, hash, mode, false) != LOCKACQUIRE_ALREADY_HELD;
}

/* gives back what es_lock_mode took, before the end of the transaction */
static inline void
es_lock_release(EsLockSpace space, uint64 hash, LOCKMODE mode)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, space);
	CurrentResourceOwner = CurTransactionResourceOwner;
	(void) LockRelease(&tag, mode, false);
	CurrentResourceOwner = old_owner;
}

/* a relation's lock, of the (sub)transaction or of the whole transaction, for the same reason */
static inline void
es_lock_relation(Oid relation, LOCKMODE mode, ResourceOwner owner)
{
	ResourceOwner old_owner = CurrentResourceOwner;

	CurrentResourceOwner = owner;
	LockRelationOid(relation, mode);
	CurrentResourceOwner = old_owner;
}

#endif
