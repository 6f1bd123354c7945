/*
 * message_id.c
 *		Ids of messages, out of blocks in shared memory.
 *
 * Runs in the backends and workers that send.  The sequence message_id_seq steps by a block; who finds none in shared memory, or
 * a used one, gets the next of the sequence and puts it there.  An id costs a spinlock instead of a visit to the sequence's page.
 *
 * Ids grow with time over all backends, which the order of keys needs (enqueue.c: an id is taken under the key's lock).  A block
 * is put into its place only if nobody has put one there since its backend found nothing there, which was before it asked the sequence:
 * so what is put into a place comes in the order of the sequence, though one is stopped in between, and though two databases of one
 * hash push each other's blocks out, which loses ids and nothing else.  Who lost that race takes from what is there.
 *
 * Shared: the places, each under its spinlock; nothing else is done under it.  A crash loses them, and the sequence, which is
 * WAL-logged, goes on behind every block it gave.
 */
#include "postgres.h"

#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/spin.h"

#include "catalog.h"
#include "message_id.h"
#include "shmem.h"

#define PLACES 64
/* INCREMENT of the sequence (sql/schema/50_queue.sql) */
#define BLOCK 1024

typedef struct Block
{
	slock_t		mutex;
	Oid			database;		/* InvalidOid: empty */
	Oid			sequence;		/* another one after DROP and CREATE EXTENSION */
	uint64		puts;			/* counts blocks that were put here */
	int64		next;
	int64		end;			/* not its own any more */
} Block;

/* of one cache line each */
typedef union Place
{
	Block		block;
	char		pad[PG_CACHE_LINE_SIZE];
} Place;

static Place *places = NULL;

static Block *place_of(Oid sequence);
static bool take(Block *block, Oid sequence, int64 *id, uint64 *seen);
static void put(Block *block, Oid sequence, int64 first, uint64 seen);
static Size area_size(void);
static void area_init(void *area);

void
es_message_id_init(void)
{
	static const EsShmemPart part = {
		.name = "message ids",
		.size = area_size,
		.init = area_init,
		.area = (void **) &places,
	};

	es_shmem_register(&part);
}

int64
es_message_id_next(void)
{
	Oid			sequence = es_catalog()->message_id_seq;
	Block	   *block = place_of(sequence);
	uint64		seen;
	int64		id;

	while (!take(block, sequence, &id, &seen))
	{
		CHECK_FOR_INTERRUPTS();
		put(block, sequence, nextval_internal(sequence, false), seen);
	}
	return id;
}

static Block *
place_of(Oid sequence)
{
	return &places[hash_combine(MyDatabaseId, sequence) % PLACES].block;
}

/* false: nothing is there; seen: so many blocks were put there before */
static bool
take(Block *block, Oid sequence, int64 *id, uint64 *seen)
{
	bool		taken;

	SpinLockAcquire(&block->mutex);
	taken = block->database == MyDatabaseId && block->sequence == sequence && block->next < block->end;
	if (taken)
		*id = block->next++;
	*seen = block->puts;
	SpinLockRelease(&block->mutex);
	return taken;
}

/* dropped where somebody was faster: ids of a later block may have been given already */
static void
put(Block *block, Oid sequence, int64 first, uint64 seen)
{
	SpinLockAcquire(&block->mutex);
	if (block->puts == seen)
	{
		block->puts++;
		block->database = MyDatabaseId;
		block->sequence = sequence;
		block->next = first;
		block->end = first + BLOCK;
	}
	SpinLockRelease(&block->mutex);
}

static Size
area_size(void)
{
	return PLACES * sizeof(Place);
}

static void
area_init(void *area)
{
	Place	   *all = area;

	for (int i = 0; i < PLACES; i++)
		SpinLockInit(&all[i].block.mutex);
}
