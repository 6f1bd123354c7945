/*
 * links.c
 *		Which links are open, how many messages each has in flight, and the queue of what is done.
 *
 * Runs in relay workers, in the main thread: threads of a transport know nothing of it, so there is no lock.  Links and messages belong to
 * others, and only pointers are kept here.  A crash takes them along: what was done and not handed out is sent again.
 */
#include "postgres.h"

#include "links.h"

static EsLink *links = NULL;
static EsOutgoing *done_first = NULL;
static EsOutgoing *done_last = NULL;

void
es_links_add(EsLink *link, int max_in_flight)
{
	link->max_in_flight = max_in_flight;
	link->next = links;
	links = link;
}

void
es_links_remove(EsLink *link)
{
	EsLink	  **at = &links;
	EsOutgoing *kept = done_first;

	while (*at != link)
		at = &(*at)->next;
	*at = link->next;
	done_first = done_last = NULL;
	while (kept != NULL)
	{
		EsOutgoing *next = kept->next;

		if (kept->link != link)
			es_links_done(kept);
		kept = next;
	}
}

EsLink *
es_links_first(void)
{
	return links;
}

bool
es_links_has_room(const EsLink *link)
{
	return link->in_flight < link->max_in_flight;
}

void
es_links_take(EsLink *link, EsOutgoing *message)
{
	link->in_flight++;
	message->link = link;
	message->status = 0;
	message->retry_after_ms = -1;
}

void
es_links_done(EsOutgoing *message)
{
	message->next = NULL;
	if (done_last == NULL)
		done_first = message;
	else
		done_last->next = message;
	done_last = message;
}

bool
es_links_has_done(void)
{
	return done_first != NULL;
}

EsOutgoing *
es_links_next_done(void)
{
	EsOutgoing *message = done_first;

	if (message == NULL)
		return NULL;
	done_first = message->next;
	if (done_first == NULL)
		done_last = NULL;
	message->link->in_flight--;
	return message;
}
