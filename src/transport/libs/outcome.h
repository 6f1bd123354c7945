/*
 * outcome.h
 *		What every transport does with an outcome: write it down, in printable ASCII.
 *
 * Compiled into each library.  May be called by any thread; allocates nothing.
 */
#ifndef ES_OUTCOME_H
#define ES_OUTCOME_H

#include <stdio.h>
#include <string.h>

#include "../transport.h"

/* printable ASCII only: the text goes into tables and logs, whatever encoding the other side meant */
static inline void
es_outcome_append(char *buffer, size_t size, const char *text, size_t text_len)
{
	size_t		len = strlen(buffer);

	for (size_t i = 0; i < text_len && len + 1 < size; i++)
	{
		char		c = text[i];

		if (c > ' ' && c < 0x7f)
			buffer[len++] = c;
		else if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
		{
			if (len > 0 && buffer[len - 1] != ' ')
				buffer[len++] = ' ';
		}
		else
			buffer[len++] = '?';
	}
	buffer[len] = '\0';
}

/* "text: detail"; detail may be NULL */
static inline void
es_outcome_say(EsOutgoing *message, EsOutcome outcome, const char *text, const char *detail)
{
	message->outcome = outcome;
	message->error[0] = '\0';
	if (outcome == ES_OUTCOME_DELIVERED)
		return;
	es_outcome_append(message->error, sizeof(message->error), text, strlen(text));
	if (detail == NULL || detail[0] == '\0')
		return;
	es_outcome_append(message->error, sizeof(message->error), ": ", 2);
	es_outcome_append(message->error, sizeof(message->error), detail, strlen(detail));
}

#endif
