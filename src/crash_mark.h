/*
 * crash_mark.h
 *		Which handler took the server down: a mark that a dying worker leaves.
 */
#ifndef ES_CRASH_MARK_H
#define ES_CRASH_MARK_H

#include "nodes/pg_list.h"

/* a worker that runs handlers of others, once it is connected */
extern void es_crash_mark_begin(void);
/* whose handlers run from now on: the id of a definition; 0: nobody's */
extern void es_crash_mark_set(int32 id);

/* so many crashes in an hour are enough */
#define ES_CRASH_MARK_LIMIT 3
/* the ids of this database that have reached the limit, whose marks are forgotten by this; old marks, too */
extern List *es_crash_marks_take(void);

#endif
