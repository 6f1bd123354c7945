/*
 * asl_text.c
 *		Definitions of sagas as they were written: fields that are there twice, of which jsonb keeps the last.
 *
 * Runs in backends that check definitions; keeps nothing.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "asl.h"
#include "compat.h"

/* an object or an array that the parser is in */
typedef struct Level
{
	struct Level *outer;
	char	   *where;			/* of itself */
	List	   *keys;			/* of an object, so far */
	int			element;		/* of an array: the next */
	char	   *inner;			/* where what comes next is */
} Level;

typedef struct Reading
{
	Level	   *level;
	StringInfo	faults;
} Reading;

static EsJsonResult begin_container(void *arg);
static EsJsonResult end_container(void *arg);
static EsJsonResult begin_field(void *arg, char *name, bool isnull);
static EsJsonResult begin_element(void *arg, bool isnull);

void
es_asl_find_duplicates(text *json, StringInfo faults)
{
	Reading		reading = {.faults = faults};
	JsonSemAction actions = {0};

	actions.semstate = &reading;
	actions.object_start = begin_container;
	actions.object_end = end_container;
	actions.array_start = begin_container;
	actions.array_end = end_container;
	actions.object_field_start = begin_field;
	actions.array_element_start = begin_element;
	pg_parse_json_or_ereport(es_make_json_lexer(json), &actions);
}

static EsJsonResult
begin_container(void *arg)
{
	Reading    *reading = arg;
	Level	   *level = palloc0(sizeof(Level));

	level->outer = reading->level;
	level->where = level->outer == NULL ? "$" : level->outer->inner;
	reading->level = level;
	ES_JSON_GO_ON();
}

static EsJsonResult
end_container(void *arg)
{
	Reading    *reading = arg;

	reading->level = reading->level->outer;
	ES_JSON_GO_ON();
}

static EsJsonResult
begin_field(void *arg, char *name, bool isnull)
{
	Reading    *reading = arg;
	Level	   *level = reading->level;
	ListCell   *lc;

	CHECK_FOR_INTERRUPTS();
	level->inner = es_asl_where(level->where, name);
	foreach(lc, level->keys)
		if (strcmp(lfirst(lc), name) == 0)
		{
			es_asl_add_fault(reading->faults, level->inner, "the field is there twice");
			break;
		}
	level->keys = lappend(level->keys, name);
	ES_JSON_GO_ON();
}

static EsJsonResult
begin_element(void *arg, bool isnull)
{
	Reading    *reading = arg;
	Level	   *level = reading->level;

	level->inner = psprintf("%s[%d]", level->where, level->element++);
	ES_JSON_GO_ON();
}

/* the path ends with ": ", but for what stands in quotes */
const char *
es_asl_next_fault(const char *fault, int *path_length)
{
	const char *at = fault;

	if (*fault == '\0')
		return NULL;
	while (*at != '\0' && strncmp(at, ": ", 2) != 0)
	{
		if (strncmp(at, "['", 2) == 0)
			for (at += 2; *at != '\0' && *at != '\''; at++)
				if (*at == '\\' && at[1] != '\0')
					at++;
		if (*at != '\0')
			at++;
	}
	*path_length = at - fault;
	return fault + strcspn(fault, "\n");
}
