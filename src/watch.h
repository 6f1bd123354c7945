/*
 * watch.h
 *		From whatever makes work to the one process of a database that looks after it for others, through shared memory.
 */
#ifndef ES_WATCH_H
#define ES_WATCH_H

/* what was told, or is wanted: a bit for each id of a definition, which 63 others may share, and categories (see feed.h) */
typedef struct EsWatch
{
	uint64 ids;		   /* what is there may be had now, also what was there before */
	uint64 looks;	   /* something was made ready, or will be at another time */
	uint64 categories; /* events */
} EsWatch;

extern uint64 es_watch_bit(int32 id);

/* the watcher's side: what it wants to be told of, from now on; then it looks, for what came before */
extern void es_watch_want(uint64 ids, uint64 categories);
/* what it was told since the last time; then it looks.  While something is there that it has not taken its latch is set once */
extern EsWatch es_watch_take(void);

/* what this process tells is not for itself */
extern void es_watch_ignore_own(void);
/* is there something that was not taken yet? */
extern bool es_watch_is_told(void);

/*
 * The other side, when the work can be seen by everybody and a full barrier was passed since.  id 0: none.  Raise no error, and
 * cost the look at one counter where nobody watches.
 */
extern void es_watch_tell(int32 id, uint64 categories);
extern void es_watch_tell_look(int32 id);

/* wakes all watchers of this database, whatever they want to be told of */
extern void es_watch_rouse(void);

extern void es_watch_init(void);

#endif
