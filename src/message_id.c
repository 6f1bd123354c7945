/*
 * message_id.c
 *		Ids of messages, out of blocks in shared memory.
 *
 * Runs in the backends and workers that send.  The sequence message_id_seq steps by a block; who finds none in shared memory, or
 * a used one, gets the next of the sequence and puts it there.  An id costs a spinlock instead of a visit to the sequence's page.
 *
 * Ids grow with time over all backends, which the order of keys needs (enqueue.c: an id is taken under the key's lock): blocks
 * grow, because the sequence does, and a block is put where the one of its database is only if it is a later one.  Who lost that
 * race takes from the winner's.  Each block has the place of a hash.  Where that is another database's nobody is pushed out, or one
 * who comes late could put an older block back; each id is then the first of a block of its own, which grows as well.
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
static bool take(Block *block, Oid sequence, int64 *id);
static bool put(Block *block, Oid sequence, int64 first);
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
	int64		id;

	while (!take(block, sequence, &id))
	{
		CHECK_FOR_INTERRUPTS();
		id = nextval_internal(sequence, false);
		if (!put(block, sequence, id))
			break;
	}
	return id;
}

static Block *
place_of(Oid sequence)
{
	return &places[hash_combine(MyDatabaseId, sequence) % PLACES].block;
}

static bool
take(Block *block, Oid sequence, int64 *id)
{
	bool		taken;

	SpinLockAcquire(&block->mutex);
	taken = block->database == MyDatabaseId && block->sequence == sequence && block->next < block->end;
	if (taken)
		*id = block->next++;
	SpinLockRelease(&block->mutex);
	return taken;
}

/*
 * Dropped where a later one of the same sequence came first: its ids may have been given already.  False: the place is
 * another's
 */
static bool
put(Block *block, Oid sequence, int64 first)
{
	bool		is_ours;

	SpinLockAcquire(&block->mutex);
	is_ours = block->database == InvalidOid || (block->database == MyDatabaseId && block->sequence == sequence);
	if (is_ours && block->end <= first)
	{
		block->database = MyDatabaseId;
		block->sequence = sequence;
		block->next = first;
		block->end = first + BLOCK;
	}
	SpinLockRelease(&block->mutex);
	return is_ours;
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
