/*
 * definition_slot.c
 *		Which slot of a table in shared memory belongs to which definition of which store.
 *
 * Runs in backends, workers and the launcher.  Subscriptions (lane.c) and queues (queue_state.c) keep what is in use of them
 * in slots, and a slot goes with its definition: when that is dropped, or its making was rolled back, when the extension or
 * the database is.  All under the caller's lock, which nobody holds while he waits.  A crash makes the table anew.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "definition_slot.h"

static int	find_key(EsSlots *slots, const EsSlotKey *key);
static int	take_free(EsSlots *slots, LWLock *lock, const EsSlotKey *key, void (*begin) (int slot, void *arg), void *arg);
static void free_slot(EsSlots *slots, int slot, void (*end) (int slot));
static bool is_dropped_here(Oid table);
static void free_dead_keys(EsSlots *slots, LWLock *lock, const char *kind, EsLockSpace space, Oid definition);

Size
es_slots_size(int nslots)
{
	return MAXALIGN(add_size(offsetof(EsSlots, keys), mul_size(nslots, sizeof(EsSlotKey))));
}

EsSlotKey
es_slot_key(int32 id)
{
	return (EsSlotKey) {MyDatabaseId, es_catalog()->definition, id};
}

int
es_slots_find(EsSlots *slots, LWLock *lock, int32 id)
{
	EsSlotKey	key = es_slot_key(id);

	return es_slots_find_key(slots, lock, &key);
}

int
es_slots_find_key(EsSlots *slots, LWLock *lock, const EsSlotKey *key)
{
	int			slot;

	LWLockAcquire(lock, LW_SHARED);
	slot = find_key(slots, key);
	LWLockRelease(lock);
	return slot;
}

int
es_slots_take(EsSlots *slots, LWLock *lock, const char *kind, EsLockSpace space, int32 id, void (*begin) (int slot, void *arg), void *arg)
{
	EsSlotKey	key = es_slot_key(id);
	int			slot = es_slots_find(slots, lock, id);

	if (slot >= 0)
		return slot;
	slot = take_free(slots, lock, &key, begin, arg);
	if (slot < 0)
	{
		free_dead_keys(slots, lock, kind, space, key.definition);
		slot = take_free(slots, lock, &key, begin, arg);
	}
	return slot;
}

/* -1: there is none */
static int
take_free(EsSlots *slots, LWLock *lock, const EsSlotKey *key, void (*begin) (int slot, void *arg), void *arg)
{
	const EsSlotKey free_key = {0};
	int			slot;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_key(slots, key);
	if (slot < 0)
	{
		slot = find_key(slots, &free_key);
		if (slot >= 0)
		{
			begin(slot, arg);
			slots->keys[slot] = *key;
		}
	}
	LWLockRelease(lock);
	return slot;
}

void
es_slots_forget(EsSlots *slots, LWLock *lock, const EsSlotKey *key, void (*end) (int slot))
{
	int			slot;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_key(slots, key);
	if (slot >= 0)
		free_slot(slots, slot, end);
	LWLockRelease(lock);
}

EsSlotKey *
es_slots_lock_store(EsSlots *slots, LWLock *lock, EsLockSpace space, Oid definition, int *n)
{
	EsSlotKey  *keys = palloc(slots->nslots * sizeof(EsSlotKey));
	int			found = 0;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < slots->nslots; i++)
		if (slots->keys[i].database == MyDatabaseId && slots->keys[i].definition == definition)
			keys[found++] = slots->keys[i];
	LWLockRelease(lock);
	*n = 0;
	/* it may be gone until its lock is ours */
	for (int i = 0; i < found; i++)
		if (es_lock_acquire(space, keys[i].id, AccessExclusiveLock, true) != LOCKACQUIRE_NOT_AVAIL &&
			es_slots_find_key(slots, lock, &keys[i]) >= 0)
			keys[(*n)++] = keys[i];
	return keys;
}

void
es_slots_forget_databases(EsSlots *slots, LWLock *lock, List *existing, void (*end) (int slot))
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < slots->nslots; i++)
	{
		EsSlotKey  *key = &slots->keys[i];

		if (!OidIsValid(key->database) || list_member_oid(existing, key->database))
			key->missed = false;
		else if (!key->missed)
			key->missed = true;
		else
			free_slot(slots, i, end);
	}
	LWLockRelease(lock);
}

/* Locks: the caller's, exclusive */
static void
free_slot(EsSlots *slots, int slot, void (*end) (int slot))
{
	if (end != NULL)
		end(slot);
	memset(&slots->keys[slot], 0, sizeof(EsSlotKey));
}

/* -1: there is none.  Locks: the caller's */
static int
find_key(EsSlots *slots, const EsSlotKey *key)
{
	for (int i = 0; i < slots->nslots; i++)
	{
		const EsSlotKey *it = &slots->keys[i];

		if (it->database == key->database && it->definition == key->definition && it->id == key->id)
			return i;
	}
	return -1;
}

/* who drops a table, also with its extension, has its lock to the end of his transaction */
static bool
is_dropped_here(Oid table)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	return es_lock_held_by_me(&tag, AccessExclusiveLock);
}

/*
 * Those of this database whose store was dropped, or whose definition is not there: its making was rolled back.  Who uses a
 * definition, or makes it and uses it, holds its lock to the end of his transaction: one whose lock is to be had, and that is not
 * there then, is nobody's.  But for what this transaction dropped itself, which holds that lock or that of the table: if it is
 * rolled back all of it is there again, with what others hold of it.
 */
static void
free_dead_keys(EsSlots *slots, LWLock *lock, const char *kind, EsLockSpace space, Oid definition)
{
	for (int i = 0; i < slots->nslots; i++)
	{
		EsSlotKey	key;
		LockAcquireResult lock_of_definition;
		bool		is_alive;
		ListCell   *lc;

		LWLockAcquire(lock, LW_SHARED);
		key = slots->keys[i];
		LWLockRelease(lock);
		if (key.database != MyDatabaseId)
			continue;
		lock_of_definition = es_lock_acquire(space, key.id, AccessExclusiveLock, true);
		if (lock_of_definition == LOCKACQUIRE_NOT_AVAIL)
			continue;
		is_alive = lock_of_definition != LOCKACQUIRE_OK || (key.definition != definition && is_dropped_here(key.definition));
		foreach(lc, es_definition_list(kind))
			is_alive |= key.definition == definition && key.id == ((EsDefinition *) lfirst(lc))->id;
		if (!is_alive)
			es_slots_forget(slots, lock, &key, NULL);
		es_lock_release(space, key.id, AccessExclusiveLock);
	}
}
