/*
 * placeholder.c
 *		${data.customerId}: a value of an event or a message, named in a definition.  Runs wherever they do; keeps nothing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "arg.h"
#include "compat.h"
#include "placeholder.h"

static bool step(JsonbContainer *container, const char *key, JsonbValue *value);

EsPlaceholder *
es_placeholder_parse(const char *text, const char *what, const EsPlaceholderRoot *roots, const char *hint)
{
	size_t		len = strlen(text);
	EsPlaceholder *placeholder = NULL;

	if (len > 3 && strncmp(text, "${", 2) == 0 && text[len - 1] == '}')
		placeholder = es_placeholder_find(text + 2, len - 3, roots);
	if (placeholder == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown %s \"%s\"", what, es_arg_shown(text, len)),
				 errhint("%s", hint)));
	return placeholder;
}

EsPlaceholder *
es_placeholder_find(const char *text, int len, const EsPlaceholderRoot *roots)
{
	EsPlaceholder *placeholder = palloc0(sizeof(EsPlaceholder));
	char	   *part = pnstrdup(text, len);
	char	   *first = part;

	for (char *dot = strchr(part, '.'); dot != NULL; dot = strchr(part, '.'))
	{
		*dot = '\0';
		part = dot + 1;
		if (*part == '\0' || *part == '.')
			return NULL;
		placeholder->path = lappend(placeholder->path, part);
	}
	for (int i = 0; roots[i].name != NULL; i++)
		if (strcmp(first, roots[i].name) == 0 && roots[i].has_path == (placeholder->path != NIL))
		{
			placeholder->root = i;
			return placeholder;
		}
	return NULL;
}

EsPlaceholder *
es_placeholder_copy(const EsPlaceholder *placeholder)
{
	EsPlaceholder *copy = palloc(sizeof(EsPlaceholder));
	ListCell   *lc;

	copy->root = placeholder->root;
	copy->path = NIL;
	foreach(lc, placeholder->path)
		copy->path = lappend(copy->path, pstrdup(lfirst(lc)));
	return copy;
}

bool
es_placeholder_value(const EsPlaceholder *placeholder, Jsonb *document, JsonbValue *value)
{
	ListCell   *lc;

	if (JB_ROOT_IS_SCALAR(document))
		(void) JsonbExtractScalar(&document->root, value);
	else
	{
		value->type = jbvBinary;
		value->val.binary.data = &document->root;
		value->val.binary.len = VARSIZE(document) - VARHDRSZ;
	}
	foreach(lc, placeholder->path)
		if (value->type != jbvBinary || !step(value->val.binary.data, lfirst(lc), value))
			return false;
	return true;
}

char *
es_placeholder_text(const EsPlaceholder *placeholder, Datum document)
{
	JsonbValue	value;

	return es_placeholder_value(placeholder, DatumGetJsonbP(document), &value) ? es_placeholder_value_text(&value) : NULL;
}

char *
es_placeholder_value_text(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			Assert(value->type == jbvBinary);
			return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
	}
}

/* like SQL's #>: a number is an element of an array, from its end where it is negative */
static bool
step(JsonbContainer *container, const char *key, JsonbValue *value)
{
	int64		n;
	long		index;
	char	   *end;
	JsonbValue *element;

	if (JsonContainerIsObject(container))
		return getKeyJsonValueFromContainer(container, key, strlen(key), value) != NULL;
	errno = 0;
	index = strtol(key, &end, 10);
	if (end == key || *end != '\0' || errno != 0)
		return false;
	n = index < 0 ? (int64) JsonContainerSize(container) + index : index;
	element = n < 0 || n >= JsonContainerSize(container) ? NULL : getIthJsonbValueFromContainer(container, (uint32) n);
	if (element != NULL)
		*value = *element;
	return element != NULL;
}
