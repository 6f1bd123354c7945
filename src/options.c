/*
 * options.c
 *		Strict reading of small jsonb definitions.  Runs in backends and workers; keeps nothing.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "compat.h"
#include "options.h"

/* a text that a type takes */
typedef struct Input
{
	PGFunction	function;
	const char *what;
	const char *hint;
} Input;

static const Input interval_input = {interval_in, "an interval", "Write it as \"500ms\", \"30s\" or \"10 minutes\"."};
static const Input moment_input = {timestamptz_in, "a time", "Write it as \"2026-01-31T14:00:00Z\"."};

static void check(Jsonb *options, const EsOption *allowed, const char *what, bool null_passes);
/* what is longer is not written out to show its beginning */
#define MAX_SHOWN_BYTES (64 * 1024)

static const EsOption *find_option(const EsOption *allowed, const char *key, int len);
static void refuse_unknown(const EsOption *allowed, const char *key, int len, const char *what);
static void check_value(const EsOption *option, JsonbValue *value, const char *what);
static void check_range(const EsOption *option, double value, const char *shown, const char *what);
static bool is_string_array(JsonbValue *value);
static char *show_value(JsonbValue *value);
static double value_number(JsonbValue *value);
static Datum read_input(const Input *input, const char *text);
static int64 interval_usec(JsonbValue *value);
static bool is_version(Numeric value);
static Jsonb *get_container(Jsonb *options, const char *key);
static JsonbValue *get_value(Jsonb *options, const char *key, JsonbValue *store);

void
es_options_check(Jsonb *options, const EsOption *allowed, const char *what)
{
	check(options, allowed, what, false);
}

void
es_options_check_changes(Jsonb *changes, const EsOption *allowed, const char *what)
{
	check(changes, allowed, what, true);
}

static void
check(Jsonb *options, const EsOption *allowed, const char *what, bool null_passes)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	const EsOption *option = NULL;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON object, not %s", what, es_options_shown(options))));
	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			option = find_option(allowed, v.val.string.val, v.val.string.len);
			if (option == NULL)
				refuse_unknown(allowed, v.val.string.val, v.val.string.len, what);
		}
		else if (token == WJB_VALUE && !(null_passes && v.type == jbvNull))
			check_value(option, &v, what);
	}
}

bool
es_options_has(Jsonb *options, const char *key)
{
	JsonbValue	v;

	return get_value(options, key, &v) != NULL;
}

bool
es_options_is_null(Jsonb *options, const char *key)
{
	JsonbValue	v;

	return get_value(options, key, &v) != NULL && v.type == jbvNull;
}

char *
es_options_string(Jsonb *options, const char *key, const char *dflt)
{
	JsonbValue	v;

	if (get_value(options, key, &v) == NULL)
		return dflt ? pstrdup(dflt) : NULL;
	return pnstrdup(v.val.string.val, v.val.string.len);
}

int
es_options_int(Jsonb *options, const char *key, int dflt)
{
	JsonbValue	v;

	return get_value(options, key, &v) == NULL ? dflt : (int) value_number(&v);
}

int64
es_options_version(Jsonb *options, const char *key, int64 dflt)
{
	JsonbValue	v;

	if (get_value(options, key, &v) == NULL)
		return dflt;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v.val.numeric)));
}

double
es_options_number(Jsonb *options, const char *key, double dflt)
{
	JsonbValue	v;

	return get_value(options, key, &v) == NULL ? dflt : value_number(&v);
}

bool
es_options_bool(Jsonb *options, const char *key, bool dflt)
{
	JsonbValue	v;

	return get_value(options, key, &v) == NULL ? dflt : v.val.boolean;
}

int64
es_options_interval_ms(Jsonb *options, const char *key, int64 dflt)
{
	JsonbValue	v;

	return get_value(options, key, &v) == NULL ? dflt : interval_usec(&v) / 1000;
}

int64
es_options_interval_of(const char *text)
{
	JsonbValue	v = {.type = jbvString};

	v.val.string.val = unconstify(char *, text);
	v.val.string.len = strlen(text);
	return interval_usec(&v) / 1000;
}

TimestampTz
es_options_moment(Jsonb *options, const char *key, TimestampTz dflt)
{
	char	   *text = es_options_string(options, key, NULL);

	return text == NULL ? dflt : DatumGetTimestampTz(read_input(&moment_input, text));
}

Jsonb *
es_options_object(Jsonb *options, const char *key)
{
	return get_container(options, key);
}

Jsonb *
es_options_any(Jsonb *options, const char *key)
{
	return get_container(options, key);
}

Jsonb *
es_options_array(Jsonb *options, const char *key)
{
	return get_container(options, key);
}

/* an object or an array, or a scalar that stands alone */
static Jsonb *
get_container(Jsonb *options, const char *key)
{
	JsonbValue	v;

	return get_value(options, key, &v) == NULL ? NULL : JsonbValueToJsonb(&v);
}

List *
es_options_strings(Jsonb *options, const char *key)
{
	JsonbValue	v;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	element;
	List	   *result = NIL;

	if (get_value(options, key, &v) == NULL)
		return NIL;
	it = JsonbIteratorInit(v.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			result = lappend(result, pnstrdup(element.val.string.val, element.val.string.len));
	return result;
}

Jsonb **
es_options_elements(Jsonb *array, const char *what, const char *hint, int *n)
{
	Jsonb	  **elements;
	JsonbIterator *it;
	JsonbValue	element;
	JsonbIteratorToken token;

	if (!JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON array, not %s", what, es_options_shown(array)),
				 errhint("%s", hint)));
	elements = MemoryContextAllocExtended(CurrentMemoryContext, Max(JB_ROOT_COUNT(array), 1) * sizeof(Jsonb *), MCXT_ALLOC_HUGE);
	*n = 0;
	it = JsonbIteratorInit(&array->root);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			elements[(*n)++] = JsonbValueToJsonb(&element);
	return elements;
}

Jsonb *
es_options_merge(Jsonb *options, Jsonb *changes)
{
	Datum		merged = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(options), JsonbPGetDatum(changes));
	JsonbIterator *it = JsonbIteratorInit(&changes->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	text	   *key = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = cstring_to_text_with_len(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && v.type == jbvNull)
			merged = DirectFunctionCall2(jsonb_delete, merged, PointerGetDatum(key));
	}
	return DatumGetJsonbP(merged);
}

bool
es_options_equal(Jsonb *a, Jsonb *b)
{
	return a == NULL || b == NULL ? a == b : compareJsonbContainers(&a->root, &b->root) == 0;
}

Jsonb *
es_options_of(const char *key, Jsonb *value)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	escape_json(&buf, key);
	appendStringInfo(&buf, ": %s}", value == NULL ? "null" : es_options_text(value));
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

Jsonb *
es_options_of_int(const char *key, int value)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	escape_json(&buf, key);
	appendStringInfo(&buf, ": %d}", value);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

char *
es_options_text(Jsonb *options)
{
	return JsonbToCString(NULL, &options->root, VARSIZE(options));
}

char *
es_options_shown(Jsonb *options)
{
	char	   *shown;

	if (VARSIZE(options) > MAX_SHOWN_BYTES)
		return psprintf("a value of %u bytes", (unsigned) VARSIZE(options));
	shown = es_options_text(options);
	return es_arg_shown(shown, strlen(shown));
}

/* NULL where the key is absent; containers come back as binary */
static JsonbValue *
get_value(Jsonb *options, const char *key, JsonbValue *store)
{
	return getKeyJsonValueFromContainer(&options->root, key, strlen(key), store);
}

static const EsOption *
find_option(const EsOption *allowed, const char *key, int len)
{
	for (const EsOption *o = allowed; o->name != NULL; o++)
		if (strlen(o->name) == len && memcmp(o->name, key, len) == 0)
			return o;
	return NULL;
}

static void
refuse_unknown(const EsOption *allowed, const char *key, int len, const char *what)
{
	StringInfoData known;

	initStringInfo(&known);
	for (const EsOption *o = allowed; o->name != NULL; o++)
		appendStringInfo(&known, "%s\"%s\"", o == allowed ? "" : ", ", o->name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown key \"%s\" in %s", es_arg_shown(key, len), what),
			 known.len == 0 ? errhint("No key is known here.") : errhint("Known keys: %s.", known.data)));
}

static void
check_value(const EsOption *option, JsonbValue *value, const char *what)
{
	static const char *const wanted[] = {
		[ES_OPTION_STRING] = "a string",
		[ES_OPTION_INT] = "an integer",
		[ES_OPTION_VERSION] = "an integer of 0 or more",
		[ES_OPTION_NUMBER] = "a number",
		[ES_OPTION_BOOL] = "true or false",
		[ES_OPTION_INTERVAL] = "an interval as a string, such as \"30s\"",
		[ES_OPTION_OBJECT] = "an object",
		[ES_OPTION_ARRAY] = "an array",
		[ES_OPTION_STRINGS] = "an array of strings",
		[ES_OPTION_ANY] = "JSON",
	};
	bool		ok = false;

	switch (option->type)
	{
		case ES_OPTION_STRING:
		case ES_OPTION_INTERVAL:
			ok = value->type == jbvString;
			break;
		case ES_OPTION_INT:
			ok = value->type == jbvNumeric && value_number(value) == (int32) value_number(value);
			break;
		case ES_OPTION_VERSION:
			ok = value->type == jbvNumeric && is_version(value->val.numeric);
			break;
		case ES_OPTION_NUMBER:
			ok = value->type == jbvNumeric;
			break;
		case ES_OPTION_BOOL:
			ok = value->type == jbvBool;
			break;
		case ES_OPTION_OBJECT:
			ok = value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
			break;
		case ES_OPTION_ARRAY:
			ok = value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
			break;
		case ES_OPTION_STRINGS:
			ok = is_string_array(value);
			break;
		case ES_OPTION_ANY:
			ok = true;
			break;
	}
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" in %s must be %s, not %s", option->name, what, wanted[option->type], show_value(value))));

	if (option->type == ES_OPTION_INT || option->type == ES_OPTION_NUMBER)
		check_range(option, value_number(value), show_value(value), what);
	else if (option->type == ES_OPTION_INTERVAL)
		check_range(option, (double) interval_usec(value) / USECS_PER_SEC, show_value(value), what);
}

static void
check_range(const EsOption *option, double value, const char *shown, const char *what)
{
	if (value < option->min || (option->max > option->min && value > option->max))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" in %s is out of range: %s", option->name, what, shown),
				 errhint(option->max > option->min ? "It lies between %g and %g%s." : "It is at least %g.",
						 option->min, option->max, option->type == ES_OPTION_INTERVAL ? " seconds" : "")));
}

static bool
is_string_array(JsonbValue *value)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		return false;
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM && v.type != jbvString)
			return false;
	return true;
}

static char *
show_value(JsonbValue *value)
{
	return es_options_shown(JsonbValueToJsonb(value));
}

static double
value_number(JsonbValue *value)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
}

/* without a fraction, from 0 to what bigint holds */
static bool
is_version(Numeric value)
{
	Datum		number = NumericGetDatum(value);
	Datum		zero = NumericGetDatum(int64_to_numeric(0));
	Datum		most = NumericGetDatum(int64_to_numeric(PG_INT64_MAX));

	return DatumGetBool(DirectFunctionCall2(numeric_ge, number, zero)) &&
		DatumGetBool(DirectFunctionCall2(numeric_le, number, most)) &&
		DatumGetBool(DirectFunctionCall2(numeric_eq, number, DirectFunctionCall1(numeric_floor, number)));
}

/* a malformed value is 22023 whatever the server calls it; these functions hold nothing that an error could leave behind */
static Datum
read_input(const Input *input, const char *text)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile Datum result = (Datum) 0;

	PG_TRY();
	{
		result = DirectFunctionCall3(input->function, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not %s", es_arg_shown(text, strlen(text)), input->what),
				 errhint("%s", input->hint)));
	}
	PG_END_TRY();
	return result;
}

static int64
interval_usec(JsonbValue *value)
{
	Interval   *interval = DatumGetIntervalP(read_input(&interval_input, pnstrdup(value->val.string.val, value->val.string.len)));

	return interval->time + ((int64) interval->month * DAYS_PER_MONTH + interval->day) * USECS_PER_DAY;
}
