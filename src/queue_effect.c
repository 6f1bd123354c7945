/*
 * queue_effect.c
 *		What the end of a transaction does to the messages that it took or settled.
 *
 * Runs in consumers' backends and in workers.  Local to the process: the list of what was done (effect.c); the changes themselves
 * are queue_state.c's, each under the LWLock of its queue.
 *
 * A crash ends every transaction without callbacks, and makes the shared memory anew that they would have changed.
 */
#include "postgres.h"

#include "compat.h"
#include "queue_effect.h"
#include "waiter.h"

static void finish(int from, int to, bool is_commit);

static EsEffects effects = {
	.size = sizeof(EsQueueEffect),
	.did = "received or settled messages of a queue",
	.holds = "Messages",
	.finish = finish,
};

void
es_queue_effect_init(void)
{
	es_effects_register(&effects);
}

void
es_queue_effects_reserve(int n)
{
	es_effects_reserve(&effects, n);
}

EsQueueEffect *
es_queue_effect_add(EsQueueEffectKind kind, EsQueueState *state, const EsHold *hold)
{
	EsQueueEffect *effect = es_effects_add(&effects);

	effect->kind = kind;
	effect->state = state;
	if (hold != NULL)
		effect->hold = *hold;
	return effect;
}

EsQueueEffect *
es_queue_effect_settle(const EsHold *hold, EsQueueEffectKind kind)
{
	for (int i = effects.n - 1; i >= 0; i--)
	{
		EsQueueEffect *effect = es_effects_at(&effects, i);

		if (effect->kind == ES_EFFECT_SETTLED && effect->hold.epoch == hold->epoch)
		{
			effect->kind = kind;
			return effect;
		}
	}
	elog(ERROR, "message is not being settled");
}

const EsQueueEffect *
es_queue_effects(int *n)
{
	*n = effects.n;
	return (const EsQueueEffect *) effects.list;
}

/* each of them, at a rollback in the reverse order; then those who wait for what came of it, by queue */
static void
finish(int from, int to, bool is_commit)
{
	int			wake = 0;

	for (int k = from; k < to; k++)
	{
		const EsQueueEffect *effect = es_effects_at(&effects, is_commit ? k : to - 1 - (k - from));
		const EsQueueEffect *next = k + 1 == to ? NULL : es_effects_at(&effects, is_commit ? k + 1 : to - 2 - (k - from));
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
