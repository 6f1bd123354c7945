/*
 * amqp_drain.c
 *		Takes everything out of a queue of RabbitMQ and prints it: for tests.
 *
 *		amqp_drain PORT QUEUE [VHOST [hex]]
 *
 * As guest at 127.0.0.1.  A line for each message, fields between tabs: id, exchange, routing key, content type, delivery mode, app id,
 * body, and each header as NAME=VALUE; with "hex", body and values are in hexadecimal.  Headers are checked to be texts, and timestamps
 * to be of the last hour.  Ends when the queue is empty: exit 0.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

static void
must(amqp_rpc_reply_t reply, const char *what)
{
	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return;
	fprintf(stderr, "%s: %s\n", what, reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION
			? amqp_error_string2(reply.library_error) : "refused by the broker");
	exit(1);
}

static void
print(amqp_bytes_t bytes, const char *end)
{
	printf("%.*s%s", (int) bytes.len, (const char *) bytes.bytes, end);
}

static void
print_content(amqp_bytes_t bytes, bool is_hex)
{
	if (!is_hex)
		print(bytes, "");
	else
		for (size_t i = 0; i < bytes.len; i++)
			printf("%02x", ((const unsigned char *) bytes.bytes)[i]);
}

static void
print_headers(const amqp_table_t *headers, bool is_hex)
{
	for (int i = 0; i < headers->num_entries; i++)
	{
		const amqp_table_entry_t *header = &headers->entries[i];

		if (header->value.kind != AMQP_FIELD_KIND_UTF8)
		{
			fprintf(stderr, "a header of kind %c\n", header->value.kind);
			exit(1);
		}
		printf("\t");
		print(header->key, "=");
		print_content(header->value.value.bytes, is_hex);
	}
}

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_socket_t *tcp = amqp_tcp_socket_new(connection);
	bool		is_hex = argc > 4 && strcmp(argv[4], "hex") == 0;

	if (argc < 3)
		return 2;
	if (amqp_socket_open(tcp, "127.0.0.1", atoi(argv[1])) != AMQP_STATUS_OK)
	{
		fprintf(stderr, "could not connect\n");
		return 1;
	}
	must(amqp_login(connection, argc > 3 ? argv[3] : "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
	amqp_channel_open(connection, 1);
	must(amqp_get_rpc_reply(connection), "channel");
	for (;;)
	{
		amqp_rpc_reply_t reply;
		amqp_basic_get_ok_t *got;
		amqp_message_t message;
		amqp_basic_properties_t *p = &message.properties;

		amqp_maybe_release_buffers(connection);
		reply = amqp_basic_get(connection, 1, amqp_cstring_bytes(argv[2]), 1);
		must(reply, "get");
		if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD)
			break;
		got = reply.reply.decoded;
		/* read_message may recycle what got points to */
		amqp_bytes_t exchange = amqp_bytes_malloc_dup(got->exchange);
		amqp_bytes_t routing_key = amqp_bytes_malloc_dup(got->routing_key);

		must(amqp_read_message(connection, 1, &message, 0), "read");
		if (!(p->_flags & AMQP_BASIC_TIMESTAMP_FLAG) || llabs((long long) p->timestamp - (long long) time(NULL)) > 3600)
		{
			fprintf(stderr, "timestamp %llu\n", (unsigned long long) p->timestamp);
			return 1;
		}
		print(p->message_id, "\t");
		print(exchange, "\t");
		print(routing_key, "\t");
		print(p->content_type, "\t");
		printf("%d\t", p->_flags & AMQP_BASIC_DELIVERY_MODE_FLAG ? p->delivery_mode : 0);
		print(p->app_id, "\t");
		print_content(message.body, is_hex);
		print_headers(&p->headers, is_hex);
		printf("\n");
		amqp_destroy_message(&message);
		amqp_bytes_free(exchange);
		amqp_bytes_free(routing_key);
	}
	(void) amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
	(void) amqp_destroy_connection(connection);
	return 0;
}
