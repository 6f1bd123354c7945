/*
 * relay.c
 *		The main loop of a relay worker: it sends what has an endpoint outside of the database.
 *
 * A dynamic background worker, one per database that has something to send, started by the scheduler, connected as the bootstrap
 * superuser.  docs/architecture-delivery.md has the design; section 2 the steps (R1 to R8, named below).  It waits for nothing
 * but in one place (R8), where it has no transaction, no snapshot and no lock.
 *
 * An error of a route rolls back that transaction, is logged, and keeps the relay off that route for 1 s, 2 s, … 60 s; the others go on.
 * An error of something else ends the process, and the scheduler starts the next one.
 *
 * It ends by itself when it is told to, when evtstore.enabled is off, the extension gone, the database found to be a copy, or when there
 * has been nothing to send for a while.  On the way out it gives back what it holds.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "guc.h"
#include "identity.h"
#include "process.h"
#include "push.h"
#include "registry.h"
#include "relay.h"
#include "relay_route.h"
#include "relay_target.h"
#include "transport/transport.h"
#include "watch.h"

/* a relay without anything to send ends after this time */
#define LONELY_TIME (10 * USECS_PER_SEC)
#define MAX_BACKOFF (60 * USECS_PER_SEC)
/* what is out when it has to go is waited for no longer; the server's patience is a second more (process.c) */
#define LEAVE_TIME (2 * USECS_PER_SEC)
/* locks are waited for no longer */
#define LOCK_TIMEOUT "50ms"
/* after a lock that was not to be had; of a route doubled each time: all others wait while it is tried */
#define LOCK_BACKOFF (100 * 1000) /* us */
#define MAX_LOCK_DOUBLINGS 5
/* an endpoint that is gone, and that somebody has locked: it is tried again after this */
#define GONE_AGAIN (200 * 1000) /* us */
/* a route that nobody tells anything of is looked at after so many poll intervals */
#define IDLE_POLLS 5
/* latch, postmaster, and one for each transport */
#define MAX_WAITED 16

typedef struct Relay
{
	MemoryContext iteration;  /* emptied after each pass */
	uint64 generation;		  /* of the catalog, when the definitions were read; 0: never */
	TimestampTz next_look;	  /* at the definitions, though nobody told of a change */
	TimestampTz not_before;	  /* after a lock that was not to be had */
	TimestampTz gone_again;	  /* then one that is gone is to be disabled; DT_NOEND: none is */
	EsRoute *routes;
	bool done;				  /* nothing is to be done here any more */
	TimestampTz lonely_since; /* 0: there are routes */
	char *networks;			  /* that the links were opened with; malloc'd */
	WaitEventSet *waited;
	const EsTransport *added[MAX_WAITED]; /* in there */
	int nadded;
	bool something_leaves;	  /* routes or targets */
	int32 last_claimed;		  /* the route that claimed last: the next one begins */
	TimestampTz next_idle_look; /* at routes that nobody tells anything of */
} Relay;

static Relay relay;

static bool may_go_on(void);
static void refresh(void);
static void read_definitions(void);
static void find_leaving(List *pushes);
static void disable_gone(void);
static void begin_new(List *pushes);
static void free_left(void);
static bool is_pushed(const EsRoute *route, List *pushes);
static EsRoute *find_route(int32 id);
static void take_told(void);
static bool claim(void);
static bool submit(void);
static bool pump(void);
static bool settle(void);
static void renew(void);
static bool for_route(EsRoute *route, void (*run) (EsRoute *route));
static void claim_one(EsRoute *route);
static void settle_one(EsRoute *route);
static void release_one(EsRoute *route);
static void failed(EsRoute *route);
static void rest(void);
static long rest_ms(void);
static bool is_added(const EsTransport *transport);
static void wait_for_anything(long ms);
static void leave(void);
static void shutdown_transports(int code, Datum arg);

void
es_relay_main(Datum arg)
{
	es_process_begin(ES_WORKER_RELAY);
	es_process_keep_memory();
	on_proc_exit(shutdown_transports, (Datum) 0);
	es_watch_ignore_own();
	/*
	 * Nothing is waited for that a session may keep to itself for as long as it likes: a route whose subscription somebody is just
	 * dropping must not stop the others.  And what a crash forgets goes out once more.
	 */
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	relay.waited = es_create_wait_event_set(MAX_WAITED);
	AddWaitEventToSet(relay.waited, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(relay.waited, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	relay.iteration = AllocSetContextCreate(TopMemoryContext, "evtstore relay", ALLOCSET_DEFAULT_SIZES);
	relay.done = !es_guc_enabled;
	relay.gone_again = DT_NOEND;

	while (may_go_on())
	{
		bool		moved;

		MemoryContextSwitchTo(relay.iteration);
		MemoryContextReset(relay.iteration);
		es_registry_set_state(ES_STATE_BUSY);
		refresh();
		take_told();
		renew();
		moved = claim();
		moved |= submit();
		moved |= pump();
		moved |= settle();
		if (!moved)
			rest();
	}
	leave();
	proc_exit(0);
}

static bool
may_go_on(void)
{
	CHECK_FOR_INTERRUPTS();
	if (es_process_reload() && !es_guc_enabled)
		relay.done = true;
	return !relay.done && !es_process_stop && !es_registry_told_to_leave();
}

/*
 * R1.  Starting a transaction reads invalidation messages, so the generation is up to date after any of ours.  A lock that is not to be
 * had is looked for again; any other error ends the process.
 */
static void
refresh(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		networks_changed = relay.networks == NULL || strcmp(relay.networks, es_guc_allowed_networks) != 0;

	free_left();
	if (relay.generation == es_catalog_generation() && relay.generation != 0 && now < Min(relay.next_look, relay.gone_again) && !networks_changed)
		return;
	if (now < relay.not_before)
		return;
	/* an open connection was checked when it was dialled: under another list it must be dialled, and checked, again */
	if (networks_changed)
	{
		for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
			target->is_leaving = true;
		free(relay.networks);
		relay.networks = strdup(es_guc_allowed_networks);
		relay.generation = 0;
	}
	relay.next_look = now + (TimestampTz) es_guc_poll_interval * 1000;
	PG_TRY();
	{
		es_process_start_transaction("looking for something to send");
		if (!es_catalog_installed())
			relay.done = true;
		else if (relay.generation != es_catalog_generation())
			read_definitions();
		else if (now >= relay.gone_again)
			disable_gone();
		es_process_commit();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		(void) es_process_recover(relay.iteration);
		relay.generation = 0;
		relay.not_before = now + LOCK_BACKOFF;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(relay.iteration);
}

static void
read_definitions(void)
{
	uint64		generation = es_catalog_generation();
	List	   *pushes;

	if (es_identity_check(NULL) != ES_IDENTITY_HERE)
	{
		relay.done = true;
		return;
	}
	pushes = es_push_list(ES_PUSH_OUTSIDE);
	find_leaving(pushes);
	begin_new(pushes);
	relay.generation = generation;
	if (relay.routes != NULL)
		relay.lonely_since = 0;
	else if (relay.lonely_since == 0)
		relay.lonely_since = GetCurrentTimestamp();
}

/* what the other side said stays when this process does not.  Who has the endpoint just now is not waited for: it takes nothing meanwhile */
static void
disable_gone(void)
{
	bool		again = false;

	/* also after an error */
	relay.gone_again = GetCurrentTimestamp() + GONE_AGAIN;
	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
	{
		char	   *name = target->endpoint->name;

		if (!target->is_gone || target->is_leaving)
			continue;
		if (!es_definition_try_lock("endpoint", name))
		{
			again = true;
			continue;
		}
		/*
		 * reset_breaker() has that lock when it counts, to the end of its transaction.  So what is not counted here comes after our commit,
		 * and enables it again; what is, is the last word.
		 */
		if (!es_target_is_current(target) || es_target_is_reset(target))
			continue;
		if (!es_definition_try_state("endpoint", name, ES_DEFINITION_PAUSED))
		{
			again = true;
			continue;
		}
		ereport(LOG,
				(errmsg("endpoint \"%s\" is disabled: it answered that it is gone", name),
				 errhint("evtstore.reset_breaker() enables it again.")));
	}
	if (!again)
		relay.gone_again = DT_NOEND;
}

static void
find_leaving(List *pushes)
{
	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
		if (!es_target_is_current(target))
			target->is_leaving = true;
	/* also what leaves already, and could not go yet */
	relay.something_leaves = true;
	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if ((route->target != NULL && route->target->is_leaving) || !is_pushed(route, pushes))
			es_route_leave(route);
}

static bool
is_pushed(const EsRoute *route, List *pushes)
{
	ListCell   *lc;

	foreach(lc, pushes)
	{
		EsPush	   *push = lfirst(lc);

		if (push->id == route->id)
			return push->categories == route->categories && strcmp(push->name, route->name) == 0 && push->is_rule == route->is_rule &&
				(push->is_rule || strcmp(push->endpoint, route->target->endpoint->name) == 0);
	}
	return false;
}

/* what is told from here on is told to us; what came before is looked at */
static void
begin_new(List *pushes)
{
	uint64		ids = 0;
	uint64		categories = 0;
	ListCell   *lc;
	List	   *defined;
	int32	   *endpoints;
	int			n = 0;

	foreach(lc, pushes)
	{
		EsPush	   *push = lfirst(lc);
		bool		is_new = find_route(push->id) == NULL;
		EsTarget   *target = is_new && !push->is_rule ? es_target_get(push->endpoint) : NULL;

		if (is_new && (push->is_rule || target != NULL))
		{
			EsRoute    *route = es_route_begin(push, target);

			route->next = relay.routes;
			relay.routes = route;
		}
		ids |= es_watch_bit(push->id);
		categories |= push->categories;
	}
	es_watch_want(ids, categories);
	/* figures of one that is disabled are what tells why */
	defined = es_definition_list("endpoint");
	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
		n++;
	endpoints = palloc((list_length(defined) + n + 1) * sizeof(int32));
	n = 0;
	foreach(lc, defined)
		endpoints[n++] = ((EsDefinition *) lfirst(lc))->id;
	/* one that was dropped still has requests out */
	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
		endpoints[n++] = target->endpoint->id;
	es_endpoint_state_keep(endpoints, n);
}

static EsRoute *
find_route(int32 id)
{
	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if (route->id == id)
			return route;
	return NULL;
}

/*
 * Routes that left are given back and freed, then targets that no route has; their successors begin with the next look.  A route gives back
 * its lanes though it holds nothing in them: others may want them.
 */
static void
free_left(void)
{
	EsRoute   **place = &relay.routes;
	EsTarget   *next;
	bool		has_rules = false;

	if (!relay.something_leaves)
		return;
	relay.something_leaves = false;
	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if (route->is_leaving && route->out == 0 && !route->is_released)
			(void) for_route(route, release_one);
	while (*place != NULL)
	{
		EsRoute    *route = *place;

		relay.something_leaves |= route->is_leaving;
		if (!route->is_leaving || !route->is_released)
		{
			has_rules |= route->is_rule;
			place = &route->next;
			continue;
		}
		*place = route->next;
		es_route_free(route);
		relay.generation = 0;
	}
	for (EsTarget *target = es_target_first(); target != NULL; target = next)
	{
		next = target->next;
		relay.something_leaves |= target->is_leaving;
		/* what rules find by name they may want again */
		if (target->held > 0 || target->in_flight > 0 || target->nroutes > 0 || (has_rules && !target->is_leaving))
			continue;
		es_target_free(target);
		relay.generation = 0;
	}
}

/* R2 */
static void
take_told(void)
{
	EsWatch		told = es_watch_take();
	TimestampTz now = es_clock_now();
	bool		is_time = GetCurrentTimestamp() >= relay.next_idle_look;

	if (is_time)
		relay.next_idle_look = GetCurrentTimestamp() + (TimestampTz) es_guc_poll_interval * 1000 * IDLE_POLLS;
	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if ((route->categories & told.categories) != 0 || (es_watch_bit(route->id) & (told.ids | told.looks)) != 0 || route->due <= now ||
			is_time)
			route->may_have = true;
}

/* R3.  Whoever claimed last comes last: routes of one target share its window */
static bool
claim(void)
{
	bool		moved = false;
	EsRoute    *first = relay.routes;
	EsRoute    *route;

	for (route = relay.routes; route != NULL; route = route->next)
		if (route->id == relay.last_claimed && route->next != NULL)
			first = route->next;
	route = first;
	while (route != NULL)
	{
		int			held = route->held;

		if (es_route_may_claim(route) && for_route(route, claim_one))
		{
			moved |= route->held > held || route->may_have;
			if (route->held > held)
				relay.last_claimed = route->id;
		}
		route = route->next != NULL ? route->next : relay.routes;
		if (route == first)
			break;
	}
	return moved;
}

/* R4 */
static bool
submit(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if (route->is_rule)
			es_route_postpone(route, now);
	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
		es_route_thin_out(target, now);
	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
		n += es_target_submit(target, now);
	return n > 0;
}

/* R5 */
static bool
pump(void)
{
	const EsTransport *transport;
	bool		moved = false;

	for (int i = 0; (transport = es_transport_loaded(i)) != NULL; i++)
	{
		EsOutgoing *done;
		TimestampTz now;

		transport->pump();
		now = GetCurrentTimestamp();
		while ((done = transport->next_done()) != NULL)
		{
			EsParcel   *parcel = (EsParcel *) done;

			es_target_judge(parcel, now);
			relay.something_leaves |= parcel->route->is_leaving;
			es_route_came_back(parcel, now);
			moved = true;
		}
	}
	/* what is gone is written down at the next look */
	for (EsTarget *target = es_target_first(); moved && target != NULL; target = target->next)
		if (target->is_gone && !target->is_leaving && relay.gone_again == DT_NOEND)
			relay.gone_again = 1;
	return moved;
}

/* R6 */
static bool
settle(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		moved = false;

	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if (es_route_wants_to_settle(route, now))
			moved |= for_route(route, settle_one);
	return moved;
}

/* R7 */
static void
renew(void)
{
	TimestampTz now = GetCurrentTimestamp();

	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		if (route->held > 0 && now - route->renewed_at > es_route_lease(route) * 1000 / 2)
			(void) for_route(route, es_route_renew);
}

static void
claim_one(EsRoute *route)
{
	(void) es_route_claim(route);
}

static void
settle_one(EsRoute *route)
{
	(void) es_route_settle(route);
}

static void
release_one(EsRoute *route)
{
	es_route_release(route);
}

/* false: it may not run yet, after an error */
static bool
for_route(EsRoute *route, void (*run) (EsRoute *route))
{
	if (route->not_before > GetCurrentTimestamp())
		return false;
	MemoryContextSwitchTo(relay.iteration);
	PG_TRY();
	{
		run(route);
		route->failures = route->lock_failures = 0;
	}
	PG_CATCH();
	{
		failed(route);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(relay.iteration);
	return true;
}

/* in PG_CATCH */
static void
failed(EsRoute *route)
{
	ErrorData  *error = es_process_recover(relay.iteration);
	TimestampTz backoff = USECS_PER_SEC;

	for (int i = 0; i < route->failures && backoff < MAX_BACKOFF; i++)
		backoff *= 2;
	/* who has the lock gives it back some time */
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		route->not_before = GetCurrentTimestamp() + (LOCK_BACKOFF << route->lock_failures);
		route->lock_failures = Min(route->lock_failures + 1, MAX_LOCK_DOUBLINGS);
		return;
	}
	route->failures++;
	route->not_before = GetCurrentTimestamp() + Min(backoff, MAX_BACKOFF);
	es_registry_count(0, 1);
	/* what goes wrong because we are to go anyway is nobody's concern */
	if (es_process_stop || es_registry_told_to_leave())
		return;
	es_process_log_error(error, psprintf("delivery of %s \"%s\" in database \"%s\" failed", route->is_queue ? "queue" : "subscription",
										 route->name, es_process_database()));
}

/* R8 */
static void
rest(void)
{
	es_registry_set_state(ES_STATE_IDLE);
	if (relay.lonely_since != 0 && GetCurrentTimestamp() - relay.lonely_since >= LONELY_TIME)
	{
		relay.done = true;
		return;
	}
	/* a wait for a lock may have eaten the latch of who told us something */
	if (!es_watch_is_told() && !es_process_stop && !es_registry_told_to_leave())
		wait_for_anything(rest_ms());
}

static long
rest_ms(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz clock_now = es_clock_now();
	const EsTransport *transport;
	long		ms = es_process_ms_until(now, Min(relay.next_look, relay.gone_again));

	for (EsTarget *target = es_target_first(); target != NULL; target = target->next)
	{
		TimestampTz due = es_target_due(target);

		if (due != DT_NOEND)
			ms = Min(ms, es_process_ms_until(now, Max(due, now + 1)));
	}
	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
	{
		if (route->due != DT_NOEND && !route->may_have)
			ms = Min(ms, es_process_ms_until(clock_now, Max(route->due, clock_now + 1)));
		if (route->not_before > now)
		{
			ms = Min(ms, es_process_ms_until(now, route->not_before));
			continue;
		}
		if (es_route_unsettled(route) > 0)
			ms = Min(ms, 5);
		if (route->next_late != DT_NOEND)
			ms = Min(ms, es_process_ms_until(now, Max(route->next_late, now + 1)));
		/* what was not so when we looked: a breaker was reset, a link opened */
		if (es_route_may_claim(route))
			return 0;
		if (route->held > 0)
			ms = Min(ms, Max(es_route_lease(route) / 4, 1));
	}
	for (int i = 0; (transport = es_transport_loaded(i)) != NULL; i++)
	{
		long		theirs = transport->wait_ms();

		if (theirs >= 0)
			ms = Min(ms, theirs);
	}
	return ms;
}

static bool
is_added(const EsTransport *transport)
{
	for (int i = 0; i < relay.nadded; i++)
		if (relay.added[i] == transport)
			return true;
	return false;
}

static void
wait_for_anything(long ms)
{
	static uint32 wait_event = 0;
	WaitEvent	events[MAX_WAITED];
	const EsTransport *transport;
	int			n;

	if (wait_event == 0)
		wait_event = es_wait_event("EvtstoreRelay");
	for (int i = 0; (transport = es_transport_loaded(i)) != NULL; i++)
		if (transport->wait_fd() >= 0 && !is_added(transport))
		{
			AddWaitEventToSet(relay.waited, WL_SOCKET_READABLE, transport->wait_fd(), NULL, NULL);
			relay.added[relay.nadded++] = transport;
		}
	Assert(!IsTransactionState());
	n = WaitEventSetWait(relay.waited, ms, events, MAX_WAITED, wait_event);
	for (int i = 0; i < n; i++)
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			/* a definition may have changed */
			relay.next_look = 0;
		}
}

/* what is out is waited for, for a moment; then everything is given back */
static void
leave(void)
{
	TimestampTz deadline = GetCurrentTimestamp() + LEAVE_TIME;
	int			out;

	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
		es_route_leave(route);
	do
	{
		out = 0;
		(void) pump();
		for (EsRoute *route = relay.routes; route != NULL; route = route->next)
			out += route->out;
		if (out > 0)
			wait_for_anything(10);
		CHECK_FOR_INTERRUPTS();
	} while (out > 0 && GetCurrentTimestamp() < deadline);
	es_target_close_all();
	for (EsRoute *route = relay.routes; route != NULL; route = route->next)
	{
		es_route_forget_out(route);
		route->not_before = 0;
		(void) for_route(route, release_one);
	}
}

static void
shutdown_transports(int code, Datum arg)
{
	const EsTransport *transport;

	for (int i = 0; (transport = es_transport_loaded(i)) != NULL; i++)
		transport->shutdown();
}
