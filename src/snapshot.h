/*
 * snapshot.h
 *		Snapshots of states: what a fold over a stream came to at a version.
 */
#ifndef ES_SNAPSHOT_H
#define ES_SNAPSHOT_H

#include "stream.h"

/* who made it: names of reducers and of applications are apart */
typedef enum EsSnapshotKind
{
	ES_SNAPSHOT_APPLICATION,
	ES_SNAPSHOT_REDUCER
} EsSnapshotKind;

/*
 * The newest one at or below max_version with that fingerprint, in the current context; false where there is none.  An
 * application's fingerprint is 0.
 */
extern bool es_snapshot_find(const EsStream *stream, EsSnapshotKind kind, const char *name, int64 fingerprint,
							 int64 max_version, int64 *version, Datum *state);
/*
 * Keeps a reducer's state unless somebody else does so at the moment, and forgets those of that reducer and stream with
 * another fingerprint.  Never waits.
 */
extern void es_snapshot_keep(const EsStream *stream, const char *reducer, int64 fingerprint, int64 version, Datum state);
/* forgets all of a reducer */
extern void es_snapshot_forget(const char *reducer);

#endif
