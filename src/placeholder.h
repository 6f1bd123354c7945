/*
 * placeholder.h
 *		${data.customerId}: a value of an event or a message, named in a definition.
 */
#ifndef ES_PLACEHOLDER_H
#define ES_PLACEHOLDER_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef struct EsPlaceholder
{
	int root;	/* which of the roots */
	List *path; /* of char *: the keys below it; NIL: the root itself */
} EsPlaceholder;

/* what a placeholder may begin with; with a path, or alone */
typedef struct EsPlaceholderRoot
{
	const char *name;
	bool has_path;
} EsPlaceholderRoot;

/* palloc'd; 22023 naming the argument where it is none of these.  roots end with a NULL name */
extern EsPlaceholder *es_placeholder_parse(const char *text, const char *what, const EsPlaceholderRoot *roots, const char *hint);
/* what stands between ${ and }; NULL: none of these */
extern EsPlaceholder *es_placeholder_find(const char *text, int len, const EsPlaceholderRoot *roots);
extern EsPlaceholder *es_placeholder_copy(const EsPlaceholder *placeholder);
/* what is at its path in the jsonb, as text; NULL: nothing, or null */
extern char *es_placeholder_text(const EsPlaceholder *placeholder, Datum document);
/* what is at its path, pointing into the document; false: nothing */
extern bool es_placeholder_value(const EsPlaceholder *placeholder, Jsonb *document, JsonbValue *value);
/* as text, palloc'd: strings as they are, the rest as JSON; NULL: null */
extern char *es_placeholder_value_text(JsonbValue *value);

#endif
