/*
 * rule.h
 *		Which events go where: to a queue, to a function, to an endpoint.
 */
#ifndef ES_RULE_H
#define ES_RULE_H

#include "read.h"
#include "subscription_turn.h"

extern void es_rule_init(void);
/* behind es_projection_init: functions of rules see what sync projections made of the events */
extern void es_rule_init_functions(void);

/* is there one that delivery workers serve? */
extern bool es_rule_has_work(void);
/* worker: what es_turn_take says, for the async rule with this id */
extern EsTurnResult es_rule_work(int32 id, int *events);

/*
 * For who delivers to endpoints: a rule with an endpoint is a subscription of the rule's id, is_rule and has_endpoint, which the delivery
 * workers leave alone.
 */
typedef struct EsRule EsRule;

/* NULL: there is none, or none with an endpoint.  Good to the end of the transaction */
extern const EsRule *es_rule_with_endpoint(int32 id);
/* does its endpoint depend on the event? */
extern bool es_rule_is_computed(const EsRule *rule);
/* the name of the endpoint that the event goes to, palloc'd; whether there is one is not looked at */
extern char *es_rule_endpoint(const EsRule *rule, const EsEvent *event);
/* what is delivered of it, in the current context or the event's own; errors name the rule and the event */
extern void es_rule_shape(const EsRule *rule, const EsEvent *event, Datum *body, Datum *headers);

#endif
