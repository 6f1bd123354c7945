/*
 * postgresql.c
 *		Delivery to another database with evtstore, through libpq: postgresql://, postgres://.
 *
 * Runs in relay workers, in the main thread.  libpq can only wait (for the resolver, for files), so each link has a thread, with one
 * connection (thread_links.c): postgresql_worker.c is its life, postgresql_connect.c reads URLs and connects.  A crash leaves a closed
 * socket: what was sent and not answered is sent again, and the other side's inbox knows it.
 *
 * Here the main thread's half of the order of a key (postgresql_worker.c has the other) is kept: how many failures were handed out.
 */
#include "postgres.h"

#include "fmgr.h"

#include "postgresql.h"
#include "thread_links.h"

PG_MODULE_MAGIC;

typedef struct PgLink
{
	EsThreadLink base;
	uint64		seen;			/* failures that next_done has handed out */
} PgLink;

static const char *check_url(const char *url);
static bool startup(char *fault, size_t size);
static EsLink *open_link(const EsLinkConfig *config, char *fault, size_t size);
static bool submit(EsLink *base, EsOutgoing *message);
static EsOutgoing *next_done(void);

static const char *const schemes[] = {"postgresql", "postgres", NULL};

static const EsTransport transport = {
	.version = ES_TRANSPORT_VERSION,
	.name = "postgresql",
	.schemes = schemes,
	.binding = ES_BINDING_EVTSTORE,
	.keeps_order = true,
	.check_url = check_url,
	.check = es_pg_check,
	.startup = startup,
	.open = open_link,
	.submit = submit,
	.pump = es_thread_links_pump,
	.next_done = next_done,
	.wait_fd = es_thread_links_wait_fd,
	.wait_ms = es_thread_links_wait_ms,
	.close = es_thread_links_close,
	.shutdown = es_thread_links_shutdown,
};

static const EsThreadLife life = {es_pg_run, es_pg_end_worker};

static const EsTransportHost *host = NULL;

PGDLLEXPORT const EsTransport *evtstore_transport(const EsTransportHost *of);

const EsTransport *
evtstore_transport(const EsTransportHost *of)
{
	host = of;
	return of->version == ES_TRANSPORT_VERSION ? &transport : NULL;
}

static const char *
check_url(const char *url)
{
	EsPgUrl		parsed;

	return es_pg_parse_url(url, &parsed);
}

static bool
startup(char *fault, size_t size)
{
	if (es_thread_links_wait_fd() >= 0)
		return true;
	if (!PQisthreadsafe())
	{
		snprintf(fault, size, "this libpq is not for threads");
		return false;
	}
	es_pg_forget_environment();
	return es_thread_links_startup(fault, size);
}

static EsLink *
open_link(const EsLinkConfig *config, char *fault, size_t size)
{
	EsPgWorker *worker = es_pg_make_worker(host, config, fault, size);

	return worker == NULL ? NULL : es_thread_links_open(sizeof(PgLink), config, &life, worker, fault, size);
}

static bool
submit(EsLink *base, EsOutgoing *message)
{
	/* the job gets it, see failure_of in postgresql_worker.c */
	message->data = (void *) (uintptr_t) ((PgLink *) base)->seen;
	return es_thread_links_submit(base, message);
}

static EsOutgoing *
next_done(void)
{
	EsOutgoing *message = es_links_next_done();

	/* from here on who submits knows of it */
	if (message != NULL && message->outcome != ES_OUTCOME_DELIVERED)
		((PgLink *) message->link)->seen++;
	return message;
}
