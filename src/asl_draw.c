/*
 * asl_draw.c
 *		Definitions of sagas as Mermaid flowcharts, and what became of their states.
 *
 * Runs in backends; keeps nothing.  A Choice is a diamond with its conditions on the edges, a Parallel or Map a subgraph, an undo hangs on a
 * dashed edge, and the pivot is a hexagon.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "asl_value.h"

/* what is longer would hide the drawing */
#define MAX_LABEL_BYTES 120

typedef struct Drawing
{
	StringInfoData text;
	const EsAslLive *live;
	int			depth;
} Drawing;

static const struct
{
	const char *status;
	const char *style;
}			statuses[] = {
	{"waiting", "fill:#fff3bf,stroke:#f08c00"},
	{"pending", "fill:#f8f9fa,stroke:#868e96,stroke-dasharray:4"},
	{"done", "fill:#d3f9d8,stroke:#2b8a3e"},
	{"failed", "fill:#ffe3e3,stroke:#c92a2a"},
	{"unknown", "fill:#ffe8cc,stroke:#d9480f,stroke-dasharray:4"},
	{"withdrawn", "fill:#e9ecef,stroke:#868e96"},
	{"undoing", "fill:#f3f0ff,stroke:#5f3dc4,stroke-dasharray:4"},
	{"undone", "fill:#e5dbff,stroke:#5f3dc4"},
	{"skipped", "fill:#d0ebff,stroke:#1864ab"},
};

static void draw_machine(Drawing *drawing, const EsAslMachine *machine);
static List *in_order(const EsAslMachine *machine);
static void draw_state(Drawing *drawing, const EsAslState *state);
static void draw_branches(Drawing *drawing, const EsAslState *state);
static void draw_label(Drawing *drawing, const EsAslState *state);
static void draw_edges(Drawing *drawing, const EsAslState *state);
static void draw_undo(Drawing *drawing, const EsAslState *state);
static void draw_statuses(Drawing *drawing, const EsAslDefinition *definition);
static char *join_errors(const List *errors);
static void line(Drawing *drawing, const char *format,...) pg_attribute_printf(2, 3);
static void append_escaped(StringInfo text, const char *string);
static char *escape(const char *string);
static void append_condition(StringInfo text, const JsonbValue *rule, bool is_inner);
static void append_rules(StringInfo text, const JsonbValue *rules, const char *word);

char *
es_asl_draw(const EsAslDefinition *definition, const EsAslLive *live)
{
	Drawing		drawing = {.live = live};

	initStringInfo(&drawing.text);
	line(&drawing, "flowchart TD");
	drawing.depth++;
	line(&drawing, "start((start)) --> s%d", definition->machine->start->number);
	draw_machine(&drawing, definition->machine);
	if (live != NULL)
		draw_statuses(&drawing, definition);
	drawing.text.data[--drawing.text.len] = '\0';
	return drawing.text.data;
}

static void
draw_machine(Drawing *drawing, const EsAslMachine *machine)
{
	List	   *states = in_order(machine);
	ListCell   *lc;

	check_stack_depth();
	foreach(lc, states)
		draw_state(drawing, lfirst(lc));
	foreach(lc, states)
		draw_edges(drawing, lfirst(lc));
}

/* as they follow each other, and not as jsonb has them */
static List *
in_order(const EsAslMachine *machine)
{
	List	   *result = list_make1(machine->start);
	bool	   *is_known;
	int			last = 0;

	for (int i = 0; i < machine->nstates; i++)
		last = Max(last, machine->states[i]->number);
	is_known = palloc0((last + 1) * sizeof(bool));
	is_known[machine->start->number] = true;
	/* it grows meanwhile */
	for (int i = 0; i < list_length(result); i++)
	{
		const EsAslState *state = list_nth(result, i);
		ListCell   *lc;

		foreach(lc, state->followers)
		{
			EsAslState *target = lfirst(lc);

			if (!is_known[target->number])
				result = lappend(result, target);
			is_known[target->number] = true;
		}
	}
	return result;
}

static void
draw_state(Drawing *drawing, const EsAslState *state)
{
	/* begin and end of the shape that each type has */
	static const char *const shapes[][2] = {
		[ES_ASL_TASK] = {"[", "]"},
		[ES_ASL_PASS] = {"(", ")"},
		[ES_ASL_CHOICE] = {"{", "}"},
		[ES_ASL_WAIT] = {"[/", "/]"},
		[ES_ASL_SUCCEED] = {"([", "])"},
		[ES_ASL_FAIL] = {"[[", "]]"},
	};
	bool		is_pivot = state->class == ES_ASL_PIVOT;

	if (state->nbranches > 0)
	{
		draw_branches(drawing, state);
		return;
	}
	appendStringInfoSpaces(&drawing->text, drawing->depth * 2);
	appendStringInfo(&drawing->text, "s%d%s\"", state->number, is_pivot ? "{{" : shapes[state->type][0]);
	draw_label(drawing, state);
	appendStringInfo(&drawing->text, "\"%s\n", is_pivot ? "}}" : shapes[state->type][1]);
}

static void
draw_branches(Drawing *drawing, const EsAslState *state)
{
	appendStringInfoSpaces(&drawing->text, drawing->depth * 2);
	appendStringInfo(&drawing->text, "subgraph s%d[\"", state->number);
	draw_label(drawing, state);
	appendStringInfoString(&drawing->text, "\"]\n");
	drawing->depth++;
	for (int i = 0; i < state->nbranches; i++)
	{
		if (state->nbranches > 1)
		{
			line(drawing, "subgraph s%d_%d[\"%d\"]", state->number, i, i + 1);
			drawing->depth++;
		}
		draw_machine(drawing, state->branches[i]);
		if (state->nbranches > 1)
		{
			drawing->depth--;
			line(drawing, "end");
		}
	}
	drawing->depth--;
	line(drawing, "end");
}

static void
draw_label(Drawing *drawing, const EsAslState *state)
{
	StringInfo	text = &drawing->text;

	append_escaped(text, state->name);
	if (state->type == ES_ASL_TASK)
	{
		appendStringInfoString(text, "<br/>");
		append_escaped(text, es_asl_call_text(&state->call));
	}
	if (state->type == ES_ASL_MAP)
		appendStringInfoString(text, "<br/>for each item");
	if (state->type == ES_ASL_WAIT)
		appendStringInfoString(text, "<br/>wait");
	if (state->type == ES_ASL_FAIL)
		appendStringInfoString(text, "<br/>fail");
	if (state->type == ES_ASL_FAIL && state->error.value != NULL)
	{
		appendStringInfoString(text, ": ");
		append_escaped(text, state->error.value);
	}
	if (state->class == ES_ASL_PIVOT)
		appendStringInfoString(text, "<br/>pivot");
	if (state->class == ES_ASL_RETRIABLE)
		appendStringInfoString(text, "<br/>retriable");
	if (drawing->live != NULL && drawing->live[state->number].note != NULL)
	{
		appendStringInfoString(text, "<br/>");
		append_escaped(text, drawing->live[state->number].note);
	}
}

static void
draw_edges(Drawing *drawing, const EsAslState *state)
{
	ListCell   *target;
	ListCell   *condition;

	if (state->choices != NULL)
		forboth(target, es_asl_choices_targets(state->choices), condition, state->conditions)
		{
			ListCell   *lc;

			foreach(lc, state->followers)
				if (strcmp(((EsAslState *) lfirst(lc))->name, lfirst(target)) == 0)
					line(drawing, "s%d -->|\"%s\"| s%d", state->number, escape(lfirst(condition)), ((EsAslState *) lfirst(lc))->number);
		}
	if (state->fallback != NULL)
		line(drawing, "s%d -->|\"else\"| s%d", state->number, state->fallback->number);
	if (state->next != NULL)
		line(drawing, "s%d --> s%d", state->number, state->next->number);
	for (int i = 0; i < state->ncatchers; i++)
		line(drawing, "s%d -->|\"on %s\"| s%d", state->number, escape(join_errors(state->catchers[i].errors)), state->catchers[i].next->number);
	if (state->machine->owner == NULL && (state->is_end || state->type == ES_ASL_SUCCEED))
		line(drawing, "s%d --> finish((end))", state->number);
	if (state->has_undo)
		draw_undo(drawing, state);
}

static void
draw_undo(Drawing *drawing, const EsAslState *state)
{
	line(drawing, "s%d -.->|\"undo\"| u%d[\"%s\"]", state->number, state->number, escape(es_asl_call_text(&state->undo)));
}

static void
draw_statuses(Drawing *drawing, const EsAslDefinition *definition)
{
	for (int i = 0; i < lengthof(statuses); i++)
	{
		bool		is_used = false;

		for (int j = 0; j < definition->nstates; j++)
			if (drawing->live[j].status != NULL && strcmp(drawing->live[j].status, statuses[i].status) == 0)
			{
				if (!is_used)
					line(drawing, "classDef %s %s", statuses[i].status, statuses[i].style);
				is_used = true;
				line(drawing, "class s%d %s", j, statuses[i].status);
			}
	}
}

static char *
join_errors(const List *errors)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, errors)
		appendStringInfo(&text, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

static void
line(Drawing *drawing, const char *format,...)
{
	appendStringInfoSpaces(&drawing->text, drawing->depth * 2);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&drawing->text, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&drawing->text, needed);
	}
	appendStringInfoChar(&drawing->text, '\n');
}

static char *
escape(const char *string)
{
	StringInfoData text;

	initStringInfo(&text);
	append_escaped(&text, string);
	return text.data;
}

/* within quotes, where Mermaid takes entities only, HTML is HTML, and a backquote begins a markup of its own */
static void
append_escaped(StringInfo text, const char *string)
{
	int			len = pg_mbcliplen(string, strlen(string), MAX_LABEL_BYTES);

	for (int i = 0; i < len; i++)
		switch (string[i])
		{
			case '"':
				appendStringInfoString(text, "#quot;");
				break;
			case '<':
				appendStringInfoString(text, "#lt;");
				break;
			case '>':
				appendStringInfoString(text, "#gt;");
				break;
			case '&':
				appendStringInfoString(text, "#amp;");
				break;
			case '#':
				appendStringInfoString(text, "#35;");
				break;
			case '`':
				appendStringInfoString(text, "#96;");
				break;
			default:
				appendStringInfoChar(text, (unsigned char) string[i] < ' ' ? ' ' : string[i]);
		}
	if (string[len] != '\0')
		appendStringInfoString(text, "...");
}

/* its comment, where it has one: that is for people */
char *
es_asl_condition_text(const JsonbValue *rule)
{
	StringInfoData text;
	JsonbValue	v;

	initStringInfo(&text);
	if (es_asl_value_is_object(rule) && getKeyJsonValueFromContainer(rule->val.binary.data, "Comment", strlen("Comment"), &v) != NULL &&
		v.type == jbvString)
		return es_asl_value_string(&v);
	append_condition(&text, rule, false);
	return text.data;
}

static void
append_condition(StringInfo text, const JsonbValue *rule, bool is_inner)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	check_stack_depth();
	if (!es_asl_value_is_object(rule))
		return;
	if (getKeyJsonValueFromContainer(rule->val.binary.data, "Variable", strlen("Variable"), &v) != NULL && v.type == jbvString)
		appendBinaryStringInfo(text, v.val.string.val, v.val.string.len);
	it = JsonbIteratorInit(rule->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = es_asl_value_string(&v);
		else if (token != WJB_VALUE || strcmp(key, "Next") == 0 || strcmp(key, "Variable") == 0 || strcmp(key, "Comment") == 0)
			continue;
		else if (strcmp(key, "And") == 0 || strcmp(key, "Or") == 0)
		{
			appendStringInfoString(text, is_inner ? "(" : "");
			append_rules(text, &v, strcmp(key, "And") == 0 ? " and " : " or ");
			appendStringInfoString(text, is_inner ? ")" : "");
		}
		else if (strcmp(key, "Not") == 0)
		{
			appendStringInfoString(text, "not ");
			append_condition(text, &v, true);
		}
		else
			appendStringInfo(text, " %s %s", key, es_asl_value_shown(&v));
	}
}

static void
append_rules(StringInfo text, const JsonbValue *rules, const char *word)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	int			n = 0;

	if (!es_asl_value_is_array(rules))
		return;
	it = JsonbIteratorInit(rules->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
		{
			appendStringInfoString(text, n++ > 0 ? word : "");
			append_condition(text, &v, true);
		}
}
