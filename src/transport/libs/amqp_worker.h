/*
 * amqp_worker.h
 *		The life of a link's thread: a connection to a broker, messages to it, outcomes back.
 *
 * For amqp.c only.
 */
#ifndef ES_AMQP_WORKER_H
#define ES_AMQP_WORKER_H

#include "thread.h"

/* where to and how: made by the main thread, of malloc; the thread's own from its start */
typedef struct EsAmqpTarget
{
	const EsTransportHost *core;
	char	   *host;
	char	   *port;
	char	   *vhost;
	char	   *networks;
	char	   *user;
	char	   *password;
	char	   *ca_file;		/* NULL: the system's */
	char	   *server_name;
	char	   *pem;			/* NULL: none */
	char	   *name;			/* of the connection, for who looks at the broker */
	bool		plain_text;
	bool		verify;
	int			heartbeat;		/* s */
} EsAmqpTarget;

/* the life of a thread; frees the target */
extern void es_amqp_run(EsThread *thread, void *target);
/* NULL: nothing */
extern void es_amqp_free_target(void *target);

#endif
