/*
 * links.h
 *		The links of a transport, as all of them have them: which are open, how many messages each has in flight, and what is done.
 *
 * Compiled into each library; for its main thread only.  A transport's struct for a link begins with an EsLink.
 */
#ifndef ES_LINKS_H
#define ES_LINKS_H

#include "../transport.h"

struct EsLink
{
	int			max_in_flight;
	int			in_flight;		/* taken, and not handed out by next_done */
	EsLink	   *next;			/* of those that are open */
};

/* it is open */
extern void es_links_add(EsLink *link, int max_in_flight);
/* it is closed: nothing of it that is done is handed out any more */
extern void es_links_remove(EsLink *link);
/* one of those that are open, the others by next; NULL: there is none */
extern EsLink *es_links_first(void);
/* false: so many are in flight as may be */
extern bool es_links_has_room(const EsLink *link);
/* the message is in flight, without an outcome so far */
extern void es_links_take(EsLink *link, EsOutgoing *message);
/* it has its outcome, and waits for next_done */
extern void es_links_done(EsOutgoing *message);
extern bool es_links_has_done(void);
/* as EsTransport's next_done: in the order in which they were done */
extern EsOutgoing *es_links_next_done(void);

#endif
