/*
 * paced_append.c
 *		Appends events at a steady rate, and notes when each of them is committed.
 *
 *		paced_append CONNINFO RATE SECONDS PREFIX
 *
 * PREFIX, 8 hexadecimal digits, begins the ids, so that each run has its own.  Prints "ID NS NS" for each event: the times of
 * CLOCK_MONOTONIC, which all processes of a machine share, before the append was sent, and just after the client was told of the commit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

static long long
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void
must(PGconn *db, PGresult *result, ExecStatusType status)
{
	if (PQresultStatus(result) != status)
	{
		fprintf(stderr, "%s", PQerrorMessage(db));
		exit(1);
	}
	PQclear(result);
}

int
main(int argc, char **argv)
{
	PGconn	   *db;
	long		rate, count;
	long long	started;

	if (argc != 5 || (rate = atol(argv[2])) <= 0)
		return 2;
	count = rate * atol(argv[3]);
	db = PQconnectdb(argv[1]);
	if (PQstatus(db) != CONNECTION_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(db));
		return 1;
	}
	must(db, PQprepare(db, "append", "SELECT version FROM evtstore.append($1, 'OrderPlaced', '{\"total\": 42}', id => $2::uuid)", 2, NULL),
		 PGRES_COMMAND_OK);
	started = now();
	for (long i = 0; i < count; i++)
	{
		char		stream[32], id[37];
		const char *values[] = {stream, id};
		long long	called,
					due = started + i * 1000000000LL / rate;
		struct timespec until = {due / 1000000000LL, due % 1000000000LL};

		snprintf(stream, sizeof(stream), "order-%ld", i % 1000);
		snprintf(id, sizeof(id), "%.8s-0000-4000-8000-%012lx", argv[4], i);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		called = now();
		must(db, PQexecPrepared(db, "append", 2, values, NULL, NULL, 0), PGRES_TUPLES_OK);
		printf("%s %lld %lld\n", id, called, now());
	}
	PQfinish(db);
	return 0;
}
