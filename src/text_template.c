/*
 * text_template.c
 *		A text with placeholders in it: orders.${category}.  Runs wherever endpoints are defined or delivered to; keeps nothing.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "arg.h"
#include "compat.h"
#include "text_template.h"

static EsTextTemplatePart *add_part(EsTextTemplate *parsed);

EsTextTemplate *
es_text_template_parse(const char *text, const char *what, const EsPlaceholderRoot *roots, const char *hint)
{
	EsTextTemplate *parsed = palloc0(sizeof(EsTextTemplate));
	const char *rest = text;

	parsed->source = pstrdup(text);
	while (*rest != '\0')
	{
		const char *begin = strstr(rest, "${");
		const char *end = begin == NULL ? NULL : strchr(begin, '}');

		if (begin == NULL)
			begin = rest + strlen(rest);
		else if (end == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a placeholder of %s \"%s\" does not end", what, es_arg_shown(text, strlen(text))),
					 errhint("%s", hint)));
		if (begin > rest)
			add_part(parsed)->text = pnstrdup(rest, begin - rest);
		if (*begin == '\0')
			break;
		add_part(parsed)->placeholder = es_placeholder_parse(pnstrdup(begin, end + 1 - begin), what, roots, hint);
		rest = end + 1;
	}
	return parsed;
}

char *
es_text_template_expand(const EsTextTemplate *parsed, EsTextTemplateValue value, const void *arg, const EsPlaceholder **missing)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, parsed->parts)
	{
		const EsTextTemplatePart *part = lfirst(lc);
		const char *text = part->text != NULL ? part->text : value(part->placeholder, arg);

		if (text == NULL)
		{
			*missing = part->placeholder;
			return NULL;
		}
		appendStringInfoString(&buf, text);
	}
	return buf.data;
}

static EsTextTemplatePart *
add_part(EsTextTemplate *parsed)
{
	EsTextTemplatePart *part = palloc0(sizeof(EsTextTemplatePart));

	parsed->parts = lappend(parsed->parts, part);
	return part;
}
