/*
 * guard.h
 *		What the server tells us by hooks: commands that want no session of ours, objects that come, change and go.
 */
#ifndef ES_GUARD_H
#define ES_GUARD_H

/* from _PG_init, when preloaded: installs the hooks */
extern void es_guard_init(void);

#endif
