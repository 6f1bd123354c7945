/*
 * nats_dial.c
 *		A connection under way.
 *
 * Runs in relay workers: one thread (thread.c) for each attempt, because a resolver can only be waited for.  What it works on is its own
 * copy.  The main thread and it meet under the mutex of the attempt, for a moment; who of the two is last frees it.  A crash leaves nothing.
 */
#include "postgres.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "nats_dial.h"
#include "thread.h"

#define CONNECT_TIMEOUT_MS 5000 /* one host */

struct NatsDial
{
	pthread_mutex_t mutex;
	EsThread   *thread;			/* the main thread's */
	const EsTransportHost *host;
	char	   *networks;
	bool		plain_text;
	int			wake_fd;
	int			first_host;
	int			nhosts;
	NatsHost	hosts[NATS_MAX_HOSTS];
	/* under the mutex */
	bool		abandoned;		/* by the main thread */
	bool		over;
	int			fd;				/* -1: no connection, and why not */
	int			at;				/* the host */
	char		fault[200];
};

static void run(EsThread *thread, void *arg);
static void free_dial(NatsDial *dial);

NatsDial *
nats_dial_start(const EsTransportHost *host, const NatsConfig *config, int first_host, int wake_fd)
{
	NatsDial   *dial = calloc(1, sizeof(NatsDial));

	if (dial == NULL)
		return NULL;
	pthread_mutex_init(&dial->mutex, NULL);
	dial->fd = -1;
	dial->host = host;
	dial->wake_fd = wake_fd;
	dial->plain_text = config->tls == NULL;
	dial->first_host = first_host;
	dial->nhosts = config->nhosts;
	dial->networks = strdup(config->networks);
	/* the thread may be over before this returns; nobody looks at it before */
	if (nats_hosts_copy(dial->hosts, config->hosts, config->nhosts) && dial->networks != NULL)
		dial->thread = es_thread_start(run, dial);
	if (dial->thread != NULL)
		return dial;
	free_dial(dial);
	return NULL;
}

bool
nats_dial_collect(NatsDial *dial, int *fd, int *host, char *fault, size_t size)
{
	bool		over;

	pthread_mutex_lock(&dial->mutex);
	over = dial->over;
	pthread_mutex_unlock(&dial->mutex);
	if (!over)
		return false;
	*fd = dial->fd;
	*host = dial->at;
	snprintf(fault, size, "%s", dial->fault);
	dial->fd = -1;
	es_thread_stop(dial->thread);
	free_dial(dial);
	return true;
}

void
nats_dial_abandon(NatsDial *dial)
{
	EsThread   *thread = dial->thread;
	bool		over;

	pthread_mutex_lock(&dial->mutex);
	dial->abandoned = true;
	over = dial->over;
	pthread_mutex_unlock(&dial->mutex);
	/* it is the thread's now, or, where that is over, ours */
	es_thread_stop(thread);
	if (over)
		free_dial(dial);
}

/* the first host that can be connected to */
static void
run(EsThread *thread, void *arg)
{
	NatsDial   *dial = arg;
	char		fault[sizeof(dial->fault)] = "";
	int			fd = -1;
	int			at = dial->first_host;
	int			wake_fd = dial->wake_fd;
	uint64		one = 1;
	bool		abandoned;

	for (int i = 0; i < dial->nhosts && fd < 0 && !es_thread_is_stopping(thread); i++)
	{
		at = (dial->first_host + i) % dial->nhosts;
		fd = es_thread_connect(thread, dial->host, dial->hosts[at].name, dial->hosts[at].port, dial->networks, dial->plain_text,
							   CONNECT_TIMEOUT_MS, fault, sizeof(fault));
	}
	pthread_mutex_lock(&dial->mutex);
	dial->fd = fd;
	dial->at = at;
	memcpy(dial->fault, fault, sizeof(fault));
	dial->over = true;
	abandoned = dial->abandoned;
	pthread_mutex_unlock(&dial->mutex);
	/* from here on it is the main thread's, unless that does not want it */
	if (abandoned)
		free_dial(dial);
	/* it is full only when it was signalled 2^64 times */
	else if (write(wake_fd, &one, sizeof(one)) < 0)
		return;
}

static void
free_dial(NatsDial *dial)
{
	if (dial->fd >= 0)
		close(dial->fd);
	nats_hosts_free(dial->hosts, dial->nhosts);
	free(dial->networks);
	pthread_mutex_destroy(&dial->mutex);
	free(dial);
}
