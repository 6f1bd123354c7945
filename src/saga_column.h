/*
 * saga_column.h
 *		Within sagas only: columns of a result and values of a statement, one by one.
 */
#ifndef ES_SAGA_COLUMN_H
#define ES_SAGA_COLUMN_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "spi.h"

/* a row of a result, column by column; begins with {.row} */
typedef struct EsColumnReader
{
	uint64 row;
	int column;
} EsColumnReader;

/* the values of a statement; begins empty */
typedef struct EsColumnWriter
{
	Datum values[ES_SPI_MAX_ARGS];
	char nulls[ES_SPI_MAX_ARGS + 1];
	int n;
} EsColumnWriter;

/* 0 and NULL stand for SQL NULL; copied into the current context */
extern Datum es_column_next(EsColumnReader *reader, bool *isnull);
extern int64 es_column_next_int(EsColumnReader *reader);
extern TimestampTz es_column_next_time(EsColumnReader *reader);
extern char *es_column_next_text(EsColumnReader *reader);
extern Jsonb *es_column_next_jsonb(EsColumnReader *reader);
/* which of these names it is */
extern int es_column_name(const char *const *names, int n, const char *name);

extern void es_column_put(EsColumnWriter *writer, Datum value);
extern void es_column_put_null(EsColumnWriter *writer);
/* 0 and NULL are SQL NULL */
extern void es_column_put_time(EsColumnWriter *writer, TimestampTz time);
extern void es_column_put_int(EsColumnWriter *writer, int64 value, bool is_big);
extern void es_column_put_text(EsColumnWriter *writer, const char *text);
extern void es_column_put_jsonb(EsColumnWriter *writer, Jsonb *value);
/* runs the statement, which is to write one row */
extern void es_column_write(EsPlan *plan, EsColumnWriter *writer);

#endif
