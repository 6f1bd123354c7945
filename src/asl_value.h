/*
 * asl_value.h
 *		Values of JSON as the modules of sagas' definitions handle them, and what they share besides.
 *
 * A value is a scalar, or jbvBinary: never jbvArray or jbvObject.  It may point into what it was taken from.
 */
#ifndef ES_ASL_VALUE_H
#define ES_ASL_VALUE_H

#include "asl.h"

extern void es_asl_value_set_jsonb(JsonbValue *value, Jsonb *jsonb);
extern void es_asl_value_set_string(JsonbValue *value, const char *string, int len);
extern void es_asl_value_set_integer(JsonbValue *value, int64 number);
extern Jsonb *es_asl_value_jsonb(const JsonbValue *value);
extern bool es_asl_value_is_object(const JsonbValue *value);
extern bool es_asl_value_is_array(const JsonbValue *value);
extern char *es_asl_value_string(const JsonbValue *value);	  /* of a string, ended by a zero byte */
extern char *es_asl_value_text(const JsonbValue *value, int *len); /* strings as they are, the rest as JSON */
extern char *es_asl_value_shown(const JsonbValue *value);	  /* for a message: JSON, the beginning of what is long */
/* 1 and 1.0 are */
extern bool es_asl_value_equal(const JsonbValue *a, const JsonbValue *b);
/* of two numbers, or two strings by their bytes; false: they have none */
extern bool es_asl_value_order(const JsonbValue *a, const JsonbValue *b, int *order);

/*
 * An instant of RFC 3339 as States Language writes it: T and Z in capitals, an offset or Z always there.  seconds: since the epoch of
 * timestamptz; what is below a nanosecond is cut off.  false: it is none
 */
extern bool es_asl_instant(const char *text, int len, int64 *seconds, int *nanoseconds);

/*
 * In asl_path_parse.c: the path that text begins with, for what stands in an argument; *at is then behind it.  NULL: a fault was added.
 */
extern EsAslPath *es_asl_path_parse(const char **at, const char *where, StringInfo faults);
extern const char *es_asl_path_text(const EsAslPath *path);

#endif
