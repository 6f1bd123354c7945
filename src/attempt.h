/*
 * attempt.h
 *		Doing something that may fail, and going on.
 */
#ifndef ES_ATTEMPT_H
#define ES_ATTEMPT_H

/*
 * Runs it in a subtransaction.  NULL: it succeeded.  Else its effects are undone, and the result is "SQLSTATE: message",
 * palloc'd in the current context.  A cancel and a shutdown are not its failure and go on up.
 */
extern char *es_attempt(void (*run)(void *arg), void *arg);

#endif
