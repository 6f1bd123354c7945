/*
 * read.h
 *		Events out of the table: readers, for the read functions, their plan node and other modules.
 */
#ifndef ES_READ_H
#define ES_READ_H

#include "access/skey.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "stream.h"

typedef struct EsReader EsReader;
typedef struct EsWalk EsWalk;

/* a SQL function that reads events; its arguments are parsed by open and nowhere else */
typedef struct EsReadFunction
{
	const char *symbol; /* its C symbol */
	int nargs;
	int max_count_arg; /* from 0 */
	int backwards_arg;
	int order; /* attribute of evtstore.event, from 1, that its rows are in the order of */
	void (*open)(EsReader *reader, FunctionCallInfo fcinfo);
} EsReadFunction;

/* the read function with this oid; NULL where it is none, or one that must be called to do what it says (SET, hooks) */
extern const EsReadFunction *es_read_function(Oid fn);

/*
 * Where a reader's rows come from.  Put one in with es_reader_set_source, in open; without one there are no rows.
 * Everything is called in the reader's memory context, which lives as long as the reader.
 */
typedef struct EsReadSource
{
	/* the next row of the event table into the slot, in order and under the reader's snapshot; false: no more */
	bool (*next)(EsReader *reader, void *state, TupleTableSlot *slot);
	/* from the beginning again, same moment */
	void (*restart)(void *state);
	void (*close)(void *state);
} EsReadSource;

/* from where, how many, which way; after is exclusive in both directions */
typedef struct EsReadRange
{
	bool has_after;
	int64 after;
	int64 max_count;
	bool backwards;
} EsReadRange;

/* arguments first, first + 1 and first + 2: after, max_count, backwards */
extern EsReadRange es_read_range_arguments(FunctionCallInfo fcinfo, int first, const char *after_name);

/*
 * A reader: everything that it hands out is of one moment, that of open.  It belongs to the resource owner that is
 * current at open and must be current at close; what an error leaves is cleared away with that owner.
 */
extern EsReader *es_reader_open(const EsReadFunction *function, FunctionCallInfo fcinfo, MemoryContext parent);
/* the same for other modules: open is called with the argument */
extern EsReader *es_reader_open_with(void (*open)(EsReader *reader, void *arg), void *arg, MemoryContext parent);
/* the next row of the event table that the caller may see; good until the next call; NULL: no more */
extern TupleTableSlot *es_reader_next(EsReader *reader);
/*
 * An attribute of evtstore.event of the present row, from 1; 0: all of it, as a datum.  Made in the current context, or
 * pointing into the row, as it lies in the table: toasted values stay so until somebody looks into them.
 */
extern Datum es_reader_value(EsReader *reader, int attno, bool *isnull);
/* the name of the present row's stream, good until the next look; NULL where the event has none */
extern const text *es_reader_stream(EsReader *reader);
extern void es_reader_restart(EsReader *reader);
extern void es_reader_close(EsReader *reader);

/* for open: the moment, taken in the order that the feed needs; first of all */
extern int64 es_reader_begin_feed(EsReader *reader, uint64 categories); /* the head */
extern void es_reader_begin_stream(EsReader *reader); /* shows the caller's own events */
extern void es_reader_begin_latest(EsReader *reader); /* all that is committed, whatever the isolation level */
/* for open: who may see what, and how many */
extern void es_reader_set_tenant(EsReader *reader, const char *tenant);
extern void es_reader_set_category(EsReader *reader, const char *category);
extern void es_reader_set_max_count(EsReader *reader, int64 max_count);
extern void es_reader_set_source(EsReader *reader, const EsReadSource *source, void *state);
extern Snapshot es_reader_snapshot(EsReader *reader);
extern Relation es_reader_relation(EsReader *reader);

/* the source that looks for the events of a query, which lives as long as the reader, up to the head */
struct EsQuery;
extern void es_reader_search(EsReader *reader, const struct EsQuery *query, const char *tenant, int64 head,
							 const EsReadRange *range);
/* the source that walks one index of the event table, its columns counted from 1 */
extern EsWalk *es_reader_walk(EsReader *reader, Oid index);
extern void es_walk_add_key(EsWalk *walk, int attno, StrategyNumber strategy, RegProcedure function, Datum value);
extern void es_walk_add_range(EsWalk *walk, int attno, const EsReadRange *range);

/*
 * Every event in order of position, for a projection that catches up: those up to the head, which is returned; and those after a
 * position, whatever the isolation level.  Locks: for the latter the event table, against writers, held
 */
typedef void (*EsReadCallback)(EsEvent *event, void *arg);
extern int64 es_read_history_to_head(EsReadCallback callback, void *arg);
extern void es_read_history(int64 after, EsReadCallback callback, void *arg);

/* read_plan.c: puts the plan node of read_scan.c where a read function stands in FROM */
extern void es_read_init(void);
/* read_scan.c: the node for a call, which is a FuncExpr */
extern struct CustomScan *es_read_scan_make(Node *call, List *targetlist, List *quals, List *columns);
extern void es_read_scan_init(void);

#endif
