/*
 * kafka_settings.h
 *		What librdkafka is told for an endpoint.
 */
#ifndef ES_KAFKA_SETTINGS_H
#define ES_KAFKA_SETTINGS_H

#include <librdkafka/rdkafka.h>

#include "../transport.h"

/* as EsTransport's check_url */
extern const char *kafka_check_url(const char *url);
/* all that the config says, but for what depends on the producer's state; NULL and why not */
extern rd_kafka_conf_t *kafka_make_conf(const EsLinkConfig *config, char *fault, size_t size);
extern bool kafka_set(rd_kafka_conf_t *conf, const char *name, const char *value, char *fault, size_t size);
/* kafka://, not kafkas:// */
extern bool kafka_is_plain_text(const char *url);

#endif
