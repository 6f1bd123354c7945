/*
 * template.h
 *		A text with placeholders in it: orders.${category}.
 */
#ifndef ES_TEMPLATE_H
#define ES_TEMPLATE_H

#include "nodes/pg_list.h"

#include "placeholder.h"

/* of a template: text as it is, or a placeholder */
typedef struct EsTemplatePart
{
	char *text; /* NULL: the placeholder */
	EsPlaceholder *placeholder;
} EsTemplatePart;

typedef struct EsTemplate
{
	char *source;
	List *parts; /* of EsTemplatePart * */
} EsTemplate;

/* the text of a placeholder, palloc'd or not; NULL: it has none here */
typedef const char *(*EsTemplateValue)(const EsPlaceholder *placeholder, const void *arg);

/* palloc'd; 22023 naming the argument where a placeholder is none of the roots, or does not end.  roots end with a NULL name */
extern EsTemplate *es_template_parse(const char *text, const char *what, const EsPlaceholderRoot *roots, const char *hint);
/* palloc'd; NULL: a placeholder has no value, which is *missing then */
extern char *es_template_expand(const EsTemplate *parsed, EsTemplateValue value, const void *arg, const EsPlaceholder **missing);

#endif
