/*
 * mock_kafka.c
 *		A Kafka cluster for tests: librdkafka's own mock, in a process of its own.
 *
 *		mock_kafka BROKERS
 *
 * Prints "brokers HOST:PORT,..." and then does what it reads, a command a line, and answers each with "ok", or "fault TEXT":
 *
 *		topic NAME PARTITIONS		makes a topic
 *		down N | up N				a broker, from 1 on, closes its connections and takes none; takes them again
 *		rtt N MS					a broker's answers come later
 *		errors API COUNT CODE		the next COUNT requests of that kind (0: Produce, 3: Metadata) are answered so, and not done
 *		forget API					no more of these
 *		late API N MS				the next request of that kind to broker N is done, and answered so much later
 *		refuse TOPIC CODE			metadata of the topic has this error; 0: none
 *		leader TOPIC PARTITION N	moves a partition
 *		dump TOPIC PARTITIONS		all that it has, a line for each: "PARTITION OFFSET KEY VALUE NAME=VALUE ...", in the order of each
 *									partition; a fault when something that it was sent is not there any more
 *		hexdump TOPIC PARTITIONS	the same, with keys and values in hexadecimal
 *
 * Ends at the end of input.  The mock keeps what it is sent in memory, 5 MB for each partition, and does not mind the numbers of
 * idempotent producers: what is sent to it twice, it has twice, and it takes what comes behind a gap.  kafka_numbers.c does.
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ERRORS 1000
#define MAX_PARTITIONS 1000
#define READ_MS 10000

static rd_kafka_mock_cluster_t *cluster;
static char servers[1024];

static rd_kafka_t *
new_client(rd_kafka_type_t type, const char *bootstrap)
{
	char		fault[256] = "";
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client;

	if (bootstrap != NULL && rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, fault, sizeof(fault)) != RD_KAFKA_CONF_OK)
		fprintf(stderr, "%s\n", fault);
	client = rd_kafka_new(type, conf, fault, sizeof(fault));
	if (client == NULL)
	{
		fprintf(stderr, "no client: %s\n", fault);
		exit(1);
	}
	return client;
}

static void
print_bytes(const void *bytes, size_t size, bool is_hex)
{
	const unsigned char *c = bytes;

	for (size_t i = 0; i < size; i++)
		printf(is_hex ? "%02x" : "%c", c[i]);
}

static void
print_message(const rd_kafka_message_t *message, bool is_hex)
{
	rd_kafka_headers_t *headers = NULL;
	const char *name;
	const void *value;
	size_t		size;

	printf("%d %lld ", message->partition, (long long) message->offset);
	print_bytes(message->key, message->key_len, is_hex);
	printf(" ");
	print_bytes(message->payload, message->len, is_hex);
	if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
		for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		{
			printf(" %s=", name);
			print_bytes(value, size, is_hex);
		}
	printf("\n");
}

/* where its partitions end, which is how many records there are; NULL, or what is wrong */
static const char *
find_ends(rd_kafka_t *client, const char *topic, int partitions, int64_t *ends, int64_t *count)
{
	*count = 0;
	for (int i = 0; i < partitions; i++)
	{
		int64_t		low = 0;
		rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(client, topic, i, &low, &ends[i], READ_MS);

		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
			return rd_kafka_err2str(code);
		if (low != 0)
			return "the mock has thrown away what it was sent first";
		*count += ends[i];
	}
	return NULL;
}

/* all partitions at the same time: each takes a while until the first record comes */
static const char *
dump_records(rd_kafka_queue_t *queue, int partitions, const int64_t *ends, int64_t count, bool is_hex)
{
	int64_t		next[MAX_PARTITIONS] = {0};
	const char *fault = NULL;

	while (count > 0 && fault == NULL)
	{
		rd_kafka_message_t *message = rd_kafka_consume_queue(queue, READ_MS);

		if (message == NULL)
			return "nothing more to read";
		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			;
		else if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
			fault = rd_kafka_err2str(message->err);
		else if (message->offset != next[message->partition]++)
			fault = "offsets with a gap";
		else if (message->offset < ends[message->partition])
		{
			print_message(message, is_hex);
			count--;
		}
		rd_kafka_message_destroy(message);
	}
	return fault;
}

/* up to what is there now */
static const char *
dump(const char *topic, int partitions, bool is_hex)
{
	rd_kafka_t *client;
	rd_kafka_topic_t *handle;
	rd_kafka_queue_t *queue;
	int64_t		ends[MAX_PARTITIONS];
	int64_t		count;
	const char *fault;

	if (partitions < 1 || partitions > MAX_PARTITIONS)
		return "too many";
	client = new_client(RD_KAFKA_CONSUMER, servers);
	handle = rd_kafka_topic_new(client, topic, NULL);
	queue = rd_kafka_queue_new(client);
	fault = find_ends(client, topic, partitions, ends, &count);
	if (fault == NULL)
	{
		for (int i = 0; i < partitions; i++)
			rd_kafka_consume_start_queue(handle, i, RD_KAFKA_OFFSET_BEGINNING, queue);
		fault = dump_records(queue, partitions, ends, count, is_hex);
		for (int i = 0; i < partitions; i++)
			rd_kafka_consume_stop(handle, i);
	}
	rd_kafka_queue_destroy(queue);
	rd_kafka_topic_destroy(handle);
	rd_kafka_destroy(client);
	return fault;
}

static const char *
push_errors(int api, int count, int code)
{
	static rd_kafka_resp_err_t codes[MAX_ERRORS];

	if (count < 1 || count > MAX_ERRORS)
		return "too many";
	for (int i = 0; i < count; i++)
		codes[i] = code;
	rd_kafka_mock_push_request_errors_array(cluster, api, count, codes);
	return NULL;
}

/* NULL, or what is wrong */
static const char *
obey(const char *line)
{
	char		name[256];
	int			a;
	int			b;
	int			c;
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

	if (sscanf(line, "topic %255s %d", name, &a) == 2)
		code = rd_kafka_mock_topic_create(cluster, name, a, 1);
	else if (sscanf(line, "down %d", &a) == 1)
		code = rd_kafka_mock_broker_set_down(cluster, a);
	else if (sscanf(line, "up %d", &a) == 1)
		code = rd_kafka_mock_broker_set_up(cluster, a);
	else if (sscanf(line, "rtt %d %d", &a, &b) == 2)
		code = rd_kafka_mock_broker_set_rtt(cluster, a, b);
	else if (sscanf(line, "errors %d %d %d", &a, &b, &c) == 3)
		return push_errors(a, b, c);
	else if (sscanf(line, "forget %d", &a) == 1)
		rd_kafka_mock_clear_request_errors(cluster, a);
	else if (sscanf(line, "late %d %d %d", &a, &b, &c) == 3)
		code = rd_kafka_mock_broker_push_request_error_rtts(cluster, b, a, 1, RD_KAFKA_RESP_ERR_NO_ERROR, c);
	else if (sscanf(line, "refuse %255s %d", name, &a) == 2)
		rd_kafka_mock_topic_set_error(cluster, name, a);
	else if (sscanf(line, "leader %255s %d %d", name, &a, &b) == 3)
		code = rd_kafka_mock_partition_set_leader(cluster, name, a, b);
	else if (sscanf(line, "dump %255s %d", name, &a) == 2)
		return dump(name, a, false);
	else if (sscanf(line, "hexdump %255s %d", name, &a) == 2)
		return dump(name, a, true);
	else
		return "no such command";
	return code == RD_KAFKA_RESP_ERR_NO_ERROR ? NULL : rd_kafka_err2str(code);
}

int
main(int argc, char **argv)
{
	rd_kafka_t *client;
	char		line[512];

	if (argc != 2 || atoi(argv[1]) < 1)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	client = new_client(RD_KAFKA_PRODUCER, NULL);
	cluster = rd_kafka_mock_cluster_new(client, atoi(argv[1]));
	if (cluster == NULL)
		return 1;
	snprintf(servers, sizeof(servers), "%s", rd_kafka_mock_cluster_bootstraps(cluster));
	printf("brokers %s\n", servers);
	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		const char *fault = obey(line);

		if (fault != NULL)
			printf("fault %s\n", fault);
		else
			printf("ok\n");
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(client);
	return 0;
}
