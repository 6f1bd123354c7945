/*
 * tag.c
 *		The postings of tags: for each tag of an event a row (tag, position, tag with type).
 *
 * Runs in the appender's backend and in whoever scavenges.  Rows hold hashes of 64 bits and no names, so they are short
 * and of one length; who finds a position looks at the event itself, so two names with one hash cost a look and nothing
 * else.  Two B-trees, (tag, position) and (tag with type, position), make a hot tag as fast as a rare one, alone or with a
 * rare type (search.c).
 *
 * Postings are written in the append's transaction after its events.  Those of a transaction that was rolled back, or of
 * an event that was scavenged while somebody reads, lead to no visible event and are passed over.  So a crash leaves
 * nothing but dead rows for vacuum.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "compat.h"
#include "evtstore.h"
#include "spi.h"
#include "table.h"
#include "tag.h"

/* columns of evtstore_internal.event_tag */
enum
{
	TAG_TAG_HASH,
	TAG_POSITION,
	TAG_PAIR_HASH,
	TAG_NATTS
};

static void insert_posting(EsTable *table, uint64 tag_hash, const EsEvent *event);

static EsPlan remove_plan = {
	.sql = "DELETE FROM evtstore_internal.event_tag WHERE tag_hash = $1 AND position = $2",
	.nargs = 2,
	.args = {INT8OID, INT8OID},
};

uint64
es_tag_hash(const char *tenant, const char *tag, int len)
{
	return es_stream_hash(tenant, tag, len);
}

uint64
es_tag_pair_hash(uint64 tag_hash, const char *type, int len)
{
	return es_hash_continue(tag_hash, type, len);
}

/* no tag is empty */
uint64
es_tag_tenant_hash(const char *tenant)
{
	return es_tag_hash(tenant, "", 0);
}

void
es_tag_prepare(EsEvent *event, const char *tenant)
{
	ArrayType  *array = DatumGetArrayTypeP(event->tags);
	Datum	   *tags;
	int			n;

	event->ntags = 0;
	if (ARR_NDIM(array) == 0)
		return;
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &tags, NULL, &n);
	event->tag_hashes = palloc(n * sizeof(uint64));
	for (int i = 0; i < n; i++)
	{
		struct varlena *tag = (struct varlena *) DatumGetPointer(tags[i]);

		event->tag_hashes[i] = es_tag_hash(tenant, VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag));
	}
	if (n > 1)
		qsort(event->tag_hashes, n, sizeof(uint64), es_hash_compare);
	for (int i = 0; i < n; i++)
		if (i == 0 || event->tag_hashes[i] != event->tag_hashes[event->ntags - 1])
			event->tag_hashes[event->ntags++] = event->tag_hashes[i];
	pfree(tags);
}

void
es_tag_insert(const char *tenant, const EsEvent *events, int n)
{
	bool		has_tenant = tenant[0] != '\0';
	EsTable    *table = NULL;

	for (int i = 0; i < n; i++)
	{
		if (events[i].ntags == 0 && !has_tenant)
			continue;
		if (table == NULL)
		{
			table = es_table_open(ES_TABLE_EVENT_TAG, es_catalog()->event_tag);
			es_table_begin(table);
		}
		if (has_tenant)
			insert_posting(table, es_tag_tenant_hash(tenant), &events[i]);
		for (int t = 0; t < events[i].ntags; t++)
			insert_posting(table, events[i].tag_hashes[t], &events[i]);
	}
	if (table != NULL)
		es_table_end(table);
}

void
es_tag_remove(const char *tenant, const EsEvent *event)
{
	EsEvent		copy = *event;
	EsSpiState	state;
	Datum		values[2];

	es_tag_prepare(&copy, tenant);
	if (copy.ntags == 0 && tenant[0] == '\0')
		return;
	values[1] = Int64GetDatum(event->position);
	es_spi_begin(&state);
	for (int t = 0; t < copy.ntags; t++)
	{
		values[0] = Int64GetDatum((int64) copy.tag_hashes[t]);
		es_spi_run(&remove_plan, values, NULL, false, 0);
	}
	if (tenant[0] != '\0')
	{
		values[0] = Int64GetDatum((int64) es_tag_tenant_hash(tenant));
		es_spi_run(&remove_plan, values, NULL, false, 0);
	}
	es_spi_end(&state);
}

static void
insert_posting(EsTable *table, uint64 tag_hash, const EsEvent *event)
{
	struct varlena *type = (struct varlena *) DatumGetPointer(event->type);
	Datum		values[TAG_NATTS];
	bool		nulls[TAG_NATTS] = {0};

	values[TAG_TAG_HASH] = Int64GetDatum((int64) tag_hash);
	values[TAG_POSITION] = Int64GetDatum(event->position);
	values[TAG_PAIR_HASH] = Int64GetDatum((int64) es_tag_pair_hash(tag_hash, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)));
	es_table_add(table, values, nulls, NULL);
}
