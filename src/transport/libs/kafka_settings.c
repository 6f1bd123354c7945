/*
 * kafka_settings.c
 *		What librdkafka is told for an endpoint: from its URL, its options, its secrets.
 *
 * Runs in backends, where an endpoint is defined, and in relay workers.  Connects to nothing; keeps nothing.
 */
#include "postgres.h"

#include <strings.h>

#include "kafka_settings.h"
#include "settings.h"

/* client settings that are not the user's, and what is */
static const char *const reserved[][2] = {
	{"bootstrap.servers", "the url has the brokers"},
	{"metadata.broker.list", "the url has the brokers"},
	{"message.timeout.ms", "the endpoint's \"timeout\" is that"},
	{"delivery.timeout.ms", "the endpoint's \"timeout\" is that"},
	{"acks", "an event is delivered when all replicas in sync have it"},
	{"request.required.acks", "an event is delivered when all replicas in sync have it"},
	{"retries", "what librdkafka gives up would be missing before what follows it"},
	{"message.send.max.retries", "what librdkafka gives up would be missing before what follows it"},
	{"enable.gapless.guarantee", "it follows enable.idempotence"},
	{"transactional.id", "events are not sent in transactions of Kafka"},
	{"queuing.strategy", "events are sent in their order"},
	{"delivery.report.only.error", "each event has its report"},
	{"enabled_events", "each event has its report"},
	{"log.queue", "what librdkafka logs becomes the text of errors"},
	{"sasl.username", "evtstore.set_endpoint_secret() with the kind sasl is for that"},
	{"sasl.password", "evtstore.set_endpoint_secret() with the kind sasl is for that"},
	{"ssl.key.pem", "evtstore.set_endpoint_secret() with the kind tls is for that"},
	{"ssl.certificate.pem", "evtstore.set_endpoint_secret() with the kind tls is for that"},
	{"enable.ssl.certificate.verification", "\"verify\" of \"tls\" is that"},
	{"plugin.library.paths", "a plugin could connect to anywhere"},
	{"test.mock.num.brokers", "the url has the brokers"},
	{"internal.termination.signal", "signals are the server's"},
};

/* what a user can set otherwise */
static const char *const defaults[][2] = {
	/* no wait for company: under load messages gather while requests are on their way */
	{"linger.ms", "0"},
	{"socket.nagle.disable", "true"},
	{"socket.keepalive.enable", "true"},
	{"socket.connection.setup.timeout.ms", "5000"},
	{"reconnect.backoff.max.ms", "1000"},
	/* a topic that somebody makes is found as fast */
	{"topic.metadata.refresh.interval.ms", "10000"},
	/* a key is in the same partition as with Kafka's own clients */
	{"partitioner", "murmur2_random"},
	{"enable.idempotence", "true"},
	/*
	 * One request to a broker at a time.  Brokers take any number of a producer that they do not know yet in a partition: where its first
	 * request were refused and the second one, on its way already, accepted, librdkafka would take the first one for delivered, too.
	 */
	{"max.in.flight", "1"},
};

static bool set_client(rd_kafka_conf_t *conf, const EsSetting *client, char *fault, size_t size);
static bool set_secrets(rd_kafka_conf_t *conf, const EsLinkConfig *config, bool tls, char *fault, size_t size);
static bool set_sasl(rd_kafka_conf_t *conf, const char *secret, char *fault, size_t size);
static bool protocol_fits(const EsLinkConfig *config, bool tls, char *fault, size_t size);

/* kafka://HOST:PORT[,HOST:PORT ...] */
const char *
kafka_check_url(const char *url)
{
	const char *at = strstr(url, "://") + 3;

	if (strchr(at, '@') != NULL)
		return "it has a user or a password; use evtstore.set_endpoint_secret() instead";
	if (strpbrk(at, "/?#") != NULL)
		return "it has more than brokers; \"topic\" is an option of the endpoint";
	for (;;)
	{
		size_t		len = *at == '[' ? strspn(at + 1, "0123456789abcdefABCDEF:.") + 2
			: strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_");
		size_t		digits;

		if (*at == '[' ? len == 2 || at[len - 1] != ']' : len == 0)
			return "it has a broker without a host";
		at += len;
		digits = *at == ':' ? strspn(at + 1, "0123456789") : 0;
		if (digits == 0 || digits > 5 || atoi(at + 1) < 1 || atoi(at + 1) > 65535)
			return "each broker needs its port: host:9092,host:9092";
		at += digits + 1;
		if (*at == '\0')
			return NULL;
		if (*at++ != ',')
			return "brokers are separated by commas: host:9092,host:9092";
	}
}

/* all that the config says; NULL and why not */
rd_kafka_conf_t *
kafka_make_conf(const EsLinkConfig *config, char *fault, size_t size)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool		tls = !kafka_is_plain_text(config->url);
	char		text[128];
	bool		ok = true;

	snprintf(text, sizeof(text), "evtstore-%s", config->endpoint);
	ok = kafka_set(conf, "client.id", text, fault, size);
	for (int i = 0; ok && i < lengthof(defaults); i++)
		ok = kafka_set(conf, defaults[i][0], defaults[i][1], fault, size);
	/* before a message's time is over it should be known that its topic is not there */
	snprintf(text, sizeof(text), "%ld", Min(Max(config->timeout_ms / 2, 1), 30000));
	ok = ok && kafka_set(conf, "topic.metadata.propagation.max.ms", text, fault, size) && set_secrets(conf, config, tls, fault, size);
	for (int i = 0; ok && i < config->nclient; i++)
		ok = set_client(conf, &config->client[i], fault, size);
	ok = ok && protocol_fits(config, tls, fault, size);
	if (ok && config->tls_server_name != NULL)
	{
		snprintf(fault, size, "\"server_name\" of \"tls\" is not for Kafka: each broker says its own name");
		ok = false;
	}
	ok = ok && kafka_set(conf, "bootstrap.servers", strstr(config->url, "://") + 3, fault, size) &&
		kafka_set(conf, "acks", "all", fault, size) && kafka_set(conf, "message.timeout.ms", "0", fault, size);
	if (ok)
		return conf;
	rd_kafka_conf_destroy(conf);
	return NULL;
}

bool
kafka_set(rd_kafka_conf_t *conf, const char *name, const char *value, char *fault, size_t size)
{
	return rd_kafka_conf_set(conf, name, value, fault, size) == RD_KAFKA_CONF_OK;
}

static bool
set_client(rd_kafka_conf_t *conf, const EsSetting *client, char *fault, size_t size)
{
	const char *name = client->name;
	char		why[200] = "";
	size_t		len = strlen(name);

	for (int i = 0; i < lengthof(reserved); i++)
		if (strcmp(name, reserved[i][0]) == 0)
		{
			snprintf(fault, size, "client setting \"%s\" is not yours to set: %s", name, reserved[i][1]);
			return false;
		}
	/* pointers: librdkafka would take the text for the address of a function */
	if (strncmp(name, "ut_", 3) == 0 || (len > 3 && strcmp(name + len - 3, "_cb") == 0) || strcmp(name, "opaque") == 0 ||
		strcmp(name, "msg_order_cmp") == 0 || strcmp(name, "default_topic_conf") == 0 || strcmp(name, "interceptors") == 0)
	{
		snprintf(fault, size, "client setting \"%s\" is not yours to set: it is for programs", name);
		return false;
	}
	if (strcmp(name, "partitioner") == 0 && strcmp(client->value, "random") == 0)
	{
		snprintf(fault, size, "the partitioner \"random\" would put events of one key into several partitions");
		return false;
	}
	if (kafka_set(conf, name, client->value, why, sizeof(why)))
		return true;
	snprintf(fault, size, "client setting \"%s\": %s", name, why);
	return false;
}

static bool
set_secrets(rd_kafka_conf_t *conf, const EsLinkConfig *config, bool tls, char *fault, size_t size)
{
	const char *sasl = es_settings_secret(config, "sasl");
	const char *pem = es_settings_secret(config, "tls");
	const char *protocol = sasl == NULL ? (tls ? "ssl" : "plaintext") : tls ? "sasl_ssl" : "sasl_plaintext";

	if (!kafka_set(conf, "security.protocol", protocol, fault, size) || (sasl != NULL && !set_sasl(conf, sasl, fault, size)))
		return false;
	if (!tls)
		return true;
	/* the brokers' names are checked where anything is */
	return (pem == NULL || (kafka_set(conf, "ssl.certificate.pem", pem, fault, size) && kafka_set(conf, "ssl.key.pem", pem, fault, size))) &&
		(config->tls_ca_file == NULL || kafka_set(conf, "ssl.ca.location", config->tls_ca_file, fault, size)) &&
		kafka_set(conf, "enable.ssl.certificate.verification", config->tls_verify ? "true" : "false", fault, size) &&
		kafka_set(conf, "ssl.endpoint.identification.algorithm", config->tls_verify ? "https" : "none", fault, size);
}

static bool
set_sasl(rd_kafka_conf_t *conf, const char *secret, char *fault, size_t size)
{
	const char *colon = strchr(secret, ':');
	char		user[256];

	if (colon == NULL || colon == secret || colon[1] == '\0' || colon - secret >= sizeof(user))
	{
		snprintf(fault, size, "the secret of kind sasl is \"user:password\"");
		return false;
	}
	memcpy(user, secret, colon - secret);
	user[colon - secret] = '\0';
	return kafka_set(conf, "sasl.mechanisms", "SCRAM-SHA-512", fault, size) && kafka_set(conf, "sasl.username", user, fault, size) &&
		kafka_set(conf, "sasl.password", colon + 1, fault, size);
}

/* the scheme says whether there is TLS, and with it, where we may connect to */
static bool
protocol_fits(const EsLinkConfig *config, bool tls, char *fault, size_t size)
{
	const char *protocol = es_settings_client(config, "security.protocol");

	if (protocol == NULL || tls == (strcasecmp(protocol, "ssl") == 0 || strcasecmp(protocol, "sasl_ssl") == 0))
		return true;
	snprintf(fault, size, "security.protocol \"%s\" is not for %s://", protocol, tls ? "kafkas" : "kafka");
	return false;
}

bool
kafka_is_plain_text(const char *url)
{
	return strncasecmp(url, "kafka:", 6) == 0;
}
