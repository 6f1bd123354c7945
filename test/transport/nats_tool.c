/*
 * nats_tool.c
 *		What the tests of NATS want from a server, by the client library cnats: streams, and what is in them.
 *
 *		nats_tool make URL STREAM SUBJECTS [KEY=N ...]	 a stream in files; max_msgs, max_msg_size, max_bytes; it refuses when it is full
 *		nats_tool count URL STREAM						 how many messages it has
 *		nats_tool dump URL STREAM						 a line for each message: sequence, subject, body, NAME=VALUE ..., by tabs
 *		nats_tool hexdump URL STREAM					 the same, with bodies and values in hexadecimal
 *		nats_tool answer URL SUBJECTS					 answers "thanks" to whatever comes, until it is killed; prints "ready"
 *
 * Not linked with what it tests: another implementation of the protocol.  Exit 1 and why, when something fails.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nats/nats.h>

static void
must(natsStatus status, jsErrCode code, const char *what)
{
	if (status == NATS_OK)
		return;
	fprintf(stderr, "%s: %s (%d)\n", what, natsStatus_GetText(status), code);
	exit(1);
}

static int64_t
option(int argc, char **argv, const char *name, int64_t otherwise)
{
	size_t		len = strlen(name);

	for (int i = 5; i < argc; i++)
		if (strncmp(argv[i], name, len) == 0 && argv[i][len] == '=')
			return atoll(argv[i] + len + 1);
	return otherwise;
}

static void
make_stream(jsCtx *js, int argc, char **argv)
{
	jsStreamConfig config;
	const char *subjects[] = {argv[4]};
	jsErrCode	code = 0;

	must(jsStreamConfig_Init(&config), 0, "config");
	config.Name = argv[3];
	config.Subjects = subjects;
	config.SubjectsLen = 1;
	config.Storage = js_FileStorage;
	config.Discard = js_DiscardNew;
	config.MaxMsgs = option(argc, argv, "max_msgs", -1);
	config.MaxBytes = option(argc, argv, "max_bytes", -1);
	config.MaxMsgSize = (int32_t) option(argc, argv, "max_msg_size", -1);
	must(js_AddStream(NULL, js, &config, NULL, &code), code, "stream");
}

static uint64_t
last_sequence(jsCtx *js, const char *stream, uint64_t *count)
{
	jsStreamInfo *info = NULL;
	jsErrCode	code = 0;
	uint64_t	last;

	must(js_GetStreamInfo(&info, js, stream, NULL, &code), code, "stream info");
	last = info->State.LastSeq;
	*count = info->State.Msgs;
	jsStreamInfo_Destroy(info);
	return last;
}

/* to whom all of a stream is sent, in its order; one that loses some begins anew behind what it had */
static natsSubscription *
read_all(jsCtx *js, const char *stream)
{
	natsSubscription *subscription = NULL;
	jsSubOptions options;
	jsErrCode	code = 0;

	must(jsSubOptions_Init(&options), 0, "options");
	options.Stream = stream;
	options.Ordered = true;
	must(js_SubscribeSync(&subscription, js, ">", NULL, &options, &code), code, "subscribe");
	return subscription;
}

static void
print_bytes(const char *bytes, size_t size, bool is_hex)
{
	if (!is_hex)
		printf("%.*s", (int) size, bytes != NULL ? bytes : "");
	else
		for (size_t i = 0; i < size; i++)
			printf("%02x", (unsigned char) bytes[i]);
}

/* a header that is there twice is printed twice */
static void
print_header(natsMsg *message, const char *name, bool is_hex)
{
	const char **values = NULL;
	int			nvalues = 0;

	must(natsMsgHeader_Values(message, name, &values, &nvalues), 0, "header");
	for (int i = 0; i < nvalues; i++)
	{
		printf("\t%s=", name);
		print_bytes(values[i], strlen(values[i]), is_hex);
	}
	free(values);
}

static void
dump(jsCtx *js, const char *stream, bool is_hex)
{
	uint64_t	count;
	uint64_t	last = last_sequence(js, stream, &count);
	natsSubscription *subscription = last > 0 ? read_all(js, stream) : NULL;

	for (uint64_t sequence = 1; sequence <= last; sequence++)
	{
		natsMsg    *message = NULL;
		jsMsgMetaData *about = NULL;
		const char **names = NULL;
		int			nnames = 0;

		must(natsSubscription_NextMsg(&message, subscription, 30000), 0, "message");
		must(natsMsg_GetMetaData(&about, message), 0, "sequence");
		if (about->Sequence.Stream != sequence)
		{
			fprintf(stderr, "message %" PRIu64 " where %" PRIu64 " should be\n", about->Sequence.Stream, sequence);
			exit(1);
		}
		printf("%" PRIu64 "\t%s\t", sequence, natsMsg_GetSubject(message));
		print_bytes(natsMsg_GetData(message), (size_t) natsMsg_GetDataLength(message), is_hex);
		if (natsMsgHeader_Keys(message, &names, &nnames) == NATS_OK)
			for (int i = 0; i < nnames; i++)
				print_header(message, names[i], is_hex);
		printf("\n");
		free(names);
		jsMsgMetaData_Destroy(about);
		natsMsg_Destroy(message);
	}
	natsSubscription_Destroy(subscription);
}

static void
answer(natsConnection *connection, const char *subjects)
{
	natsSubscription *subscription = NULL;

	must(natsConnection_SubscribeSync(&subscription, connection, subjects), 0, "subscribe");
	must(natsConnection_Flush(connection), 0, "flush");
	printf("ready\n");
	fflush(stdout);
	for (;;)
	{
		natsMsg    *message = NULL;
		natsStatus	status = natsSubscription_NextMsg(&message, subscription, 60000);

		if (status == NATS_TIMEOUT)
			continue;
		must(status, 0, "message");
		if (natsMsg_GetReply(message) != NULL)
			must(natsConnection_PublishString(connection, natsMsg_GetReply(message), "thanks"), 0, "answer");
		natsMsg_Destroy(message);
	}
}

int
main(int argc, char **argv)
{
	natsConnection *connection = NULL;
	jsCtx	   *js = NULL;
	uint64_t	count;

	if (argc < 4)
		return 2;
	must(natsConnection_ConnectTo(&connection, argv[2]), 0, "connect");
	must(natsConnection_JetStream(&js, connection, NULL), 0, "JetStream");
	if (strcmp(argv[1], "make") == 0 && argc >= 5)
		make_stream(js, argc, argv);
	else if (strcmp(argv[1], "count") == 0)
	{
		(void) last_sequence(js, argv[3], &count);
		printf("%" PRIu64 "\n", count);
	}
	else if (strcmp(argv[1], "dump") == 0)
		dump(js, argv[3], false);
	else if (strcmp(argv[1], "hexdump") == 0)
		dump(js, argv[3], true);
	else if (strcmp(argv[1], "answer") == 0)
		answer(connection, argv[3]);
	else
		return 2;
	jsCtx_Destroy(js);
	natsConnection_Destroy(connection);
	nats_Close();
	return 0;
}
