/*
 * crash_mark.c
 *		Which handler took the server down: a mark that a dying worker leaves.
 *
 * A handler that makes a worker crash takes the server through recovery, and the next worker runs it again, for ever.  So workers that
 * run handlers of others (worker.c, rebuilder.c) write down, from the signal handler of the crash, whose it was: one byte more in a
 * file for each definition.  That costs nothing before there is a crash, and blames nobody who only ran at the same time.  The
 * scheduler that comes after the crash reads the marks and quarantines what has three of an hour.
 *
 * Only what the process did to itself counts: SIGSEGV, SIGBUS, SIGILL.  A kill -9 comes from outside, and an abort is how the server
 * gives up for want of disk space.
 *
 * The files lie in pg_stat_tmp, which base backups leave out.  Nothing is locked: a file has one writer, who dies, and its reader comes
 * after him.
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"

#include "compat.h"
#include "crash_mark.h"

#define PREFIX "evtstore_crash"
/* marks that are older are forgotten */
#define MAX_AGE (60 * 60) /* s */
/* the handler runs on a stack of its own: the crash may be that there is none left */
#define STACK_BYTES (64 * 1024)

static char path[MAXPGPATH];	/* '': nobody's handler runs */

static void handle_crash(int signo);

void
es_crash_mark_begin(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL};
	struct sigaction action = {0};
	stack_t		stack = {0};

	stack.ss_sp = malloc(STACK_BYTES);
	stack.ss_size = STACK_BYTES;
	if (stack.ss_sp == NULL || sigaltstack(&stack, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up the handler of crashes")));
	action.sa_handler = handle_crash;
	action.sa_flags = SA_ONSTACK | SA_RESETHAND | SA_NODEFER;
	sigemptyset(&action.sa_mask);
	for (int i = 0; i < lengthof(signals); i++)
		if (sigaction(signals[i], &action, NULL) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("could not set the handler of crashes: %m")));
}

void
es_crash_mark_set(int32 id)
{
	char		next[MAXPGPATH];

	if (id == 0)
	{
		path[0] = '\0';
		return;
	}
	snprintf(next, sizeof(next), "%s/%s.%u.%d", PG_STAT_TMP_DIR, PREFIX, MyDatabaseId, id);
	strlcpy(path, next, sizeof(path));
}

/* in a signal handler, of a process that is about to die of that signal: it is reset already */
static void
handle_crash(int signo)
{
	if (path[0] != '\0')
	{
		int			fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);

		/* where it cannot be written there is one mark less */
		if (fd >= 0 && write(fd, "x", 1) == 1)
			(void) close(fd);
	}
	(void) raise(signo);
}

List *
es_crash_marks_take(void)
{
	List	   *ids = NIL;
	DIR		   *dir = AllocateDir(PG_STAT_TMP_DIR);
	struct dirent *entry;

	while ((entry = ReadDir(dir, PG_STAT_TMP_DIR)) != NULL)
	{
		char		file[MAXPGPATH];
		struct stat st;
		unsigned int database;
		int			id;

		if (sscanf(entry->d_name, PREFIX ".%u.%d", &database, &id) != 2 || database != MyDatabaseId)
			continue;
		snprintf(file, sizeof(file), "%s/%s", PG_STAT_TMP_DIR, entry->d_name);
		if (stat(file, &st) != 0)
			continue;
		if (st.st_size >= ES_CRASH_MARK_LIMIT)
			ids = lappend_int(ids, id);
		if (st.st_size >= ES_CRASH_MARK_LIMIT || st.st_mtime < time(NULL) - MAX_AGE)
			(void) unlink(file);
	}
	FreeDir(dir);
	return ids;
}
