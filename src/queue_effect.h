/*
 * queue_effect.h
 *		Between queue_state.c and queue_effect.c only: what the end of a transaction does to messages that it took or settled.
 */
#ifndef ES_QUEUE_EFFECT_H
#define ES_QUEUE_EFFECT_H

#include "definition_slot.h"
#include "effect.h"
#include "queue_state.h"

typedef enum EsQueueEffectKind
{
	ES_EFFECT_TAKEN,	  /* committed: its lease runs.  Rolled back: lost, and ready again */
	ES_EFFECT_SETTLED,	  /* about to be one of the following; committed or not: held as before */
	ES_EFFECT_GONE,		  /* committed: settled for good */
	ES_EFFECT_AGAIN,	  /* committed: ready again, now or later, with its attempts in its row */
	ES_EFFECT_GIVEN_BACK, /* committed: ready again */
	ES_EFFECT_READ_AGAIN, /* committed: rows were deleted past us */
	ES_EFFECT_FORGET	  /* committed: the queue is dropped */
} EsQueueEffectKind;

typedef struct EsQueueEffect
{
	EsEffect base;
	EsQueueEffectKind kind;
	EsQueueState *state;
	EsHold hold;
	TimestampTz deliver_at; /* ES_EFFECT_AGAIN; its hold has the new tid */
	EsSlotKey key;			/* ES_EFFECT_FORGET */
} EsQueueEffect;

/* room for n more, so that adding them cannot fail */
extern void es_queue_effects_reserve(int n);
extern EsQueueEffect *es_queue_effect_add(EsQueueEffectKind kind, EsQueueState *state, const EsHold *hold);
/* what comes of a hold that is ES_EFFECT_SETTLED in this transaction */
extern EsQueueEffect *es_queue_effect_settle(const EsHold *hold, EsQueueEffectKind kind);
extern const EsQueueEffect *es_queue_effects(int *n);
extern void es_queue_effect_init(void);

/* of queue_state.c, called at the end of a (sub)transaction: raise no error */
/* true: somebody may take something now */
extern bool es_queue_effect_commit(const EsQueueEffect *effect);
extern bool es_queue_effect_abort(const EsQueueEffect *effect);
/* the queue of a state, while somebody uses it */
extern int32 es_queue_state_id(EsQueueState *state);

#endif
