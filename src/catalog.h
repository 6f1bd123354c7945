/*
 * catalog.h
 *		Object ids of our own tables and types, and what makes the caches of other modules stale.
 */
#ifndef ES_CATALOG_H
#define ES_CATALOG_H

typedef struct EsCatalog
{
	Oid extension;
	Oid owner; /* owner of the tables: the role that internal SQL runs as */
	Oid event;
	Oid event_pkey;
	Oid event_stream_version;
	Oid event_id;
	Oid event_category;
	Oid event_type_idx;
	Oid event_tag;
	Oid event_tag_pkey;
	Oid event_tag_pair;
	Oid stream;
	Oid stream_pkey;
	Oid stream_name;
	Oid stream_state;
	Oid stream_state_stream;
	Oid policy;
	Oid policy_pkey;
	Oid head;
	Oid head_pkey;
	Oid closing;
	Oid definition;
	Oid message;
	Oid message_pkey;
	Oid message_key;
	Oid message_due;
	Oid checkpoint;
	Oid checkpoint_pkey;
	Oid failed_event;
	Oid failed_event_due;
	Oid failed_event_key;
	Oid dead_key;
	Oid dead_key_pkey;
	Oid position_seq;
	Oid stream_id_seq;
	Oid message_id_seq;
	Oid event_type;	   /* evtstore.event */
	Oid delivery_type; /* evtstore.delivery */
	Oid append_result_type; /* evtstore.append_result */
} EsCatalog;

/*
 * The catalog of the store in this database; valid until the next invalidation, so read it again after waiting for a
 * lock.  Raises 55000 when the extension is missing or its SQL version does not fit this library.
 */
extern const EsCatalog *es_catalog(void);
/* false instead of an error when this database has no evtstore */
extern bool es_catalog_installed(void);

/*
 * Counts invalidations of the definition table (queues, rules, projections …) and of the catalog itself.  A cache that
 * was built at another generation is stale.  Looked at only after a lock was taken, because that is when
 * invalidation messages are read.
 */
extern uint64 es_catalog_generation(void);
/* the definitions changed: tells every backend at commit, and this one at once */
extern void es_catalog_definitions_changed(void);

/* refuses read-only transactions and parallel mode in one place: call first in every writing entry point */
extern void es_catalog_require_writable(const char *what);
/* the same for what handlers may call while their projection is rebuilt: it has to leave itself out (es_cause_is_replay) */
extern void es_catalog_require_writable_or_replay(const char *what);

extern void es_catalog_init(void);

#endif
