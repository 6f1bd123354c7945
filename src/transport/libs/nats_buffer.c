/*
 * nats_buffer.c
 *		Bytes that come in at one end and go out at the other.
 *
 * Runs in relay workers, in the main thread, on memory of malloc that a crash takes along.
 */
#include "postgres.h"

#include <stdlib.h>

#include "nats_buffer.h"

char *
nats_buffer_make_room(NatsBuffer *buffer, size_t len)
{
	if (buffer->room - buffer->end < len && buffer->begin > 0)
	{
		memmove(buffer->bytes, buffer->bytes + buffer->begin, buffer->end - buffer->begin);
		buffer->end -= buffer->begin;
		buffer->begin = 0;
	}
	if (buffer->room - buffer->end < len)
	{
		size_t		room = Max(buffer->room * 2, buffer->end + len);
		char	   *bytes = realloc(buffer->bytes, room);

		if (bytes == NULL)
			return NULL;
		buffer->bytes = bytes;
		buffer->room = room;
	}
	return buffer->bytes + buffer->end;
}

bool
nats_buffer_add(NatsBuffer *buffer, const void *bytes, size_t len)
{
	char	   *at = nats_buffer_make_room(buffer, len);

	if (at == NULL)
		return false;
	memcpy(at, bytes, len);
	buffer->end += len;
	return true;
}
