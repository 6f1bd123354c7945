/*
 * rule_apply.h
 *		Within rules only: their definitions as each backend caches them, and doing what they say.
 */
#ifndef ES_RULE_APPLY_H
#define ES_RULE_APPLY_H

#include "executor/spi.h"
#include "nodes/pg_list.h"

#include "filter.h"
#include "options.h"
#include "queue.h"
#include "rule.h"
#include "spi.h"
#include "template.h"

typedef enum EsRuleTarget
{
	ES_RULE_QUEUE,
	ES_RULE_FUNCTION,
	ES_RULE_SAGA, /* an instance of it is started, by a statement as a function is called */
	ES_RULE_ENDPOINT
} EsRuleTarget;

#define ES_RULE_TARGETS (ES_RULE_ENDPOINT + 1)

/* the parts of a transform; what is not in it is NULL: the event's own */
typedef struct EsTransform
{
	EsTemplate *body;
	EsTemplate *headers;
	EsTemplate *key;
	EsTemplate *delay;
	EsTemplate *priority;
	EsTemplate *dedup_id;
} EsTransform;

struct EsRule
{
	int32 id;
	char *name;
	char *owner;
	char *search_path;
	bool is_async;
	EsRuleTarget kind;
	EsTemplate *target; /* what is behind the colon */
	const char *constant; /* the same, where it is no computed one; else NULL */
	EsTransform transform;
	EsFilter *filter;
	char *sql;		 /* of a function, or what starts a saga */
	SPIPlanPtr plan; /* saved; NULL before first use */
};

/* in rule_spec.c: the target and the transform of a spec, checked; ST009 names every fault.  transform: NULL for none */
extern void es_rule_compile(EsRule *rule, const char *target, Jsonb *transform);
/* delay and priority, as send_messages takes them */
extern const EsOption es_rule_number_options[];
/* the target's prefix, with its colon */
extern const char *es_rule_prefix(EsRuleTarget kind);

/*
 * All rules, in order of creation, from the latest snapshot, whatever the isolation level.  Good to the end of the transaction, also
 * where a function changes a rule meanwhile.
 */
extern List *es_rules(void);
/* the sync ones of them with that kind of target */
extern List *es_rules_sync(EsRuleTarget kind);
extern EsRule *es_rule_by_id(int32 id); /* NULL: none */

/* messages on their way, queue by queue: all of a batch of events, then sent in one go */
typedef struct EsSending
{
	List *batches; /* of those who send */
	MemoryContext scratch; /* what is needed for one message only; NULL: none was */
} EsSending;

/* the message that the rule makes of the event; tenant: NULL for the session's.  The event has to stay until all is sent */
extern void es_sending_add(EsSending *sending, const EsRule *rule, const EsEvent *event, const char *tenant);
/* in order of queues, so that locks of keys are taken in one order by everybody */
extern void es_sending_end(EsSending *sending);

/* the parts of a message that are not the event's, and what a function gets */
extern void es_rule_fill_message(const EsRule *rule, const EsEvent *event, EsMessage *message);
/* between es_spi_become and es_spi_unbecome; scratch is empty again behind it */
extern void es_rule_call(EsRule *rule, const EsEvent *event, int attempt, MemoryContext scratch);

extern void es_rule_apply_init(void);

#endif
