/*
 * projection_apply.h
 *		Within projections only: their definitions as each backend caches them, and running their handlers.
 */
#ifndef ES_PROJECTION_APPLY_H
#define ES_PROJECTION_APPLY_H

#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "definition.h"
#include "filter.h"
#include "spi.h"

struct EsProjection;

/* one SQL statement; a function is called by such a statement too */
typedef struct EsHandler
{
	char *type; /* NULL: every type without a handler of its own */
	char *sql;
	bool is_batch;	 /* $1 is evtstore.event[], not evtstore.event */
	SPIPlanPtr plan; /* saved; NULL before first use */
	struct EsProjection *projection;
	struct EsHandler *next;
} EsHandler;

typedef struct EsProjection
{
	int32 id;
	char *name;
	char *owner;
	char *search_path;
	bool is_sync; /* its handlers run in appends: not those of a rebuild, nor while one fills its tables in place */
	bool is_rebuild;
	LocalTransactionId unseen_in; /* its definition was read in this transaction, whose snapshot is older */
	EsFilter *filter;
	EsHandler *handlers;
} EsProjection;

/*
 * All projections, in order of creation, and behind them the rebuilds, from the latest snapshot, whatever the isolation level.  Good to the end of the
 * transaction, also where a handler changes a definition meanwhile.
 */
extern List *es_projections(void);
extern EsProjection *es_projection_by_id(int32 id); /* NULL: none */

/* NULL: the type is none of its business */
extern EsHandler *es_projection_handler(EsProjection *projection, Datum type);
/* the statement of a handler as it stands in a definition, and its argument's type; errors as they come */
extern char *es_projection_handler_sql(JsonbValue *value, bool *is_batch);
extern Oid es_projection_handler_type(bool is_batch);

/*
 * Runs handlers for events, one after the other, as the projection's owner and under the event's tenant.  Neighbours of a tenant
 * that one batch handler is for go to it together; so every handler sees what those before it did.  begin, add ..., end; an error undoes nothing by itself.
 */
typedef struct EsApply
{
	EsProjection *projection;
	EsSpiState state;
	bool entered;			/* became the owner */
	MemoryContext context;	/* of rows that wait; emptied when they are applied */
	EsHandler *pending;		/* their handler; NULL: none waits */
	int n;
	int size;
	Datum *rows;
	int64 first; /* their positions */
	int64 last;
} EsApply;

extern void es_apply_begin(EsApply *apply, EsProjection *projection);
/* row: an evtstore.event that is good to the end, or made in apply->context; type: text */
typedef struct EsApplied
{
	EsHandler *handler;
	Datum row;
	int64 position;
	Datum type;
	const char *tenant;
} EsApplied;

extern void es_apply_add(EsApply *apply, const EsApplied *event);
/* check: what its effects deferred to the commit is checked now, so that its error is theirs */
extern void es_apply_end(EsApply *apply, bool check);

extern void es_projection_apply_init(void);
extern void es_projection_sync_init(void);

/* applies to a new sync projection what was committed before the append of anybody who will know it */
extern void es_projection_apply_history(const char *name);

#endif
