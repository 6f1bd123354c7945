/*
 * thread_links.h
 *		Links that have a thread each: what a transport does in the main thread when its client library can only wait.
 *
 * Compiled into each library that needs it.  Most of EsTransport is the same for these; what their threads do is not (thread.h).
 */
#ifndef ES_THREAD_LINKS_H
#define ES_THREAD_LINKS_H

#include "links.h"
#include "thread.h"

/* the struct of a link begins with it */
typedef struct EsThreadLink
{
	EsLink		base;
	EsThread   *thread;
} EsThreadLink;

/* what the thread of a link does */
typedef struct EsThreadLife
{
	/* as for es_thread_start: frees what is behind arg when it ends */
	void		(*run) (EsThread *thread, void *arg);
	/* the same where no thread was to be had */
	void		(*free_arg) (void *arg);
} EsThreadLife;

/* as EsTransport's */
extern bool es_thread_links_startup(char *fault, size_t size);
/* false also where there is no memory for a copy */
extern bool es_thread_links_submit(EsLink *base, EsOutgoing *message);
extern void es_thread_links_pump(void);
extern int	es_thread_links_wait_fd(void);
extern long es_thread_links_wait_ms(void);
extern void es_thread_links_close(EsLink *base);
extern void es_thread_links_shutdown(void);

/* a link of so many bytes, all zero behind what is ours; arg is its thread's, whatever comes of it.  NULL and why not */
extern EsLink *es_thread_links_open(size_t link_size, const EsLinkConfig *config, const EsThreadLife *life, void *arg, char *fault,
									size_t size);

#endif
