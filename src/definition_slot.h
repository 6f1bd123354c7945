/*
 * definition_slot.h
 *		Which slot of a table in shared memory belongs to which definition of which store.
 */
#ifndef ES_DEFINITION_SLOT_H
#define ES_DEFINITION_SLOT_H

#include "nodes/pg_list.h"
#include "storage/lwlock.h"

#include "lock.h"

typedef struct EsSlotKey
{
	Oid database;	/* InvalidOid: the slot is free */
	Oid definition; /* the table: another one after DROP and CREATE EXTENSION */
	int32 id;
	bool missed;	/* the launcher did not find the database last time */
} EsSlotKey;

/* in shared memory, under the lock that each call takes */
typedef struct EsSlots
{
	int nslots; /* immutable */
	EsSlotKey keys[FLEXIBLE_ARRAY_MEMBER];
} EsSlots;

extern Size es_slots_size(int nslots);
extern EsSlotKey es_slot_key(int32 id);
/* the slot of this store's definition; -1: it has none */
extern int es_slots_find(EsSlots *slots, LWLock *lock, int32 id);
extern int es_slots_find_key(EsSlots *slots, LWLock *lock, const EsSlotKey *key);
/*
 * The same, but gives it one, after begin(slot, arg) has cleared it: nobody knows it before its key is there.  kind: of the
 * definitions, for telling which slots are free by now; space: of the lock that everybody holds who uses one.  -1: all are
 * in use.
 */
extern int es_slots_take(EsSlots *slots, LWLock *lock, const char *kind, EsLockSpace space, int32 id, void (*begin) (int slot, void *arg), void *arg);
/* frees the slot of the key, if it has one, after end(slot), which may be NULL.  Raises no error */
extern void es_slots_forget(EsSlots *slots, LWLock *lock, const EsSlotKey *key, void (*end) (int slot));
/*
 * Of who drops a store: the keys of those of its slots that nobody else uses right now, nor can before this (sub)transaction is over.
 * Waits for nobody; palloc'd
 */
extern EsSlotKey *es_slots_lock_store(EsSlots *slots, LWLock *lock, EsLockSpace space, Oid definition, int *n);
/* launcher: frees those whose database is missing for the second time */
extern void es_slots_forget_databases(EsSlots *slots, LWLock *lock, List *existing, void (*end) (int slot));

#endif
