/*
 * guc.c
 *		The settings of evtstore, all in one table.
 *
 * Defined once in the postmaster; every process inherits them.  docs/reference/settings.md describes each, and
 * test/lint compares the two.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "datatype/timestamp.h"
#include "utils/guc.h"

#include "compat.h"
#include "guc.h"

char	   *es_guc_tenant = NULL;
char	   *es_guc_correlation_id = NULL;
char	   *es_guc_causation_id = NULL;
char	   *es_guc_traceparent = NULL;
char	   *es_guc_actor = NULL;
bool		es_guc_require_expected_version = false;
bool		es_guc_enabled = true;
bool		es_guc_allow_drop = false;
char	   *es_guc_allowed_networks = NULL;
int			es_guc_delivery_workers = 2;
int			es_guc_rebuild_workers = 2;
int			es_guc_max_endpoints = 256;
int			es_guc_max_subscriptions = 128;
int			es_guc_max_queues = 256;
int			es_guc_max_messages_in_flight = 100000;
int			es_guc_max_causation_depth = 64;
int			es_guc_inbox_retention = 7 * SECS_PER_DAY;
int			es_guc_guard_retention = 90 * SECS_PER_DAY;
int			es_guc_max_databases = 64;
int			es_guc_poll_interval = 1000;
int			es_guc_lease = 30000;
int			es_guc_command_retention = 7 * SECS_PER_DAY;
int			es_guc_saga_retention = 90 * SECS_PER_DAY;
int			es_guc_saga_step_timeout = SECS_PER_HOUR;
int			es_guc_janitor_interval = 10000;
bool		es_guc_test_mode = false;
int			es_guc_clock_offset = 0;

typedef struct StringSetting
{
	const char *name;
	const char *description;
	char	  **variable;
	GucContext	context;
	int			flags;
	GucStringCheckHook check;
} StringSetting;

typedef struct BoolSetting
{
	const char *name;
	const char *description;
	bool	   *variable;
	bool		dflt;
	GucContext	context;
} BoolSetting;

typedef struct IntSetting
{
	const char *name;
	const char *description;
	int		   *variable;
	int			dflt;
	int			min;
	int			max;
	GucContext	context;
	int			flags;
	GucIntCheckHook check;
} IntSetting;

static bool check_text(char **newval, void **extra, GucSource source);
static bool check_tenant(char **newval, void **extra, GucSource source);
static bool check_allowed_networks(char **newval, void **extra, GucSource source);
static bool check_clock_offset(int *newval, void **extra, GucSource source);

static bool (*parse_networks) (const char *list, char *bad, size_t bad_size) = NULL;

static const StringSetting string_settings[] = {
	{"evtstore.tenant", "Confines every read and write to one tenant; empty: none asked for.",
	&es_guc_tenant, PGC_USERSET, 0, check_tenant},
	{"evtstore.correlation_id", "Stamped into the metadata of appended events unless they carry one.",
	&es_guc_correlation_id, PGC_USERSET, 0, check_text},
	{"evtstore.causation_id", "Stamped into the metadata of appended events unless they carry one.",
	&es_guc_causation_id, PGC_USERSET, 0, check_text},
	{"evtstore.traceparent", "W3C trace context, stamped into the metadata of appended events unless they carry one.",
	&es_guc_traceparent, PGC_USERSET, 0, check_text},
	{"evtstore.actor", "Who acts, stamped into the metadata of appended events unless they carry one.",
	&es_guc_actor, PGC_USERSET, 0, check_text},
	{"evtstore.allowed_networks", "CIDR blocks that workers may connect to although they are loopback or private.",
	&es_guc_allowed_networks, PGC_SUSET, GUC_LIST_INPUT, check_allowed_networks},
};

static const BoolSetting bool_settings[] = {
	{"evtstore.require_expected_version", "Refuses appends that name no expected version.",
	&es_guc_require_expected_version, false, PGC_USERSET},
	{"evtstore.enabled", "Runs background workers; off in a database: none there.",
	&es_guc_enabled, true, PGC_SUSET},
	{"evtstore.allow_drop", "Lets DROP EXTENSION evtstore pass although the store holds events.",
	&es_guc_allow_drop, false, PGC_SUSET},
	{"evtstore.test_mode", "Allows evtstore.clock_offset. For tests only.",
	&es_guc_test_mode, false, PGC_SUSET},
};

static const IntSetting int_settings[] = {
	{"evtstore.delivery_workers", "Delivery workers per database.",
	&es_guc_delivery_workers, 2, 0, 64, PGC_POSTMASTER, 0, NULL},
	{"evtstore.rebuild_workers", "Workers per database that rebuild projections, while one is rebuilt.",
	&es_guc_rebuild_workers, 2, 0, 64, PGC_SIGHUP, 0, NULL},
	{"evtstore.max_databases", "Databases of the cluster that may hold an event store.",
	&es_guc_max_databases, 64, 1, 10000, PGC_POSTMASTER, 0, NULL},
	{"evtstore.max_endpoints", "Endpoints of the cluster that evtstore.endpoint_status has figures of.",
	&es_guc_max_endpoints, 256, 1, 100000, PGC_POSTMASTER, 0, NULL},
	{"evtstore.max_subscriptions", "Subscriptions of the cluster that may be in use.",
	&es_guc_max_subscriptions, 128, 1, 10000, PGC_POSTMASTER, 0, NULL},
	{"evtstore.max_queues", "Queues of the cluster that may be in use; as many tenants and fair shares, times 16.",
	&es_guc_max_queues, 256, 1, 10000, PGC_POSTMASTER, 0, NULL},
	{"evtstore.max_messages_in_flight", "Messages of all queues of the cluster that may be in flight.",
	&es_guc_max_messages_in_flight, 100000, 100, 100000000, PGC_POSTMASTER, 0, NULL},
	{"evtstore.poll_interval", "Longest sleep of a worker that nobody wakes.",
	&es_guc_poll_interval, 1000, 10, 3600000, PGC_SIGHUP, GUC_UNIT_MS, NULL},
	{"evtstore.worker_lease", "Lease that delivery workers take on messages, beyond the time-out of the endpoint.",
	&es_guc_lease, 30000, 1000, 3600000, PGC_SIGHUP, GUC_UNIT_MS, NULL},
	{"evtstore.command_retention", "How long the result of a finished command is kept.",
	&es_guc_command_retention, 7 * SECS_PER_DAY, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S, NULL},
	{"evtstore.max_causation_depth", "How many handlers may follow each other, each for what the one before it appended.",
	&es_guc_max_causation_depth, 64, 1, 10000, PGC_SUSET, 0, NULL},
	{"evtstore.inbox_retention", "How long the ids that evtstore.once() has met are kept.",
	&es_guc_inbox_retention, 7 * SECS_PER_DAY, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S, NULL},
	{"evtstore.guard_retention", "How long the steps that evtstore.guard_step() has met are kept.",
	&es_guc_guard_retention, 90 * SECS_PER_DAY, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S, NULL},
	{"evtstore.saga_retention", "How long sagas are kept when they have ended; -1: for ever.",
	&es_guc_saga_retention, 90 * SECS_PER_DAY, -1, INT_MAX, PGC_SUSET, GUC_UNIT_S, NULL},
	{"evtstore.saga_step_timeout", "Time that a command of a saga has where its state does not say.",
	&es_guc_saga_step_timeout, SECS_PER_HOUR, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S, NULL},
	{"evtstore.janitor_interval", "Pause between two rounds of cleaning up in the background; 0: none.",
	&es_guc_janitor_interval, 10000, 0, 86400000, PGC_SIGHUP, GUC_UNIT_MS, NULL},
	{"evtstore.clock_offset", "Moves the clock of leases, delays and retries; only in test mode.",
	&es_guc_clock_offset, 0, 0, INT_MAX / 1000, PGC_USERSET, GUC_UNIT_S, check_clock_offset},
};

void
es_guc_define(void)
{
	for (int i = 0; i < lengthof(string_settings); i++)
	{
		const StringSetting *s = &string_settings[i];

		DefineCustomStringVariable(s->name, s->description, NULL, s->variable, "", s->context, s->flags,
								   s->check, NULL, NULL);
	}
	for (int i = 0; i < lengthof(bool_settings); i++)
	{
		const BoolSetting *s = &bool_settings[i];

		DefineCustomBoolVariable(s->name, s->description, NULL, s->variable, s->dflt, s->context, 0,
								 NULL, NULL, NULL);
	}
	for (int i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		DefineCustomIntVariable(s->name, s->description, NULL, s->variable, s->dflt, s->min, s->max, s->context,
								s->flags, s->check, NULL, NULL);
	}
	MarkGUCPrefixReserved("evtstore");
}

void
es_guc_set_network_parser(bool (*parser) (const char *list, char *bad, size_t bad_size))
{
	parse_networks = parser;
}

/*
 * What a client sets when it connects comes as it is, in no encoding, and would go into the tables.  What administrators
 * set for roles and databases may come from a database of another encoding; refused, it would not be in force, and with
 * it the tenant, so it is taken as bytes.
 */
static bool
check_text(char **newval, void **extra, GucSource source)
{
	if (source >= PGC_S_CLIENT && !pg_verifymbstr(*newval, strlen(*newval), true))
	{
		GUC_check_errdetail("It is no text in the encoding of the database, %s.", GetDatabaseEncodingName());
		return false;
	}
	return true;
}

static bool
check_tenant(char **newval, void **extra, GucSource source)
{
	if (strlen(*newval) > 255)
	{
		GUC_check_errdetail("A tenant has at most 255 bytes.");
		return false;
	}
	return check_text(newval, extra, source);
}

static bool
check_allowed_networks(char **newval, void **extra, GucSource source)
{
	char		bad[128];

	if (parse_networks != NULL && !parse_networks(*newval, bad, sizeof(bad)))
	{
		GUC_check_errdetail("\"%s\" is not a CIDR block such as 10.0.0.0/8 or ::1/128.", bad);
		return false;
	}
	return true;
}

static bool
check_clock_offset(int *newval, void **extra, GucSource source)
{
	if (*newval != 0 && !es_guc_test_mode)
	{
		GUC_check_errdetail("It takes evtstore.test_mode to be on.");
		return false;
	}
	return true;
}
