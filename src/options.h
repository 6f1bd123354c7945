/*
 * options.h
 *		Strict reading of small jsonb definitions (options, filters, handlers): unknown keys are refused by name.
 */
#ifndef ES_OPTIONS_H
#define ES_OPTIONS_H

#include "utils/jsonb.h"
#include "datatype/timestamp.h"

typedef enum EsOptionType
{
	ES_OPTION_STRING,
	ES_OPTION_INT,		/* integer, between min and max */
	ES_OPTION_VERSION,	/* integer from 0, as wide as bigint */
	ES_OPTION_NUMBER,	/* number, between min and max */
	ES_OPTION_BOOL,
	ES_OPTION_INTERVAL, /* string that interval_in takes, not negative; min and max in seconds */
	ES_OPTION_OBJECT,
	ES_OPTION_ARRAY,
	ES_OPTION_STRINGS,	/* array of strings */
	ES_OPTION_ANY		/* whatever JSON */
} EsOptionType;

typedef struct EsOption
{
	const char *name;
	EsOptionType type;
	double min, max;
} EsOption;

/*
 * Checks that options is an object whose keys are all in allowed (ended by a NULL name) and whose values have the
 * right type; errors are 22023 and name the key, the value and what.
 */
extern void es_options_check(Jsonb *options, const EsOption *allowed, const char *what);
/* same for changes, where a null stands for the default */
extern void es_options_check_changes(Jsonb *changes, const EsOption *allowed, const char *what);

/* after es_options_check: values, or the default where the key is absent */
extern char *es_options_string(Jsonb *options, const char *key, const char *dflt);
extern int es_options_int(Jsonb *options, const char *key, int dflt);
extern double es_options_number(Jsonb *options, const char *key, double dflt);
extern bool es_options_bool(Jsonb *options, const char *key, bool dflt);
extern int64 es_options_interval_ms(Jsonb *options, const char *key, int64 dflt);
/* ms of a text that interval_in takes; 22023 */
extern int64 es_options_interval_of(const char *text);
/* of a string; 22023 where it is no time */
extern TimestampTz es_options_moment(Jsonb *options, const char *key, TimestampTz dflt);
extern Jsonb *es_options_object(Jsonb *options, const char *key); /* NULL when absent */
extern Jsonb *es_options_any(Jsonb *options, const char *key); /* the same, whatever it is */
extern int64 es_options_version(Jsonb *options, const char *key, int64 dflt);
extern Jsonb *es_options_array(Jsonb *options, const char *key); /* NULL when absent */
extern List *es_options_strings(Jsonb *options, const char *key); /* list of char *, NIL when absent */
extern bool es_options_has(Jsonb *options, const char *key);
extern bool es_options_is_null(Jsonb *options, const char *key); /* there, and null */

/* the elements of an array, palloc'd; 22023 with the hint where it is none */
extern Jsonb **es_options_elements(Jsonb *array, const char *what, const char *hint, int *n);

/* options || changes, with keys that are null in changes removed */
extern Jsonb *es_options_merge(Jsonb *options, Jsonb *changes);
/* {key: value} */
extern Jsonb *es_options_of_int(const char *key, int value);
extern Jsonb *es_options_of(const char *key, Jsonb *value);
/* NULL is equal to NULL */
extern bool es_options_equal(Jsonb *a, Jsonb *b);
extern char *es_options_text(Jsonb *options);
/* the same for a message: the beginning of what is long, the size of what is very long */
extern char *es_options_shown(Jsonb *options);

#endif
