/*
 * json.h
 *		Envelopes for the outside world.  The only file that includes cJSON; event data is embedded verbatim, never parsed.
 */
#ifndef ES_JSON_H
#define ES_JSON_H

typedef struct EsJson EsJson;

/* an object under construction, in malloc'd memory: es_json_free in every path */
extern EsJson *es_json_object(void);
extern void es_json_string(EsJson *object, const char *key, const char *value);
/* text that is JSON already (a jsonb printed by the server) */
extern void es_json_raw(EsJson *object, const char *key, const char *json);
/* printed into palloc'd memory; frees the object, also when it fails (ereport) */
extern char *es_json_print(EsJson *object);
extern void es_json_free(EsJson *object);

#endif
