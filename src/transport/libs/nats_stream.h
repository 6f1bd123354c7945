/*
 * nats_stream.h
 *		A connected socket to a NATS server, with TLS or without: bytes in, bytes out, and never a wait.
 *
 * Used by nats_wire.c in the main thread, which reads what is in and puts text into out.
 */
#ifndef ES_NATS_STREAM_H
#define ES_NATS_STREAM_H

#include <openssl/ssl.h>

#include "nats_buffer.h"

/* most that nats_stream_read() takes from the socket */
#define NATS_READ_BYTES (64 * 1024)

typedef struct NatsStream
{
	int			fd;
	SSL		   *ssl;			/* NULL: plain text */
	bool		is_secure;		/* the handshake of TLS is over */
	bool		is_ended;		/* the other side said so in TLS; what it said before is in */
	bool		is_full;		/* the socket: wait until it can be written to */
	NatsBuffer	in;				/* text that is not parsed yet */
	NatsBuffer	out;			/* text that is not sent yet */
	NatsBuffer	cipher;			/* the same enciphered; not used without TLS */
	uint64		sent;			/* bytes that have left out */
} NatsStream;

/* into one that is all zero; the socket is its own where that is true */
extern bool nats_stream_open(NatsStream *stream, int fd);
extern void nats_stream_close(NatsStream *stream);
/* a piece of what has arrived, and how many bytes of the socket it was; 0: nothing is there.  false: the connection is over, and why */
extern bool nats_stream_read(NatsStream *stream, size_t *n, char *fault, size_t size);
/* what the socket takes; false: the connection is over, and why */
extern bool nats_stream_write(NatsStream *stream, char *fault, size_t size);
/* server_name: whose certificate it must be.  Bytes that are there already are the other side's part of it.  false and why not */
extern bool nats_stream_begin_tls(NatsStream *stream, SSL_CTX *context, const char *server_name, char *fault, size_t size);

#endif
