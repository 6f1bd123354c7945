/*
 * import.h
 *		What import.c, which runs batches, and import_row.c, which reads rows, share.
 */
#ifndef ES_IMPORT_H
#define ES_IMPORT_H

#include "stream.h"
#include "utils/hsearch.h"
#include "utils/palloc.h"

/* the columns that a query may have, in the order in which they are read */
enum
{
	ES_IMPORT_POSITION,
	ES_IMPORT_STREAM,
	ES_IMPORT_TYPE,
	ES_IMPORT_DATA,
	ES_IMPORT_VERSION,
	ES_IMPORT_ID,
	ES_IMPORT_METADATA,
	ES_IMPORT_TAGS,
	ES_IMPORT_SCHEMA_VERSION,
	ES_IMPORT_OCCURRED_AT,
	ES_IMPORT_NCOLUMNS
};

/* one row of the query */
typedef struct EsImportRow
{
	EsEvent event;
	char *stream;
	int64 position; /* in the source */
	int64 version; /* in the source, if has_version */
} EsImportRow;

typedef struct EsImport
{
	const char *source;
	const char *select; /* one batch: $1 position, $2 rows */
	bool has_version;
	bool json_is_text[ES_IMPORT_NCOLUMNS];
	int batch;
	pg_uuid_t namespace; /* of ids that are no UUIDs */
	const char *tenant; /* as it was at the start, whatever the query sets */
	Datum tenant_text;
	MemoryContext chunk_context; /* reset for each chunk */
	int chunk; /* rows */

	/* the row of the source, read and written by each batch */
	bool started;
	int64 position;
	int first_version; /* what the source calls it: 0, 1; -1: not known yet */

	/* of this batch */
	int rows;
	int nappended;
	int nskipped;
	HTAB *streams;

	/* of this call */
	int64 imported;
	int64 skipped;

	/* for CONTEXT: what is being worked on */
	const EsImportRow *at;
} EsImport;

/*
 * Checks the columns of the query and makes of it what reads a batch; makes the name space of ids.  Errors: 22004, 22023,
 * 42804
 */
extern void es_import_prepare(EsImport *import, const char *query);
/* row n of the last fetch, in the current context; everything in it is checked but its version */
extern void es_import_read_row(EsImport *import, uint64 n, EsImportRow *row);

#endif
