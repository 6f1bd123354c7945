/*
 * template.c
 *		JSON with placeholders: what a rule makes of an event.
 *
 * Runs wherever rules do; keeps nothing.  A template is compiled once, with the rule.  Each of its strings that has a placeholder, and
 * what such a string is in, becomes a node; what has none stays the JSON that it is, and is taken over in one piece.  Values go
 * from the event into the result as they lie there: a number is never anything but numeric.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/uuid.h"

#include "arg.h"
#include "cloudevent.h"
#include "compat.h"
#include "placeholder.h"
#include "stream.h"
#include "template.h"

/* what placeholders begin with */
typedef enum Root
{
	ROOT_DATA,
	ROOT_DATA_FIELD,
	ROOT_METADATA,
	ROOT_METADATA_FIELD,
	ROOT_STREAM,
	ROOT_CATEGORY,
	ROOT_TYPE,
	ROOT_ID,
	ROOT_POSITION,
	ROOT_VERSION,
	ROOT_SCHEMA_VERSION,
	ROOT_TAGS,
	ROOT_TENANT,
	ROOT_OCCURRED_AT,
	ROOT_RECORDED_AT
} Root;

static const EsPlaceholderRoot roots[] = {
	[ROOT_DATA] = {"data", false},
	[ROOT_DATA_FIELD] = {"data", true},
	[ROOT_METADATA] = {"metadata", false},
	[ROOT_METADATA_FIELD] = {"metadata", true},
	[ROOT_STREAM] = {"stream", false},
	[ROOT_CATEGORY] = {"category", false},
	[ROOT_TYPE] = {"type", false},
	[ROOT_ID] = {"id", false},
	[ROOT_POSITION] = {"position", false},
	[ROOT_VERSION] = {"version", false},
	[ROOT_SCHEMA_VERSION] = {"schema_version", false},
	[ROOT_TAGS] = {"tags", false},
	[ROOT_TENANT] = {"tenant", false},
	[ROOT_OCCURRED_AT] = {"occurred_at", false},
	[ROOT_RECORDED_AT] = {"recorded_at", false},
	{NULL}
};

typedef enum Kind
{
	KIND_CONSTANT,				/* no placeholder in it */
	KIND_VALUE,					/* a placeholder, and nothing else: its value, with its type */
	KIND_TEXT,					/* a string of pieces */
	KIND_ARRAY,
	KIND_OBJECT
} Kind;

/* of a string: text as it is, or a placeholder's */
typedef struct Piece
{
	char	   *text;			/* NULL: the placeholder's */
	EsPlaceholder *placeholder;
} Piece;

struct EsTemplate
{
	Kind		kind;
	Jsonb	   *constant;		/* of a constant */
	EsPlaceholder *placeholder; /* of a value */
	List	   *pieces;			/* of a text: Piece */
	List	   *items;			/* of an array and an object: EsTemplate */
	List	   *keys;			/* of an object: char * */
};

static EsTemplate *compile_container(const JsonbValue *value, const char *path, StringInfo faults);
static EsTemplate *compile_string(const char *text, int len, const char *path, StringInfo faults);
static EsTemplate *make_constant(const JsonbValue *value);
static void add_text(List **pieces, StringInfo text);
static void add_fault(StringInfo faults, const char *path, const char *format, const char *shown);
static void push(JsonbParseState **state, JsonbIteratorToken token, const EsTemplate *template, const EsEvent *event,
				 JsonbValue **result);
static void value_of(const EsPlaceholder *placeholder, const EsEvent *event, JsonbValue *value);
static bool field_of(const EsPlaceholder *placeholder, Datum document, JsonbValue *value);
static void set_jsonb(JsonbValue *value, Jsonb *jsonb);
static void set_string(JsonbValue *value, const char *string, int len);
static void set_text(JsonbValue *value, Datum datum);
static void set_integer(JsonbValue *value, int64 number);
static void set_tags(JsonbValue *value, Datum tags);
static void set_time(JsonbValue *value, TimestampTz at);
static char *join_pieces(const EsTemplate *template, const EsEvent *event, int *len);

EsTemplate *
es_template_compile(const JsonbValue *value, const char *path, StringInfo faults)
{
	check_stack_depth();
	if (value->type == jbvString)
		return compile_string(value->val.string.val, value->val.string.len, path, faults);
	if (value->type == jbvBinary)
		return compile_container(value, path, faults);
	return make_constant(value);
}

EsTemplate *
es_template_compile_text(const char *text, const char *path, StringInfo faults)
{
	return compile_string(text, strlen(text), path, faults);
}

/* one without a placeholder in it is one constant */
static EsTemplate *
compile_container(const JsonbValue *value, const char *path, StringInfo faults)
{
	EsTemplate *template = palloc0(sizeof(EsTemplate));
	JsonbIterator *it = JsonbIteratorInit(value->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		is_constant = true;
	const char *inner = path;
	int			n = 0;

	template->kind = KIND_ARRAY;
	(void) JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		EsTemplate *item;

		if (token == WJB_END_OBJECT)
			template->kind = KIND_OBJECT;
		if (token == WJB_KEY)
		{
			char	   *key = pnstrdup(v.val.string.val, v.val.string.len);

			template->keys = lappend(template->keys, key);
			inner = psprintf("%s.%s", path, key);
		}
		if (token == WJB_ELEM)
			inner = psprintf("%s[%d]", path, n++);
		if (token != WJB_ELEM && token != WJB_VALUE)
			continue;
		item = es_template_compile(&v, inner, faults);
		is_constant &= item->kind == KIND_CONSTANT;
		template->items = lappend(template->items, item);
	}
	return is_constant ? make_constant(value) : template;
}

/* $${ is ${, and anything else is itself */
static EsTemplate *
compile_string(const char *text, int len, const char *path, StringInfo faults)
{
	EsTemplate *template = palloc0(sizeof(EsTemplate));
	const char *end = text + len;
	bool		has_escape = false;
	StringInfoData literal;

	initStringInfo(&literal);
	for (const char *c = text; c < end;)
	{
		const char *close;
		Piece	   *piece;

		if (end - c >= 3 && memcmp(c, "$${", 3) == 0)
		{
			has_escape = true;
			appendStringInfoString(&literal, "${");
			c += 3;
			continue;
		}
		if (end - c < 2 || memcmp(c, "${", 2) != 0)
		{
			appendStringInfoChar(&literal, *c++);
			continue;
		}
		close = memchr(c, '}', end - c);
		if (close == NULL)
		{
			add_fault(faults, path, "\"%s\" has no closing brace", es_arg_shown(c, end - c));
			break;
		}
		add_text(&template->pieces, &literal);
		piece = palloc0(sizeof(Piece));
		piece->placeholder = es_placeholder_find(c + 2, close - c - 2, roots);
		if (piece->placeholder == NULL)
			add_fault(faults, path, "unknown placeholder \"%s\"", es_arg_shown(c, close + 1 - c));
		template->pieces = lappend(template->pieces, piece);
		c = close + 1;
	}
	if (template->pieces == NIL && !has_escape)
	{
		JsonbValue	v;

		set_string(&v, text, len);
		return make_constant(&v);
	}
	add_text(&template->pieces, &literal);
	template->kind = KIND_TEXT;
	if (list_length(template->pieces) == 1 && ((Piece *) linitial(template->pieces))->text == NULL)
	{
		template->kind = KIND_VALUE;
		template->placeholder = ((Piece *) linitial(template->pieces))->placeholder;
	}
	return template;
}

static EsTemplate *
make_constant(const JsonbValue *value)
{
	EsTemplate *template = palloc0(sizeof(EsTemplate));
	JsonbValue	copy = *value;

	template->kind = KIND_CONSTANT;
	template->constant = JsonbValueToJsonb(&copy);
	return template;
}

/* what was collected, and begins anew */
static void
add_text(List **pieces, StringInfo text)
{
	Piece	   *piece;

	if (text->len == 0)
		return;
	piece = palloc0(sizeof(Piece));
	piece->text = pstrdup(text->data);
	*pieces = lappend(*pieces, piece);
	resetStringInfo(text);
}

static void
add_fault(StringInfo faults, const char *path, const char *format, const char *shown)
{
	appendStringInfo(faults, "%s%s: ", faults->len > 0 ? "; " : "", path);
	appendStringInfo(faults, format, shown);
}

const char *
es_template_constant(const EsTemplate *template)
{
	JsonbValue	v;

	/* an escape is in it */
	if (template->kind == KIND_TEXT && list_length(template->pieces) == 1)
		return ((const Piece *) linitial(template->pieces))->text;
	if (template->kind != KIND_CONSTANT || !JB_ROOT_IS_SCALAR(template->constant) ||
		!JsonbExtractScalar(&template->constant->root, &v) || v.type != jbvString)
		return NULL;
	return pnstrdup(v.val.string.val, v.val.string.len);
}

bool
es_template_is_constant(const EsTemplate *template)
{
	return template->kind == KIND_CONSTANT || es_template_constant(template) != NULL;
}

bool
es_template_may_be_object(const EsTemplate *template)
{
	return template->kind == KIND_OBJECT || template->kind == KIND_VALUE ||
		(template->kind == KIND_CONSTANT && JB_ROOT_IS_OBJECT(template->constant));
}

void
es_template_value(const EsTemplate *template, const EsEvent *event, JsonbValue *value)
{
	if (template->kind == KIND_VALUE)
		value_of(template->placeholder, event, value);
	else if (template->kind == KIND_TEXT)
	{
		int			len;
		char	   *text = join_pieces(template, event, &len);

		set_string(value, text, len);
	}
	else
		set_jsonb(value, es_template_jsonb(template, event));
}

Jsonb *
es_template_jsonb(const EsTemplate *template, const EsEvent *event)
{
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;

	if (template->kind == KIND_CONSTANT)
		return template->constant;
	if (template->kind == KIND_VALUE || template->kind == KIND_TEXT)
	{
		JsonbValue	value;

		es_template_value(template, event, &value);
		return JsonbValueToJsonb(&value);
	}
	push(&state, WJB_VALUE, template, event, &result);
	return JsonbValueToJsonb(result);
}

char *
es_template_text(const EsTemplate *template, const EsEvent *event)
{
	JsonbValue	value;

	es_template_value(template, event, &value);
	return es_placeholder_value_text(&value);
}

static void
push(JsonbParseState **state, JsonbIteratorToken token, const EsTemplate *template, const EsEvent *event, JsonbValue **result)
{
	JsonbValue	value;
	ListCell   *lc;
	ListCell   *key;

	check_stack_depth();
	switch (template->kind)
	{
		case KIND_CONSTANT:
			set_jsonb(&value, template->constant);
			*result = pushJsonbValue(state, token, &value);
			break;
		case KIND_VALUE:
		case KIND_TEXT:
			es_template_value(template, event, &value);
			*result = pushJsonbValue(state, token, &value);
			break;
		case KIND_ARRAY:
			(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
			foreach(lc, template->items)
				push(state, WJB_ELEM, lfirst(lc), event, result);
			*result = pushJsonbValue(state, WJB_END_ARRAY, NULL);
			break;
		case KIND_OBJECT:
			(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
			forboth(key, template->keys, lc, template->items)
			{
				set_string(&value, lfirst(key), strlen(lfirst(key)));
				(void) pushJsonbValue(state, WJB_KEY, &value);
				push(state, WJB_VALUE, lfirst(lc), event, result);
			}
			*result = pushJsonbValue(state, WJB_END_OBJECT, NULL);
			break;
	}
}

static char *
join_pieces(const EsTemplate *template, const EsEvent *event, int *len)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, template->pieces)
	{
		const Piece *piece = lfirst(lc);
		JsonbValue	value;
		char	   *text = piece->text;

		if (text == NULL)
		{
			value_of(piece->placeholder, event, &value);
			text = es_placeholder_value_text(&value);
		}
		if (text != NULL)
			appendStringInfoString(&buf, text);
	}
	*len = buf.len;
	return buf.data;
}

/* null where the event has nothing there.  Positions are strings, as everywhere in JSON: readers round numbers */
static void
value_of(const EsPlaceholder *placeholder, const EsEvent *event, JsonbValue *value)
{
	bool		has_stream = DatumGetPointer(event->stream) != NULL;
	char	   *string;

	value->type = jbvNull;
	switch ((Root) placeholder->root)
	{
		case ROOT_DATA:
		case ROOT_DATA_FIELD:
			if (!field_of(placeholder, event->data, value))
				value->type = jbvNull;
			break;
		case ROOT_METADATA:
		case ROOT_METADATA_FIELD:
			if (!field_of(placeholder, event->metadata, value))
				value->type = jbvNull;
			break;
		case ROOT_STREAM:
			if (has_stream)
				set_text(value, event->stream);
			break;
		case ROOT_CATEGORY:
			if (has_stream)
			{
				string = TextDatumGetCString(event->stream);
				set_string(value, string, es_stream_category_len(string, strlen(string)));
			}
			break;
		case ROOT_TYPE:
			set_text(value, event->type);
			break;
		case ROOT_ID:
			string = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id)));
			set_string(value, string, strlen(string));
			break;
		case ROOT_POSITION:
			string = psprintf(INT64_FORMAT, event->position);
			if (event->position != 0)
				set_string(value, string, strlen(string));
			break;
		case ROOT_VERSION:
			if (has_stream && event->version != 0)
				set_integer(value, event->version);
			break;
		case ROOT_SCHEMA_VERSION:
			set_integer(value, event->schema_version);
			break;
		case ROOT_TAGS:
			set_tags(value, event->tags);
			break;
		case ROOT_TENANT:
			set_text(value, event->tenant);
			break;
		case ROOT_OCCURRED_AT:
			set_time(value, event->occurred_at);
			break;
		case ROOT_RECORDED_AT:
			set_time(value, event->recorded_at);
			break;
	}
}

static bool
field_of(const EsPlaceholder *placeholder, Datum document, JsonbValue *value)
{
	return es_placeholder_value(placeholder, DatumGetJsonbP(document), value);
}

static void
set_jsonb(JsonbValue *value, Jsonb *jsonb)
{
	if (JB_ROOT_IS_SCALAR(jsonb) && JsonbExtractScalar(&jsonb->root, value))
		return;
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

static void
set_string(JsonbValue *value, const char *string, int len)
{
	value->type = jbvString;
	value->val.string.val = unconstify(char *, string);
	value->val.string.len = len;
}

static void
set_text(JsonbValue *value, Datum datum)
{
	char	   *string = TextDatumGetCString(datum);

	set_string(value, string, strlen(string));
}

static void
set_integer(JsonbValue *value, int64 number)
{
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

static void
set_tags(JsonbValue *value, Datum tags)
{
	JsonbParseState *state = NULL;
	JsonbValue	tag;
	Datum	   *elements;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(tags), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		set_text(&tag, elements[i]);
		(void) pushJsonbValue(&state, WJB_ELEM, &tag);
	}
	set_jsonb(value, JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

/* as CloudEvents write it */
static void
set_time(JsonbValue *value, TimestampTz at)
{
	char	   *text = es_cloudevent_time(at);

	if (text != NULL)
		set_string(value, text, strlen(text));
}
