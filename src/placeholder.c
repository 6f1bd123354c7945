/*
 * placeholder.c
 *		${data.customerId}: a value of an event or a message, named in a definition.  Runs wherever they do; keeps nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "compat.h"
#include "placeholder.h"

EsPlaceholder *
es_placeholder_parse(const char *text, const char *what, const EsPlaceholderRoot *roots, const char *hint)
{
	EsPlaceholder *placeholder = palloc0(sizeof(EsPlaceholder));
	size_t		len = strlen(text);
	char	   *saved;
	char	   *first = NULL;

	if (len > 3 && strncmp(text, "${", 2) == 0 && text[len - 1] == '}')
	{
		first = strtok_r(pnstrdup(text + 2, len - 3), ".", &saved);
		for (char *part = first == NULL ? NULL : strtok_r(NULL, ".", &saved); part != NULL; part = strtok_r(NULL, ".", &saved))
			placeholder->path = lappend(placeholder->path, part);
	}
	for (int i = 0; first != NULL && roots[i].name != NULL; i++)
		if (strcmp(first, roots[i].name) == 0 && roots[i].has_path == (placeholder->path != NIL))
		{
			placeholder->root = i;
			return placeholder;
		}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown %s \"%s\"", what, es_arg_shown(text, len)),
			 errhint("%s", hint)));
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

char *
es_placeholder_text(const EsPlaceholder *placeholder, Datum document)
{
	LOCAL_FCINFO(call, 2);
	Datum	   *parts = palloc(list_length(placeholder->path) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;
	Datum		result;

	foreach(lc, placeholder->path)
		parts[n++] = CStringGetTextDatum(lfirst(lc));
	InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
	call->args[0].value = document;
	call->args[0].isnull = false;
	call->args[1].value = PointerGetDatum(construct_array(parts, n, TEXTOID, -1, false, TYPALIGN_INT));
	call->args[1].isnull = false;
	result = jsonb_extract_path_text(call);
	return call->isnull ? NULL : TextDatumGetCString(result);
}
