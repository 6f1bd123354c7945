/*
 * redirect.h
 *		In a process that does nothing else: statements that name a table get another one, and write nothing but that.
 */
#ifndef ES_REDIRECT_H
#define ES_REDIRECT_H

#include "nodes/pg_list.h"

/* once, in a process that runs handlers for rebuilds only */
extern void es_redirect_init(void);
/*
 * From now on, of the tables and indexes (Oids) each is the other one of the same place (Oids; it may be the same), for statements
 * that are not running yet; what they write must be one of those, or temporary, or ours.  key: of what this is about; with another
 * one than before all plans of the process are made anew
 */
extern void es_redirect_use(int64 key, List *relations, List *others);
/* statements mean what they say again */
extern void es_redirect_pause(void);

#endif
