/*
 * process.c
 *		What the launcher, schedulers and delivery workers do alike.
 *
 * How a worker ends.  SIGTERM sets es_process_stop and the latch: a sleeping worker ends at once, one that talks to
 * the outside returns from its transport at the next look at the flag and settles what it has.  That is a request only,
 * and a handler in SQL or a lock wait does not look at it.  So the signal handler also starts a timer, whose signal
 * three seconds later (SIGUSR2) is the server's own termination (ProcDiePending): it interrupts SQL, lock waits and
 * waits for synchronous replication.  The transaction rolls back; messages that were leased in an
 * earlier one come back when the lease ends.  Before the worker is connected the first SIGTERM terminates: there is
 * nothing to finish, and it may be waiting for the lock of the very command that wants it gone.
 *
 * The timer is the kernel's and not one of the server's time-outs, because those cannot be started in a signal handler,
 * and one that ticks all the time would wake the worker all the time.
 *
 * Exit codes: 0 when a worker was told to go or has nothing to do here, 1 after an error (the registry counts it).  The
 * launcher always exits with 1: the postmaster takes 0 of a static worker for "never again".
 */
#include "postgres.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "process.h"

#define GRACE 3 /* s */

/* bytes that were given back and stay with the process, where it wants that */
#define KEPT_MEMORY (32 * 1024 * 1024)

/* not everywhere: without it the first SIGTERM terminates */
#if defined(_POSIX_TIMERS) && _POSIX_TIMERS > 0
#define ES_HAVE_TIMER
#endif

volatile sig_atomic_t es_process_stop = false;

static EsWorkerKind my_kind;
static NameData database_name;
static volatile sig_atomic_t connected = false;
static volatile sig_atomic_t have_grace_timer = false;
#ifdef ES_HAVE_TIMER
static timer_t grace_timer;
#endif

/*
 * What a database's or role's settings must not change for a worker: it writes, at READ COMMITTED, for all tenants.
 * Names that this server does not know are skipped.
 */
static const struct
{
	const char *name;
	const char *value;
}			pinned_settings[] = {
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"transaction_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"search_path", "pg_catalog, pg_temp"},
	{"evtstore.tenant", ""},
	{"evtstore.correlation_id", ""},
	{"evtstore.causation_id", ""},
	{"evtstore.traceparent", ""},
	{"evtstore.actor", ""},
};

static void connect_database(Oid database);
static void handle_sigterm(SIGNAL_ARGS);
static void handle_grace_over(SIGNAL_ARGS);
static void make_grace_timer(void);
static void request_die(void);

void
es_process_begin(EsWorkerKind kind)
{
	Oid			database;

	my_kind = kind;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	pqsignal(SIGUSR2, handle_grace_over);
	BackgroundWorkerUnblockSignals();

	if (!es_registry_attach(kind, &database))
		proc_exit(0);

	connect_database(database);
	make_grace_timer();
	/* a SIGTERM that came while connecting has made CHECK_FOR_INTERRUPTS fatal already */
	connected = true;
	CHECK_FOR_INTERRUPTS();
	es_process_show(NULL);
	pgstat_report_activity(STATE_IDLE, NULL);
	es_registry_set_state(ES_STATE_IDLE);
}

static void
connect_database(Oid database)
{
	if (!OidIsValid(database))
		BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	else
		BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		if (GetConfigOption(pinned_settings[i].name, true, false) != NULL)
			SetConfigOption(pinned_settings[i].name, pinned_settings[i].value, PGC_SUSET, PGC_S_OVERRIDE);
	}
	if (OidIsValid(database))
	{
		char	   *name;

		StartTransactionCommand();
		name = get_database_name(database);
		if (name != NULL)
			namestrcpy(&database_name, name);
		CommitTransactionCommand();
	}
}

/* else the C library gives it back to the system after each turn, and the next one gets it anew, page by page */
void
es_process_keep_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, KEPT_MEMORY);
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
#endif
}

const char *
es_process_database(void)
{
	return NameStr(database_name);
}

void
es_process_show(const char *queue)
{
	char		name[NAMEDATALEN * 2];
	int			len;

	/* as long as application_name may be, cut where a character ends */
	len = snprintf(name, sizeof(name), "%s%s%s%s%s", es_registry_kind_name(my_kind),
				   NameStr(database_name)[0] != '\0' ? " " : "", NameStr(database_name),
				   queue != NULL ? "/" : "", queue != NULL ? queue : "");
	len = Min(len, (int) sizeof(name) - 1);
	name[pg_mbcliplen(name, len, NAMEDATALEN - 1)] = '\0';
	pgstat_report_appname(name);
}

bool
es_process_sleep(long ms)
{
	static uint32 wait_event = 0;
	int			rc;

	if (wait_event == 0)
		wait_event = es_wait_event("EvtstoreWorkerMain");
	Assert(!IsTransactionState());

	rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Max(ms, 0), wait_event);
	if (rc & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return (rc & WL_LATCH_SET) != 0;
}

bool
es_process_reload(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

void
es_process_start_transaction(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* what is read may be toasted, which takes a snapshot */
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

void
es_process_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

ErrorData *
es_process_recover(MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	/* an error may also come from between transactions, where nobody else cleans up */
	AbortOutOfAnyTransaction();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	RESUME_INTERRUPTS();
	return error;
}

void
es_process_log_error(const ErrorData *error, const char *what)
{
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("%s: %s", what, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}

long
es_process_ms_until(TimestampTz now, TimestampTz at)
{
	if (at == 0)
		return INT_MAX;
	if (at <= now)
		return 0;
	return (long) Min((at - now + 999) / 1000, INT_MAX);
}

static void
make_grace_timer(void)
{
#ifdef ES_HAVE_TIMER
	struct sigevent event = {0};

	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = SIGUSR2;
	if (timer_create(CLOCK_MONOTONIC, &event, &grace_timer) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not create a timer: %m")));
	have_grace_timer = true;
#endif
}

/* may come more than once: who wants nobody here asks each second (request.c) */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (!have_grace_timer || !connected)
		request_die();
#ifdef ES_HAVE_TIMER
	else if (!es_process_stop)
	{
		struct itimerspec grace = {.it_value = {.tv_sec = GRACE}};

		(void) timer_settime(grace_timer, 0, &grace, NULL);
	}
#endif
	es_process_stop = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

static void
handle_grace_over(SIGNAL_ARGS)
{
	int			save_errno = errno;

	request_die();
	errno = save_errno;
}

static void
request_die(void)
{
	InterruptPending = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
}
