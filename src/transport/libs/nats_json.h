/*
 * nats_json.h
 *		Looks into the JSON of a NATS server.
 */
#ifndef ES_NATS_JSON_H
#define ES_NATS_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* the raw value of a key of an object, strings with their quotes; false: there is none, or no object */
extern bool nats_json_get(const char *json, size_t len, const char *key, const char **value, size_t *value_len);
/* 0: none */
extern int	nats_json_int(const char *json, size_t len, const char *key);

#endif
