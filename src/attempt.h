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
/* the same, with all that there is to know of the error; it may be thrown again */
extern ErrorData *es_attempt_error(void (*run)(void *arg), void *arg);

/*
 * A worker's turn, with a snapshot: in a transaction of its own, or, where one is around, in that.  Returns which, for the end of the turn; the
 * memory context stays.  Where the turn fails in a transaction that is around, a subtransaction around the turn has to end.
 */
extern bool es_turn_transaction_begin(void);
extern void es_turn_transaction_end(bool is_own);

#endif
