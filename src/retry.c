/*
 * retry.c
 *		The retry policy of queues and subscriptions.  Runs wherever they do; keeps nothing.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "compat.h"
#include "retry.h"

/* where a policy says nothing */
#define DEFAULT_MAX_ATTEMPTS 10
#define DEFAULT_INITIAL_MS 1000
#define DEFAULT_MULTIPLIER 2.0
#define DEFAULT_MAX_DELAY_MS (10 * 60 * 1000)
#define DEFAULT_JITTER 0.5

#define MAX_SECONDS (365.0 * 24 * 3600)

static const EsOption allowed[] = {
	{"max_attempts", ES_OPTION_INT, 0, 100000},
	{"max_age", ES_OPTION_INTERVAL, 0, MAX_SECONDS},
	{"initial", ES_OPTION_INTERVAL, 0, MAX_SECONDS},
	{"multiplier", ES_OPTION_NUMBER, 1, 1000},
	{"max_delay", ES_OPTION_INTERVAL, 0, MAX_SECONDS},
	{"jitter", ES_OPTION_NUMBER, 0, 1},
	{"schedule", ES_OPTION_STRINGS},
	{"retry_on", ES_OPTION_STRINGS},
	{"give_up_on", ES_OPTION_STRINGS},
	{NULL}
};

static void append_list(StringInfo buf, Jsonb *policy, const char *name);
static int64 delay_ms(const char *text);
static List *copy_strings(List *list);
static bool is_in(const char *error, List *texts);
static Jsonb *make_empty_object(void);

void
es_retry_check(Jsonb *policy)
{
	List	   *schedule;
	ListCell   *lc;

	es_options_check(policy, allowed, "retry");
	schedule = es_options_strings(policy, "schedule");
	if (list_length(schedule) > ES_RETRY_MAX_SCHEDULE || (schedule == NIL && es_options_has(policy, "schedule")))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"schedule\" in retry has %d delays", list_length(schedule)),
				 errhint("It has 1 to %d; the last one goes on.", ES_RETRY_MAX_SCHEDULE)));
	foreach(lc, schedule)
		(void) delay_ms(lfirst(lc));
	if (schedule != NIL && (es_options_has(policy, "initial") || es_options_has(policy, "multiplier") || es_options_has(policy, "max_delay")))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"schedule\" in retry excludes \"initial\", \"multiplier\" and \"max_delay\""),
				 errhint("Give the delays one by one, or how they grow.")));
}

EsRetry
es_retry_read(Jsonb *policy)
{
	EsRetry		retry = {0};
	ListCell   *lc;

	if (policy == NULL)
		policy = make_empty_object();
	retry.max_attempts = es_options_int(policy, "max_attempts", DEFAULT_MAX_ATTEMPTS);
	retry.max_age = es_options_interval_ms(policy, "max_age", 0);
	retry.initial = es_options_interval_ms(policy, "initial", DEFAULT_INITIAL_MS);
	retry.multiplier = es_options_number(policy, "multiplier", DEFAULT_MULTIPLIER);
	retry.max_delay = es_options_interval_ms(policy, "max_delay", DEFAULT_MAX_DELAY_MS);
	foreach(lc, es_options_strings(policy, "schedule"))
		retry.schedule[retry.nschedule++] = delay_ms(lfirst(lc));
	/* delays that somebody wrote down are meant */
	retry.jitter = es_options_number(policy, "jitter", retry.nschedule > 0 ? 0 : DEFAULT_JITTER);
	retry.retry_on = es_options_strings(policy, "retry_on");
	retry.give_up_on = es_options_strings(policy, "give_up_on");
	return retry;
}

EsRetry
es_retry_copy(const EsRetry *retry)
{
	EsRetry		copy = *retry;

	copy.retry_on = copy_strings(retry->retry_on);
	copy.give_up_on = copy_strings(retry->give_up_on);
	return copy;
}

void
es_retry_append(StringInfo buf, Jsonb *policy)
{
	const char *separator = "";

	appendStringInfoChar(buf, '{');
	for (const EsOption *option = allowed; option->name != NULL; option++)
	{
		if (!es_options_has(policy, option->name))
			continue;
		appendStringInfo(buf, "%s\"%s\": ", separator, option->name);
		separator = ", ";
		if (option->type == ES_OPTION_INTERVAL)
			appendStringInfo(buf, "\"%lldms\"", (long long) es_options_interval_ms(policy, option->name, 0));
		else if (option->type == ES_OPTION_STRINGS)
			append_list(buf, policy, option->name);
		else if (option->type == ES_OPTION_INT)
			appendStringInfo(buf, "%d", es_options_int(policy, option->name, 0));
		else
			appendStringInfo(buf, "%.15g", es_options_number(policy, option->name, 0));
	}
	appendStringInfoChar(buf, '}');
}

Jsonb *
es_retry_change(Jsonb *policy, Jsonb *changes)
{
	Jsonb	   *changed;

	es_options_check_changes(changes, allowed, "retry");
	changed = es_options_merge(policy != NULL ? policy : make_empty_object(), changes);
	es_retry_check(changed);
	return changed;
}

const char *
es_retry_over(const EsRetry *retry, int attempts, int64 age, const char *error)
{
	if (error != NULL && (is_in(error, retry->give_up_on) || (retry->retry_on != NIL && !is_in(error, retry->retry_on))))
		return "given up";
	if (retry->max_attempts > 0 && attempts >= retry->max_attempts)
		return "attempts spent";
	if (retry->max_age > 0 && age >= retry->max_age)
		return "too old";
	return NULL;
}

/* the random share spreads what failed together, so that it does not come back together */
int64
es_retry_delay(const EsRetry *retry, int attempts)
{
	double		delay;
	double		random_share;

	attempts = Max(attempts, 1);
	if (retry->nschedule > 0)
		delay = retry->schedule[Min(attempts, retry->nschedule) - 1];
	else if (retry->initial == 0)
		delay = 0;				/* and not that times infinity */
	else
		delay = Min((double) retry->max_delay, retry->initial * pow(retry->multiplier, attempts - 1));
	random_share = delay * retry->jitter;
	return (int64) (delay - random_share + random_share * pg_prng_double(&pg_global_prng_state));
}

/* delays in ms, as all intervals of a policy */
static void
append_list(StringInfo buf, Jsonb *policy, const char *name)
{
	const char *separator = "";
	ListCell   *lc;

	appendStringInfoChar(buf, '[');
	foreach(lc, es_options_strings(policy, name))
	{
		appendStringInfoString(buf, separator);
		separator = ", ";
		if (strcmp(name, "schedule") == 0)
			appendStringInfo(buf, "\"%lldms\"", (long long) delay_ms(lfirst(lc)));
		else
			escape_json(buf, lfirst(lc));
	}
	appendStringInfoChar(buf, ']');
}

static int64
delay_ms(const char *text)
{
	int64		ms = es_options_interval_of(text);

	if (ms < 0 || ms > MAX_SECONDS * 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a delay of \"schedule\" in retry is out of range: \"%s\"", text),
				 errhint("It lies between 0 and a year.")));
	return ms;
}

static List *
copy_strings(List *list)
{
	List	   *copy = NIL;
	ListCell   *lc;

	foreach(lc, list)
		copy = lappend(copy, pstrdup(lfirst(lc)));
	return copy;
}

static bool
is_in(const char *error, List *texts)
{
	ListCell   *lc;

	foreach(lc, texts)
		if (strstr(error, lfirst(lc)) != NULL)
			return true;
	return false;
}

static Jsonb *
make_empty_object(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}
