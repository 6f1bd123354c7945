/*
 * retry.c
 *		The retry policy of queues and subscriptions.  Runs wherever they do; keeps nothing.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
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

const EsOption es_retry_options[] = {
	{"max_attempts", ES_OPTION_INT, 0, 100000},
	{"initial", ES_OPTION_INTERVAL, 0, MAX_SECONDS},
	{"multiplier", ES_OPTION_NUMBER, 1, 1000},
	{"max_delay", ES_OPTION_INTERVAL, 0, MAX_SECONDS},
	{"jitter", ES_OPTION_NUMBER, 0, 1},
	{NULL}
};

static Jsonb *make_empty_object(void);

EsRetry
es_retry_read(Jsonb *policy)
{
	EsRetry		retry;

	if (policy == NULL)
		policy = make_empty_object();
	retry.max_attempts = es_options_int(policy, "max_attempts", DEFAULT_MAX_ATTEMPTS);
	retry.initial = es_options_interval_ms(policy, "initial", DEFAULT_INITIAL_MS);
	retry.multiplier = es_options_number(policy, "multiplier", DEFAULT_MULTIPLIER);
	retry.max_delay = es_options_interval_ms(policy, "max_delay", DEFAULT_MAX_DELAY_MS);
	retry.jitter = es_options_number(policy, "jitter", DEFAULT_JITTER);
	return retry;
}

void
es_retry_append(StringInfo buf, Jsonb *policy)
{
	const char *separator = "";

	appendStringInfoChar(buf, '{');
	for (const EsOption *option = es_retry_options; option->name != NULL; option++)
	{
		if (!es_options_has(policy, option->name))
			continue;
		appendStringInfo(buf, "%s\"%s\": ", separator, option->name);
		separator = ", ";
		if (option->type == ES_OPTION_INTERVAL)
			appendStringInfo(buf, "\"%lldms\"", (long long) es_options_interval_ms(policy, option->name, 0));
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

	es_options_check_changes(changes, es_retry_options, "retry");
	changed = es_options_merge(policy != NULL ? policy : make_empty_object(), changes);
	es_options_check(changed, es_retry_options, "retry");
	return changed;
}

/* the random share spreads what failed together, so that it does not come back together */
int64
es_retry_delay(const EsRetry *retry, int attempts)
{
	double		delay = Min((double) retry->max_delay, retry->initial * pow(retry->multiplier, Max(attempts, 1) - 1));
	double		random_share = delay * retry->jitter;

	return (int64) (delay - random_share + random_share * pg_prng_double(&pg_global_prng_state));
}

static Jsonb *
make_empty_object(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}
