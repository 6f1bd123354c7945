/*
 * relay_target.c
 *		An endpoint as the relay knows it: its link, how much may go out, and the breaker.
 *
 * Runs in relay workers.  What it knows is the process's own memory; views see a copy in shared memory (endpoint_state.c).
 * docs/architecture-delivery.md, sections 4 and 5, says what becomes of a parcel and of the breaker.  A crash leaves nothing: the next
 * relay begins with closed breakers and full buckets.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "definition.h"
#include "envelope.h"
#include "guc.h"
#include "relay_route.h"
#include "relay_target.h"

/* after something that was not there: not again at once */
#define UNAVAILABLE_PAUSE (100 * 1000) /* us */
/* so often a message may be told "not now" while others are taken */
#define MAX_REFUSALS 3
/* a link that could not be opened is tried again after this */
#define FAULT_PAUSE (10 * USECS_PER_SEC)

/* parcels held for a target, at least; and for how many seconds of its rate */
#define MIN_WINDOW 100
#define RATE_WINDOW 5

static EsTarget *targets = NULL;

static void open_link(EsTarget *target);
static bool is_paused(const EsTarget *target, TimestampTz now);
static void reset(EsTarget *target, TimestampTz now);
static void submit_one(EsTarget *target, EsParcel *parcel, TimestampTz now);
static void succeeded(EsTarget *target);
static void failed(EsTarget *target, TimestampTz now);
static void keep(EsParcel *parcel);
static void give_up(EsParcel *parcel, EsParcelState state);
static void show(EsTarget *target);

EsTarget *
es_target_first(void)
{
	return targets;
}

EsTarget *
es_target_get(const char *name)
{
	MemoryContext context;
	MemoryContext old;
	EsTarget   *target;

	for (target = targets; target != NULL; target = target->next)
		if (strcmp(target->endpoint->name, name) == 0)
			return target->is_leaving ? NULL : target;
	context = AllocSetContextCreate(TopMemoryContext, "evtstore relay target", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	target = palloc0(sizeof(EsTarget));
	target->context = context;
	target->endpoint = es_endpoint_find(name);
	MemoryContextSwitchTo(old);
	if (target->endpoint == NULL || target->endpoint->is_disabled || target->endpoint->is_sql)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	dlist_init(&target->ready);
	target->open_ms = target->endpoint->breaker_open_ms;
	target->state = es_endpoint_state_open(target->endpoint->id);
	target->resets = es_endpoint_state_resets(target->state);
	open_link(target);
	target->next = targets;
	targets = target;
	show(target);
	return target;
}

/* a fault is kept and shown; other targets go on */
static void
open_link(EsTarget *target)
{
	MemoryContext caller = CurrentMemoryContext;
	EsLinkConfig config;
	EsEndpoint *endpoint = target->endpoint;
	char		said[sizeof(target->fault)];

	strlcpy(said, target->fault, sizeof(said));
	target->fault[0] = '\0';
	PG_TRY();
	{
		target->transport = es_transport_for_url(endpoint->url);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		target->transport = NULL;
		strlcpy(target->fault, error->message, sizeof(target->fault));
		FreeErrorData(error);
	}
	PG_END_TRY();
	es_endpoint_link_config(endpoint, &config);
	if (endpoint->missing_secret != NULL)
		snprintf(target->fault, sizeof(target->fault), "its secret of kind \"%s\" is not in this database: evtstore.set_endpoint_secret() sets it again",
				 endpoint->missing_secret);
	else if (target->transport == NULL && target->fault[0] == '\0')
		strlcpy(target->fault, "no transport takes its url", sizeof(target->fault));
	else if (target->transport != NULL && target->transport->startup(target->fault, sizeof(target->fault)))
	{
		target->link = target->transport->open(&config, target->fault, sizeof(target->fault));
		if (target->link != NULL)
			target->fault[0] = '\0';
	}
	if (target->link != NULL)
		return;
	target->not_before = GetCurrentTimestamp() + FAULT_PAUSE;
	if (strcmp(target->fault, said) == 0)
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("nothing is delivered to endpoint \"%s\": %s", endpoint->name, target->fault)));
}

bool
es_target_is_current(const EsTarget *target)
{
	EsEndpoint *endpoint = es_endpoint_find(target->endpoint->name);

	return endpoint != NULL && endpoint->id == target->endpoint->id &&
		endpoint->is_disabled == target->endpoint->is_disabled && strcmp(endpoint->fingerprint, target->endpoint->fingerprint) == 0;
}

void
es_target_free(EsTarget *target)
{
	EsTarget  **place = &targets;

	Assert(target->in_flight == 0 && target->held == 0);
	while (*place != target)
		place = &(*place)->next;
	*place = target->next;
	if (target->link != NULL)
		target->transport->close(target->link);
	MemoryContextDelete(target->context);
}

/* while the breaker is not closed, one for the next probe will do */
bool
es_target_takes(const EsTarget *target)
{
	if (target->is_leaving || target->is_gone || target->link == NULL)
		return false;
	return target->breaker == ES_BREAKER_CLOSED ||
		(target->nready == 0 && target->in_flight == 0 && !is_paused(target, GetCurrentTimestamp()));
}

/* what is out, and as much that is ready; no more than goes out in a few seconds */
int
es_target_window(const EsTarget *target)
{
	int			window = Max(2 * target->endpoint->max_in_flight, MIN_WINDOW);

	if (target->endpoint->rate > 0)
		window = Min(window, Max((int) (target->endpoint->rate * RATE_WINDOW), 1));
	return window;
}

int
es_target_room(const EsTarget *target)
{
	return es_target_window(target) - target->held;
}

/* rather a big claim now and then than a small one all the time */
bool
es_target_wants(const EsTarget *target)
{
	return target->held == 0 || target->breaker != ES_BREAKER_CLOSED || es_target_room(target) >= Max(es_target_window(target) / 4, 1);
}

void
es_target_put_ready(EsParcel *parcel)
{
	parcel->state = ES_PARCEL_READY;
	parcel->route->ready++;
	parcel->target->nready++;
	dlist_push_tail(&parcel->target->ready, &parcel->node);
}

void
es_target_take_back(EsParcel *parcel)
{
	Assert(parcel->state == ES_PARCEL_READY);
	dlist_delete(&parcel->node);
	parcel->route->ready--;
	parcel->target->nready--;
	parcel->state = ES_PARCEL_HELD;
}

int
es_target_submit(EsTarget *target, TimestampTz now)
{
	int			n = 0;

	if (es_target_is_reset(target))
		reset(target, now);
	if (target->link == NULL && !target->is_leaving && now >= target->not_before)
	{
		target->not_before = 0;
		open_link(target);
	}
	if (target->link == NULL || target->is_leaving || target->is_gone || is_paused(target, now))
		return 0;
	if (target->breaker == ES_BREAKER_OPEN)
		target->breaker = ES_BREAKER_HALF_OPEN;
	while (!dlist_is_empty(&target->ready))
	{
		EsParcel   *parcel = dlist_head_element(EsParcel, node, &target->ready);

		if (target->in_flight >= (target->breaker == ES_BREAKER_HALF_OPEN ? 1 : target->endpoint->max_in_flight))
			break;
		if (target->endpoint->rate > 0 && es_rate_room(&target->rate, target->endpoint->rate, now) < 1)
			break;
		if (target->endpoint->nsigning > 0)
		{
			MemoryContext old = MemoryContextSwitchTo(parcel->batch->context);

			es_envelope_sign_again(target->endpoint, &parcel->out);
			MemoryContextSwitchTo(old);
		}
		if (!target->transport->submit(target->link, &parcel->out))
			break;
		submit_one(target, parcel, now);
		n++;
	}
	if (n > 0)
		show(target);
	return n;
}

bool
es_target_is_reset(const EsTarget *target)
{
	return es_endpoint_state_resets(target->state) != target->resets;
}

/* an operator says that it is well again; that it was gone before counts no more */
static void
reset(EsTarget *target, TimestampTz now)
{
	target->resets = es_endpoint_state_resets(target->state);
	target->reset_at = now;
	target->is_gone = false;
	target->breaker = ES_BREAKER_CLOSED;
	target->failures = 0;
	target->not_before = 0;
	target->open_ms = target->endpoint->breaker_open_ms;
	show(target);
}

static void
submit_one(EsTarget *target, EsParcel *parcel, TimestampTz now)
{
	dlist_delete(&parcel->node);
	parcel->state = ES_PARCEL_OUT;
	parcel->submitted_at = now;
	parcel->seen = target->successes;
	parcel->route->ready--;
	target->nready--;
	parcel->route->out++;
	target->in_flight++;
	if (target->endpoint->rate > 0)
		es_rate_spend(&target->rate, 1);
}

static bool
is_paused(const EsTarget *target, TimestampTz now)
{
	return target->not_before > now;
}

void
es_target_judge(EsParcel *parcel, TimestampTz now)
{
	EsTarget   *target = parcel->target;
	EsOutgoing *out = &parcel->out;
	EsEndpointAttempt attempt = {.at = parcel->submitted_at, .us = GetCurrentTimestamp() - parcel->submitted_at, .route = parcel->route->id,
		.number = parcel->number, .attempt = parcel->attempt, .outcome = out->outcome, .status = out->status};

	target->in_flight--;
	target->answered_at = now;
	parcel->route->out--;
	strlcpy(attempt.error, out->error, sizeof(attempt.error));
	if (target->state != NULL)
		es_endpoint_state_add(target->state, &attempt);
	switch (out->outcome)
	{
		case ES_OUTCOME_DELIVERED:
			succeeded(target);
			give_up(parcel, ES_PARCEL_DELIVERED);
			break;
		case ES_OUTCOME_REJECT:
			succeeded(target);
			give_up(parcel, ES_PARCEL_REJECTED);
			break;
		case ES_OUTCOME_RETRY:
			/*
			 * While nobody knows whether anything arrives, no message is to blame; but one that was answered as a probe twice must
			 * not be the only probe.
			 */
			if (target->breaker == ES_BREAKER_CLOSED || (out->status != 0 && ++parcel->probes > 1))
				give_up(parcel, ES_PARCEL_FAILED);
			else
				keep(parcel);
			failed(target, now);
			break;
		case ES_OUTCOME_UNAVAILABLE:
			/* "not now", again and again, while others are taken: then it is the message */
			if (out->status != 0 && target->successes > parcel->seen && ++parcel->refusals >= MAX_REFUSALS)
				give_up(parcel, ES_PARCEL_FAILED);
			else
				keep(parcel);
			failed(target, now);
			if (target->breaker == ES_BREAKER_CLOSED && out->status == 0)
				target->not_before = Max(target->not_before, now + UNAVAILABLE_PAUSE);
			break;
		case ES_OUTCOME_GONE:
			keep(parcel);
			/* what was sent before an operator reset it says nothing of now */
			target->is_gone |= parcel->submitted_at > target->reset_at;
			break;
	}
	if (out->outcome != ES_OUTCOME_DELIVERED && out->retry_after_ms > 0)
		target->not_before = Max(target->not_before, TimestampTzPlusMilliseconds(now, out->retry_after_ms));
	show(target);
}

static void
give_up(EsParcel *parcel, EsParcelState state)
{
	parcel->state = state;
	parcel->reason = parcel->out.error;
}

/* behind the others, so that the next probe is another one; it stays in front of its key */
static void
keep(EsParcel *parcel)
{
	if (parcel->is_away || parcel->route->is_leaving || (parcel->target->is_leaving && !parcel->route->is_rule))
		parcel->state = ES_PARCEL_HELD;
	else
		es_target_put_ready(parcel);
}

static void
succeeded(EsTarget *target)
{
	target->failures = 0;
	/* see relay_away.c */
	target->put_off = target->breaker == ES_BREAKER_CLOSED ? Max(target->put_off - 2, 0) : 0;
	target->successes++;
	target->open_ms = target->endpoint->breaker_open_ms;
	if (target->breaker != ES_BREAKER_CLOSED)
	{
		target->breaker = ES_BREAKER_CLOSED;
		target->not_before = 0;
		ereport(LOG,
				(errmsg("endpoint \"%s\" answers again", target->endpoint->name)));
	}
}

static void
failed(EsTarget *target, TimestampTz now)
{
	target->failures++;
	if (target->breaker == ES_BREAKER_OPEN ||
		(target->breaker == ES_BREAKER_CLOSED && target->failures < target->endpoint->breaker_failures))
		return;
	if (target->breaker == ES_BREAKER_CLOSED)
		ereport(LOG,
				(errmsg("endpoint \"%s\" is left alone after %d failures", target->endpoint->name, target->failures),
				 errhint("It is tried again by itself; evtstore.endpoint_status shows when and why.")));
	target->breaker = ES_BREAKER_OPEN;
	target->not_before = TimestampTzPlusMilliseconds(now, target->open_ms);
	target->open_ms = Min(2 * target->open_ms, target->endpoint->breaker_max_open_ms);
}

TimestampTz
es_target_due(const EsTarget *target)
{
	TimestampTz now = GetCurrentTimestamp();

	if (target->is_leaving || target->is_gone)
		return DT_NOEND;
	if (target->link == NULL)
		return target->not_before;
	if (target->nready == 0 && target->breaker == ES_BREAKER_CLOSED)
		return DT_NOEND;
	if (target->not_before > now)
		return target->not_before;
	if (target->endpoint->rate > 0 && es_rate_room(unconstify(EsRate *, &target->rate), target->endpoint->rate, now) < 1)
		return es_rate_next(&target->rate, target->endpoint->rate, now);
	return DT_NOEND;
}

void
es_target_close_all(void)
{
	for (EsTarget *target = targets; target != NULL; target = target->next)
	{
		if (target->link != NULL)
			target->transport->close(target->link);
		target->link = NULL;
		target->in_flight = 0;
	}
}

static void
show(EsTarget *target)
{
	if (target->state != NULL)
		es_endpoint_state_set(target->state, target->breaker, target->in_flight, target->not_before, target->fault);
}
