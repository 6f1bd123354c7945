/*
 * projection_rebuild.h
 *		Building the tables of a projection anew, beside the old ones or in place.
 */
#ifndef ES_PROJECTION_REBUILD_H
#define ES_PROJECTION_REBUILD_H

#include "storage/lock.h"

#include "definition.h"

/* a rebuild that is under way: a definition of kind "rebuild", and a subscription of its id */
typedef struct EsRebuild
{
	int32 id;
	char *name; /* of the projection */
	bool is_in_place;
	bool is_failed; /* it cannot go on */
	List *shadows;	/* of EsShadow; in place each table is its own */
	int lanes;
} EsRebuild;

/* all there are, in order of id, in the current context */
extern List *es_rebuild_list(void);
/* scheduler: of those that can go on, together */
extern int es_rebuild_lanes(void);
extern EsRebuild *es_rebuild_read(const EsDefinition *definition);
/* worker: from now on the handlers of this one write its shadows.  ST009 where it cannot go on.  In a transaction */
extern void es_rebuild_use(const EsRebuild *rebuild);
/* it cannot go on, because of this; a person cancels it.  In a transaction */
extern void es_rebuild_fail(const EsRebuild *rebuild, const char *error);
/* it is still under way.  In a transaction */
extern bool es_rebuild_exists(const EsRebuild *rebuild);

typedef enum EsRebuildEnd
{
	ES_REBUILD_BEHIND, /* events are left */
	ES_REBUILD_WAITS,  /* for older snapshots, or for a lock: again in a moment */
	ES_REBUILD_OVER	   /* the new tables are there, or it was cancelled */
} EsRebuildEnd;

/*
 * who had a snapshot when a rebuild had applied everything for the first time, and was not seen without one since; and who may have
 * taken one over from those (SET TRANSACTION SNAPSHOT)
 */
typedef struct EsRebuildOlder
{
	bool is_listed;
	TransactionId xid; /* no snapshot that was taken before the rebuild was level has a later xmin */
	int n;
	VirtualTransactionId *vxids; /* lives as long as the process */
} EsRebuildOlder;

/*
 * Worker: ends it if everything up to that position is applied, in a transaction of its own, which none may be around.  Errors as they
 * come; es_rebuild_may_retry tells those that only mean that somebody else was at it, or that it took too long
 */
extern EsRebuildEnd es_rebuild_end(const EsRebuild *rebuild, int64 up_to, EsRebuildOlder *older);
/* once in a worker */
extern void es_rebuild_end_init(void);
/* in PG_CATCH, once */
extern bool es_rebuild_may_retry(int sqlerrcode);
/* in PG_CATCH, once: it is no event's error, and a person has to do something */
extern bool es_rebuild_cannot_go_on(int sqlerrcode);

/* within projections: */
/* begins one with this spec; the projection has none.  Locks: the name's, held */
extern void es_rebuild_begin(const EsDefinition *projection, Jsonb *spec, const char *owner, const char *search_path, bool in_place);
/* NULL: none is under way */
extern EsDefinition *es_rebuild_find(const char *name);
/* the spec that it has when it takes the place of the projection's */
extern Jsonb *es_rebuild_spec(const EsDefinition *rebuild);
/* gives it up; in place that leaves tables half full.  Locks: the name's, held */
extern void es_rebuild_give_up(const EsDefinition *rebuild);
/* 55000 where a rebuild of another projection has one of the tables that this one would write */
extern void es_rebuild_refuse_tables(const char *name, Jsonb *spec, const char *owner, const char *search_path);
/* 55000 while one is under way */
extern void es_rebuild_refuse(const char *name, const char *what);

#endif
