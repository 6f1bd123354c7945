/*
 * cesql.h
 *		CESQL, the expression language of CloudEvents: what selects events by the attributes that they have as CloudEvents.
 */
#ifndef ES_CESQL_H
#define ES_CESQL_H

#include "stream.h"

/* bytes of an expression */
#define ES_CESQL_MAX_BYTES 16384

typedef struct EsCesql EsCesql;

typedef enum EsCesqlType
{
	ES_CESQL_BOOLEAN,
	ES_CESQL_INTEGER,
	ES_CESQL_STRING
} EsCesqlType;

/* string: in the server's encoding, not ended by a zero byte */
typedef struct EsCesqlValue
{
	EsCesqlType type;
	bool		boolean;
	int32		integer;
	const char *string;
	int			len;
} EsCesqlValue;

typedef enum EsCesqlError
{
	ES_CESQL_OK,
	ES_CESQL_MATH,
	ES_CESQL_CAST,
	ES_CESQL_MISSING_ATTRIBUTE,
	ES_CESQL_MISSING_FUNCTION,
	ES_CESQL_FUNCTION_EVALUATION
} EsCesqlError;

/* the value of an attribute, its name in lower case; false: the event has no such attribute */
typedef bool (*EsCesqlLookup) (void *arg, const char *name, EsCesqlValue *value);

/*
 * Checks and parses; 22023 says what is wrong and where.  what: for the message.  is_filter: refuse, too, what selects no event,
 * whatever it is: unknown functions, and expressions that are never true.  Allocated in the current context
 */
extern EsCesql *es_cesql_parse(const char *expression, const char *what, bool is_filter);
/* stops at the first error, and always has a result; strings are allocated in the current context, or point into what lookup gave */
extern EsCesqlError es_cesql_evaluate(const EsCesql *cesql, EsCesqlLookup lookup, void *arg, EsCesqlValue *result);
/* is it true, without an error?  stream: its name, "" where the event has none.  What is allocated is freed */
extern bool es_cesql_selects(const EsCesql *cesql, const char *stream, int len, const EsEvent *event);

#endif
