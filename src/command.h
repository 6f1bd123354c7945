/*
 * command.h
 *		Idempotent commands: the result of a handler, kept for a client that asks again.
 */
#ifndef ES_COMMAND_H
#define ES_COMMAND_H

/*
 * Deletes at most limit results that are older than evtstore.command_retention, the oldest first; returns how many.
 * In the caller's transaction; begin_command does not see them in any case, so nobody waits for this.
 */
extern int64 es_command_trim(int limit);

extern void es_command_init(void);

#endif
