/*
 * subscription_delivery.c
 *		What a poll hands out as a delivery, for workers.
 *
 * Runs in delivery and relay workers, inside of a poll; keeps nothing.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "event.h"
#include "subscription_delivery.h"

static Datum value(EsReader *reader, int attno);

EsDelivery *
es_subscription_delivery(EsReader *reader, const EsPolled *event)
{
	EsDelivery *delivery = palloc0(sizeof(EsDelivery));
	bool		isnull;
	const text *stream = es_reader_stream(reader);
	Datum		tags = es_reader_value(reader, ES_EVENT_ROW_TAGS, &isnull);

	delivery->attempt = event->attempt;
	delivery->key = event->key == NULL ? NULL : pstrdup(event->key);
	delivery->has_event = true;
	delivery->position = event->position;
	delivery->stream = stream == NULL ? NULL : text_to_cstring(stream);
	delivery->tags = isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(tags));
	/* where the event has no stream it has no version */
	delivery->version = stream == NULL ? 0 : DatumGetInt64(value(reader, ES_EVENT_ROW_VERSION));
	delivery->event_id = *DatumGetUUIDP(value(reader, ES_EVENT_ROW_ID));
	delivery->type = TextDatumGetCString(value(reader, ES_EVENT_ROW_TYPE));
	delivery->schema_version = DatumGetInt32(value(reader, ES_EVENT_ROW_SCHEMA_VERSION));
	delivery->body = DatumGetJsonbPCopy(value(reader, ES_EVENT_ROW_DATA));
	delivery->headers = DatumGetJsonbPCopy(value(reader, ES_EVENT_ROW_METADATA));
	delivery->occurred_at = DatumGetTimestampTz(value(reader, ES_EVENT_ROW_OCCURRED_AT));
	delivery->recorded_at = DatumGetTimestampTz(value(reader, ES_EVENT_ROW_RECORDED_AT));
	delivery->enqueued_at = delivery->recorded_at;
	return delivery;
}

/* of a column that is never NULL */
static Datum
value(EsReader *reader, int attno)
{
	bool		isnull;
	Datum		datum = es_reader_value(reader, attno, &isnull);

	if (isnull)
		elog(ERROR, "attribute %d of an event is NULL", attno);
	return datum;
}
