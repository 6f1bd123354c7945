/*
 * queue_effect.c
 *		What the end of a transaction does to the messages that it took or settled.
 *
 * Runs in consumers' backends and in workers.  Local to the process: a list of what was done, with the level of the savepoint
 * in which it was; the callbacks go through it when the (sub)transaction is over.  At commit the rows are as they will be
 * for everybody, at abort as they were, and the transaction's locks are still held.
 *
 * A crash ends every transaction without callbacks, and makes the shared memory anew that they would have changed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "compat.h"
#include "queue_effect.h"
#include "waiter.h"

/* of this transaction, oldest first; in TopTransactionContext */
static EsEffect *effects = NULL;
static int	neffects = 0;
static int	effects_size = 0;

static void finish(int from, int to, bool is_commit);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_effect_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

void
es_effects_reserve(int n)
{
	if (effects == NULL)
	{
		effects_size = Max(n, 16);
		effects = MemoryContextAllocExtended(TopTransactionContext, effects_size * sizeof(EsEffect), MCXT_ALLOC_HUGE);
	}
	else if (neffects + n > effects_size)
	{
		Size		size = Max(neffects + n, effects_size * 2);

		effects = repalloc_huge(effects, size * sizeof(EsEffect));
		effects_size = size;
	}
}

EsEffect *
es_effect_add(EsEffectKind kind, EsQueueState *state, const EsHold *hold)
{
	EsEffect   *effect;

	es_effects_reserve(1);
	effect = &effects[neffects++];
	memset(effect, 0, sizeof(EsEffect));
	effect->kind = kind;
	effect->level = GetCurrentTransactionNestLevel();
	effect->state = state;
	if (hold != NULL)
		effect->hold = *hold;
	return effect;
}

EsEffect *
es_effect_settle(const EsHold *hold, EsEffectKind kind)
{
	for (int i = neffects - 1; i >= 0; i--)
		if (effects[i].kind == ES_EFFECT_SETTLED && effects[i].hold.epoch == hold->epoch)
		{
			effects[i].kind = kind;
			return &effects[i];
		}
	elog(ERROR, "message is not being settled");
}

const EsEffect *
es_effects(int *n)
{
	*n = neffects;
	return effects;
}

/* each of them, at abort in the reverse order; then those who wait for what came of it, by queue */
static void
finish(int from, int to, bool is_commit)
{
	int			wake = 0;

	for (int k = from; k < to; k++)
	{
		const EsEffect *effect = &effects[is_commit ? k : to - 1 - (k - from)];
		const EsEffect *next = k + 1 == to ? NULL : &effects[is_commit ? k + 1 : to - 2 - (k - from)];
		int32		id = es_queue_state_id(effect->state);

		if (is_commit ? es_queue_effect_commit(effect) : es_queue_effect_abort(effect))
			wake++;
		if (wake > 0 && (next == NULL || next->state != effect->state))
		{
			es_waiter_wake(id, wake);
			wake = 0;
		}
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	/* the list goes with the transaction, also one that savepoints have emptied */
	if (effects == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (neffects == 0)
				return;
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that received or settled messages of a queue"),
					 errdetail("Messages are held in shared memory, which a prepared transaction outlives."),
					 errhint("Commit it in one phase.")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			finish(0, neffects, event == XACT_EVENT_COMMIT);
			break;
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	effects = NULL;
	neffects = effects_size = 0;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		int			from = neffects;

		while (from > 0 && effects[from - 1].level >= level)
			from--;
		finish(from, neffects, false);
		neffects = from;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (int i = neffects - 1; i >= 0 && effects[i].level >= level; i--)
			effects[i].level = level - 1;
}
