/*
 * dead_key.h
 *		Keys of a subscription that were given up: their events go to the dead letters, in order.
 */
#ifndef ES_DEAD_KEY_H
#define ES_DEAD_KEY_H

#include "subscription.h"

/* what follows needs the lock of the lane that the key is handed out by, held */

/* from now on; error: of the event that was given up first */
extern void es_dead_key_add(int32 subscription, const char *tenant, const char *key, const char *error);
/* is it one?  *error (may be NULL): palloc'd */
extern bool es_dead_key_find(int32 subscription, const char *tenant, const char *key, char **error);
/* false: it is none */
extern bool es_dead_key_remove(int32 subscription, const char *tenant, const char *key);

/* Locks: the subscription's, exclusive, or its name's */
extern void es_dead_key_forget(int32 subscription);

#endif
