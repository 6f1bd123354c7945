/*
 * spi.h
 *		The only user of SPI: saved plans for our own tables, run as their owner under a pinned search_path, and running
 *		other people's functions and statements as their owner.
 */
#ifndef ES_SPI_H
#define ES_SPI_H

#include "executor/spi.h"

#define ES_SPI_MAX_ARGS 40

/* one statement on our own tables; static in its module, planned once per backend */
typedef struct EsPlan
{
	const char *sql;
	int nargs;
	Oid args[ES_SPI_MAX_ARGS];
	SPIPlanPtr plan; /* set at first use */
} EsPlan;

/* what to give back at es_spi_end */
typedef struct EsSpiState
{
	Oid userid;
	int sec_context;
	int guc_level;
} EsSpiState;

/*
 * Between begin and end: SPI connected, current user the owner of our tables, search_path pinned to pg_catalog.  On an
 * error the transaction machinery undoes all of it.
 */
extern void es_spi_begin(EsSpiState *state);
extern void es_spi_end(EsSpiState *state);
/* runs the plan under a fresh snapshot (READ COMMITTED) or the transaction's; returns SPI_processed */
extern uint64 es_spi_run(EsPlan *plan, Datum *values, const char *nulls, bool read_only, long limit);
/* same, under the latest snapshot whatever the isolation level: for definitions */
extern uint64 es_spi_run_latest(EsPlan *plan, Datum *values, const char *nulls);

/* one statement that is made here, and not kept */
extern void es_spi_execute(const char *sql);

/* column col (from 0) of row row of the last result */
extern Datum es_spi_value(uint64 row, int col, bool *isnull);
extern char *es_spi_text(uint64 row, int col); /* NULL for SQL NULL; palloc'd in the SPI context */
extern int64 es_spi_int64(uint64 row, int col);
extern int32 es_spi_int32(uint64 row, int col);

/*
 * Run as somebody else: the current user becomes role, search_path the pinned one.  Where role is not the current
 * user the context is a security-restricted operation, so that nothing of theirs can run later as us (deferred
 * triggers, SET ROLE).
 */
extern void es_spi_become(EsSpiState *state, const char *role, const char *search_path);
extern void es_spi_unbecome(EsSpiState *state);

/* between become and unbecome: one statement of somebody else, prepared once (saved) and run */
extern SPIPlanPtr es_spi_prepare_foreign(const char *sql, int nargs, Oid *argtypes);
/* the plan is the same for all values: large ones are not copied into plans of their own */
extern SPIPlanPtr es_spi_prepare_foreign_generic(const char *sql, int nargs, Oid *argtypes);
extern void es_spi_run_foreign(SPIPlanPtr plan, Datum *values, const char *sql);
/* the same, of a statement with one row of one column, which is copied into that context */
extern Datum es_spi_call_foreign(SPIPlanPtr plan, Datum *values, const char *sql, MemoryContext context, bool *isnull);
/* runs what its effects deferred to the commit, so that an error belongs to this statement and not to the transaction */
extern void es_spi_check_constraints(void);
extern void es_spi_free_plan(SPIPlanPtr plan);
/* false where the text was several statements */
extern bool es_spi_plan_is_single(SPIPlanPtr plan);
/* what it does, after rewriting: Queries, good as long as the plan */
extern List *es_spi_plan_queries(SPIPlanPtr plan);

/*
 * A query of the caller's, run with the caller's rights under the caller's search_path.  Describe: the columns of its
 * result, in the current context; NULL where it is not one SELECT.  Open connects SPI, fetch gives up the rows of the
 * fetch before; an error undoes all of it.
 */
extern TupleDesc es_spi_describe_query(const char *sql);
extern Portal es_spi_open_query(const char *sql, int nargs, Oid *argtypes, Datum *values);
extern uint64 es_spi_fetch(Portal query, long count);
extern void es_spi_close_query(Portal query);

/* after es_spi_drop_snapshots: a snapshot for what follows, to the end of that transaction; toasted values need one */
extern void es_spi_ensure_snapshot(void);

/*
 * In a procedure called outside a transaction block: ends the transaction and begins another, after which nothing of
 * this backend holds a snapshot.
 */
extern void es_spi_drop_snapshots(void);

#endif
