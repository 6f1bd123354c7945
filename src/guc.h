/*
 * guc.h
 *		The settings, all in one table; docs/reference/settings.md is checked against it.
 */
#ifndef ES_GUC_H
#define ES_GUC_H

/* client settings */
extern char *es_guc_tenant;
extern char *es_guc_correlation_id;
extern char *es_guc_causation_id;
extern int es_guc_max_causation_depth; /* evtstore.max_causation_depth: of events that handlers append */
extern char *es_guc_traceparent;
extern char *es_guc_actor;
extern bool es_guc_require_expected_version;

/* operations */
extern bool es_guc_enabled;			 /* evtstore.enabled: workers run in this database */
extern bool es_guc_allow_drop;		 /* evtstore.allow_drop: DROP EXTENSION although events exist */
extern char *es_guc_allowed_networks; /* evtstore.allowed_networks: CIDR list, superuser only */
extern int es_guc_delivery_workers;	 /* evtstore.delivery_workers: per database */
extern int es_guc_rebuild_workers;	 /* evtstore.rebuild_workers: per database, while there is a rebuild */
extern int es_guc_max_endpoints;	 /* evtstore.max_endpoints: shown in views, size of the shared tables */
extern int es_guc_max_databases;	 /* evtstore.max_databases: size of the shared tables */
extern int es_guc_max_subscriptions; /* evtstore.max_subscriptions: in use, size of the shared tables */
extern int es_guc_max_queues;		 /* evtstore.max_queues: in use, size of the shared tables */
extern int es_guc_max_messages_in_flight; /* evtstore.max_messages_in_flight: of all queues, size of the shared tables */
extern int es_guc_poll_interval;	 /* evtstore.poll_interval: fallback poll of workers, ms */
extern int es_guc_janitor_interval;	 /* evtstore.janitor_interval: between rounds of cleaning up, ms; 0: none */
extern int es_guc_lease;			 /* evtstore.worker_lease: lease that workers take, ms */
extern int es_guc_inbox_retention;	 /* evtstore.inbox_retention: ids that once() has met are kept, s */
extern int es_guc_guard_retention;	 /* evtstore.guard_retention: steps that guard_step() has met are kept, s */
extern int es_guc_command_retention; /* evtstore.command_retention: results of commands are kept, s */
extern int es_guc_saga_retention;	 /* evtstore.saga_retention: sagas that have ended are kept, s; -1: for ever */
extern int es_guc_saga_step_timeout; /* evtstore.saga_step_timeout: of a command whose state does not say, s */

/* tests */
extern bool es_guc_test_mode;
extern int es_guc_clock_offset; /* seconds */

/* how evtstore.allowed_networks is checked: set before es_guc_define, because the parser lives in a higher layer */
extern void es_guc_set_network_parser(bool (*parser) (const char *list, char *bad, size_t bad_size));
extern void es_guc_define(void);

#endif
