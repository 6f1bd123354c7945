/*
 * rule.h
 *		Which events go to which queue.
 */
#ifndef ES_RULE_H
#define ES_RULE_H

extern void es_rule_init(void);

#endif
