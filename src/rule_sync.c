/*
 * rule_sync.c
 *		Sync rules: in the append's transaction.
 *
 * Runs in the appender's backend.  Event and message, or event and effect of the function, commit together or not at all.  The stream
 * is the message's key where the rule says nothing else, so that a stream's messages go out in order: the stream's lock is held,
 * which makes the order of ids the order of commits.  Locks: what sending takes, queue by queue in the order of their ids; what
 * functions take.  A crash takes events and effects together.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "append.h"
#include "compat.h"
#include "rule_apply.h"

static void send_messages(const EsAppendPart *parts, int nparts, int nevents);
static void call_functions(const EsAppendPart *parts, int nparts, int nevents);
static void call_for_parts(EsRule *rule, const EsAppendPart *parts, int nparts);

void
es_rule_init(void)
{
	es_rule_apply_init();
	es_append_register_hook(send_messages);
}

void
es_rule_init_functions(void)
{
	es_append_register_hook(call_functions);
}

/*
 * Event by event: two rules to one queue must not send a stream's events past each other.  An event that two of them select is sent
 * twice.
 */
static void
send_messages(const EsAppendPart *parts, int nparts, int nevents)
{
	List	   *rules;
	EsSending	sending = {NIL};

	/* what is imported was acted upon where it happened */
	if (es_append_is_history())
		return;
	rules = es_rules_sync(ES_RULE_QUEUE);
	if (rules == NIL)
		return;
	for (int p = 0; p < nparts; p++)
		for (int i = 0; i < parts[p].n; i++)
		{
			ListCell   *lc;

			foreach(lc, rules)
			{
				EsRule	   *rule = lfirst(lc);

				if (es_filter_matches(rule->filter, parts[p].handle, &parts[p].events[i]))
					es_sending_add(&sending, rule, &parts[p].events[i], NULL);
			}
		}
	if (sending.batches != NIL)
		es_sending_end(&sending);
}

/* rule by rule, each event in order; behind all messages and projections, because a function may append */
static void
call_functions(const EsAppendPart *parts, int nparts, int nevents)
{
	ListCell   *lc;

	if (es_append_is_history())
		return;
	foreach(lc, es_rules_sync(ES_RULE_FUNCTION))
		call_for_parts(lfirst(lc), parts, nparts);
	foreach(lc, es_rules_sync(ES_RULE_SAGA))
		call_for_parts(lfirst(lc), parts, nparts);
}

static void
call_for_parts(EsRule *rule, const EsAppendPart *parts, int nparts)
{
	EsSpiState	state;
	MemoryContext scratch = NULL;

	for (int p = 0; p < nparts; p++)
		for (int i = 0; i < parts[p].n; i++)
		{
			if (!es_filter_matches(rule->filter, parts[p].handle, &parts[p].events[i]))
				continue;
			if (scratch == NULL)
			{
				scratch = AllocSetContextCreate(CurrentMemoryContext, "evtstore rule", ALLOCSET_DEFAULT_SIZES);
				es_spi_become(&state, rule->owner, rule->search_path);
			}
			es_rule_call(rule, &parts[p].events[i], 1, scratch);
		}
	if (scratch == NULL)
		return;
	es_spi_unbecome(&state);
	MemoryContextDelete(scratch);
}
