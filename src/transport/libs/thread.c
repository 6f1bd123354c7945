/*
 * thread.c
 *		A thread for a client library that can only wait.
 *
 * Both sides work under the thread's mutex, for a few pointers' time, and tell each other by eventfds.  The struct belongs to
 * both: who comes last frees it.  The main thread never waits for a thread but at the end of the process: a resolver cannot be
 * interrupted, and a relay has other endpoints.
 *
 * A kill ends all threads with the process; nothing is kept.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "outcome.h"
#include "thread.h"

/* how long the end of the process waits for threads */
#define END_MS 2000

struct EsThread
{
	pthread_mutex_t mutex;
	void		(*run) (EsThread *thread, void *arg);
	void	   *arg;
	int			in_fd;			/* eventfds */
	int			out_fd;
	/* under the mutex */
	EsJob	   *in_first;
	EsJob	   *in_last;
	EsJob	   *out_first;
	EsJob	   *out_last;
	int			socket;			/* -1: none */
	bool		stopping;		/* the main thread has forgotten it */
	bool		ended;			/* the thread has */
};

static pthread_mutex_t living_mutex = PTHREAD_MUTEX_INITIALIZER;
static int	living = 0;			/* threads, stopped or not; under its mutex */

static void *thread_main(void *arg);
static void free_thread(EsThread *thread);
static EsJob *copy_message(EsOutgoing *message);
static char *copy_text(char **at, const char *text);
static void signal_fd(int fd);
static void drain_fd(int fd);
static int	count_allowed(const struct addrinfo *address, const EsTransportHost *host, const char *allowed_networks, bool plain_text);
static int	connect_one(EsThread *thread, const struct addrinfo *address, long long deadline, char *fault, size_t size);

long long
es_thread_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

EsThread *
es_thread_start(void (*run) (EsThread *thread, void *arg), void *arg)
{
	EsThread   *thread = calloc(1, sizeof(EsThread));
	pthread_t	id;
	sigset_t	all;
	sigset_t	saved;
	int			rc;

	if (thread == NULL)
		return NULL;
	thread->run = run;
	thread->arg = arg;
	thread->socket = -1;
	pthread_mutex_init(&thread->mutex, NULL);
	thread->in_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thread->out_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_lock(&living_mutex);
	living++;
	pthread_mutex_unlock(&living_mutex);
	/* the server's handlers must not run here */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	rc = thread->in_fd < 0 || thread->out_fd < 0 ? EMFILE : pthread_create(&id, NULL, thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (rc == 0)
	{
		pthread_detach(id);
		return thread;
	}
	pthread_mutex_lock(&living_mutex);
	living--;
	pthread_mutex_unlock(&living_mutex);
	free_thread(thread);
	return NULL;
}

bool
es_thread_put(EsThread *thread, EsOutgoing *message)
{
	EsJob	   *job = copy_message(message);
	bool		was_empty;

	if (job == NULL)
		return false;
	pthread_mutex_lock(&thread->mutex);
	was_empty = thread->in_last == NULL;
	if (was_empty)
		thread->in_first = job;
	else
		thread->in_last->next = job;
	thread->in_last = job;
	pthread_mutex_unlock(&thread->mutex);
	/* otherwise who takes leaves the descriptor readable */
	if (was_empty)
		signal_fd(thread->in_fd);
	return true;
}

EsOutgoing *
es_thread_collect(EsThread *thread)
{
	EsOutgoing *first = NULL;
	EsOutgoing **last = &first;
	EsJob	   *job;

	drain_fd(thread->out_fd);
	pthread_mutex_lock(&thread->mutex);
	job = thread->out_first;
	thread->out_first = thread->out_last = NULL;
	pthread_mutex_unlock(&thread->mutex);
	while (job != NULL)
	{
		EsJob	   *next = job->next;
		EsOutgoing *message = job->message;

		message->outcome = job->outcome.outcome;
		message->status = job->outcome.status;
		message->retry_after_ms = job->outcome.retry_after_ms;
		memcpy(message->error, job->outcome.error, sizeof(message->error));
		message->next = NULL;
		*last = message;
		last = &message->next;
		free(job);
		job = next;
	}
	return first;
}

int
es_thread_fd(EsThread *thread)
{
	return thread->out_fd;
}

void
es_thread_stop(EsThread *thread)
{
	bool		last;

	/*
	 * All under the mutex.  A thread that is woken before it can see why would go on waiting; and one that can see it may be gone
	 * with the struct once the mutex is free.
	 */
	pthread_mutex_lock(&thread->mutex);
	thread->stopping = true;
	/* ends a wait for the other side; the thread closes the socket itself, and has said so before under the mutex */
	if (thread->socket >= 0)
		(void) shutdown(thread->socket, SHUT_RDWR);
	signal_fd(thread->in_fd);
	last = thread->ended;
	pthread_mutex_unlock(&thread->mutex);
	if (last)
		free_thread(thread);
}

void
es_thread_wait_all(void)
{
	long long	deadline = es_thread_now() + END_MS;

	for (;;)
	{
		int			n;

		pthread_mutex_lock(&living_mutex);
		n = living;
		pthread_mutex_unlock(&living_mutex);
		if (n == 0)
			return;
		/* what exit() takes down, a thread that still runs would trip over: the server's part of the end is over by now */
		if (es_thread_now() >= deadline)
			_exit(0);
		(void) poll(NULL, 0, 10);
	}
}

EsJob *
es_thread_take(EsThread *thread, long ms)
{
	long long	deadline = es_thread_now() + ms;

	for (;;)
	{
		EsJob	   *job;
		bool		stopping;
		long long	left;
		struct pollfd wait = {.fd = thread->in_fd, .events = POLLIN};

		pthread_mutex_lock(&thread->mutex);
		stopping = thread->stopping;
		job = stopping ? NULL : thread->in_first;
		/* a stop leaves it readable for good */
		if (!stopping)
			drain_fd(thread->in_fd);
		if (job != NULL)
		{
			thread->in_first = job->next;
			if (thread->in_first == NULL)
				thread->in_last = NULL;
			else
				signal_fd(thread->in_fd);	/* for who waits on the descriptor: there is more */
			job->next = NULL;
		}
		pthread_mutex_unlock(&thread->mutex);
		left = deadline - es_thread_now();
		if (job != NULL || stopping || left <= 0)
			return job;
		(void) poll(&wait, 1, (int) Min(left, 1000));
	}
}

int
es_thread_take_fd(EsThread *thread)
{
	return thread->in_fd;
}

void
es_thread_done(EsThread *thread, EsJob *job)
{
	bool		was_empty;

	job->next = NULL;
	pthread_mutex_lock(&thread->mutex);
	was_empty = thread->out_last == NULL;
	if (was_empty)
		thread->out_first = job;
	else
		thread->out_last->next = job;
	thread->out_last = job;
	pthread_mutex_unlock(&thread->mutex);
	/* who collects takes them all */
	if (was_empty)
		signal_fd(thread->out_fd);
}

bool
es_thread_is_stopping(EsThread *thread)
{
	bool		stopping;

	pthread_mutex_lock(&thread->mutex);
	stopping = thread->stopping;
	pthread_mutex_unlock(&thread->mutex);
	return stopping;
}

void
es_thread_set_socket(EsThread *thread, int fd)
{
	pthread_mutex_lock(&thread->mutex);
	thread->socket = fd;
	/* the stop came before there was a socket to shut down */
	if (thread->stopping && fd >= 0)
		(void) shutdown(fd, SHUT_RDWR);
	pthread_mutex_unlock(&thread->mutex);
}

int
es_thread_connect(EsThread *thread, const EsTransportHost *host, const char *name, const char *port,
				  const char *allowed_networks, bool plain_text, long ms, char *fault, size_t size)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *addresses = NULL;
	long long	deadline = es_thread_now() + ms;
	int			rc = getaddrinfo(name, port, &hints, &addresses);
	int			fd = -1;
	int			left;

	if (rc != 0)
	{
		snprintf(fault, size, "the host has no address: %s", gai_strerror(rc));
		return -1;
	}
	snprintf(fault, size, "%s", plain_text
			 ? "without TLS only addresses of evtstore.allowed_networks are talked to, and the host has none of them"
			 : "the host has only loopback, private or special addresses that evtstore.allowed_networks does not have");
	left = count_allowed(addresses, host, allowed_networks, plain_text);
	for (struct addrinfo *address = addresses; address != NULL && fd < 0 && !es_thread_is_stopping(thread); address = address->ai_next)
	{
		long long	now = es_thread_now();

		if (!host->address_allowed(address->ai_addr, allowed_networks, plain_text))
			continue;
		/* one that does not answer leaves time for the others */
		fd = connect_one(thread, address, now + Max(deadline - now, 0) / left--, fault, size);
	}
	freeaddrinfo(addresses);
	return fd;
}

static void *
thread_main(void *arg)
{
	EsThread   *thread = arg;
	bool		last;

	thread->run(thread, thread->arg);
	pthread_mutex_lock(&thread->mutex);
	thread->ended = true;
	last = thread->stopping;
	pthread_mutex_unlock(&thread->mutex);
	if (last)
		free_thread(thread);
	pthread_mutex_lock(&living_mutex);
	living--;
	pthread_mutex_unlock(&living_mutex);
	return NULL;
}

/* by whichever of the two came last */
static void
free_thread(EsThread *thread)
{
	EsJob	   *lists[2] = {thread->in_first, thread->out_first};

	for (int i = 0; i < 2; i++)
		while (lists[i] != NULL)
		{
			EsJob	   *next = lists[i]->next;

			free(lists[i]);
			lists[i] = next;
		}
	if (thread->in_fd >= 0)
		close(thread->in_fd);
	if (thread->out_fd >= 0)
		close(thread->out_fd);
	pthread_mutex_destroy(&thread->mutex);
	free(thread);
}

/* in one piece */
static EsJob *
copy_message(EsOutgoing *message)
{
	size_t		size = sizeof(EsJob) + sizeof(EsHeader) * message->nheaders + message->body_len + 1;
	EsJob	   *job;
	char	   *at;

	size += strlen(message->id) + 1;
	size += message->topic != NULL ? strlen(message->topic) + 1 : 0;
	size += message->key != NULL ? strlen(message->key) + 1 : 0;
	for (int i = 0; i < message->nheaders; i++)
		size += strlen(message->headers[i].name) + strlen(message->headers[i].value) + 2;
	job = malloc(size);
	if (job == NULL)
		return NULL;
	memset(job, 0, sizeof(EsJob));
	job->message = message;
	job->headers = (EsHeader *) (job + 1);
	job->nheaders = message->nheaders;
	at = (char *) (job->headers + message->nheaders);
	for (int i = 0; i < message->nheaders; i++)
	{
		job->headers[i].name = copy_text(&at, message->headers[i].name);
		job->headers[i].value = copy_text(&at, message->headers[i].value);
	}
	job->id = copy_text(&at, message->id);
	job->topic = copy_text(&at, message->topic);
	job->key = copy_text(&at, message->key);
	if (message->body_len > 0)
		memcpy(at, message->body, message->body_len);
	at[message->body_len] = '\0';
	job->body = at;
	job->body_len = message->body_len;
	job->deadline = es_thread_now() + message->timeout_ms;
	job->outcome.retry_after_ms = -1;
	job->outcome.data = message->data;
	return job;
}

static char *
copy_text(char **at, const char *text)
{
	char	   *copy = *at;

	if (text == NULL)
		return NULL;
	strcpy(copy, text);
	*at += strlen(text) + 1;
	return copy;
}

static void
signal_fd(int fd)
{
	uint64		one = 1;

	/* it is full only when it was signalled 2^64 times */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static void
drain_fd(int fd)
{
	uint64		count;

	if (read(fd, &count, sizeof(count)) < 0)
		return;
}

static int
count_allowed(const struct addrinfo *address, const EsTransportHost *host, const char *allowed_networks, bool plain_text)
{
	int			n = 0;

	for (; address != NULL; address = address->ai_next)
		if (host->address_allowed(address->ai_addr, allowed_networks, plain_text))
			n++;
	return n;
}

/* within the deadline and until a stop; the socket blocks again */
static int
connect_one(EsThread *thread, const struct addrinfo *address, long long deadline, char *fault, size_t size)
{
	int			fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd wait = {.fd = fd, .events = POLLOUT};
	int			error = 0;
	socklen_t	len = sizeof(error);

	if (fd < 0)
	{
		snprintf(fault, size, "could not make a socket: errno %d", errno);
		return -1;
	}
	if (connect(fd, address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS)
		error = errno;
	else
	{
		int			n = 0;

		/* in slices, so that a stop is seen */
		while (n == 0 && !es_thread_is_stopping(thread) && es_thread_now() < deadline)
			n = poll(&wait, 1, 100);
		if (n <= 0)
			error = ETIMEDOUT;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
			error = errno;
	}
	if (error == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0)
		return fd;
	error = error == 0 ? errno : error;
	if (error == ECONNREFUSED || error == ETIMEDOUT)
		snprintf(fault, size, "could not connect: %s", error == ECONNREFUSED ? "connection refused" : "no answer in time");
	else
		snprintf(fault, size, "could not connect: errno %d", error);
	close(fd);
	return -1;
}
