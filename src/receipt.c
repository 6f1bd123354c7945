/*
 * receipt.c
 *		What consumers say of what they were handed: ack, nack, reject, release, extend, for messages and events alike.
 *
 * Runs in consumers' backends.  A receipt is opaque to them; its first letter says whose it is: a message's (settle.c) or an
 * event's (subscription_settle.c).  A call that names several settles messages first, then events, each in an order that
 * is the same for everybody.  All or nothing: the error of a stale one takes back what was settled before it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "queue.h"
#include "receipt.h"
#include "subscription_settle.h"

/* of one call, in order, each once */
typedef struct Receipts
{
	int			nmessages;
	EsMessageReceipt *messages;
	int			nevents;
	EsEventReceipt *events;
} Receipts;

static Receipts parse_one(FunctionCallInfo fcinfo);
static Receipts parse_array(ArrayType *array);
static void add(Receipts *receipts, const char *text);
static void settle(Receipts *receipts, EsSettle how, const char *reason, int64 delay_ms);
static void refuse_stale(const Receipts *receipts);
static const char *hint_for(const char *why);
static char *get_reason(FunctionCallInfo fcinfo, int n);

PG_FUNCTION_INFO_V1(evtstore_ack);
PG_FUNCTION_INFO_V1(evtstore_ack_many);
PG_FUNCTION_INFO_V1(evtstore_nack);
PG_FUNCTION_INFO_V1(evtstore_reject);
PG_FUNCTION_INFO_V1(evtstore_release);
PG_FUNCTION_INFO_V1(evtstore_extend);

/*
 * ack(receipt text) -> int; evtstore_writer.  Drivers send arrays untyped, and an untyped argument resolves to this
 * function: an array literal is taken as what it is.
 */
Datum
evtstore_ack(PG_FUNCTION_ARGS)
{
	char	   *given;
	Receipts	receipts;

	es_catalog_require_writable("ack");
	es_arg_required(fcinfo, 0, "receipt");
	given = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (given[0] == '{')
		receipts = parse_array(DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, given, TEXTOID, -1)));
	else
		receipts = parse_one(fcinfo);
	settle(&receipts, ES_SETTLE_ACK, NULL, -1);
	PG_RETURN_INT32(receipts.nmessages + receipts.nevents);
}

/* ack(receipts text[]) -> int; evtstore_writer */
Datum
evtstore_ack_many(PG_FUNCTION_ARGS)
{
	Receipts	receipts;

	es_catalog_require_writable("ack");
	es_arg_required(fcinfo, 0, "receipts");
	receipts = parse_array(PG_GETARG_ARRAYTYPE_P(0));
	settle(&receipts, ES_SETTLE_ACK, NULL, -1);
	PG_RETURN_INT32(receipts.nmessages + receipts.nevents);
}

/* nack(receipt text, reason text, delay interval) -> void; evtstore_writer */
Datum
evtstore_nack(PG_FUNCTION_ARGS)
{
	Receipts	receipts;
	char	   *reason;
	int64		delay_ms = -1;

	es_catalog_require_writable("nack");
	receipts = parse_one(fcinfo);
	reason = get_reason(fcinfo, 1);
	if (!PG_ARGISNULL(2))
		delay_ms = es_arg_interval(fcinfo, 2, "delay") / 1000;
	settle(&receipts, ES_SETTLE_NACK, reason, delay_ms);
	PG_RETURN_VOID();
}

/* reject(receipt text, reason text) -> void; evtstore_writer */
Datum
evtstore_reject(PG_FUNCTION_ARGS)
{
	Receipts	receipts;

	es_catalog_require_writable("reject");
	receipts = parse_one(fcinfo);
	settle(&receipts, ES_SETTLE_REJECT, get_reason(fcinfo, 1), -1);
	PG_RETURN_VOID();
}

/* release(receipts text[]) -> void; evtstore_writer */
Datum
evtstore_release(PG_FUNCTION_ARGS)
{
	Receipts	receipts;

	es_catalog_require_writable("release");
	es_arg_required(fcinfo, 0, "receipts");
	receipts = parse_array(PG_GETARG_ARRAYTYPE_P(0));
	settle(&receipts, ES_SETTLE_RELEASE, NULL, -1);
	PG_RETURN_VOID();
}

/* extend(receipt text, lease interval) -> boolean; evtstore_writer */
Datum
evtstore_extend(PG_FUNCTION_ARGS)
{
	Receipts	receipts;
	int64		lease_ms;

	es_catalog_require_writable("extend");
	receipts = parse_one(fcinfo);
	lease_ms = es_arg_interval(fcinfo, 1, "lease") / 1000;
	if (lease_ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be at least one millisecond"),
				 errhint("Give the time that the work may still take, or call evtstore.release().")));
	if (receipts.nmessages > 0)
	{
		EsMessageReceipt *receipt = &receipts.messages[0];

		es_queue_extend(receipt, lease_ms);
		/* what was taken away from him because its saga wants it no more */
		if (receipt->stale != NULL && es_queue_is_unwanted(receipt->queue_id, receipt->message_id))
			PG_RETURN_BOOL(false);
	}
	else
		es_subscription_extend(&receipts.events[0], lease_ms);
	refuse_stale(&receipts);
	PG_RETURN_BOOL(true);
}

static Receipts
parse_one(FunctionCallInfo fcinfo)
{
	Receipts	receipts = {.messages = palloc(sizeof(EsMessageReceipt)), .events = palloc(sizeof(EsEventReceipt))};

	es_arg_required(fcinfo, 0, "receipt");
	add(&receipts, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	return receipts;
}

static Receipts
parse_array(ArrayType *array)
{
	Receipts	receipts = {0};
	Datum	   *values;
	bool	   *nulls;
	int			count;
	int			kept = 0;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
	receipts.messages = palloc(Max(count, 1) * sizeof(EsMessageReceipt));
	receipts.events = palloc(Max(count, 1) * sizeof(EsEventReceipt));
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("receipts[%d] must not be NULL", i + 1),
					 errhint("Give each receipt as evtstore.receive() or evtstore.poll() returned it.")));
		add(&receipts, TextDatumGetCString(values[i]));
	}

	if (receipts.nmessages > 1)
		qsort(receipts.messages, receipts.nmessages, sizeof(EsMessageReceipt), es_queue_compare_receipts);
	for (int i = 0; i < receipts.nmessages; i++)
		if (i == 0 || es_queue_compare_receipts(&receipts.messages[kept - 1], &receipts.messages[i]) != 0)
			receipts.messages[kept++] = receipts.messages[i];
	receipts.nmessages = kept;
	kept = 0;
	if (receipts.nevents > 1)
		qsort(receipts.events, receipts.nevents, sizeof(EsEventReceipt), es_subscription_compare_receipts);
	for (int i = 0; i < receipts.nevents; i++)
		if (i == 0 || es_subscription_compare_receipts(&receipts.events[kept - 1], &receipts.events[i]) != 0)
			receipts.events[kept++] = receipts.events[i];
	receipts.nevents = kept;
	return receipts;
}

static void
add(Receipts *receipts, const char *text)
{
	if (es_queue_parse_receipt(text, &receipts->messages[receipts->nmessages]))
		receipts->nmessages++;
	else if (es_subscription_parse_receipt(text, &receipts->events[receipts->nevents]))
		receipts->nevents++;
	else
		es_receipt_refuse(text);
}

void
es_receipt_refuse(const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("receipt \"%.*s\" is malformed", pg_mbcliplen(text, strlen(text), 100), text),
			 errhint("Give it as evtstore.receive() or evtstore.poll() returned it.")));
}

static void
settle(Receipts *receipts, EsSettle how, const char *reason, int64 delay_ms)
{
	es_queue_settle_receipts(receipts->messages, receipts->nmessages, how, reason, delay_ms);
	es_subscription_settle(receipts->events, receipts->nevents, how, reason, delay_ms);
	refuse_stale(receipts);
}

/* if any is; the reason given is that of the first one */
static void
refuse_stale(const Receipts *receipts)
{
	const char *reason = NULL;
	const char *first = NULL;
	int			n = 0;
	StringInfoData detail;

	initStringInfo(&detail);
	for (int i = 0; i < receipts->nmessages + receipts->nevents; i++)
	{
		bool		is_message = i < receipts->nmessages;
		const char *why = is_message ? receipts->messages[i].stale : receipts->events[i - receipts->nmessages].stale;
		const char *text = is_message ? receipts->messages[i].text : receipts->events[i - receipts->nmessages].text;

		if (why == NULL)
			continue;
		if (n++ == 0)
		{
			reason = why;
			first = text;
		}
		appendStringInfoString(&detail, n > 1 ? ", " : "{\"stale\": [");
		escape_json(&detail, text);
	}
	if (n == 0)
		return;
	appendStringInfo(&detail, "], \"reason\": \"%s\"}", reason);
	ereport(ERROR,
			(errcode(ES_ERRCODE_STALE_RECEIPT),
			 n == 1 ? errmsg("receipt \"%s\" is stale", first) : errmsg("%d receipts are stale", n),
			 errdetail_internal("%s", detail.data),
			 errhint("%s", hint_for(reason))));
}

static const char *
hint_for(const char *why)
{
	if (strcmp(why, "settled") == 0)
		return "It was settled before. Do not settle a message twice.";
	if (strcmp(why, "claimed_again") == 0)
		return "The message was given back or its lease ran out, and somebody else has it. Undo or ignore the work.";
	if (strcmp(why, "key_blocked") == 0)
		return "An older event of its key failed: this one comes again after it. Undo or ignore the work.";
	return "Its lease ran out while the work went on. Undo or ignore the work; take a longer lease, or call "
		"evtstore.extend() in time.";
}

static char *
get_reason(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : es_queue_clip_reason(text_to_cstring(PG_GETARG_TEXT_PP(n)));
}
