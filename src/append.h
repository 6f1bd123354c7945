/*
 * append.h
 *		Appending to a stream, and the hook by which sync projections and rules take part.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

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

/*
 * Appends n events to the stream under the expectation, then runs the hooks.  Fills positions, versions, ids and
 * times of the events in place.
 */
extern void es_append(const char *tenant, const char *stream, EsEvent *events, int n, int64 expected, EsRequire require,
					  EsAppendResult *result);

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
 * Called in the append's transaction after the events are in the table, in order of registration; an error refuses
 * the append.  Must cost nothing where it has nothing to do.
 */
typedef void (*EsAppendHook)(EsStream *stream, EsEvent *events, int n);
extern void es_append_register_hook(EsAppendHook hook);

extern void es_append_init(void);

#endif
