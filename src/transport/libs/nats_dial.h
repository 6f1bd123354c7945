/*
 * nats_dial.h
 *		A connection under way: names are resolved and hosts connected to by a thread, and nobody waits.
 */
#ifndef ES_NATS_DIAL_H
#define ES_NATS_DIAL_H

#include "nats_config.h"

typedef struct NatsDial NatsDial;

/* beginning with that host of the config's; wake_fd is an eventfd, written to when it is over.  NULL: no memory, no thread */
extern NatsDial *nats_dial_start(const EsTransportHost *host, const NatsConfig *config, int first_host, int wake_fd);
/* true: it is over, and gone; *fd is the socket, or -1 and why not; *host whose it is */
extern bool nats_dial_collect(NatsDial *dial, int *fd, int *host, char *fault, size_t size);
/* it is not wanted any more, and frees itself */
extern void nats_dial_abandon(NatsDial *dial);

#endif
