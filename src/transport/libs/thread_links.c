/*
 * thread_links.c
 *		Links that have a thread each: threads are started, given messages, asked for outcomes and told to end.
 *
 * Runs in relay workers, in the main thread, and never waits for a thread but at the end of the process.  Links are the main thread's;
 * what a thread works on is copied (thread.c has the lock).  All threads are in one epoll, which the worker waits for.  A crash leaves
 * nothing: the threads end with the process.
 */
#include "postgres.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "thread_links.h"

#define EVENTS_AT_ONCE 64

static int	epoll = -1;

static void collect(EsThreadLink *link);

bool
es_thread_links_startup(char *fault, size_t size)
{
	if (epoll >= 0)
		return true;
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		snprintf(fault, size, "could not make a descriptor to wait on: errno %d", errno);
	return epoll >= 0;
}

EsLink *
es_thread_links_open(size_t link_size, const EsLinkConfig *config, const EsThreadLife *life, void *arg, char *fault, size_t size)
{
	EsThreadLink *link = calloc(1, link_size);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};

	if (link == NULL)
		snprintf(fault, size, "there is no memory for the connection");
	else if ((link->thread = es_thread_start(life->run, arg)) == NULL)
		snprintf(fault, size, "could not start a thread");
	if (link == NULL || link->thread == NULL)
	{
		life->free_arg(arg);
		free(link);
		return NULL;
	}
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, es_thread_fd(link->thread), &event) != 0)
	{
		snprintf(fault, size, "could not wait for a thread: errno %d", errno);
		es_thread_stop(link->thread);
		free(link);
		return NULL;
	}
	es_links_add(&link->base, config->max_in_flight);
	return &link->base;
}

bool
es_thread_links_submit(EsLink *base, EsOutgoing *message)
{
	if (!es_links_has_room(base) || !es_thread_put(((EsThreadLink *) base)->thread, message))
		return false;
	es_links_take(base, message);
	return true;
}

void
es_thread_links_pump(void)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	int			n;

	do
	{
		n = epoll_wait(epoll, events, EVENTS_AT_ONCE, 0);
		for (int i = 0; i < n; i++)
			collect(events[i].data.ptr);
	} while (n == EVENTS_AT_ONCE);
}

static void
collect(EsThreadLink *link)
{
	EsOutgoing *message = es_thread_collect(link->thread);

	while (message != NULL)
	{
		EsOutgoing *next = message->next;

		es_links_done(message);
		message = next;
	}
}

int
es_thread_links_wait_fd(void)
{
	return epoll;
}

long
es_thread_links_wait_ms(void)
{
	return es_links_has_done() ? 0 : -1;
}

/* what the thread still has are copies */
void
es_thread_links_close(EsLink *base)
{
	EsThreadLink *link = (EsThreadLink *) base;

	es_links_remove(base);
	(void) epoll_ctl(epoll, EPOLL_CTL_DEL, es_thread_fd(link->thread), NULL);
	es_thread_stop(link->thread);
	free(link);
}

void
es_thread_links_shutdown(void)
{
	es_thread_wait_all();
	if (epoll >= 0)
		close(epoll);
	epoll = -1;
}
