/*
 * saga_column.c
 *		Columns of a result and values of a statement, one by one.
 *
 * Runs within transitions of sagas (saga_row.c, saga_step.c); keeps nothing.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "compat.h"
#include "queue.h"
#include "saga_column.h"

Datum
es_column_next(EsColumnReader *reader, bool *isnull)
{
	return es_spi_value(reader->row, reader->column++, isnull);
}

int64
es_column_next_int(EsColumnReader *reader)
{
	return es_spi_int32(reader->row, reader->column++);
}

TimestampTz
es_column_next_time(EsColumnReader *reader)
{
	bool		isnull;
	Datum		value = es_column_next(reader, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

char *
es_column_next_text(EsColumnReader *reader)
{
	bool		isnull;
	Datum		value = es_column_next(reader, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

Jsonb *
es_column_next_jsonb(EsColumnReader *reader)
{
	bool		isnull;
	Datum		value = es_column_next(reader, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

int
es_column_name(const char *const *names, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	elog(ERROR, "unknown state of a saga: \"%s\"", name);
}

void
es_column_put(EsColumnWriter *writer, Datum value)
{
	writer->values[writer->n] = value;
	writer->nulls[writer->n++] = ' ';
}

void
es_column_put_null(EsColumnWriter *writer)
{
	writer->values[writer->n] = (Datum) 0;
	writer->nulls[writer->n++] = 'n';
}

void
es_column_put_time(EsColumnWriter *writer, TimestampTz time)
{
	if (time == 0)
		es_column_put_null(writer);
	else
		es_column_put(writer, TimestampTzGetDatum(time));
}

void
es_column_put_int(EsColumnWriter *writer, int64 value, bool is_big)
{
	if (value == 0)
		es_column_put_null(writer);
	else
		es_column_put(writer, is_big ? Int64GetDatum(value) : Int32GetDatum((int32) value));
}

void
es_column_put_text(EsColumnWriter *writer, const char *text)
{
	if (text == NULL)
		es_column_put_null(writer);
	else
		es_column_put(writer, CStringGetTextDatum(text));
}

void
es_column_put_jsonb(EsColumnWriter *writer, Jsonb *value)
{
	if (value == NULL)
		es_column_put_null(writer);
	else
		es_column_put(writer, JsonbPGetDatum(value));
}

void
es_column_write(EsPlan *plan, EsColumnWriter *writer)
{
	EsSpiState	state;

	Assert(writer->n == plan->nargs);
	writer->nulls[writer->n] = '\0';
	es_queue_spi_begin(&state);
	if (es_spi_run(plan, writer->values, writer->nulls, false, 0) != 1)
		elog(ERROR, "a row of a saga is not there");
	es_spi_end(&state);
}
