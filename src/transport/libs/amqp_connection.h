/*
 * amqp_connection.h
 *		What the files that make up a connection to a broker know of each other: amqp_wire.c has the socket, amqp_encode.c what we say,
 *		amqp_decode.c what the broker says.
 *
 * For these three only.
 */
#ifndef ES_AMQP_CONNECTION_H
#define ES_AMQP_CONNECTION_H

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

#include "amqp_wire.h"

#define ES_AMQP_CHANNEL 1
#define ES_AMQP_CHUNK 65536
/* from the connect to the channel that confirms, and for each further channel */
#define ES_AMQP_HANDSHAKE_MS 5000

typedef enum Phase
{
	PHASE_TLS,
	PHASE_START,				/* waits for the broker's methods of these names */
	PHASE_TUNE,
	PHASE_OPEN_OK,
	PHASE_CHANNEL_OPEN_OK,
	PHASE_SELECT_OK,
	PHASE_READY,
	PHASE_OVER
} Phase;

struct EsAmqpConnection
{
	int			fd;
	EsTls	   *tls;			/* NULL: plain */
	EsAmqpLogin login;
	amqp_connection_state_t codec;
	Phase		phase;
	bool		tls_wants_write;
	bool		write_failed;	/* why may be there to be read */
	bool		refused;
	int			fault_code;
	char		fault[ES_AMQP_TEXT];
	uint32_t	frame_max;
	long long	heartbeat;		/* ms; 0: none */
	long long	handshake_until;
	long long	last_sent;
	long long	last_received;
	/* out: bytes [first, last) of the buffer wait */
	char	   *out;
	size_t		out_size;
	size_t		out_first;
	size_t		out_last;
	uint64_t	queued;			/* bytes ever put into it */
	uint64_t	given;			/* bytes ever offered to the socket */
	/* in */
	char		in[ES_AMQP_CHUNK];
	size_t		in_first;
	size_t		in_last;
	/* a return whose content is on its way */
	bool		returning;
	EsAmqpEvent returned;
};

/* amqp_wire.c; the first reason stays, detail may be NULL */
extern void es_amqp_over(EsAmqpConnection *connection, const char *text, const char *detail);
/* what the socket takes now */
extern void es_amqp_write(EsAmqpConnection *connection);

/* amqp_encode.c: into the buffer; false: the connection is over */
extern bool es_amqp_put_greeting(EsAmqpConnection *connection);
extern bool es_amqp_put_heartbeat(EsAmqpConnection *connection);
extern bool es_amqp_put_method(EsAmqpConnection *connection, int channel, amqp_method_number_t id, void *decoded);
extern amqp_table_entry_t es_amqp_text_entry(const char *name, const char *value);

/* amqp_decode.c: answers where that is due; true: it came to an event */
extern bool es_amqp_take_frame(EsAmqpConnection *connection, amqp_frame_t *frame, EsAmqpEvent *event);

#endif
