/*
 * effect.h
 *		What is left to do to shared memory at the end of this transaction, or of a savepoint of it: lists, one for each module
 *		that has such things to do.
 */
#ifndef ES_EFFECT_H
#define ES_EFFECT_H

/* what each effect begins with */
typedef struct EsEffect
{
	int level; /* of the (sub)transaction that it is of */
} EsEffect;

/* a module's list, registered once; its effects are numbered from the oldest on */
typedef struct EsEffects
{
	Size size;		   /* of an effect */
	const char *did;   /* for who may not PREPARE: what the transaction did, */
	const char *holds; /* and of what */

	/*
	 * The (sub)transaction of effects from to to - 1 is over, committed, so that everybody sees what it wrote, or rolled back.  They are
	 * all in the list yet, and its locks are still held.  Raises no error
	 */
	void (*finish) (int from, int to, bool is_commit);

	/*
	 * The savepoint of an effect was released, and it has the level outside by now: is it void, because of one of the first n?
	 * NULL: none ever is.  Raises no error
	 */
	bool (*is_void) (const EsEffect *effect, int n);

	/* of this transaction; NULL: none since it began */
	char *list;
	int n;
	int room;
	struct EsEffects *next;
} EsEffects;

static inline void *
es_effects_at(const EsEffects *effects, int i)
{
	return effects->list + i * effects->size;
}

/* room for n more, so that adding them cannot fail: before anything is changed that an effect is about */
extern void es_effects_reserve(EsEffects *effects, int n);
/* one more of the present level, else zeroed; good until the next is added */
extern void *es_effects_add(EsEffects *effects);

extern void es_effects_register(EsEffects *effects);

#endif
