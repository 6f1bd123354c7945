/*
 * kafka_numbers.c
 *		Stands before a Kafka cluster that does not mind the numbers of idempotent producers, and minds them.
 *
 *		kafka_numbers HOST:PORT,...
 *
 * The cluster is librdkafka's mock (mock_kafka.c), on 127.0.0.1.  Prints "brokers HOST:PORT,...": a port for each of its brokers; who
 * connects there talks to the broker, and is told these ports where the broker names its own.  Then prints a line for each batch that it
 * decides upon itself: "gap ...", "again ..." or "old ...", then TOPIC PARTITION PRODUCER EPOCH NUMBER.  Ends by a signal.
 *
 * For each partition and producer it knows the epoch and the last five batches, as the brokers of Kafka 4 do for producers without
 * transactions (ProducerAppendInfo and ProducerStateEntry there):
 *
 *		- one of the five again, with the same numbers: it is not appended, and answered like the first time
 *		- the number behind the last one, or 0 behind 2147483647: taken
 *		- an older epoch: INVALID_PRODUCER_EPOCH
 *		- a newer one: taken from 0, and what is known of the old one is forgotten
 *		- of a producer that is not known in that partition: taken, whatever its number.  They do so because they may have forgotten it
 *		- any other number: OUT_OF_ORDER_SEQUENCE_NUMBER
 *
 * but where the broker does not lead the partition the answer is its own, before any number is looked at.  What is known moves on when the
 * broker has taken a batch.  With several brokers there is one state of a partition, as if all replicas were in sync always.
 *
 * A thread for each connection, with a connection of its own to the broker, does one request after the other, as Kafka does.  A
 * partition's mutex is held while a batch is decided upon and the broker has it; so nothing else comes between its end and what is known.
 * Where the connection to the broker ends before the answer, nobody knows whether it was appended.  Then the partition is in doubt; who
 * comes next asks its leader for the end of the log first, which has moved by the batch or has not.  That needs all who write to the
 * partition to come through here.
 *
 * What the client is connected to is closed when the connection to the broker is, so a broker that is down takes connections and closes
 * them.  Anything that it does not understand ends it with a fault: librdkafka sends one partition with one batch in a request, and
 * waits for an answer.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_BROKERS 16
#define MAX_FRAME (100 * 1024 * 1024)
#define KEPT 5

/* Kafka's numbers */
enum
{
	PRODUCE = 0,
	LIST_OFFSETS = 2,
	METADATA = 3,
	API_VERSIONS = 18,
	OUT_OF_ORDER_SEQUENCE_NUMBER = 45,
	INVALID_PRODUCER_EPOCH = 47,
	UNSUPPORTED_VERSION = 35
};

/* what we can read: a client is told that no more is to be had */
#define MAX_PRODUCE 7
#define MAX_METADATA 4
#define MAX_API_VERSIONS 2

/* of a record batch, from its start */
#define OF_MAGIC 16
#define OF_LAST_DELTA 23
#define OF_PRODUCER 43
#define OF_EPOCH 51
#define OF_NUMBER 53
#define BATCH_HEADER 61

typedef struct Batch
{
	int64_t		producer;		/* -1: not of an idempotent one */
	int16_t		epoch;
	int32_t		first;
	int32_t		last;
	int32_t		records;
	int64_t		offset;			/* of its first record, when it is taken */
} Batch;

/* a producer in a partition */
typedef struct Producer
{
	struct Producer *next;
	int64_t		id;
	int16_t		epoch;
	int			nkept;
	Batch		kept[KEPT];		/* the last one at the end; of that epoch */
} Producer;

typedef struct Partition
{
	struct Partition *next;
	char		topic[256];
	int32_t		number;
	pthread_mutex_t mutex;		/* protects what follows */
	Producer   *producers;
	int64_t		end;			/* of the log; -1: not known yet */
	bool		in_doubt;		/* was this one appended at the end? */
	Batch		doubted;
} Partition;

/* what a thread reads from, and writes into */
typedef struct Buffer
{
	char	   *data;
	size_t		size;
	size_t		at;
	size_t		room;
} Buffer;

typedef struct Connection
{
	int			client;
	int			broker;
} Connection;

static int	nbrokers;
static int	ports[MAX_BROKERS];			/* of the cluster */
static int	listeners[MAX_BROKERS];
static int	our_ports[MAX_BROKERS];
static Partition *partitions;
static pthread_mutex_t partitions_mutex = PTHREAD_MUTEX_INITIALIZER;	/* protects the list; its members stay */

static void
fault(const char *what)
{
	fprintf(stderr, "kafka_numbers: %s\n", what);
	exit(1);
}

/*
 * Bytes
 */

static const char *
take(Buffer *buffer, size_t n)
{
	const char *taken = buffer->data + buffer->at;

	if (n > buffer->size - buffer->at)
		fault("a message ends before its time");
	buffer->at += n;
	return taken;
}

static int64_t
take_int(Buffer *buffer, int bytes)
{
	const unsigned char *from = (const unsigned char *) take(buffer, bytes);
	uint64_t	value = 0;

	for (int i = 0; i < bytes; i++)
		value = value << 8 | from[i];
	/* with its sign */
	return (int64_t) (value << (64 - 8 * bytes)) >> (64 - 8 * bytes);
}

/* a string; with room for 256, or NULL */
static void
take_string(Buffer *buffer, char *into)
{
	int64_t		len = take_int(buffer, 2);
	const char *from;

	if (len < 0)
		len = 0;
	from = take(buffer, len);
	if (into != NULL)
		snprintf(into, 256, "%.*s", (int) len, from);
}

static void
put(Buffer *buffer, const void *data, size_t n)
{
	if (buffer->size + n > buffer->room)
	{
		buffer->room = 2 * buffer->room + n;
		buffer->data = realloc(buffer->data, buffer->room);
		if (buffer->data == NULL)
			fault("no memory");
	}
	if (data != NULL)
		memcpy(buffer->data + buffer->size, data, n);
	buffer->size += n;
}

static void
put_int(Buffer *buffer, int64_t value, int bytes)
{
	unsigned char text[8];

	for (int i = 0; i < bytes; i++)
		text[i] = (unsigned char) (value >> (8 * (bytes - 1 - i)));
	put(buffer, text, bytes);
}

static void
put_string(Buffer *buffer, const char *text)
{
	put_int(buffer, (int64_t) strlen(text), 2);
	put(buffer, text, strlen(text));
}

static void
set_int(Buffer *buffer, size_t at, int64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		buffer->data[at + i] = (char) (value >> (8 * (bytes - 1 - i)));
}

static bool
read_all(int fd, char *into, size_t n)
{
	while (n > 0)
	{
		ssize_t		got = recv(fd, into, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		into += got;
		n -= got;
	}
	return true;
}

/* without its length; false: the connection has ended */
static bool
read_frame(int fd, Buffer *frame)
{
	unsigned char size[4];
	uint32_t	n;

	frame->size = frame->at = 0;
	if (!read_all(fd, (char *) size, sizeof(size)))
		return false;
	n = (uint32_t) size[0] << 24 | size[1] << 16 | size[2] << 8 | size[3];
	if (n > MAX_FRAME)
		fault("a message without end");
	put(frame, NULL, n);
	return read_all(fd, frame->data, n);
}

static bool
write_frame(int fd, const Buffer *frame)
{
	Buffer		all = {0};
	size_t		at = 0;

	put_int(&all, (int64_t) frame->size, 4);
	put(&all, frame->data, frame->size);
	while (at < all.size)
	{
		ssize_t		sent = send(fd, all.data + at, all.size - at, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			break;
		at += sent;
	}
	free(all.data);
	return at == all.size;
}

/* false: the broker is gone */
static bool
ask_broker(Connection *connection, const Buffer *request, Buffer *answer)
{
	return write_frame(connection->broker, request) && read_frame(connection->broker, answer);
}

/*
 * Numbers
 */

static int32_t
number_after(int32_t number, int32_t n)
{
	return (int32_t) (((int64_t) number + n) & INT32_MAX);
}

static Partition *
find_partition(const char *topic, int32_t number)
{
	Partition  *partition;

	pthread_mutex_lock(&partitions_mutex);
	for (partition = partitions; partition != NULL; partition = partition->next)
		if (partition->number == number && strcmp(partition->topic, topic) == 0)
			break;
	if (partition == NULL)
	{
		partition = calloc(1, sizeof(Partition));
		if (partition == NULL)
			fault("no memory");
		snprintf(partition->topic, sizeof(partition->topic), "%s", topic);
		partition->number = number;
		partition->end = -1;
		pthread_mutex_init(&partition->mutex, NULL);
		partition->next = partitions;
		partitions = partition;
	}
	pthread_mutex_unlock(&partitions_mutex);
	return partition;
}

/* NULL: not known */
static Producer *
find_producer(Partition *partition, int64_t id)
{
	Producer   *producer = partition->producers;

	while (producer != NULL && producer->id != id)
		producer = producer->next;
	return producer;
}

/* it is in the log now */
static void
took(Partition *partition, const Batch *batch)
{
	Producer   *producer = find_producer(partition, batch->producer);

	partition->end = batch->offset + batch->records;
	if (batch->producer < 0)
		return;
	if (producer == NULL)
	{
		producer = calloc(1, sizeof(Producer));
		if (producer == NULL)
			fault("no memory");
		producer->id = batch->producer;
		producer->next = partition->producers;
		partition->producers = producer;
	}
	if (producer->epoch != batch->epoch)
		producer->nkept = 0;
	producer->epoch = batch->epoch;
	if (producer->nkept == KEPT)
		memmove(producer->kept, producer->kept + 1, --producer->nkept * sizeof(Batch));
	producer->kept[producer->nkept++] = *batch;
}

/* is it the broker's to take?  Else the code, and the offset, to answer with, and what to call that */
static bool
is_in_turn(Partition *partition, Batch *batch, int16_t *code, const char **what)
{
	const Producer *producer = batch->producer < 0 ? NULL : find_producer(partition, batch->producer);

	batch->offset = -1;
	if (producer == NULL)
		return true;
	for (int i = 0; i < producer->nkept && producer->epoch == batch->epoch; i++)
		if (producer->kept[i].first == batch->first && producer->kept[i].last == batch->last)
		{
			batch->offset = producer->kept[i].offset;
			*code = 0;
			*what = "again";
			return false;
		}
	*code = batch->epoch < producer->epoch ? INVALID_PRODUCER_EPOCH : OUT_OF_ORDER_SEQUENCE_NUMBER;
	*what = batch->epoch < producer->epoch ? "old" : "gap";
	return batch->epoch == producer->epoch ? batch->first == number_after(producer->kept[producer->nkept - 1].last, 1)
		: batch->epoch > producer->epoch && batch->first == 0;
}

/*
 * Requests
 */

/* the end of the log, by the broker that leads the partition; code: its error.  false: the broker is gone */
static bool
ask_end(Connection *connection, const Partition *partition, int64_t *end, int16_t *code)
{
	Buffer		request = {0};
	Buffer		answer = {0};
	bool		ok;

	put_int(&request, LIST_OFFSETS, 2);
	put_int(&request, 1, 2);
	put_int(&request, 0, 4);
	put_string(&request, "kafka_numbers");
	put_int(&request, -1, 4);
	put_int(&request, 1, 4);
	put_string(&request, partition->topic);
	put_int(&request, 1, 4);
	put_int(&request, partition->number, 4);
	put_int(&request, -1, 8);
	ok = ask_broker(connection, &request, &answer);
	if (ok)
	{
		/* correlation, one topic */
		(void) take(&answer, 4 + 4);
		take_string(&answer, NULL);
		/* one partition, its number */
		(void) take(&answer, 4 + 4);
		*code = (int16_t) take_int(&answer, 2);
		(void) take(&answer, 8);
		*end = take_int(&answer, 8);
	}
	free(request.data);
	free(answer.data);
	return ok;
}

/* reads the one batch of a request to produce */
static Partition *
take_produce(Buffer *request, int version, Batch *batch)
{
	char		topic[256];
	int64_t		number;
	Buffer		records = {0};

	if (version >= 3)
		take_string(request, NULL);
	if (take_int(request, 2) == 0)
		fault("a request to produce that wants no answer");
	(void) take(request, 4);
	if (take_int(request, 4) != 1)
		fault("a request to produce for several topics");
	take_string(request, topic);
	if (take_int(request, 4) != 1)
		fault("a request to produce for several partitions");
	number = take_int(request, 4);
	records.size = take_int(request, 4);
	records.data = (char *) take(request, records.size);
	if (records.size < BATCH_HEADER || records.data[OF_MAGIC] != 2)
		fault("records of an old format");
	records.at = 8;
	if (take_int(&records, 4) + 12 != (int64_t) records.size)
		fault("several batches in a request to produce");
	records.at = OF_LAST_DELTA;
	batch->records = (int32_t) take_int(&records, 4) + 1;
	records.at = OF_PRODUCER;
	batch->producer = take_int(&records, 8);
	batch->epoch = (int16_t) take_int(&records, 2);
	batch->first = (int32_t) take_int(&records, 4);
	batch->last = number_after(batch->first, batch->records - 1);
	return find_partition(topic, (int32_t) number);
}

/* an answer of our own, or instead of the broker's */
static void
put_produced(Buffer *answer, int version, int32_t correlation, const Partition *partition, int16_t code, int64_t offset)
{
	answer->size = answer->at = 0;
	put_int(answer, correlation, 4);
	put_int(answer, 1, 4);
	put_string(answer, partition->topic);
	put_int(answer, 1, 4);
	put_int(answer, partition->number, 4);
	put_int(answer, code, 2);
	put_int(answer, offset, 8);
	if (version >= 2)
		put_int(answer, -1, 8);
	if (version >= 5)
		put_int(answer, code == 0 ? 0 : -1, 8);
	if (version >= 1)
		put_int(answer, 0, 4);
}

/* was the one in doubt appended?  false: the broker is gone, or gave its code */
static bool
settle_doubt(Connection *connection, Partition *partition, int16_t *code)
{
	int64_t		end;

	if (!ask_end(connection, partition, &end, code) || *code != 0)
		return false;
	if (partition->in_doubt && end == partition->end + partition->doubted.records)
	{
		partition->doubted.offset = partition->end;
		took(partition, &partition->doubted);
	}
	else if (partition->end >= 0 && end != partition->end)
		fault("somebody else writes to the partition");
	partition->end = end;
	partition->in_doubt = false;
	return true;
}

/* under the partition's mutex; false: the broker is gone */
static bool
produce(Connection *connection, Partition *partition, Batch *batch, int version, const Buffer *request, int32_t correlation, Buffer *answer)
{
	int16_t		code = 0;
	const char *what = NULL;

	/* the end is to be known before it is moved */
	if ((partition->in_doubt || partition->end < 0) && !settle_doubt(connection, partition, &code))
	{
		put_produced(answer, version, correlation, partition, code, -1);
		return code != 0;
	}
	if (!is_in_turn(partition, batch, &code, &what))
	{
		int64_t		end;
		int16_t		refused = 0;

		if (!ask_end(connection, partition, &end, &refused))
			return false;
		if (refused == 0)
			printf("%s %s %d %" PRId64 " %d %d\n", what, partition->topic, partition->number, batch->producer, batch->epoch, batch->first);
		put_produced(answer, version, correlation, partition, refused != 0 ? refused : code, refused != 0 ? -1 : batch->offset);
		return true;
	}
	if (!ask_broker(connection, request, answer))
	{
		partition->in_doubt = true;
		partition->doubted = *batch;
		return false;
	}
	(void) take(answer, 4 + 4);
	take_string(answer, NULL);
	(void) take(answer, 4 + 4);
	code = (int16_t) take_int(answer, 2);
	batch->offset = take_int(answer, 8);
	if (code == 0 && batch->offset != partition->end)
		fault("somebody else writes to the partition");
	if (code == 0)
		took(partition, batch);
	put_produced(answer, version, correlation, partition, code, batch->offset);
	return true;
}

/* the brokers in it are to be reached through us */
static void
change_metadata(Buffer *answer, int version)
{
	int64_t		n;

	answer->at = version >= 3 ? 8 : 4;
	n = take_int(answer, 4);
	for (int64_t i = 0; i < n; i++)
	{
		int64_t		port;

		(void) take(answer, 4);
		take_string(answer, NULL);
		port = take_int(answer, 4);
		for (int k = 0; k < nbrokers; k++)
			if (ports[k] == port)
				set_int(answer, answer->at - 4, our_ports[k], 4);
		if (version >= 1)
			take_string(answer, NULL);
	}
}

static void
change_versions(Buffer *answer)
{
	int64_t		n;

	/* correlation, error */
	answer->at = 6;
	n = take_int(answer, 4);
	for (int64_t i = 0; i < n; i++)
	{
		int64_t		api = take_int(answer, 2);
		int64_t		max;

		(void) take(answer, 2);
		max = take_int(answer, 2);
		if (api == PRODUCE && max > MAX_PRODUCE)
			set_int(answer, answer->at - 2, MAX_PRODUCE, 2);
		if (api == METADATA && max > MAX_METADATA)
			set_int(answer, answer->at - 2, MAX_METADATA, 2);
		if (api == API_VERSIONS && max > MAX_API_VERSIONS)
			set_int(answer, answer->at - 2, MAX_API_VERSIONS, 2);
	}
}

/* false: the broker is gone */
static bool
serve_request(Connection *connection, Buffer *request, Buffer *answer)
{
	int			api = (int) take_int(request, 2);
	int			version = (int) take_int(request, 2);
	int32_t		correlation = (int32_t) take_int(request, 4);
	bool		ok;

	take_string(request, NULL);
	if (api == PRODUCE)
	{
		Batch		batch;
		Partition  *partition;

		if (version > MAX_PRODUCE)
			fault("a request to produce of a version that was not offered");
		partition = take_produce(request, version, &batch);
		pthread_mutex_lock(&partition->mutex);
		ok = produce(connection, partition, &batch, version, request, correlation, answer);
		pthread_mutex_unlock(&partition->mutex);
		return ok;
	}
	if (api == API_VERSIONS && version > MAX_API_VERSIONS)
	{
		/* as a broker that is older: clients try again */
		put_int(answer, correlation, 4);
		put_int(answer, UNSUPPORTED_VERSION, 2);
		put_int(answer, 0, 4);
		return true;
	}
	if (api == METADATA && version > MAX_METADATA)
		fault("a request for metadata of a version that was not offered");
	ok = ask_broker(connection, request, answer);
	if (ok && api == METADATA)
		change_metadata(answer, version);
	if (ok && api == API_VERSIONS)
		change_versions(answer);
	return ok;
}

/* a thread */
static void *
serve_connection(void *arg)
{
	Connection *connection = arg;
	struct pollfd wait[2] = {{.fd = connection->client, .events = POLLIN}, {.fd = connection->broker, .events = POLLIN}};
	Buffer		request = {0};
	Buffer		answer = {0};

	while (poll(wait, 2, -1) > 0 || errno == EINTR)
	{
		/* a broker says nothing that it was not asked: it is closing */
		if (wait[1].revents != 0 || !read_frame(connection->client, &request))
			break;
		answer.size = answer.at = 0;
		if (!serve_request(connection, &request, &answer) || !write_frame(connection->client, &answer))
			break;
	}
	close(connection->client);
	close(connection->broker);
	free(request.data);
	free(answer.data);
	free(connection);
	return NULL;
}

/*
 * Connections
 */

static struct sockaddr_in
loopback(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static void
take_client(int broker)
{
	int			one = 1;
	struct sockaddr_in address = loopback(ports[broker]);
	Connection *connection = calloc(1, sizeof(Connection));
	pthread_t	thread;

	if (connection == NULL)
		fault("no memory");
	connection->client = accept(listeners[broker], NULL, NULL);
	connection->broker = socket(AF_INET, SOCK_STREAM, 0);
	if (connection->client < 0 || connection->broker < 0)
		fault("no connection more");
	setsockopt(connection->client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(connection->broker, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(connection->broker, (struct sockaddr *) &address, sizeof(address)) != 0)
	{
		close(connection->client);
		close(connection->broker);
		free(connection);
		return;
	}
	if (pthread_create(&thread, NULL, serve_connection, connection) != 0)
		fault("no thread more");
	pthread_detach(thread);
}

static void
listen_for(int broker)
{
	struct sockaddr_in address = loopback(0);
	socklen_t	size = sizeof(address);

	listeners[broker] = socket(AF_INET, SOCK_STREAM, 0);
	if (listeners[broker] < 0 || bind(listeners[broker], (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(listeners[broker], 64) != 0 || getsockname(listeners[broker], (struct sockaddr *) &address, &size) != 0)
		fault("no port to listen at");
	our_ports[broker] = ntohs(address.sin_port);
}

int
main(int argc, char **argv)
{
	struct pollfd wait[MAX_BROKERS];

	if (argc != 2)
		return 2;
	for (char *at = strtok(argv[1], ","); at != NULL; at = strtok(NULL, ","))
	{
		if (nbrokers == MAX_BROKERS || strchr(at, ':') == NULL)
			return 2;
		ports[nbrokers++] = atoi(strchr(at, ':') + 1);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("brokers ");
	for (int i = 0; i < nbrokers; i++)
	{
		listen_for(i);
		wait[i] = (struct pollfd) {.fd = listeners[i], .events = POLLIN};
		printf("%s127.0.0.1:%d", i > 0 ? "," : "", our_ports[i]);
	}
	printf("\n");
	while (poll(wait, nbrokers, -1) > 0 || errno == EINTR)
		for (int i = 0; i < nbrokers; i++)
			if (wait[i].revents != 0)
				take_client(i);
	return 1;
}
