/*
 * template.h
 *		JSON with placeholders: what a rule makes of an event.
 */
#ifndef ES_TEMPLATE_H
#define ES_TEMPLATE_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "evtstore.h"

typedef struct EsTemplate EsTemplate;

/*
 * In the current context.  What is wrong is added to faults, path first; then the result is good for nothing.  The value is copied.
 */
extern EsTemplate *es_template_compile(const JsonbValue *value, const char *path, StringInfo faults);
extern EsTemplate *es_template_compile_text(const char *text, const char *path, StringInfo faults);

/* what it says of every event, where it is a string without a placeholder; else NULL */
extern const char *es_template_constant(const EsTemplate *template);
/* has it no placeholder?  Then it needs no event */
extern bool es_template_is_constant(const EsTemplate *template);
/* is it an object, or can it become one? */
extern bool es_template_may_be_object(const EsTemplate *template);

/* of an event: position, version and stream may be missing.  In the current context, or pointing into the event and the template */
extern void es_template_value(const EsTemplate *template, const EsEvent *event, JsonbValue *value);
extern Jsonb *es_template_jsonb(const EsTemplate *template, const EsEvent *event);
/* NULL: null */
extern char *es_template_text(const EsTemplate *template, const EsEvent *event);

#endif
