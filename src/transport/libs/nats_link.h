/*
 * nats_link.h
 *		What the files that make up a link to NATS know of each other: nats.c has links and their connections, nats_message.c the messages
 *		on them.
 *
 * For these two only, in the main thread.
 */
#ifndef ES_NATS_LINK_H
#define ES_NATS_LINK_H

#include "links.h"
#include "nats_config.h"
#include "nats_dial.h"
#include "nats_wire.h"

/* a message under way */
typedef struct NatsSlot
{
	EsOutgoing *message;		/* NULL: free */
	uint32		turn;			/* so that an answer to an earlier message is known */
	bool		published;
	uint64		at;				/* where in what is sent it begins */
	long long	since;
	long long	deadline;
} NatsSlot;

typedef struct NatsLink
{
	EsLink		base;
	NatsConfig	config;
	NatsWireConfig for_wire;
	int			host;			/* to begin with */
	NatsDial   *dial;			/* NULL: none is under way */
	NatsWire   *wire;			/* NULL: no connection */
	bool		waits_to_write; /* as epoll was told */
	bool		was_up;			/* the connection */
	long long	greeting_until;
	long long	not_before;		/* no connection is begun earlier */
	long long	heard;			/* when something arrived last */
	bool		asked;			/* whether anybody is there */
	char		fault[200];		/* why there is no connection */
	int			nslots;
	NatsSlot   *slots;
	int		   *free_slots;
	int			nfree;
	long long	next_deadline;	/* not after the first one */
} NatsLink;

/* true: it can never be published, and has its outcome */
extern bool nats_message_refuse(EsOutgoing *message);
/* the connection is up */
extern void nats_message_publish(NatsLink *link, NatsSlot *slot);
/* the message's outcome, text and detail as in es_outcome_say; the slot is free */
extern void nats_message_finish(NatsLink *link, NatsSlot *slot, EsOutcome outcome, int status, const char *text, const char *detail);
/* the connection's callbacks; arg is the link */
extern void nats_message_on_answer(void *arg, const char *token, size_t token_len, int status, const char *body, size_t body_len);
extern void nats_message_on_forbidden(void *arg, const char *subject, size_t subject_len);

#endif
