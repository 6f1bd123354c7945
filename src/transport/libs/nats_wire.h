/*
 * nats_wire.h
 *		One connection to a NATS server, spoken by hand: bytes in, bytes out, and never a wait.
 *
 * Used by nats.c in the main thread, on a socket that is connected already.  A text protocol of eight verbs; what is on top of it
 * (JetStream's acknowledgements) is nats_message.c's.
 */
#ifndef ES_NATS_WIRE_H
#define ES_NATS_WIRE_H

#include "nats_config.h"

typedef struct NatsWire NatsWire;

/* what the connections of a link have in common; stays as it is while one of them lives */
typedef struct NatsWireConfig
{
	const NatsConfig *of;
	/* called from nats_wire_work; must not close the connection */
	void		(*up) (void *arg);
	void		(*answer) (void *arg, const char *token, size_t token_len, int status, const char *body, size_t body_len);
	void		(*forbidden) (void *arg, const char *subject, size_t subject_len);
	void	   *arg;
} NatsWireConfig;

/* server_name: whose certificate it is to be, with TLS.  Takes the socket, whatever comes of it.  NULL: no memory */
extern NatsWire *nats_wire_open(const NatsWireConfig *config, int fd, const char *server_name);
extern void nats_wire_close(NatsWire *wire);
/* reads and writes what can be; false: the connection is over, and why */
extern bool nats_wire_work(NatsWire *wire, char *fault, size_t size);
extern int	nats_wire_fd(const NatsWire *wire);
/* greeted, and nats_wire_publish() may be called */
extern bool nats_wire_is_up(const NatsWire *wire);
/* there is something for nats_wire_work() to write, and the socket has not been found full */
extern bool nats_wire_is_dirty(const NatsWire *wire);
/* the socket is full: wait until it can be written to */
extern bool nats_wire_is_full(const NatsWire *wire);
/* bytes ever queued, and of these, bytes that left: what is above the second was never sent */
extern uint64 nats_wire_queued(const NatsWire *wire);
extern uint64 nats_wire_sent(const NatsWire *wire);
/* most bytes of headers and body together; *certain: nobody on the way can have changed that number, short of the whole connection */
extern int64 nats_wire_max_payload(const NatsWire *wire, bool *certain);
/* headers and body with its length; only queues.  false: no memory, nothing was queued */
extern bool nats_wire_publish(NatsWire *wire, const char *token, const EsOutgoing *message);
extern size_t nats_wire_header_size(const EsOutgoing *message);
/* a question whether anybody is there: something will arrive */
extern void nats_wire_ping(NatsWire *wire);

#endif
