/*
 * reducer.h
 *		Reducers: functions that fold events into a state; for reducer.c, reducer_state.c and reducer_merge.c only.
 */
#ifndef ES_REDUCER_H
#define ES_REDUCER_H

#include "fmgr.h"
#include "utils/jsonb.h"

/* the folds that need no call of SQL */
typedef enum EsReducerFold
{
	ES_FOLD_FUNCTION,
	ES_FOLD_MERGE_DATA,
	ES_FOLD_MERGE_PATCH
} EsReducerFold;

typedef struct EsReducer
{
	char *name;
	char *fn; /* as it was given: schema.function */
	Oid function;
	EsReducerFold fold;
	char *owner;
	char *search_path;
	Jsonb *initial;
	int snapshot_every; /* 0: never */
	int64 fingerprint;	/* of all that a state depends on besides the events; never 0 */
} EsReducer;

/* in reducer.c: in the current context; ST008 where it is unknown, 42883 where its function is gone */
extern EsReducer *es_reducer_get(const char *name);

/* in reducer_merge.c */
/* one step of a built-in fold, in the current context; the result may be one of the arguments */
extern Jsonb *es_reducer_merge(EsReducerFold fold, Jsonb *state, Jsonb *data);

/*
 * Many steps of merge_data: the state taken apart into its keys, which costs by what an event has and not by what the
 * state has.  NULL where the state is no object; false, and nothing is done, where the data is none.
 */
typedef struct EsMerge EsMerge;
extern EsMerge *es_reducer_merge_begin(Jsonb *state);
extern bool es_reducer_merge_add(EsMerge *merge, Jsonb *data);
/* the state, in the current context; frees the rest */
extern Jsonb *es_reducer_merge_end(EsMerge *merge);

#endif
