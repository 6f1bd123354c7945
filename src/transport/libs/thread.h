/*
 * thread.h
 *		A thread for a client library that can only wait: messages go in, outcomes come back, and the main thread never waits.
 *
 * Compiled into each library that needs it.  A transport makes one thread for each link.  In the thread no function of the
 * server may be called, nor may anything of it be looked at: it runs with all signals blocked, on memory of malloc.
 */
#ifndef ES_THREAD_H
#define ES_THREAD_H

#include "../transport.h"

typedef struct EsThread EsThread;

/* a copy of a message, the thread's own */
typedef struct EsJob
{
	EsOutgoing *message; /* the main thread's: not for the thread */
	const char *id;
	const char *topic; /* NULL: none */
	const char *key;   /* NULL: none */
	EsHeader *headers;
	int nheaders;
	const char *body;
	size_t body_len;
	long long deadline; /* by es_thread_now(), ms */
	/* out: filled by the thread; outcome.error is what es_outcome_say() writes to.  In: outcome.data is the message's data when it was put */
	EsOutgoing outcome;
	void *data; /* the thread's; freed by it */
	struct EsJob *next;
} EsJob;

/* monotonic clock, ms */
extern long long es_thread_now(void);

/*
 * Main thread
 */

/*
 * run is the thread's life; it ends soon after es_thread_is_stopping(), frees what is behind arg, and gives the jobs that it still has
 * to es_thread_done(), which frees them then.  NULL: no thread to be had
 */
extern EsThread *es_thread_start(void (*run) (EsThread *thread, void *arg), void *arg);
/* copies; false: no memory */
extern bool es_thread_put(EsThread *thread, EsOutgoing *message);
/* those that are done, with their outcomes, as a chain by next; NULL: none */
extern EsOutgoing *es_thread_collect(EsThread *thread);
/* readable when there is something to collect */
extern int es_thread_fd(EsThread *thread);
/* tells it to end, and forgets it: it frees itself.  Nothing is collected from it any more */
extern void es_thread_stop(EsThread *thread);
/* at the end of the process: waits for all that were stopped; where one does not come, the process must end by _exit, which this does */
extern void es_thread_wait_all(void);

/*
 * The thread
 */

/* the next job; waits for one up to ms, also woken by es_thread_stop.  NULL: none */
extern EsJob *es_thread_take(EsThread *thread, long ms);
/* readable when there is something to take, and for good when it is time to stop: for poll() with a socket */
extern int es_thread_take_fd(EsThread *thread);
/* with its outcome; the job is not the thread's any more */
extern void es_thread_done(EsThread *thread, EsJob *job);
extern bool es_thread_is_stopping(EsThread *thread);
/* the socket that it waits on, so that a stop ends the wait; -1: none.  Told before it is closed */
extern void es_thread_set_socket(EsThread *thread, int fd);

/*
 * Connects to one of the host's addresses that may be talked to (host->address_allowed), within ms: a blocking socket; -1 and why not.
 * plain_text: without TLS.  The resolver cannot be interrupted
 */
extern int es_thread_connect(EsThread *thread, const EsTransportHost *host, const char *name, const char *port,
							 const char *allowed_networks, bool plain_text, long ms, char *fault, size_t size);

#endif
