/*
 * message_id.h
 *		Ids of messages.
 */
#ifndef ES_MESSAGE_ID_H
#define ES_MESSAGE_ID_H

extern void es_message_id_init(void);
/* greater than every id that was given before, to anybody in this database */
extern int64 es_message_id_next(void);

#endif
