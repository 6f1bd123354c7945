/*
 * amqp_drain.c
 *		Takes everything out of a queue of RabbitMQ and prints it: for tests.
 *
 *		amqp_drain PORT QUEUE [VHOST]
 *
 * As guest at 127.0.0.1.  A line for each message, fields between tabs: id, exchange, routing key, content type, delivery mode, app id,
 * body, and each header as NAME=VALUE; timestamps are checked to be of the last hour.  Ends when the queue is empty: exit 0.
 */
#include <stdio.h>
#include <stdlib.h>
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

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_socket_t *tcp = amqp_tcp_socket_new(connection);

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
		print(message.body, "");
		for (int i = 0; i < p->headers.num_entries; i++)
		{
			printf("\t");
			print(p->headers.entries[i].key, "=");
			print(p->headers.entries[i].value.value.bytes, "");
		}
		printf("\n");
		amqp_destroy_message(&message);
		amqp_bytes_free(exchange);
		amqp_bytes_free(routing_key);
	}
	(void) amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
	(void) amqp_destroy_connection(connection);
	return 0;
}
