/*
 * sequential_relay.c
 *		The relay that people write themselves: polls a subscription, posts event by event on one kept connection, acknowledges.
 *
 *		sequential_relay CONNINFO SUBSCRIPTION URL COUNT BATCH
 *
 * BATCH events are polled and acknowledged together.  With 1 a crash repeats one event, as with most relays of that kind.
 *
 * With the same library as the relay of evtstore, libcurl, through its easy interface, and with the same headers.  Ends when COUNT
 * events are delivered and acknowledged, with an error when one is not taken.  Prints the seconds that it took, from the first poll on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <curl/curl.h>
#include <libpq-fe.h>

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static PGresult *
query(PGconn *db, const char *name, const char *value)
{
	PGresult   *result = PQexecPrepared(db, name, 1, &value, NULL, NULL, 0);

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(db));
		exit(1);
	}
	return result;
}

static void
prepare(PGconn *db, const char *name, const char *statement)
{
	PGresult   *result = PQprepare(db, name, statement, 1, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(db));
		exit(1);
	}
	PQclear(result);
}

/* the columns of "poll", from the second on, are headers but for the last one */
static void
post(CURL *http, PGresult *polled, int row)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	int			body = PQnfields(polled) - 1;
	long		status = 0;
	CURLcode	code;

	headers = curl_slist_append(headers, "ce-specversion: 1.0");
	for (int i = 1; i < body; i++)
	{
		char		line[512];

		snprintf(line, sizeof(line), "ce-%s: %s", PQfname(polled, i), PQgetvalue(polled, row, i));
		headers = curl_slist_append(headers, line);
	}
	curl_easy_setopt(http, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(http, CURLOPT_POSTFIELDSIZE, (long) PQgetlength(polled, row, body));
	curl_easy_setopt(http, CURLOPT_POSTFIELDS, PQgetvalue(polled, row, body));
	code = curl_easy_perform(http);
	curl_easy_getinfo(http, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK || status / 100 != 2)
	{
		fprintf(stderr, "not delivered: %s, HTTP status %ld\n", curl_easy_strerror(code), status);
		exit(1);
	}
	curl_slist_free_all(headers);
}

/* an array literal: receipts have nothing in them that must be quoted within quotes */
static char *
receipts(PGresult *polled)
{
	size_t		size = 3;
	char	   *text,
			   *at;

	for (int i = 0; i < PQntuples(polled); i++)
		size += PQgetlength(polled, i, 0) + 3;
	at = text = malloc(size);
	if (text == NULL)
		exit(1);
	for (int i = 0; i < PQntuples(polled); i++)
		at += sprintf(at, "%c\"%s\"", i == 0 ? '{' : ',', PQgetvalue(polled, i, 0));
	strcpy(at, "}");
	return text;
}

int
main(int argc, char **argv)
{
	PGconn	   *db;
	CURL	   *http;
	long		left;
	double		started;

	char		poll[1024];

	if (argc != 6)
		return 2;
	left = atol(argv[4]);
	db = PQconnectdb(argv[1]);
	http = curl_easy_init();
	if (PQstatus(db) != CONNECTION_OK || http == NULL)
	{
		fprintf(stderr, "%s", PQerrorMessage(db));
		return 1;
	}
	curl_easy_setopt(http, CURLOPT_URL, argv[3]);
	snprintf(poll, sizeof(poll), "SELECT receipt, event_id AS id, type, '/evtstore/' || current_database() AS source, stream AS subject, "
			"to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS time, lpad(position::text, 19, '0') AS sequence, "
			"version AS streamversion, stream AS partitionkey, body FROM evtstore.poll($1, 'sequential', %d)", atoi(argv[5]));
	prepare(db, "poll", poll);
	prepare(db, "ack", "SELECT evtstore.ack($1::text[])");
	started = now();
	while (left > 0)
	{
		PGresult   *polled = query(db, "poll", argv[2]);

		for (int i = 0; i < PQntuples(polled); i++)
			post(http, polled, i);
		if (PQntuples(polled) > 0)
		{
			char	   *done = receipts(polled);

			PQclear(query(db, "ack", done));
			free(done);
		}
		left -= PQntuples(polled);
		PQclear(polled);
	}
	printf("%.3f\n", now() - started);
	curl_easy_cleanup(http);
	PQfinish(db);
	return 0;
}
