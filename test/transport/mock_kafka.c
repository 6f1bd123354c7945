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
 *		refuse TOPIC CODE			metadata of the topic has this error; 0: none
 *		leader TOPIC PARTITION N	moves a partition
 *		dump TOPIC PARTITIONS		all that it has, a line for each: "PARTITION OFFSET KEY VALUE NAME=VALUE ..."
 *		hexdump TOPIC PARTITIONS	the same, with keys and values in hexadecimal
 *
 * Ends at the end of input.  The mock keeps what it is sent in memory, and does not mind the numbers of idempotent producers: what is
 * sent to it twice, it has twice.
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ERRORS 1000
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

/* up to what is there now */
static const char *
dump(const char *topic, int partitions, bool is_hex)
{
	rd_kafka_t *client = new_client(RD_KAFKA_CONSUMER, servers);
	rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
	const char *fault = NULL;

	for (int partition = 0; partition < partitions && fault == NULL; partition++)
	{
		int64_t		low = 0;
		int64_t		high = 0;
		rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(client, topic, partition, &low, &high, READ_MS);

		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
			fault = rd_kafka_err2str(code);
		else if (low < high)
			rd_kafka_consume_start(handle, partition, RD_KAFKA_OFFSET_BEGINNING);
		for (int64_t next = low; next < high && fault == NULL;)
		{
			rd_kafka_message_t *message = rd_kafka_consume(handle, partition, READ_MS);

			if (message == NULL)
				fault = "nothing more to read";
			else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			{
				print_message(message, is_hex);
				next = message->offset + 1;
			}
			else if (message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
				fault = rd_kafka_err2str(message->err);
			if (message != NULL)
				rd_kafka_message_destroy(message);
		}
		if (low < high)
			rd_kafka_consume_stop(handle, partition);
	}
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
