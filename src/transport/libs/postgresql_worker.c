/*
 * postgresql_worker.c
 *		The life of a link's thread: gives what is there to evtstore.accept_events over there, and says what became of each.
 *
 * Runs in the thread of a link, on what is the thread's own; but es_pg_make_worker, and es_pg_end_worker where no thread was to be had, in
 * the main thread.  libpq waits, so this one may; a stop ends each wait but the resolver's.  Batches go in order, each in one
 * transaction.  A crash leaves a closed socket: what was sent and not answered is sent again, and the other side's inbox knows it.
 *
 * Order of a key.  One connection and one transaction at a time, in the order of submission.  When a message fails, those of its key
 * that were submitted before the main thread had been told so must not go: each failure has a number, each message carries the
 * number of the last failure that was handed out before it was submitted, and by hash of the key the thread remembers the last
 * failure.  Keys that share a hash only wait for each other more than they need.
 *
 * A message that fails takes its transaction with it, so the batch is halved until the one that fails is alone.  Where a connection is
 * lost or the time is up in the middle of several, nobody knows which one did it: they are not charged for it, and go one by one the next
 * time, so that one that always does it cannot spend the attempts of its neighbours.
 *
 * The server's own clock ends a statement that takes too long (statement_timeout, set for the transaction): PQcancel opens a connection
 * of its own, in plain text, waits without an end, and tells a commit that waits for a standby not to.
 */
#include "postgres.h"

#include <poll.h>
#include <stdlib.h>

#include "outcome.h"
#include "postgresql.h"

/* what goes in one transaction */
#define MAX_BATCH 500
#define MAX_BATCH_BYTES (1024 * 1024)
/* failures of keys are remembered by so many hashes */
#define KEY_SLOTS 4096
/* how often a batch is given once more that ran into others (class 40) */
#define MAX_AGAIN 2
/* the answer of a server that keeps the time itself may come so much after it */
#define GRACE_MS 1000
/* an idle connection is closed after this: it is a process over there */
#define IDLE_MS (5 * 60 * 1000)
#define IDLE_SLICE_MS 1000

#define ACCEPT "SELECT evtstore.accept_events(NULL, $1::pg_catalog.jsonb, $2::pg_catalog.text)"
#define SET_TIMEOUT "SELECT pg_catalog.set_config('statement_timeout', $1, true)"

/* the thread's own */
struct EsPgWorker
{
	EsPgTarget	target;
	PGconn	   *conn;			/* NULL: none */
	long long	used_at;
	uint64		failures;
	uint64		failed[KEY_SLOTS];	/* number of the last failure of a key with this hash; 0: none */
	int			alone;			/* so many of the next ones go one by one */
};

/* what came of a transaction */
typedef enum AnswerKind
{
	ANSWER_DONE,
	ANSWER_AGAIN,				/* ran into others */
	ANSWER_FAULT,				/* of one of the messages; outcome says what it means for it */
	ANSWER_LOST,				/* nobody knows whether it happened, nor whose fault it is */
	ANSWER_NOBODY				/* nobody there who could take anything now */
} AnswerKind;

typedef struct Answer
{
	AnswerKind	kind;
	EsOutcome	outcome;
	char		text[240];
} Answer;

static int	take_batch(EsThread *thread, EsPgWorker *worker, EsJob **jobs);
static void deliver(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n);
static int	hold_back(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n);
static void finish(EsThread *thread, EsPgWorker *worker, EsJob *job, EsOutcome outcome, const char *text, const char *detail);
static uint64 *failure_of(EsPgWorker *worker, const EsJob *job);
static void settle_all(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n, EsOutcome outcome, const char *text);
static void try_batch(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n, Answer *answer);
static bool get_connection(EsThread *thread, EsPgWorker *worker, long long deadline, Answer *answer);
static void drop_connection(EsPgWorker *worker);
static void run_transaction(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n, long long deadline, Answer *answer);
static bool put_statements(EsPgWorker *worker, EsJob **jobs, int n, long ms);
static bool put_events(PGconn *conn, EsJob **jobs, int n, const char *target);
static bool same_target(const EsJob *a, const EsJob *b);
static bool flush(EsThread *thread, PGconn *conn, long long deadline);
static void read_answers(EsThread *thread, PGconn *conn, long long deadline, Answer *answer);
static void lose(PGconn *conn, Answer *answer, const char *why);
static void judge(const PGresult *result, Answer *answer);
static bool in_list(const char *state, const char *const *list);
static void say(Answer *answer, AnswerKind kind, EsOutcome outcome, const char *text, const char *detail);
static void be_silent(void *arg, const PGresult *result);

EsPgWorker *
es_pg_make_worker(const EsTransportHost *core, const EsLinkConfig *config, char *fault, size_t size)
{
	EsPgWorker *worker = calloc(1, sizeof(EsPgWorker));

	snprintf(fault, size, "there is no memory for the connection");
	if (worker != NULL && es_pg_make_target(&worker->target, core, config, fault, size))
		return worker;
	es_pg_end_worker(worker);
	return NULL;
}

void
es_pg_run(EsThread *thread, void *arg)
{
	EsPgWorker *worker = arg;
	EsJob	   *jobs[MAX_BATCH];

	while (!es_thread_is_stopping(thread))
	{
		int			n = take_batch(thread, worker, jobs);

		if (n > 0)
			deliver(thread, worker, jobs, n);
		else if (worker->conn != NULL && es_thread_now() - worker->used_at > IDLE_MS)
			drop_connection(worker);
	}
	es_pg_end_worker(worker);
}

void
es_pg_end_worker(void *arg)
{
	EsPgWorker *worker = arg;

	if (worker == NULL)
		return;
	drop_connection(worker);
	es_pg_free_target(&worker->target);
	free(worker);
}

/* what is there */
static int
take_batch(EsThread *thread, EsPgWorker *worker, EsJob **jobs)
{
	int			max = worker->alone > 0 ? 1 : MAX_BATCH;
	size_t		bytes = 0;
	int			n = 0;
	EsJob	   *job = es_thread_take(thread, IDLE_SLICE_MS);

	while (job != NULL)
	{
		jobs[n++] = job;
		bytes += job->body_len;
		job = n < max && bytes < MAX_BATCH_BYTES ? es_thread_take(thread, 0) : NULL;
	}
	if (n > 0 && worker->alone > 0)
		worker->alone--;
	return n;
}

/* in order, each job done at the end */
static void
deliver(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n)
{
	Answer		answer = {.kind = ANSWER_AGAIN};

	n = hold_back(thread, worker, jobs, n);
	if (n == 0)
		return;
	for (int i = 0; i <= MAX_AGAIN && answer.kind == ANSWER_AGAIN; i++)
		try_batch(thread, worker, jobs, n, &answer);
	switch (answer.kind)
	{
		case ANSWER_DONE:
			settle_all(thread, worker, jobs, n, ES_OUTCOME_DELIVERED, "");
			break;
		case ANSWER_NOBODY:
			settle_all(thread, worker, jobs, n, ES_OUTCOME_UNAVAILABLE, answer.text);
			break;
		case ANSWER_LOST:
			if (n > 1)
				worker->alone = n;
			settle_all(thread, worker, jobs, n, n > 1 ? ES_OUTCOME_UNAVAILABLE : ES_OUTCOME_RETRY, answer.text);
			break;
		case ANSWER_AGAIN:
		case ANSWER_FAULT:
			if (n == 1)
				finish(thread, worker, jobs[0], answer.outcome, answer.text, NULL);
			else
			{
				deliver(thread, worker, jobs, n / 2);
				deliver(thread, worker, jobs + n / 2, n - n / 2);
			}
			break;
	}
}

/* those that may go, put together; the others are done */
static int
hold_back(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		EsJob	   *job = jobs[i];

		if (job->key != NULL && (uint64) (uintptr_t) job->outcome.data < *failure_of(worker, job))
			finish(thread, worker, job, ES_OUTCOME_UNAVAILABLE, "a message of its key that is before it was not delivered", NULL);
		else if (job->deadline <= es_thread_now())
			finish(thread, worker, job, ES_OUTCOME_UNAVAILABLE, "its time was up before it could be sent", NULL);
		else
			jobs[kept++] = job;
	}
	return kept;
}

static void
finish(EsThread *thread, EsPgWorker *worker, EsJob *job, EsOutcome outcome, const char *text, const char *detail)
{
	es_outcome_say(&job->outcome, outcome, text, detail);
	if (outcome != ES_OUTCOME_DELIVERED)
	{
		worker->failures++;
		if (job->key != NULL)
			*failure_of(worker, job) = worker->failures;
	}
	es_thread_done(thread, job);
}

/* FNV-1a */
static uint64 *
failure_of(EsPgWorker *worker, const EsJob *job)
{
	uint32		hash = 2166136261U;

	for (const char *c = job->key; *c != '\0'; c++)
		hash = (hash ^ (unsigned char) *c) * 16777619U;
	return &worker->failed[(hash ^ (hash >> 16)) % KEY_SLOTS];
}

static void
settle_all(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n, EsOutcome outcome, const char *text)
{
	for (int i = 0; i < n; i++)
		finish(thread, worker, jobs[i], outcome, text, NULL);
}

/* one transaction, over a connection that is made where there is none */
static void
try_batch(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n, Answer *answer)
{
	long long	deadline = jobs[0]->deadline;

	for (int i = 1; i < n; i++)
		deadline = Min(deadline, jobs[i]->deadline);
	if (!get_connection(thread, worker, deadline, answer))
		return;
	run_transaction(thread, worker, jobs, n, deadline, answer);
	if (answer->kind == ANSWER_LOST || answer->kind == ANSWER_NOBODY || PQstatus(worker->conn) != CONNECTION_OK)
		drop_connection(worker);
}

/*
 * One that is there and was not closed by the other side.  A new one is asked whether somebody is there who takes events: what a
 * batch cannot do then, one of its messages cannot.
 */
static bool
get_connection(EsThread *thread, EsPgWorker *worker, long long deadline, Answer *answer)
{
	char		fault[200] = "";

	if (worker->conn != NULL && (PQconsumeInput(worker->conn) == 0 || PQstatus(worker->conn) != CONNECTION_OK))
		drop_connection(worker);
	if (worker->conn != NULL)
		return true;
	worker->conn = es_pg_connect(thread, &worker->target, deadline, fault, sizeof(fault));
	if (worker->conn == NULL)
	{
		say(answer, ANSWER_NOBODY, ES_OUTCOME_UNAVAILABLE, fault, NULL);
		return false;
	}
	PQsetNoticeReceiver(worker->conn, be_silent, NULL);
	run_transaction(thread, worker, NULL, 0, deadline, answer);
	if (answer->kind == ANSWER_DONE)
		return true;
	answer->kind = ANSWER_NOBODY;
	drop_connection(worker);
	return false;
}

static void
drop_connection(EsPgWorker *worker)
{
	PQfinish(worker->conn);
	worker->conn = NULL;
}

/* n = 0: an empty list of events */
static void
run_transaction(EsThread *thread, EsPgWorker *worker, EsJob **jobs, int n, long long deadline, Answer *answer)
{
	PGconn	   *conn = worker->conn;
	long		ms = (long) (deadline - es_thread_now());

	if (ms <= 0)
	{
		say(answer, ANSWER_NOBODY, ES_OUTCOME_UNAVAILABLE, "no time was left to send it", NULL);
		return;
	}
	worker->used_at = es_thread_now();
	deadline += GRACE_MS;
	if (!put_statements(worker, jobs, n, ms) || !flush(thread, conn, deadline))
		lose(conn, answer, "it could not be sent");
	else
		read_answers(thread, conn, deadline, answer);
	if (answer->kind != ANSWER_LOST && answer->kind != ANSWER_NOBODY && !PQexitPipelineMode(conn))
		drop_connection(worker);
}

/* all up to the sync is one transaction */
static bool
put_statements(EsPgWorker *worker, EsJob **jobs, int n, long ms)
{
	PGconn	   *conn = worker->conn;
	char		text[24];
	const char *timeout[1] = {text};

	snprintf(text, sizeof(text), "%ldms", ms);
	if (!PQenterPipelineMode(conn) || !PQsendQueryParams(conn, SET_TIMEOUT, 1, NULL, timeout, NULL, NULL, 0))
		return false;
	if (n == 0 && !put_events(conn, jobs, 0, NULL))
		return false;
	for (int i = 0; i < n;)
	{
		int			end = i + 1;

		while (end < n && same_target(jobs[i], jobs[end]))
			end++;
		if (!put_events(conn, jobs + i, end - i, jobs[i]->topic))
			return false;
		i = end;
	}
	return PQpipelineSync(conn) == 1;
}

/* the bodies are JSON objects: as an array */
static bool
put_events(PGconn *conn, EsJob **jobs, int n, const char *target)
{
	size_t		size = 3;
	char	   *array;
	char	   *at;
	const char *values[2];
	bool		ok;

	for (int i = 0; i < n; i++)
		size += jobs[i]->body_len + 1;
	array = malloc(size);
	if (array == NULL)
		return false;
	at = array;
	*at++ = '[';
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			*at++ = ',';
		memcpy(at, jobs[i]->body, jobs[i]->body_len);
		at += jobs[i]->body_len;
	}
	*at++ = ']';
	*at = '\0';
	values[0] = array;
	values[1] = target;
	ok = PQsendQueryParams(conn, ACCEPT, 2, NULL, values, NULL, NULL, 0) == 1;
	free(array);
	return ok;
}

static bool
same_target(const EsJob *a, const EsJob *b)
{
	return a->topic == NULL || b->topic == NULL ? a->topic == b->topic : strcmp(a->topic, b->topic) == 0;
}

static bool
flush(EsThread *thread, PGconn *conn, long long deadline)
{
	int			left;

	while ((left = PQflush(conn)) == 1)
	{
		/* what the other side says meanwhile must be read, or both wait for room */
		if (!es_pg_wait(thread, PQsocket(conn), POLLIN | POLLOUT, deadline) || !PQconsumeInput(conn))
			return false;
	}
	return left == 0;
}

/* to the sync; the first error is the one that counts */
static void
read_answers(EsThread *thread, PGconn *conn, long long deadline, Answer *answer)
{
	bool		failed = false;

	/* two results for each statement, and a few; so that nothing that libpq may do is waited for without an end */
	for (int i = 0; i < 2 * MAX_BATCH + 16; i++)
	{
		PGresult   *result;
		ExecStatusType status;

		while (PQisBusy(conn))
			if (!es_pg_wait(thread, PQsocket(conn), POLLIN, deadline) || !PQconsumeInput(conn))
			{
				if (!failed)
					lose(conn, answer, "there was no answer in time");
				return;
			}
		result = PQgetResult(conn);
		if (result == NULL && PQstatus(conn) == CONNECTION_OK)
			continue;			/* the end of one statement */
		status = PQresultStatus(result);
		if (status == PGRES_PIPELINE_SYNC && !failed)
			say(answer, ANSWER_DONE, ES_OUTCOME_DELIVERED, "", NULL);
		else if (result == NULL && !failed)
			lose(conn, answer, "the connection was lost");
		else if (status == PGRES_FATAL_ERROR && !failed)
		{
			judge(result, answer);
			failed = true;
		}
		PQclear(result);
		if (status == PGRES_PIPELINE_SYNC || result == NULL)
			return;
	}
	lose(conn, answer, "the answers have no end");
}

static void
lose(PGconn *conn, Answer *answer, const char *why)
{
	say(answer, ANSWER_LOST, ES_OUTCOME_RETRY, why, PQstatus(conn) == CONNECTION_BAD ? PQerrorMessage(conn) : NULL);
}

/*
 * What the other side's SQLSTATE means.  What is wrong with a message (22, 23, another event with its id, a stream that is gone) is wrong the
 * next time, too.  What a person has to put right (a function, a right) is no fault of the message, but may be one of its target.
 */
static void
judge(const PGresult *result, Answer *answer)
{
	static const char *const nobody[] = {"08", "53", "57P", "58", "25006", NULL};
	static const char *const person[] = {"28", "42501", "42883", "3F000", "ST010", NULL};
	static const char *const reject[] = {"22", "23", "ST002", "ST004", "ST005", NULL};
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (state == NULL)
		say(answer, ANSWER_LOST, ES_OUTCOME_RETRY, "the connection was lost", PQresultErrorMessage(result));
	else if (strcmp(state, "57014") == 0)
		say(answer, ANSWER_LOST, ES_OUTCOME_RETRY, state, message);
	else if (in_list(state, nobody))
		say(answer, ANSWER_NOBODY, ES_OUTCOME_UNAVAILABLE, state, message);
	else if (in_list(state, person))
		say(answer, ANSWER_FAULT, ES_OUTCOME_UNAVAILABLE, state, message);
	else if (in_list(state, reject))
		say(answer, ANSWER_FAULT, ES_OUTCOME_REJECT, state, message);
	else
		say(answer, strncmp(state, "40", 2) == 0 ? ANSWER_AGAIN : ANSWER_FAULT, ES_OUTCOME_RETRY, state, message);
}

/* by its beginning */
static bool
in_list(const char *state, const char *const *list)
{
	for (; *list != NULL; list++)
		if (strncmp(state, *list, strlen(*list)) == 0)
			return true;
	return false;
}

static void
say(Answer *answer, AnswerKind kind, EsOutcome outcome, const char *text, const char *detail)
{
	answer->kind = kind;
	answer->outcome = outcome;
	snprintf(answer->text, sizeof(answer->text), "%s%s%s", text, detail != NULL && detail[0] != '\0' ? ": " : "",
			 detail != NULL ? detail : "");
}

/* libpq would write to the server's standard error */
static void
be_silent(void *arg, const PGresult *result)
{
}
