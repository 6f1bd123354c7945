/*
 * nats_buffer.h
 *		Bytes that come in at one end and go out at the other.
 */
#ifndef ES_NATS_BUFFER_H
#define ES_NATS_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

/* all zero is an empty one; what waits is [begin, end) of bytes, which are of malloc */
typedef struct NatsBuffer
{
	char	   *bytes;
	size_t		begin;
	size_t		end;
	size_t		room;
} NatsBuffer;

static inline size_t
nats_buffer_len(const NatsBuffer *buffer)
{
	return buffer->end - buffer->begin;
}

/* that many of the first ones are done with */
static inline void
nats_buffer_take(NatsBuffer *buffer, size_t len)
{
	buffer->begin += len;
	if (buffer->begin == buffer->end)
		buffer->begin = buffer->end = 0;
}

/* where that many bytes can be put, behind the end; NULL: no memory */
extern char *nats_buffer_make_room(NatsBuffer *buffer, size_t len);
/* false: no memory, and nothing was added */
extern bool nats_buffer_add(NatsBuffer *buffer, const void *bytes, size_t len);

#endif
