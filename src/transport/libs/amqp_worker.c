/*
 * amqp_worker.c
 *		The life of a link's thread: connects when there is a message, sends, and says what became of each.
 *
 * Runs in the thread of a link; all in here is the thread's own.  It waits in wait_for_news() for the socket and for the main thread,
 * and in connect_broker() for name server and connect; a stop ends all of these but the name server's part.
 *
 * A message is DELIVERED when the broker confirmed it: then it is on disk, where its queues are durable.  Where connection or channel
 * break, what the broker cannot have as a whole goes on to the next one, and what else was not confirmed is in doubt: RETRY.
 * So a crash of anybody costs repetitions, never messages.
 *
 * A broker that is low on something reads nothing more until that is over.  What was begun when it said so is in doubt as well, but that is
 * no fault of the messages: UNAVAILABLE; nothing further is begun, over the same connection.
 */
#include "postgres.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "amqp_wire.h"
#include "amqp_worker.h"
#include "outcome.h"
#include "tls.h"

#define CONNECT_MS 5000
#define FIRST_BACKOFF_MS 100
#define LAST_BACKOFF_MS 5000
/* the broker's goodbye is waited for that long */
#define GOODBYE_MS 500
/* more bytes than that do not wait for the socket: a message that is not begun can still be called unsent */
#define MAX_BACKLOG (256 * 1024)
/* where the endpoint's topic names none */
#define DEFAULT_EXCHANGE "amq.topic"

#define REPLY_ACCESS_REFUSED 403
#define REPLY_NOT_FOUND 404

/* what is known about a job from when it was taken */
typedef struct Flight
{
	uint64_t	tag;
	EsAmqpSpan	span;			/* in all that was sent */
	int			returned;		/* the broker's code; 0: not */
	char		text[64];
} Flight;

typedef struct JobList
{
	EsJob	   *first;
	EsJob	   *last;
} JobList;

typedef struct Worker
{
	EsThread   *thread;
	const EsAmqpTarget *target;
	EsAmqpConnection *connection;	/* NULL: none */
	bool		ready;
	bool		blocked;
	char		reason[ES_AMQP_TEXT];	/* for it */
	JobList		waiting;
	JobList		sent;			/* by tag */
	uint64_t	next_tag;
	long long	expire_at;		/* no deadline is before it */
	long long	connect_at;
	long		backoff;
	int			fault_code;
	char		fault[ES_AMQP_TEXT];	/* why there is no connection */
} Worker;

static void take_jobs(Worker *worker);
static void expire(Worker *worker);
static bool expire_sent(Worker *worker, long long now);
static void connect_broker(Worker *worker);
static void disconnect(Worker *worker);
static void not_connected(Worker *worker, const char *fault, int code);
static void publish(Worker *worker);
static bool publish_one(Worker *worker, EsJob *job);
static void listen_to_broker(Worker *worker);
static void take_event(Worker *worker, const EsAmqpEvent *event);
static void take_confirm(Worker *worker, const EsAmqpEvent *event);
static void take_return(Worker *worker, const EsAmqpEvent *event);
static void take_channel_close(Worker *worker, const EsAmqpEvent *event);
static void take_back(Worker *worker);
static EsJob *find_culprit(Worker *worker, const EsAmqpEvent *event, EsOutcome *outcome);
static bool is_named(const EsJob *job, const char *text);
static bool is_quoted(const char *text, const char *what, const char *name, size_t len);
static void split_topic(const char *topic, const char **exchange, size_t *len, const char **routing_key);
static void sort_out(Worker *worker, EsJob *culprit, const char *text, const char *detail);
static void wait_for_news(Worker *worker);
static void finish(Worker *worker, EsJob *job, EsOutcome outcome, int status, const char *text, const char *detail);
static void finish_all(Worker *worker, JobList *list, EsOutcome outcome, int status, const char *text, const char *detail);
static Flight *flight(const EsJob *job);
static void append(JobList *list, EsJob *job);
static void prepend(JobList *list, JobList *before);
static EsJob *take_first(JobList *list);

void
es_amqp_run(EsThread *thread, void *arg)
{
	EsAmqpTarget *target = arg;
	Worker		self = {.thread = thread, .target = target, .backoff = FIRST_BACKOFF_MS};
	Worker	   *worker = &self;

	while (!es_thread_is_stopping(thread))
	{
		take_jobs(worker);
		listen_to_broker(worker);
		expire(worker);
		if (worker->connection == NULL && worker->waiting.first != NULL && es_thread_now() >= worker->connect_at)
			connect_broker(worker);
		publish(worker);
		wait_for_news(worker);
	}
	/* nobody looks at these any more: to be freed */
	finish_all(worker, &worker->sent, ES_OUTCOME_RETRY, 0, "closed", NULL);
	finish_all(worker, &worker->waiting, ES_OUTCOME_UNAVAILABLE, 0, "closed", NULL);
	if (worker->connection != NULL)
		es_amqp_end(worker->connection, GOODBYE_MS);
	es_amqp_free_target(target);
}

void
es_amqp_free_target(void *arg)
{
	EsAmqpTarget *target = arg;

	if (target == NULL)
		return;
	free(target->host);
	free(target->port);
	free(target->vhost);
	free(target->networks);
	free(target->user);
	free(target->password);
	free(target->ca_file);
	free(target->server_name);
	free(target->pem);
	free(target->name);
	free(target);
}

static void
take_jobs(Worker *worker)
{
	EsJob	   *job;

	while ((job = es_thread_take(worker->thread, 0)) != NULL)
	{
		job->data = calloc(1, sizeof(Flight));
		if (job->data == NULL)
		{
			finish(worker, job, ES_OUTCOME_UNAVAILABLE, 0, "there is no memory for the message", NULL);
			continue;
		}
		if (worker->waiting.first == NULL && worker->sent.first == NULL)
			worker->expire_at = job->deadline;
		worker->expire_at = Min(worker->expire_at, job->deadline);
		append(&worker->waiting, job);
	}
}

/* gives up what is past its deadline */
static void
expire(Worker *worker)
{
	long long	now = es_thread_now();
	JobList		all = worker->waiting;
	EsJob	   *job;

	if (now < worker->expire_at || (all.first == NULL && worker->sent.first == NULL))
		return;
	worker->expire_at = now + 60 * 60 * 1000;
	if (expire_sent(worker, now))
	{
		not_connected(worker, "the broker takes nothing", 0);
		disconnect(worker);
		all = worker->waiting;
	}
	worker->waiting = (JobList) {NULL, NULL};
	while ((job = take_first(&all)) != NULL)
	{
		if (now < job->deadline)
		{
			worker->expire_at = Min(worker->expire_at, job->deadline);
			append(&worker->waiting, job);
		}
		else if (worker->blocked)
			finish(worker, job, ES_OUTCOME_UNAVAILABLE, 0, "the broker takes no messages now", worker->reason);
		else if (!worker->ready)
			finish(worker, job, ES_OUTCOME_UNAVAILABLE, worker->fault_code, "not connected", worker->fault);
		else
			finish(worker, job, ES_OUTCOME_UNAVAILABLE, 0, "the broker does not take messages fast enough", NULL);
	}
}

/*
 * true: one is past its deadline that the socket did not take as a whole.  While the broker is blocked that is no reason to disconnect: it
 * reads what the socket has all the same when it goes on, and each further connection would have some of it, too.
 */
static bool
expire_sent(Worker *worker, long long now)
{
	JobList		all = worker->sent;
	EsJob	   *job;

	for (job = all.first; job != NULL; job = job->next)
		if (!worker->blocked && now >= job->deadline && flight(job)->span.end > es_amqp_given(worker->connection))
			return true;
	worker->sent = (JobList) {NULL, NULL};
	while ((job = take_first(&all)) != NULL)
	{
		if (now < job->deadline)
		{
			worker->expire_at = Min(worker->expire_at, job->deadline);
			append(&worker->sent, job);
		}
		else if (worker->blocked)
			finish(worker, job, ES_OUTCOME_UNAVAILABLE, 0, "the broker did not confirm, and takes no messages now", worker->reason);
		else
			finish(worker, job, ES_OUTCOME_RETRY, 0, "the broker did not confirm in time", NULL);
	}
	return false;
}

/* the rest of the handshake goes on while we wait for news */
static void
connect_broker(Worker *worker)
{
	const EsAmqpTarget *target = worker->target;
	EsAmqpLogin login = {target->vhost, target->user, target->password, target->name, target->heartbeat};
	char		fault[ES_AMQP_TEXT] = "";
	EsTls	   *tls = NULL;
	int			fd = es_thread_connect(worker->thread, target->core, target->host, target->port, target->networks, target->plain_text,
									   CONNECT_MS, fault, sizeof(fault));

	if (fd >= 0 && !target->plain_text)
	{
		tls = es_tls_new(fd, target->server_name, target->ca_file, target->pem, target->verify, fault, sizeof(fault));
		if (tls == NULL)
		{
			close(fd);
			fd = -1;
		}
	}
	if (fd < 0)
	{
		not_connected(worker, fault, 0);
		return;
	}
	worker->connection = es_amqp_begin(fd, tls, &login);
	if (worker->connection == NULL)
		not_connected(worker, "there is no memory", 0);
	else
		es_amqp_work(worker->connection);
}

/* the reason stands in fault */
static void
disconnect(Worker *worker)
{
	sort_out(worker, NULL, "the connection was lost before the broker confirmed", worker->fault);
	es_amqp_end(worker->connection, 0);
	worker->connection = NULL;
	worker->ready = false;
	worker->blocked = false;
}

/* why, and when it is tried again */
static void
not_connected(Worker *worker, const char *fault, int code)
{
	snprintf(worker->fault, sizeof(worker->fault), "%s", fault);
	worker->fault_code = code;
	worker->connect_at = es_thread_now() + worker->backoff;
	worker->backoff = Min(worker->backoff * 2, LAST_BACKOFF_MS);
}

static void
publish(Worker *worker)
{
	if (worker->connection == NULL)
		return;
	while (worker->ready && !worker->blocked && worker->waiting.first != NULL &&
		   es_amqp_backlog(worker->connection) < MAX_BACKLOG && publish_one(worker, worker->waiting.first))
		;
	es_amqp_work(worker->connection);
}

/* the first that waits; false: not now */
static bool
publish_one(Worker *worker, EsJob *job)
{
	EsAmqpMessage message = {.id = job->id, .headers = job->headers, .nheaders = job->nheaders, .body = job->body,
		.body_len = job->body_len};
	const char *fault = NULL;
	bool		done;

	if (job->topic == NULL)
	{
		(void) take_first(&worker->waiting);
		finish(worker, job, ES_OUTCOME_UNAVAILABLE, 0, "the endpoint has no \"topic\", which is EXCHANGE/ROUTING.KEY", NULL);
		return true;
	}
	split_topic(job->topic, &message.exchange, &message.exchange_len, &message.routing_key);
	done = es_amqp_publish(worker->connection, &message, &flight(job)->span, &fault);
	if (es_amqp_is_over(worker->connection))
		return false;
	(void) take_first(&worker->waiting);
	flight(job)->returned = 0;
	flight(job)->tag = worker->next_tag;
	if (!done)
		finish(worker, job, ES_OUTCOME_REJECT, 0, fault, NULL);
	else
	{
		worker->next_tag++;
		append(&worker->sent, job);
	}
	return true;
}

static void
listen_to_broker(Worker *worker)
{
	EsAmqpEvent event;

	if (worker->connection == NULL)
		return;
	while (es_amqp_next(worker->connection, &event))
		take_event(worker, &event);
	if (!es_amqp_is_over(worker->connection))
		return;
	not_connected(worker, es_amqp_fault(worker->connection), es_amqp_fault_code(worker->connection));
	/* it will not let us in the next time either: nobody need wait for that */
	if (es_amqp_refused(worker->connection))
		finish_all(worker, &worker->waiting, ES_OUTCOME_UNAVAILABLE, worker->fault_code, "not connected", worker->fault);
	disconnect(worker);
}

static void
take_event(Worker *worker, const EsAmqpEvent *event)
{
	switch (event->kind)
	{
		case ES_AMQP_READY:
			worker->ready = true;
			worker->next_tag = 1;
			break;
		case ES_AMQP_CONFIRM:
			worker->backoff = FIRST_BACKOFF_MS;
			take_confirm(worker, event);
			break;
		case ES_AMQP_RETURN:
			take_return(worker, event);
			break;
		case ES_AMQP_CHANNEL_CLOSED:
			worker->ready = false;
			take_channel_close(worker, event);
			break;
		case ES_AMQP_BLOCKED:
			worker->blocked = true;
			memcpy(worker->reason, event->text, sizeof(worker->reason));
			take_back(worker);
			break;
		case ES_AMQP_UNBLOCKED:
			worker->blocked = false;
			break;
	}
}

/* of one, or of all up to it; tag 0: of all */
static void
take_confirm(Worker *worker, const EsAmqpEvent *event)
{
	JobList		all = worker->sent;
	EsJob	   *job;

	worker->sent = (JobList) {NULL, NULL};
	while ((job = take_first(&all)) != NULL)
	{
		Flight	   *about = flight(job);
		bool		all_of_them = event->multiple && event->tag == 0;

		if (about->tag > event->tag && !all_of_them)
		{
			/* the rest as it is */
			job->next = all.first;
			all.first = job;
			if (all.last == NULL)
				all.last = job;
			prepend(&all, &worker->sent);
			worker->sent = all;
			return;
		}
		if (about->tag != event->tag && !event->multiple)
			append(&worker->sent, job);
		else if (about->returned != 0)
			finish(worker, job, ES_OUTCOME_RETRY, about->returned, "the broker sent it back", about->text);
		else if (event->positive)
			finish(worker, job, ES_OUTCOME_DELIVERED, 0, "", NULL);
		else
			finish(worker, job, ES_OUTCOME_RETRY, 0, "the broker could not take it", "nack");
	}
}

/* comes before the confirm of the same message */
static void
take_return(Worker *worker, const EsAmqpEvent *event)
{
	for (EsJob *job = worker->sent.first; job != NULL; job = job->next)
		if (flight(job)->returned == 0 && strcmp(job->id, event->id) == 0)
		{
			flight(job)->returned = event->code;
			snprintf(flight(job)->text, sizeof(flight(job)->text), "%d %s", event->code, event->text);
			return;
		}
}

/*
 * One message did it; those behind it the broker threw away, those before it are in doubt.  Where it does not say which one, all are.
 */
static void
take_channel_close(Worker *worker, const EsAmqpEvent *event)
{
	char		line[ES_AMQP_TEXT + 16];
	EsOutcome	outcome = ES_OUTCOME_RETRY;
	EsJob	   *culprit = find_culprit(worker, event, &outcome);
	JobList		all;
	EsJob	   *job;

	snprintf(line, sizeof(line), "%d %s", event->code, event->text);
	sort_out(worker, culprit, "the broker closed the channel before it confirmed", line);
	if (culprit == NULL)
		return;
	/* it is the first that waits now, and others that fare the same need not try */
	all = worker->waiting;
	worker->waiting = (JobList) {NULL, NULL};
	while ((job = take_first(&all)) != NULL)
		if (job == culprit || (outcome == ES_OUTCOME_UNAVAILABLE && is_named(job, event->text)))
			finish(worker, job, outcome, event->code, "the broker did not take it", line);
		else
			append(&worker->waiting, job);
}

/*
 * It reads nothing now.  What was begun it has, or will have when it goes on, maybe after its deadline; what was not begun waits with the others:
 * so that is all that can come twice.
 */
static void
take_back(Worker *worker)
{
	uint64_t	given = es_amqp_given(worker->connection);
	JobList		all = worker->sent;
	JobList		unsent = {NULL, NULL};
	EsJob	   *job;

	worker->sent = (JobList) {NULL, NULL};
	while ((job = take_first(&all)) != NULL)
		append(flight(job)->span.begin < given ? &worker->sent : &unsent, job);
	if (unsent.first == NULL)
		return;
	es_amqp_take_back(worker->connection, flight(unsent.first)->span.begin);
	worker->next_tag = flight(unsent.first)->tag;
	prepend(&worker->waiting, &unsent);
}

/*
 * The broker looks at messages in their order, and names the exchange or the size that it did not like: it was the first such one
 * of which we have no confirm.  NULL: nobody knows
 */
static EsJob *
find_culprit(Worker *worker, const EsAmqpEvent *event, EsOutcome *outcome)
{
	const char *size = strstr(event->text, "message size ");

	for (EsJob *job = worker->sent.first; job != NULL; job = job->next)
	{
		if (flight(job)->span.end > es_amqp_given(worker->connection))
			return NULL;
		if ((event->code == REPLY_ACCESS_REFUSED || event->code == REPLY_NOT_FOUND) && is_named(job, event->text))
		{
			*outcome = ES_OUTCOME_UNAVAILABLE;
			return job;
		}
		if (size != NULL && strtoull(size + 13, NULL, 10) == job->body_len)
		{
			*outcome = ES_OUTCOME_REJECT;
			return job;
		}
	}
	return NULL;
}

/* does "exchange 'NAME'", and "topic 'ROUTING.KEY'" where there is one, mean where the job goes? */
static bool
is_named(const EsJob *job, const char *text)
{
	const char *exchange;
	size_t		len;
	const char *routing_key;

	if (job->topic == NULL)
		return false;
	split_topic(job->topic, &exchange, &len, &routing_key);
	return is_quoted(text, "exchange '", exchange, len) &&
		(strstr(text, "topic '") == NULL || is_quoted(text, "topic '", routing_key, strlen(routing_key)));
}

static bool
is_quoted(const char *text, const char *what, const char *name, size_t len)
{
	const char *at = strstr(text, what);

	return at != NULL && strncmp(at + strlen(what), name, len) == 0 && at[strlen(what) + len] == '\'';
}

/* EXCHANGE/ROUTING.KEY; "/QUEUE" is for the broker's default exchange, which has no name */
static void
split_topic(const char *topic, const char **exchange, size_t *len, const char **routing_key)
{
	const char *slash = strchr(topic, '/');

	*exchange = slash != NULL ? topic : DEFAULT_EXCHANGE;
	*len = slash != NULL ? slash - topic : strlen(DEFAULT_EXCHANGE);
	*routing_key = slash != NULL ? slash + 1 : topic;
}

/*
 * Nothing of what was sent will be confirmed any more.  What the broker cannot have, or threw away (the culprit and what is behind it;
 * NULL: unknown), waits again, in front; the others are in doubt
 */
static void
sort_out(Worker *worker, EsJob *culprit, const char *text, const char *detail)
{
	uint64_t	given = es_amqp_given(worker->connection);
	JobList		unsent = {NULL, NULL};
	bool		behind = false;
	EsJob	   *job;

	while ((job = take_first(&worker->sent)) != NULL)
	{
		behind = behind || job == culprit;
		if (behind || flight(job)->span.end > given)
			append(&unsent, job);
		else
			finish(worker, job, ES_OUTCOME_RETRY, 0, text, detail);
	}
	prepend(&worker->waiting, &unsent);
}

static void
wait_for_news(Worker *worker)
{
	struct pollfd fds[2] = {{.fd = es_thread_take_fd(worker->thread), .events = POLLIN}};
	bool		idle = worker->waiting.first == NULL && worker->sent.first == NULL;
	long long	until = es_thread_now() + 60000;
	int			n = 1;

	if (!idle)
		until = Min(until, worker->expire_at);
	if (worker->connection == NULL && worker->waiting.first != NULL)
		until = Min(until, worker->connect_at);
	if (worker->connection != NULL)
	{
		if (es_amqp_is_over(worker->connection))
			return;
		fds[n].fd = es_amqp_fd(worker->connection);
		fds[n++].events = es_amqp_events(worker->connection);
		until = Min(until, es_amqp_due(worker->connection));
		/* there was no room for more in the buffer, and now there is */
		if (worker->ready && !worker->blocked && worker->waiting.first != NULL && es_amqp_backlog(worker->connection) < MAX_BACKLOG)
			return;
	}
	(void) poll(fds, n, (int) Max(until - es_thread_now(), 0));
}

static void
finish(Worker *worker, EsJob *job, EsOutcome outcome, int status, const char *text, const char *detail)
{
	es_outcome_say(&job->outcome, outcome, text, detail);
	job->outcome.status = status;
	free(job->data);
	job->data = NULL;
	es_thread_done(worker->thread, job);
}

static void
finish_all(Worker *worker, JobList *list, EsOutcome outcome, int status, const char *text, const char *detail)
{
	EsJob	   *job;

	while ((job = take_first(list)) != NULL)
		finish(worker, job, outcome, status, text, detail);
}

static Flight *
flight(const EsJob *job)
{
	return job->data;
}

static void
append(JobList *list, EsJob *job)
{
	job->next = NULL;
	if (list->last == NULL)
		list->first = job;
	else
		list->last->next = job;
	list->last = job;
}

static void
prepend(JobList *list, JobList *before)
{
	if (before->last == NULL)
		return;
	before->last->next = list->first;
	list->first = before->first;
	if (list->last == NULL)
		list->last = before->last;
}

static EsJob *
take_first(JobList *list)
{
	EsJob	   *job = list->first;

	if (job == NULL)
		return NULL;
	list->first = job->next;
	if (list->first == NULL)
		list->last = NULL;
	job->next = NULL;
	return job;
}
