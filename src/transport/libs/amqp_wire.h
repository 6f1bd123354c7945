/*
 * amqp_wire.h
 *		A connection to a broker that speaks AMQP 0-9-1, with one channel that confirms: frames out, events in, and no wait.
 *
 * For amqp.c only.  All of a connection belongs to one thread.
 */
#ifndef ES_AMQP_WIRE_H
#define ES_AMQP_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../transport.h"
#include "tls.h"

#define ES_AMQP_TEXT 256

typedef struct EsAmqpConnection EsAmqpConnection;

typedef struct EsAmqpLogin
{
	const char *vhost;
	const char *user;
	const char *password;
	const char *connection_name;
	int			heartbeat;		/* s, at most; the broker may want it shorter */
} EsAmqpLogin;

typedef enum EsAmqpEventKind
{
	ES_AMQP_READY,				/* the channel takes messages; tags begin at 1 */
	ES_AMQP_CONFIRM,			/* tag, multiple, positive */
	ES_AMQP_RETURN,				/* code, text, id: it will be confirmed nevertheless */
	ES_AMQP_CHANNEL_CLOSED,		/* code, text: what was not confirmed never will be; READY follows */
	ES_AMQP_BLOCKED,			/* text: the broker is low on something */
	ES_AMQP_UNBLOCKED
} EsAmqpEventKind;

typedef struct EsAmqpEvent
{
	EsAmqpEventKind kind;
	uint64_t	tag;
	bool		multiple;
	bool		positive;
	int			code;
	char		text[ES_AMQP_TEXT];
	char		id[ES_AMQP_TEXT];
} EsAmqpEvent;

typedef struct EsAmqpMessage
{
	const char *exchange;
	size_t		exchange_len;
	const char *routing_key;
	const char *id;
	const EsHeader *headers;
	int			nheaders;
	const char *body;
	size_t		body_len;
} EsAmqpMessage;

/* bytes [begin, end) */
typedef struct EsAmqpSpan
{
	uint64_t	begin;
	uint64_t	end;
} EsAmqpSpan;

/* on a connected socket, which is its own from now on; tls NULL: plain.  The texts of login stay.  NULL: no memory, all is closed */
extern EsAmqpConnection *es_amqp_begin(int fd, EsTls *tls, const EsAmqpLogin *login);
/* reads what there is, without a wait; false: nothing more */
extern bool es_amqp_next(EsAmqpConnection *connection, EsAmqpEvent *event);
/* goes on with the handshake, writes what can be without a wait, and heartbeats */
extern void es_amqp_work(EsAmqpConnection *connection);
/* after any of the two; es_amqp_fault says why */
extern bool es_amqp_is_over(const EsAmqpConnection *connection);
extern const char *es_amqp_fault(const EsAmqpConnection *connection);
/* the broker's own code for that, 0: none; refused: trying again as things are will not help */
extern int	es_amqp_fault_code(const EsAmqpConnection *connection);
extern bool es_amqp_refused(const EsAmqpConnection *connection);
/* what poll() is to wait for, and when es_amqp_work has something to do without it (es_thread_now) */
extern int	es_amqp_fd(const EsAmqpConnection *connection);
extern short es_amqp_events(const EsAmqpConnection *connection);
extern long long es_amqp_due(const EsAmqpConnection *connection);
/* bytes that wait for the socket */
extern size_t es_amqp_backlog(const EsAmqpConnection *connection);
/* when READY: queues it.  span is where it lies in all that is sent.  false and why not: it never can be; nothing is queued */
extern bool es_amqp_publish(EsAmqpConnection *connection, const EsAmqpMessage *message, EsAmqpSpan *span, const char **fault);
/* what was queued from there on, where a message begins that is not given yet, is not sent */
extern void es_amqp_take_back(EsAmqpConnection *connection, uint64_t from);
/* all up to there may be at the broker; a message that ends behind it is not */
extern uint64_t es_amqp_given(const EsAmqpConnection *connection);
/* politely: says it is closing and waits for ms at most.  Frees */
extern void es_amqp_end(EsAmqpConnection *connection, long ms);

#endif
