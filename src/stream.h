/*
 * stream.h
 *		What an event is in memory, and the identity of streams: name, category, id, lock.
 */
#ifndef ES_STREAM_H
#define ES_STREAM_H

#include "evtstore.h"
#include "stream_state.h"
#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* one event, as it goes into the table and out to projections and rules; text fields are varlena datums */
struct EsEvent
{
	int64 position;
	int64 version;
	Datum tenant; /* text */
	Datum stream; /* text */
	Datum type;	  /* text */
	Datum tags;	  /* text[] */
	Datum data;	  /* jsonb */
	Datum metadata; /* jsonb */
	int32 schema_version;
	bool has_id; /* the caller gave the id */
	bool has_occurred_at;
	pg_uuid_t id;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
	int ntags; /* the rest: tag.c, once prepared */
	uint64 *tag_hashes; /* distinct, ascending */
};

/* columns of evtstore_internal.stream */
enum
{
	ES_STREAM_ID,
	ES_STREAM_CREATED_AT,
	ES_STREAM_TENANT,
	ES_STREAM_NAME,
	ES_STREAM_CATEGORY,
	ES_STREAM_NATTS
};

struct EsStream
{
	int64 id;			 /* 0: not created yet */
	uint64 hash;		 /* of tenant and name: the lock's key */
	int32 category_hash; /* of tenant and category */
	char *name;
	char *tenant;
	int64 pending_version; /* for append.c: what the parts before leave, in the call of that number */
	uint64 pending_call;
	EsStreamStateMemo memo; /* for stream_state.c */
};

/* for qsort */
extern int es_hash_compare(const void *a, const void *b);
/* 64-bit FNV-1a with a final mix: stable over servers and machines, because category hashes are stored */
extern uint64 es_stream_hash(const char *tenant, const char *name, int len);
/* the hash of what was hashed before and more */
extern uint64 es_hash_continue(uint64 hash, const char *bytes, int len);
extern int32 es_stream_category_hash(const char *tenant, const char *category, int len);
/* bytes of the category: up to the first '-', the whole name where there is none */
extern int es_stream_category_len(const char *name, int len);

/* looks the stream up: the backend's memo first, then the index; ->id is 0 when it does not exist */
extern EsStream *es_stream_find(const char *tenant, const char *name);
/*
 * Takes the locks of these streams to the end of the transaction, in an order that is the same for everybody, however they
 * are named; see append.c for the order among other locks.  Locks: the event table, RowExclusive, held.
 */
extern void es_stream_lock(const char *tenant, const char *const *names, int n);
/* so many streams will be locked: the first thing that an append to several of them does */
extern void es_stream_expect(int n);
/* stands for the stream of events that have none: no id, an empty name */
extern EsStream *es_stream_none(void);
/* creates it; Locks: the stream's, held */
extern void es_stream_create(EsStream *stream);
/*
 * The current version whatever the isolation level, own writes included; that of a deleted stream is where it was.
 * Locks: the stream's, held
 */
extern int64 es_stream_current_version(EsStream *stream);
extern void es_stream_set_version(EsStream *stream, int64 version);
extern void es_stream_init(void);

#endif
