/*
 * rule_work.c
 *		Async rules: what a worker does with one.
 *
 * Runs in delivery workers.  An async rule has a subscription of its id (subscription.c), which knows its place and what failed; a turn
 * (subscription_turn.c) sends the messages, or calls the function, in one transaction with the acknowledgement.  So every event
 * that the filter selects has exactly one message, whatever is killed when.  Rules with an endpoint are left alone here.
 *
 * Locks: those of the poll, then what sending or the function takes, to the end of the transaction.  Nothing is kept between two turns;
 * a crash leaves what was committed.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "guc.h"
#include "rule_apply.h"
#include "subscription.h"
#include "subscription_turn.h"

typedef struct RuleEvent
{
	EsTurnEvent turn;			/* must be first */
	EsEvent		event;
} RuleEvent;

static void *find(int32 id);
static Size put(EsTurn *turn, EsReader *reader, EsTurnEvent *event);
static void apply(EsTurn *turn, EsTurnEvent *const *events, int n);
static void send_messages(const EsRule *rule, EsTurnEvent *const *events, int n);
static void call_function(EsRule *rule, EsTurnEvent *const *events, int n, bool check);

static const EsTurnUser user = {
	.kind = "rule",
	.event_size = sizeof(RuleEvent),
	.find = find,
	.put = put,
	.apply = apply,
};

bool
es_rule_has_work(void)
{
	int			n;
	const EsSubscription *all = es_subscription_all(&n);

	for (int i = 0; i < n; i++)
		if (all[i].is_rule && !all[i].has_endpoint && !all[i].is_paused)
			return true;
	return false;
}

EsTurnResult
es_rule_work(int32 id, int *events)
{
	return es_turn_take(&user, id, events);
}

static void *
find(int32 id)
{
	EsRule	   *rule = es_rule_by_id(id);

	return rule != NULL && rule->is_async && rule->kind != ES_RULE_ENDPOINT ? rule : NULL;
}

static Size
put(EsTurn *turn, EsReader *reader, EsTurnEvent *event)
{
	EsEvent    *e = &((RuleEvent *) event)->event;

	es_turn_read_event(reader, e);
	return VARSIZE_ANY(DatumGetPointer(e->data)) + VARSIZE_ANY(DatumGetPointer(e->metadata));
}

static void
apply(EsTurn *turn, EsTurnEvent *const *events, int n)
{
	EsRule	   *rule = turn->target;

	if (rule->kind == ES_RULE_QUEUE)
		send_messages(rule, events, n);
	else
		call_function(rule, events, n, turn->check);
}

static void
send_messages(const EsRule *rule, EsTurnEvent *const *events, int n)
{
	EsSending	sending = {NIL};

	for (int i = 0; i < n; i++)
		es_sending_add(&sending, rule, &((RuleEvent *) events[i])->event, events[i]->tenant);
	es_sending_end(&sending);
}

/* what the function appends or sends is the tenant's; undone with the rest when we are ourselves again */
static void
call_function(EsRule *rule, EsTurnEvent *const *events, int n, bool check)
{
	EsSpiState	state;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "evtstore rule", ALLOCSET_DEFAULT_SIZES);

	es_spi_become(&state, rule->owner, rule->search_path);
	for (int i = 0; i < n; i++)
	{
		if (strcmp(events[i]->tenant, es_guc_tenant) != 0)
			(void) set_config_option("evtstore.tenant", events[i]->tenant, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		es_rule_call(rule, &((RuleEvent *) events[i])->event, events[i]->attempt, scratch);
	}
	if (check)
		es_spi_check_constraints();
	es_spi_unbecome(&state);
	MemoryContextDelete(scratch);
}
