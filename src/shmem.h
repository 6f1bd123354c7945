/*
 * shmem.h
 *		Shared memory for modules that know nothing of each other: each registers its part before the hooks run.
 */
#ifndef ES_SHMEM_H
#define ES_SHMEM_H

#include "storage/lwlock.h"

typedef struct EsShmemPart
{
	const char *name; /* shown in pg_shmem_allocations as "evtstore <name>" */
	Size (*size)(void); /* called once MaxBackends is known */
	/* called with the area zeroed, in the postmaster at start and again after each crash restart */
	void (*init)(void *area);
	void **area; /* set in every process */
	int nlocks; /* LWLocks wanted; handed out as an array */
	LWLockPadded **locks;
} EsShmemPart;

extern void es_shmem_register(const EsShmemPart *part);
extern void es_shmem_install_hooks(void);

/* true when the server came up from a clean shutdown: what was handed out before is on disk (feed_store.c) */
extern bool es_shmem_clean_start(void);
/* true when the server came up with standby.signal, that is: if it takes writes now it was promoted (identity.c) */
extern bool es_shmem_started_as_standby(void);
/* random, made at each start of shared memory: tells the workers of this incarnation from those before a crash */
extern uint64 es_shmem_incarnation(void);

#endif
