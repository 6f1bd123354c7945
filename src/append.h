/*
 * append.h
 *		Appending to streams, and the hook by which sync projections and rules take part.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

#include "fmgr.h"

#include "query.h"
#include "stream.h"

typedef struct EsAppendResult
{
	int64 first_version;
	int64 version;
	int64 first_position;
	int64 position;
	bool duplicate;
} EsAppendResult;

/* require */
typedef enum EsRequire
{
	ES_REQUIRE_NONE,
	ES_REQUIRE_EXISTS,
	ES_REQUIRE_DELETED
} EsRequire;

#define ES_EXPECT_ANY (-1)

/* the events of one stream within an append, and what is expected of it */
typedef struct EsAppendPart
{
	const char *stream; /* NULL: none; its events have tags only */
	EsEvent *events;	/* within the array that is given to es_append_parts */
	int n;				/* 0: the stream is only checked */
	int64 expected;		/* ES_EXPECT_ANY, or the version that it must be at when this part's turn comes */
	EsRequire require;
	EsAppendResult result; /* filled by es_append_parts */
	EsStream *handle;	/* the rest is append.c's */
	int64 version;
} EsAppendPart;

/* ST003 when an event above after matches */
typedef struct EsAppendCondition
{
	EsQuery *query;
	int64 after;
} EsAppendCondition;

/*
 * Appends the events of all parts or none, part by part in the given order, then runs the hooks.  events: those of all
 * parts, one after the other; positions, versions, ids and times are filled in place.  condition: NULL for none.
 */
extern void es_append_parts(const char *tenant, EsAppendPart *parts, int nparts, EsEvent *events, int nevents,
							const EsAppendCondition *condition);
/* one part */
extern void es_append(const char *tenant, const char *stream, EsEvent *events, int n, int64 expected, EsRequire require,
					  EsAppendResult *result);

/* in append_call.c: an evtstore.append_result datum; stream NULL: none */
extern Datum es_append_result_row(const char *stream, const EsAppendResult *result);
/* in append_call.c: the argument expected_version of a function, checked */
extern int64 es_append_expected_argument(FunctionCallInfo fcinfo, int n);

/*
 * True where the stream has the event with this id, committed or our own; ST004 where that event has other content or
 * is in another stream.  Locks: the stream's, held
 */
extern bool es_append_knows(EsStream *stream, EsEvent *event);

/*
 * While it is set, what this backend appends is history that happened elsewhere: hooks that act on events rather than
 * fold them ask for it, and stand still.  Whoever sets it takes it back also after an error.
 */
extern void es_append_set_history(bool history);
extern bool es_append_is_history(void);

/*
 * Called in the append's transaction after the events of all parts are in the table, in order of registration; an error
 * refuses the append.  Must cost nothing where it has nothing to do.  Events without a stream come with es_stream_none(),
 * whose name is empty.
 */
typedef void (*EsAppendHook)(const EsAppendPart *parts, int nparts, int nevents);
extern void es_append_register_hook(EsAppendHook hook);

extern void es_append_init(void);

#endif
