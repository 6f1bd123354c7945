/*
 * driver.c
 *		Sends messages through a transport's library, without a server: for tests of the transports by themselves.
 *
 *		driver LIBRARY URL [--count N] [--keys N] [--in-flight N] [--timeout MS] [--topic T] [--body TEXT] [--from N]
 *			[--allow NETWORKS] [--client NAME=VALUE] [--secret KIND=VALUE] [--tls-ca FILE] [--no-verify] [--deadline MS]
 *			[--rate N] [--until FILE] [--progress N] [--gap MS] [--topics N] [--quiet] [--once] [--gate FILE]
 *			[--rest-size N] [--next-timeout MS] [--abrupt]
 *
 * Message i (from --from on) has the id 00000000-0000-4000-8000-<i as 12 hex digits>, key k<i mod keys>, and the body TEXT, or
 * {"n": i}; for another evtstore an event of the stream k<i mod keys>, with data i.  Like a relay it keeps the order of a key, repeats
 * what is to be repeated, after a moment, and gives up at the deadline.  Prints a line for each message that is not DELIVERED at its first try (with --quiet: none), "at M" each time that N more
 * are DELIVERED (--progress N), and at the end
 * "delivered=N repeated=N rejected=N unavailable=N left=N per_second=N".  Exit 0 when none is left.
 *
 * With --topics N message i goes to the topic T<i mod N>.  A message that is DELIVERED before an earlier one of its key is done is
 * counted in a line "disordered=N" before the last.
 *
 * With --once nothing is repeated: what is not DELIVERED at its first try is left, and the end need not be waited for.
 *
 * With --gate nothing but the first message is begun before there is that file: so that a link is there, and then much at once.
 *
 * With --rest-size all but the first have a body of that many bytes.
 *
 * With --next-timeout messages that are repeated have that time, and --timeout is that of the first try.
 *
 * With --rate no more than N messages a second are begun, with --until none behind that whose number, counted from 1, FILE has now, so that
 * who disturbs cannot be outrun.  With --abrupt it ends at the deadline as a process does that had no time
 * to close: neither close nor shutdown.
 */
#include "postgres.h"

#include <dlfcn.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "../../src/transport/transport.h"

#define MAX_SETTINGS 32
#define REPEAT_MS 100
#define LOOK_MS 10

typedef struct Message
{
	EsOutgoing	out;
	EsHeader	headers[4];
	char		id[40];
	char		key[16];
	char		number[24];
	char		body[256];
	char		topic[64];
	struct Message *before;		/* the one before it of its key */
	struct Message *behind;		/* the next one of its key */
	bool		in_front;
	bool		is_out;
	bool		is_over;
	long long	again;			/* not before */
} Message;

static long long
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
add_setting(EsSetting *settings, int *n, char *text)
{
	char	   *equals = strchr(text, '=');

	if (equals == NULL || *n == MAX_SETTINGS)
	{
		fprintf(stderr, "not NAME=VALUE: %s\n", text);
		exit(2);
	}
	*equals = '\0';
	settings[*n].name = text;
	settings[(*n)++].value = equals + 1;
}

/* how many may be begun; looks again after a while */
static int
look_at_limit(const char *path, int before)
{
	static long long looked = 0;
	long long	now = now_ms();
	int			limit = before;
	FILE	   *file;

	if (now - looked < LOOK_MS)
		return before;
	looked = now;
	file = fopen(path, "r");
	if (file == NULL || fscanf(file, "%d", &limit) != 1)
		limit = before;
	if (file != NULL)
		fclose(file);
	return limit;
}

int
main(int argc, char **argv)
{
	static EsSetting client[MAX_SETTINGS];
	static EsSetting secrets[MAX_SETTINGS];
	/* threads may look at it when main is over */
	static EsTransportHost host = {ES_TRANSPORT_VERSION, es_transport_address_allowed};
	EsLinkConfig config = {.endpoint = "driver", .timeout_ms = 5000, .max_in_flight = 64, .allowed_networks = "127.0.0.0/8,::1/128",
		.tls_verify = true, .client = client, .secrets = secrets};
	int			count = 1;
	int			nkeys = 10;
	int			from = 1;
	const char *topic = NULL;
	int			ntopics = 0;
	long		disordered = 0;
	const char *body = NULL;
	long long	deadline = 30000;
	long		rate = 0;
	const char *until = NULL;
	int			limit = 0;
	bool		quiet = false;
	long		progress = 0;
	bool		once = false;
	const char *gate = NULL;
	long		rest_size = 0;
	char	   *rest = NULL;
	long		next_timeout = 0;
	bool		abrupt = false;
	long		gap = 0;			/* between a message and the next one of its key */
	void	   *library;
	EsTransportEntry entry;
	const EsTransport *transport;
	EsLink	   *link;
	char		fault[256] = "";
	Message    *messages;
	Message   **last;
	long		counts[5] = {0};
	long long	start;
	int			left;
	int			given_up = 0;
	int			first = 0;

	for (int i = 3; i < argc; i++)
	{
		char	   *name = argv[i];

		if (strcmp(name, "--no-verify") == 0)
			config.tls_verify = false;
		else if (strcmp(name, "--quiet") == 0)
			quiet = true;
		else if (strcmp(name, "--once") == 0)
			once = true;
		else if (strcmp(name, "--abrupt") == 0)
			abrupt = true;
		else if (++i >= argc)
			return 2;
		else if (strcmp(name, "--count") == 0)
			count = atoi(argv[i]);
		else if (strcmp(name, "--keys") == 0)
			nkeys = atoi(argv[i]);
		else if (strcmp(name, "--from") == 0)
			from = atoi(argv[i]);
		else if (strcmp(name, "--in-flight") == 0)
			config.max_in_flight = atoi(argv[i]);
		else if (strcmp(name, "--timeout") == 0)
			config.timeout_ms = atol(argv[i]);
		else if (strcmp(name, "--deadline") == 0)
			deadline = atol(argv[i]);
		else if (strcmp(name, "--progress") == 0)
			progress = atol(argv[i]);
		else if (strcmp(name, "--rate") == 0)
			rate = atol(argv[i]);
		else if (strcmp(name, "--rest-size") == 0)
			rest_size = atol(argv[i]);
		else if (strcmp(name, "--next-timeout") == 0)
			next_timeout = atol(argv[i]);
		else if (strcmp(name, "--gate") == 0)
			gate = argv[i];
		else if (strcmp(name, "--until") == 0)
			until = argv[i];
		else if (strcmp(name, "--gap") == 0)
			gap = atol(argv[i]);
		else if (strcmp(name, "--topic") == 0)
			topic = argv[i];
		else if (strcmp(name, "--topics") == 0)
			ntopics = atoi(argv[i]);
		else if (strcmp(name, "--body") == 0)
			body = argv[i];
		else if (strcmp(name, "--allow") == 0)
			config.allowed_networks = argv[i];
		else if (strcmp(name, "--tls-ca") == 0)
			config.tls_ca_file = argv[i];
		else if (strcmp(name, "--client") == 0)
			add_setting(client, &config.nclient, argv[i]);
		else if (strcmp(name, "--secret") == 0)
			add_setting(secrets, &config.nsecrets, argv[i]);
		else
			return 2;
	}
	if (argc < 3 || count < 1 || nkeys < 1 || (ntopics > 0 && topic == NULL))
		return 2;
	config.url = argv[2];
	/* who reads it from a file waits for lines */
	setvbuf(stdout, NULL, _IOLBF, 0);
	library = dlopen(argv[1], RTLD_NOW);
	if (library == NULL || (entry = (EsTransportEntry) dlsym(library, ES_TRANSPORT_ENTRY)) == NULL || (transport = entry(&host)) == NULL)
	{
		fprintf(stderr, "no transport: %s\n", dlerror());
		return 2;
	}
	if (transport->check_url(config.url) != NULL)
	{
		printf("url: %s\n", transport->check_url(config.url));
		return 1;
	}
	if ((transport->check != NULL && !transport->check(&config, fault, sizeof(fault))) || !transport->startup(fault, sizeof(fault)) ||
		(link = transport->open(&config, fault, sizeof(fault))) == NULL)
	{
		printf("refused: %s\n", fault);
		return 1;
	}

	if (rest_size > 0)
	{
		rest = malloc(rest_size);
		memset(rest, 'x', rest_size);
	}
	messages = calloc(count, sizeof(Message));
	last = calloc(nkeys, sizeof(Message *));
	for (int i = 0; i < count; i++)
	{
		Message    *message = &messages[i];
		int			k = (from + i) % nkeys;

		snprintf(message->id, sizeof(message->id), "00000000-0000-4000-8000-%012x", from + i);
		snprintf(message->key, sizeof(message->key), "k%d", k);
		snprintf(message->number, sizeof(message->number), "%d", from + i);
		if (transport->binding == ES_BINDING_EVTSTORE)
			snprintf(message->body, sizeof(message->body), "{\"id\": \"%s\", \"stream\": \"%s\", \"type\": \"Driven\", \"data\": %d, "
					 "\"source\": \"driver\", \"position\": \"%d\"}", message->id, message->key, from + i, from + i);
		else
			snprintf(message->body, sizeof(message->body), "{\"n\": %d}", from + i);
		if (ntopics > 0)
			snprintf(message->topic, sizeof(message->topic), "%s%d", topic, (from + i) % ntopics);
		message->headers[0] = (EsHeader) {"Content-Type", "application/json"};
		message->headers[1] = (EsHeader) {"ce-id", message->id};
		message->headers[2] = (EsHeader) {"ce-type", "Driven"};
		message->headers[3] = (EsHeader) {"ce-sequence", message->number};
		message->out = (EsOutgoing) {.id = message->id, .topic = ntopics > 0 ? message->topic : topic, .key = message->key, .headers = message->headers, .nheaders = 4,
			.body = body != NULL ? body : message->body, .body_len = strlen(body != NULL ? body : message->body),
			.timeout_ms = config.timeout_ms};
		if (rest != NULL && i > 0)
		{
			message->out.body = rest;
			message->out.body_len = rest_size;
		}
		message->before = last[k];
		message->in_front = last[k] == NULL || transport->keeps_order;
		if (last[k] != NULL)
			last[k]->behind = message;
		last[k] = message;
	}

	start = now_ms();
	left = count;
	while (left > given_up && now_ms() - start < deadline)
	{
		EsOutgoing *done;
		struct pollfd wait = {.fd = transport->wait_fd(), .events = POLLIN};
		long		ms;
		bool		full = false;
		bool		moved = false;
		int			window = 0;

		if (gate != NULL && access(gate, F_OK) == 0)
			gate = NULL;
		while (first < count && messages[first].is_over)
			first++;
		if (until != NULL)
			limit = look_at_limit(until, limit);
		for (int i = first; i < count && !full && window < 4096; i++, window++)
		{
			Message    *message = &messages[i];

			if ((rate > 0 && i >= (now_ms() - start) * rate / 1000) || (gate != NULL && i > 0) || (until != NULL && i >= limit))
				break;
			if (message->is_over || message->is_out || !message->in_front || message->again > now_ms())
			{
				/* what was submitted together and failed together goes again in order */
				if (transport->keeps_order && !message->is_over && !message->is_out)
					break;
				continue;
			}
			if (!transport->submit(link, &message->out))
				full = true;
			else
			{
				message->is_out = true;
			}
		}
		transport->pump();
		while ((done = transport->next_done()) != NULL)
		{
			Message    *message = (Message *) ((char *) done - offsetof(Message, out));

			moved = true;
			message->is_out = false;
			counts[done->outcome]++;
			if (done->outcome == ES_OUTCOME_DELIVERED && message->before != NULL && !message->before->is_over)
				disordered++;
			if (done->outcome == ES_OUTCOME_DELIVERED && progress > 0 && counts[ES_OUTCOME_DELIVERED] % progress == 0)
				printf("at %ld\n", counts[ES_OUTCOME_DELIVERED]);
			if (done->outcome != ES_OUTCOME_DELIVERED && !quiet)
				printf("%s outcome=%d status=%d retry_after=%ld %s\n", message->number, done->outcome, done->status, done->retry_after_ms,
					   done->error);
			if (done->outcome == ES_OUTCOME_DELIVERED || done->outcome == ES_OUTCOME_REJECT || once)
			{
				message->is_over = true;
				if (done->outcome == ES_OUTCOME_DELIVERED || done->outcome == ES_OUTCOME_REJECT)
					left--;
				else
					given_up++;
				if (message->behind != NULL)
				{
					message->behind->in_front = true;
					message->behind->again = now_ms() + gap;
				}
			}
			else
			{
				message->again = now_ms() + REPEAT_MS;
				if (next_timeout > 0)
					message->out.timeout_ms = next_timeout;
			}
		}
		ms = transport->wait_ms();
		if (ms < 0 || ms > 50)
			ms = 50;
		(void) poll(&wait, 1, moved ? 0 : (int) ms);
	}
	if (!abrupt)
	{
		transport->close(link);
		transport->shutdown();
	}
	if (disordered > 0)
		printf("disordered=%ld\n", disordered);
	printf("delivered=%ld repeated=%ld rejected=%ld unavailable=%ld left=%d per_second=%.0f\n", counts[ES_OUTCOME_DELIVERED],
		   counts[ES_OUTCOME_RETRY], counts[ES_OUTCOME_REJECT], counts[ES_OUTCOME_UNAVAILABLE] + counts[ES_OUTCOME_GONE], left,
		   (count - left) * 1000.0 / Max(now_ms() - start, 1));
	return left == 0 ? 0 : 1;
}
