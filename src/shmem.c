/*
 * shmem.c
 *		Shared memory for the modules of evtstore.
 *
 * Modules register a part (name, size, initialiser, number of locks) from _PG_init in the postmaster; the two hooks
 * here reserve and lay out all parts.  This file knows none of them.
 *
 * The areas are made by the postmaster at start and made anew after each crash restart: whatever a backend had
 * published there died with it, which is right, because every transaction in flight died too.  What this file itself
 * keeps is written once, before any other process exists, and read without a lock.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "compat.h"
#include "shmem.h"

#define MAX_PARTS 16

/* immutable after the postmaster made it */
typedef struct StartState
{
	bool clean_start;
	bool started_as_standby;
	uint64 incarnation;
} StartState;

static EsShmemPart parts[MAX_PARTS];
static int nparts = 0;
static StartState *start_state = NULL;
static bool was_standby = false;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void request_shmem(void);
static void startup_shmem(void);
static void record_start(StartState *state);

void
es_shmem_register(const EsShmemPart *part)
{
	if (nparts >= MAX_PARTS)
		elog(FATAL, "too many shared memory parts");
	parts[nparts++] = *part;
}

void
es_shmem_install_hooks(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

bool
es_shmem_clean_start(void)
{
	return start_state->clean_start;
}

bool
es_shmem_started_as_standby(void)
{
	return start_state->started_as_standby;
}

uint64
es_shmem_incarnation(void)
{
	return start_state->incarnation;
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(MAXALIGN(sizeof(StartState)));
	for (int i = 0; i < nparts; i++)
	{
		RequestAddinShmemSpace(MAXALIGN(parts[i].size()));
		if (parts[i].nlocks > 0)
			RequestNamedLWLockTranche(parts[i].name, parts[i].nlocks);
	}
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	start_state = ShmemInitStruct("evtstore start", sizeof(StartState), &found);
	if (!found)
		record_start(start_state);
	for (int i = 0; i < nparts; i++)
	{
		char		name[64];
		Size		size = parts[i].size();

		snprintf(name, sizeof(name), "evtstore %s", parts[i].name);
		*parts[i].area = ShmemInitStruct(name, size, &found);
		if (parts[i].nlocks > 0)
			*parts[i].locks = GetNamedLWLockTranche(parts[i].name);
		if (!found)
		{
			memset(*parts[i].area, 0, size);
			parts[i].init(*parts[i].area);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Looks at the control file before the startup process changes it.  Only DB_SHUTDOWNED proves that everything ever
 * handed out is on disk; after a crash, a promotion, a restore from backup or in single-user mode we cannot know.
 */
static void
record_start(StartState *state)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	struct stat st;

	state->clean_start = crc_ok && control->state == DB_SHUTDOWNED;
	pfree(control);
	/* kept by the postmaster over crash restarts: the file goes away with the promotion, before anybody could act on it */
	was_standby |= stat("standby.signal", &st) == 0;
	state->started_as_standby = was_standby;
	/* a backup taken cold says that it was shut down, but it is older than what was handed out since */
	if (was_standby || stat("recovery.signal", &st) == 0)
		state->clean_start = false;
	if (!pg_strong_random(&state->incarnation, sizeof(state->incarnation)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random numbers for the server incarnation")));
}
