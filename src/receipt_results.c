/*
 * receipt_results.c
 *		settle(): a batch in which each message or event has a result of its own.
 *
 * Runs in consumers' backends.  What is stale does not hold up the others: each result is told.  They are settled in the order
 * of all settlements (receipt.c), so two such calls cannot wait for each other, and written as if each were a call; consecutive
 * ones of a lane that say the same are one.  A malformed result is an error, and nothing is settled.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "options.h"
#include "queue.h"
#include "receipt.h"
#include "subscription_settle.h"

typedef struct Verdict
{
	int			number;			/* from 0, as it was given */
	bool		is_answer;		/* to a command of a saga */
	EsAnswer	answer;
	const char *outcome;		/* of an answer */
	EsSettle	how;
	char	   *reason;
	int64		delay_ms;		/* < 0: by the retry policy */
	bool		is_message;
	EsMessageReceipt message;
	EsEventReceipt event;
} Verdict;

static Verdict *parse_results(Jsonb *array, int *n);
static void parse_result(Jsonb *element, Verdict *result, const char *what);
static void parse_answer(Jsonb *element, Verdict *result, char *receipt, const char *verb, const char *what);
static void refuse_answers(Jsonb *element, const char *verb, const char *what);
static void refuse_keys(Jsonb *element, const char *const *keys, const char *verb, const char *what);
static EsSettle parse_do(const char *text, const char *what);
static int	compare_results(const void *a, const void *b);
static int	settle_events(Verdict *results, int n);
static bool says_the_same(const Verdict *a, const Verdict *b);

PG_FUNCTION_INFO_V1(evtstore_settle);

/* settle(results jsonb) -> table(receipt text, outcome text, reason text), in their order; evtstore_writer */
Datum
evtstore_settle(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	Verdict	   *results;
	Verdict	  **in_order;
	int			n;

	es_catalog_require_writable("settle");
	es_arg_required(fcinfo, 0, "results");
	results = parse_results(PG_GETARG_JSONB_P(0), &n);
	if (n > 1)
		qsort(results, n, sizeof(Verdict), compare_results);
	for (int i = 0; i < n;)
		if (results[i].is_answer)
		{
			results[i].outcome = es_queue_answer(&results[i].answer);
			i++;
		}
		else if (results[i].is_message)
		{
			es_queue_settle_receipts(&results[i].message, 1, results[i].how, results[i].reason, results[i].delay_ms);
			i++;
		}
		else
			i += settle_events(&results[i], n - i);

	in_order = palloc(Max(n, 1) * sizeof(Verdict *));
	for (int i = 0; i < n; i++)
		in_order[results[i].number] = &results[i];
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		const char *stale = in_order[i]->is_message ? in_order[i]->message.stale : in_order[i]->event.stale;
		Datum		values[3];
		bool		nulls[3] = {false, false, stale == NULL};

		values[0] = CStringGetTextDatum(in_order[i]->is_message ? in_order[i]->message.text : in_order[i]->event.text);
		values[1] = CStringGetTextDatum(in_order[i]->is_answer ? in_order[i]->outcome : stale == NULL ? "accepted" : "stale");
		values[2] = stale == NULL ? (Datum) 0 : CStringGetTextDatum(stale);
		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

static Verdict *
parse_results(Jsonb *array, int *n)
{
	Jsonb	  **elements = es_options_elements(array, "results", "Give them as [{\"receipt\": \"…\", \"do\": \"ack\"}, …].", n);
	Verdict	   *results;

	results = MemoryContextAllocExtended(CurrentMemoryContext, Max(*n, 1) * sizeof(Verdict), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < *n; i++)
	{
		results[i].number = i;
		parse_result(elements[i], &results[i], psprintf("results[%d]", i + 1));
	}
	return results;
}

static void
parse_result(Jsonb *element, Verdict *result, const char *what)
{
	static const EsOption allowed[] = {
		{"receipt", ES_OPTION_STRING},
		{"do", ES_OPTION_STRING},
		{"reason", ES_OPTION_STRING},
		{"delay", ES_OPTION_INTERVAL, 0, 100.0 * 365 * 24 * 3600},
		{"output", ES_OPTION_ANY},
		{"error", ES_OPTION_STRING},
		{"cause", ES_OPTION_STRING},
		{"retryable", ES_OPTION_BOOL},
		{"retry_after", ES_OPTION_INTERVAL, 0, 100.0 * 365 * 24 * 3600},
		{NULL}
	};
	char	   *receipt;
	char	   *verb;

	es_options_check(element, allowed, what);
	receipt = es_options_string(element, "receipt", NULL);
	verb = es_options_string(element, "do", NULL);
	if (receipt == NULL || verb == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s has no \"%s\"", what, receipt == NULL ? "receipt" : "do"),
				 errhint("Give it as {\"receipt\": \"…\", \"do\": \"ack\"}.")));
	result->is_answer = strcmp(verb, "reply") == 0 || strcmp(verb, "fail") == 0;
	if (result->is_answer)
	{
		parse_answer(element, result, receipt, verb, what);
		return;
	}
	refuse_answers(element, verb, what);
	result->how = parse_do(verb, what);
	result->reason = es_queue_clip_reason(es_options_string(element, "reason", NULL));
	result->delay_ms = es_options_interval_ms(element, "delay", -1);
	if ((result->reason != NULL && result->how != ES_SETTLE_NACK && result->how != ES_SETTLE_REJECT) ||
		(result->delay_ms >= 0 && result->how != ES_SETTLE_NACK))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" in %s does not go with \"do\": \"%s\"", result->delay_ms >= 0 ? "delay" : "reason", what, verb),
				 errhint("\"reason\" is for nack and reject, \"delay\" for nack.")));
	result->is_message = es_queue_parse_receipt(receipt, &result->message);
	if (!result->is_message && !es_subscription_parse_receipt(receipt, &result->event))
		es_receipt_refuse(receipt);
}

/* {"output"} of a reply; {"error", "cause", "retryable", "retry_after"} of a fail */
static void
parse_answer(Jsonb *element, Verdict *result, char *receipt, const char *verb, const char *what)
{
	static const char *const of_reply[] = {"reason", "delay", "error", "cause", "retryable", "retry_after", NULL};
	static const char *const of_fail[] = {"reason", "delay", "output", NULL};
	EsAnswer   *answer = &result->answer;

	answer->receipt = receipt;
	answer->is_success = strcmp(verb, "reply") == 0;
	refuse_keys(element, answer->is_success ? of_reply : of_fail, verb, what);
	answer->output = es_options_any(element, "output");
	answer->error = es_options_string(element, "error", NULL);
	answer->cause = es_options_string(element, "cause", NULL);
	answer->is_final = !es_options_bool(element, "retryable", true);
	answer->retry_after = es_options_has(element, "retry_after") ? es_options_interval_ms(element, "retry_after", 0) / 1000.0 : -1;
	if (!answer->is_success && answer->error == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s has no \"error\"", what),
				 errhint("Give it as {\"receipt\": \"…\", \"do\": \"fail\", \"error\": \"SoldOut\"}.")));
	result->is_message = es_queue_parse_receipt(receipt, &result->message);
	if (!result->is_message)
		es_receipt_refuse(receipt);
}

static void
refuse_answers(Jsonb *element, const char *verb, const char *what)
{
	static const char *const of_answers[] = {"output", "error", "cause", "retryable", "retry_after", NULL};

	refuse_keys(element, of_answers, verb, what);
}

static void
refuse_keys(Jsonb *element, const char *const *keys, const char *verb, const char *what)
{
	for (int i = 0; keys[i] != NULL; i++)
		if (es_options_has(element, keys[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" in %s does not go with \"do\": \"%s\"", keys[i], what, verb),
					 errhint("\"reason\" is for nack and reject, \"delay\" for nack, \"output\" for reply; \"error\", \"cause\", \"retryable\" and "
							 "\"retry_after\" for fail.")));
}

static EsSettle
parse_do(const char *text, const char *what)
{
	if (strcmp(text, "ack") == 0)
		return ES_SETTLE_ACK;
	if (strcmp(text, "nack") == 0)
		return ES_SETTLE_NACK;
	if (strcmp(text, "reject") == 0)
		return ES_SETTLE_REJECT;
	if (strcmp(text, "release") == 0)
		return ES_SETTLE_RELEASE;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown \"do\" in %s: \"%s\"", what, es_arg_shown(text, strlen(text))),
			 errhint("It is ack, nack, reject, release, reply or fail.")));
}

/* as receipt.c settles: messages before events; those of one receipt as they were given */
static int
compare_results(const void *a, const void *b)
{
	const Verdict *x = a;
	const Verdict *y = b;
	int			order;

	if (x->is_message != y->is_message)
		return x->is_message ? -1 : 1;
	order = x->is_message ? es_queue_compare_receipts(&x->message, &y->message) :
		es_subscription_compare_receipts(&x->event, &y->event);
	return order != 0 ? order : x->number - y->number;
}

/* those from the first on that say the same of one hold of a lane; returns how many */
static int
settle_events(Verdict *results, int n)
{
	EsEventReceipt *events = palloc(n * sizeof(EsEventReceipt));
	int			count = 0;

	do
	{
		events[count] = results[count].event;
		count++;
	} while (count < n && says_the_same(&results[0], &results[count]) &&
			 es_subscription_compare_receipts(&results[count - 1].event, &results[count].event) != 0);
	es_subscription_settle(events, count, results[0].how, results[0].reason, results[0].delay_ms);
	for (int i = 0; i < count; i++)
		results[i].event.stale = events[i].stale;
	pfree(events);
	return count;
}

static bool
says_the_same(const Verdict *a, const Verdict *b)
{
	if (a->event.subscription != b->event.subscription || a->event.lane != b->event.lane || a->event.epoch != b->event.epoch)
		return false;
	if (a->how != b->how || a->delay_ms != b->delay_ms || (a->reason == NULL) != (b->reason == NULL))
		return false;
	return a->reason == NULL || strcmp(a->reason, b->reason) == 0;
}
