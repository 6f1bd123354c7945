/*
 * http_pool.c
 *		Pools of connections, and the sockets of all of them: libcurl's multi interface, driven by an epoll.
 *
 * Runs in relay workers, in the main thread, between transactions.  Links share a multi handle, and so a pool of connections that stay open
 * from message to message; all their sockets are in one epoll, which the worker waits for.  A connection was allowed when it was
 * dialled, so each list of allowed networks has a pool of its own.  A crash leaves nothing but closed sockets.
 *
 * A process has so many descriptors, and the server needs some of them: no more than half are sockets of ours, whatever the endpoints allow.
 *
 * No signal may reach the threads that libcurl makes to resolve names, because the server's handlers run for the process that they
 * interrupt.
 */
#include "postgres.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "http_pool.h"
#include "settings.h"
#include "thread.h"

#define EVENTS_AT_ONCE 64
/* the list of networks changes seldom, and the old pools go with their links */
#define MAX_POOLS 16
/* sockets, whatever the limit of descriptors */
#define MIN_SOCKETS 16

static int	epoll = -1;
static bool *is_waited = NULL;	/* by descriptor: libcurl waits for it */
static int	nwaited = 0;		/* how many has it */
static HttpPool *pools[MAX_POOLS];	/* by place; NULL: free */
static int	max_sockets = 0;
static int	requests = 0;		/* under way, in all pools */

static void act(HttpPool *pool, curl_socket_t fd, int what, HttpFinished finished);
static int	want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg);
static int	want_timer(CURLM *multi, long ms, void *arg);

bool
http_pool_startup(char *fault, size_t size)
{
	struct rlimit limit;

	if (epoll >= 0)
		return true;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
	{
		snprintf(fault, size, "could not start libcurl");
		return false;
	}
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 65536)
		limit.rlim_cur = 65536;
	max_sockets = (int) limit.rlim_cur / 2 > MIN_SOCKETS ? (int) limit.rlim_cur / 2 : MIN_SOCKETS;
	nwaited = (int) limit.rlim_cur;
	is_waited = calloc(nwaited, sizeof(bool));
	epoll = is_waited == NULL ? -1 : epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
	{
		free(is_waited);
		is_waited = NULL;
		curl_global_cleanup();
		snprintf(fault, size, "could not make a descriptor to wait on: errno %d", errno);
		return false;
	}
	return true;
}

/* closes what is open politely; not called after a crash, which closes everything too */
void
http_pool_shutdown(void)
{
	if (epoll < 0)
		return;
	curl_global_cleanup();
	close(epoll);
	epoll = -1;
	free(is_waited);
	is_waited = NULL;
}

HttpPool *
http_pool_join(const char *networks)
{
	HttpPool   *pool;
	int			place = -1;

	for (int i = 0; i < MAX_POOLS; i++)
		if (pools[i] == NULL)
			place = i;
		else if (strcmp(pools[i]->networks, networks) == 0)
		{
			pools[i]->nlinks++;
			return pools[i];
		}
	pool = place < 0 ? NULL : calloc(1, sizeof(HttpPool));
	if (pool == NULL)
		return NULL;
	pool->place = place;
	pool->nlinks = 1;
	pool->due = -1;
	pool->networks = es_settings_copy(networks);
	pool->multi = curl_multi_init();
	pools[place] = pool;
	if (pool->networks == NULL || pool->multi == NULL)
	{
		http_pool_leave(pool);
		return NULL;
	}
	curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
	curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool);
	curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, want_timer);
	curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool);
	/* those that are open, idle or not */
	curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, (long) max_sockets);
	curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) max_sockets);
	return pool;
}

void
http_pool_leave(HttpPool *pool)
{
	if (--pool->nlinks > 0)
		return;
	if (pool->multi != NULL)
		curl_multi_cleanup(pool->multi);
	pools[pool->place] = NULL;
	free(pool->networks);
	free(pool);
}

bool
http_pool_has_room(bool has_little)
{
	/* the last quarter is for links that have little out: others may hang to the end of their time-out */
	return requests < (has_little ? max_sockets : max_sockets - max_sockets / 4);
}

bool
http_pool_add(HttpPool *pool, CURL *easy)
{
	if (curl_multi_add_handle(pool->multi, easy) != CURLM_OK)
		return false;
	requests++;
	return true;
}

void
http_pool_remove(HttpPool *pool, CURL *easy)
{
	(void) curl_multi_remove_handle(pool->multi, easy);
	requests--;
}

void
http_pool_pump(HttpFinished finished)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	int			n;
	sigset_t	all;
	sigset_t	saved;

	/* threads made in it inherit the mask */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	do
	{
		n = epoll_wait(epoll, events, EVENTS_AT_ONCE, 0);
		for (int i = 0; i < n; i++)
		{
			HttpPool   *pool = pools[events[i].data.u64 >> 32];
			int			fd = (int) (events[i].data.u64 & 0xffffffff);
			int			what = 0;

			if (pool == NULL)
				continue;
			if (fd < nwaited && !is_waited[fd])
			{
				/* libcurl finds out by itself when it wants to use it again */
				(void) epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
				continue;
			}
			if (events[i].events & (EPOLLIN | EPOLLHUP))
				what |= CURL_CSELECT_IN;
			if (events[i].events & EPOLLOUT)
				what |= CURL_CSELECT_OUT;
			if (events[i].events & EPOLLERR)
				what |= CURL_CSELECT_ERR;
			act(pool, fd, what, finished);
		}
	} while (n == EVENTS_AT_ONCE);
	for (int i = 0; i < MAX_POOLS; i++)
		if (pools[i] != NULL && pools[i]->due >= 0 && pools[i]->due <= es_thread_now())
		{
			pools[i]->due = -1;
			act(pools[i], CURL_SOCKET_TIMEOUT, 0, finished);
		}
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static void
act(HttpPool *pool, curl_socket_t fd, int what, HttpFinished finished)
{
	int			running;
	int			left;
	CURLMsg    *message;

	(void) curl_multi_socket_action(pool->multi, fd, what, &running);
	while ((message = curl_multi_info_read(pool->multi, &left)) != NULL)
		if (message->msg == CURLMSG_DONE)
			finished(message->easy_handle, message->data.result);
}

/*
 * libcurl: wait for this socket, or do not any more.  It says so at the end of each request and the contrary with the next one.  So what
 * it has let go of stays in the epoll, until it is closed, which takes it out, or something happens to it (pump).
 */
static int
want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	HttpPool   *pool = arg;
	struct epoll_event event = {.data.u64 = ((uint64) pool->place << 32) | (uint32) fd};

	if (fd < nwaited)
		is_waited[fd] = what != CURL_POLL_REMOVE;
	if (what == CURL_POLL_REMOVE)
	{
		if (fd >= nwaited)
			(void) epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) != 0)
		(void) epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	return 0;
}

static int
want_timer(CURLM *multi, long ms, void *arg)
{
	HttpPool   *pool = arg;

	pool->due = ms < 0 ? -1 : es_thread_now() + ms;
	return 0;
}

int
http_pool_wait_fd(void)
{
	return epoll;
}

long
http_pool_wait_ms(void)
{
	long		ms = -1;

	for (int i = 0; i < MAX_POOLS; i++)
		if (pools[i] != NULL && pools[i]->due >= 0)
		{
			long		left = (long) (pools[i]->due - es_thread_now());

			left = left < 0 ? 0 : left;
			ms = ms < 0 || left < ms ? left : ms;
		}
	return ms;
}
