/*
 * text_template.h
 *		A text with placeholders in it: orders.${category}.
 */
#ifndef ES_TEXT_TEMPLATE_H
#define ES_TEXT_TEMPLATE_H

#include "nodes/pg_list.h"

#include "placeholder.h"

/* of a template: text as it is, or a placeholder */
typedef struct EsTextTemplatePart
{
	char *text; /* NULL: the placeholder */
	EsPlaceholder *placeholder;
} EsTextTemplatePart;

typedef struct EsTextTemplate
{
	char *source;
	List *parts; /* of EsTextTemplatePart * */
} EsTextTemplate;

/* the text of a placeholder, palloc'd or not; NULL: it has none here */
typedef const char *(*EsTextTemplateValue)(const EsPlaceholder *placeholder, const void *arg);

/* palloc'd; 22023 naming the argument where a placeholder is none of the roots, or does not end.  roots end with a NULL name */
extern EsTextTemplate *es_text_template_parse(const char *text, const char *what, const EsPlaceholderRoot *roots, const char *hint);
/* palloc'd; NULL: a placeholder has no value, which is *missing then */
extern char *es_text_template_expand(const EsTextTemplate *parsed, EsTextTemplateValue value, const void *arg, const EsPlaceholder **missing);

#endif
