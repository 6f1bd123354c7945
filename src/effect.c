/*
 * effect.c
 *		What is left to do to shared memory at the end of this transaction, or of a savepoint of it.
 *
 * Runs in consumers' backends and in workers.  Local to the process: what was done is in a list of its module (messages in
 * queue_effect.c, lanes in lane_effect.c), with the level of the savepoint in which it was.  When a savepoint is rolled back its
 * effects are finished and go; when it is released they are those of the level outside; what is left is finished when the
 * transaction is over.  Then its rows are as they will be for everybody, or as they were, and its locks are still held.
 *
 * The callbacks run after the commit record, where an error would be a panic, or in an abort, where it would be another: they
 * allocate nothing and raise none.  So an effect has its room before what it is about is changed.  A list lies in
 * TopTransactionContext and is forgotten with it, also one that savepoints have emptied, which would dangle.
 *
 * A prepared transaction would outlive what is in shared memory, and is refused.  A crash ends every transaction without callbacks,
 * and makes the shared memory anew that they would have changed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "compat.h"
#include "effect.h"

/* the one that was registered last is first, as callbacks of the server are */
static EsEffects *registered = NULL;

static void refuse_prepare(const EsEffects *effects);
static void forget(EsEffects *effects);
static int first_of_level(const EsEffects *effects, int level);
static void pass_on(EsEffects *effects, int level);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_effects_register(EsEffects *effects)
{
	if (registered == NULL)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
	}
	effects->next = registered;
	registered = effects;
}

void
es_effects_reserve(EsEffects *effects, int n)
{
	if (effects->list == NULL)
	{
		int			room = Max(n, 16);

		effects->list = MemoryContextAllocExtended(TopTransactionContext, room * effects->size, MCXT_ALLOC_HUGE);
		effects->room = room;
	}
	else if (effects->n + n > effects->room)
	{
		int			room = Max(effects->n + n, effects->room * 2);

		effects->list = repalloc_huge(effects->list, room * effects->size);
		effects->room = room;
	}
}

void *
es_effects_add(EsEffects *effects)
{
	EsEffect   *effect;

	es_effects_reserve(effects, 1);
	effect = es_effects_at(effects, effects->n++);
	memset(effect, 0, effects->size);
	effect->level = GetCurrentTransactionNestLevel();
	return effect;
}

static void
refuse_prepare(const EsEffects *effects)
{
	if (effects->n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that %s", effects->did),
				 errdetail("%s are held in shared memory, which a prepared transaction outlives.", effects->holds),
				 errhint("Commit it in one phase.")));
}

/* its memory goes with the transaction */
static void
forget(EsEffects *effects)
{
	effects->list = NULL;
	effects->n = effects->room = 0;
}

/* those of a savepoint, and of what is in it, are the last ones */
static int
first_of_level(const EsEffects *effects, int level)
{
	int			i = effects->n;

	while (i > 0 && ((EsEffect *) es_effects_at(effects, i - 1))->level >= level)
		i--;
	return i;
}

/* those of a savepoint that is released are of the level outside */
static void
pass_on(EsEffects *effects, int level)
{
	int			kept = first_of_level(effects, level);

	for (int i = kept; i < effects->n; i++)
	{
		EsEffect   *effect = es_effects_at(effects, i);

		effect->level = level - 1;
		if (effects->is_void != NULL && effects->is_void(effect, kept))
			continue;
		if (i > kept)
			memcpy(es_effects_at(effects, kept), effect, effects->size);
		kept++;
	}
	effects->n = kept;
}

static void
xact_callback(XactEvent event, void *arg)
{
	for (EsEffects *effects = registered; effects != NULL; effects = effects->next)
		switch (event)
		{
			case XACT_EVENT_PRE_PREPARE:
				refuse_prepare(effects);
				break;
			case XACT_EVENT_COMMIT:
			case XACT_EVENT_ABORT:
				effects->finish(0, effects->n, event == XACT_EVENT_COMMIT);
				forget(effects);
				break;
			case XACT_EVENT_PREPARE:
				forget(effects);
				break;
			default:
				break;
		}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	for (EsEffects *effects = registered; effects != NULL; effects = effects->next)
		if (event == SUBXACT_EVENT_ABORT_SUB)
		{
			int			first = first_of_level(effects, level);

			effects->finish(first, effects->n, false);
			effects->n = first;
		}
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			pass_on(effects, level);
}
