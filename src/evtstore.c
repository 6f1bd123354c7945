/*
 * evtstore.c
 *		Loading and wiring, nothing else: which module is told what at start.
 *
 * Runs in the postmaster, while shared_preload_libraries is processed; every process inherits what is set up here.
 * Loaded in any other way the library refuses: without shared memory there is no exact feed and no worker.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "append.h"
#include "catalog.h"
#include "command.h"
#include "compat.h"
#include "condition.h"
#include "endpoint_state.h"
#include "error.h"
#include "feed.h"
#include "guard.h"
#include "guc.h"
#include "lane.h"
#include "launcher.h"
#include "message_id.h"
#include "projection.h"
#include "queue.h"
#include "queue_state.h"
#include "read.h"
#include "registry.h"
#include "rule.h"
#include "saga.h"
#include "shmem.h"
#include "stream.h"
#include "table.h"
#include "transport/transport.h"
#include "waiter.h"
#include "watch.h"
#include "wakeup.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_PRELOADED),
				 errmsg("evtstore is not in shared_preload_libraries"),
				 errhint("Add this line to postgresql.conf and restart the server: shared_preload_libraries = 'evtstore'")));

	es_guc_set_network_parser(es_transport_parse_networks);
	es_guc_define();
	es_catalog_init();
	es_table_init();
	es_wakeup_init();
	es_waiter_init();
	es_watch_init();

	es_stream_init();
	es_stream_state_init();
	es_feed_init();
	es_condition_init();
	es_append_init();
	es_read_init();
	es_message_id_init();
	es_queue_init();
	es_lane_init();
	es_queue_state_init();
	es_command_init();
	es_saga_init();

	/*
	 * The order of these is the order in which an append runs them: what a projection's handler or a rule's function appends to
	 * the same stream must not reach a queue before the events that it was called for.
	 */
	es_rule_init();
	es_projection_init();
	es_rule_init_functions();

	es_endpoint_state_init();
	es_registry_init();
	es_guard_init();
	es_launcher_register();
	es_shmem_install_hooks();
}
