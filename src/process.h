/*
 * process.h
 *		What every worker process does alike: signals, registration, connection, sleeping, errors.
 */
#ifndef ES_PROCESS_H
#define ES_PROCESS_H

#include "datatype/timestamp.h"
#include "registry.h"

/* true once SIGTERM came: finish or abandon what is under way, then exit */
extern volatile sig_atomic_t es_process_stop;

/*
 * Signals, registration, connection, in this order; exits when the registry wants nobody here.  For the launcher
 * without a database.
 */
extern void es_process_begin(EsWorkerKind kind);

/* what a turn gives back is kept for the next one: for who takes turns with thousands of events, one after the other */
extern void es_process_keep_memory(void);

/* the name of the database, as it was when the worker connected */
extern const char *es_process_database(void);
/* application_name: kind, database and queue (NULL: none) */
extern void es_process_show(const char *queue);

/* sleeps on the latch, with no transaction open; true when the latch was set */
extern bool es_process_sleep(long ms);
/* reads the configuration again if SIGHUP asked for it; true when it did */
extern bool es_process_reload(void);

/* transactions of a worker's own; statistics are reported at the end of each */
extern void es_process_start_transaction(const char *activity);
extern void es_process_commit(void);
/* in PG_CATCH: aborts, cleans up, returns the error, allocated in context */
extern ErrorData *es_process_recover(MemoryContext context);
extern void es_process_log_error(const ErrorData *error, const char *what);

/* now + ms, and the ms until then, for sleeping; INT_MAX when at is 0 */
extern long es_process_ms_until(TimestampTz now, TimestampTz at);

#endif
