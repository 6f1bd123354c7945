/*
 * asl.c
 *		What the modules of sagas' definitions share: faults, failures, values of JSON, instants.
 *
 * Runs in any backend; keeps nothing.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "asl_value.h"
#include "options.h"

static bool read_digits(const char **at, const char *end, int n, int max, int *number);
static bool read_char(const char **at, const char *end, char c);
static bool read_date(const char **at, const char *end, int64 *days);
static bool read_offset(const char **at, const char *end, int *seconds);

void
es_asl_add_fault(StringInfo faults, const char *where, const char *format, ...)
{
	int			saved_errno = errno;

	if (faults->len > 0)
		appendStringInfoChar(faults, '\n');
	appendStringInfo(faults, "%s: ", where);
	for (;;)
	{
		va_list		args;
		int			needed;

		errno = saved_errno;
		va_start(args, format);
		needed = appendStringInfoVA(faults, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(faults, needed);
	}
}

bool
es_asl_fail(EsAslFault *fault, const char *error, const char *format, ...)
{
	StringInfoData cause;
	int			saved_errno = errno;

	if (fault->error != NULL)
		return false;
	initStringInfo(&cause);
	for (;;)
	{
		va_list		args;
		int			needed;

		errno = saved_errno;
		va_start(args, format);
		needed = appendStringInfoVA(&cause, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&cause, needed);
	}
	fault->error = error;
	fault->cause = cause.data;
	return false;
}

void
es_asl_value_set_jsonb(JsonbValue *value, Jsonb *jsonb)
{
	if (JB_ROOT_IS_SCALAR(jsonb) && JsonbExtractScalar(&jsonb->root, value))
		return;
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

void
es_asl_value_set_string(JsonbValue *value, const char *string, int len)
{
	value->type = jbvString;
	value->val.string.val = unconstify(char *, string);
	value->val.string.len = len;
}

void
es_asl_value_set_integer(JsonbValue *value, int64 number)
{
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

Jsonb *
es_asl_value_jsonb(const JsonbValue *value)
{
	JsonbValue	copy = *value;

	return JsonbValueToJsonb(&copy);
}

bool
es_asl_value_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

bool
es_asl_value_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data) && !JsonContainerIsScalar(value->val.binary.data);
}

char *
es_asl_value_string(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

char *
es_asl_value_text(const JsonbValue *value, int *len)
{
	char	   *text;

	if (value->type == jbvString)
	{
		*len = value->val.string.len;
		return value->val.string.val;
	}
	text = es_options_text(es_asl_value_jsonb(value));
	*len = strlen(text);
	return text;
}

char *
es_asl_value_shown(const JsonbValue *value)
{
	return es_options_shown(es_asl_value_jsonb(value));
}

bool
es_asl_value_equal(const JsonbValue *a, const JsonbValue *b)
{
	int			order;

	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvBinary:
			return compareJsonbContainers(a->val.binary.data, b->val.binary.data) == 0;
		default:
			return es_asl_value_order(a, b, &order) && order == 0;
	}
}

bool
es_asl_value_order(const JsonbValue *a, const JsonbValue *b, int *order)
{
	if (a->type == jbvNumeric && b->type == jbvNumeric)
		*order = DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a->val.numeric), NumericGetDatum(b->val.numeric)));
	else if (a->type == jbvString && b->type == jbvString)
	{
		*order = memcmp(a->val.string.val, b->val.string.val, Min(a->val.string.len, b->val.string.len));
		if (*order == 0)
			*order = a->val.string.len - b->val.string.len;
	}
	else
		return false;
	return true;
}

bool
es_asl_instant(const char *text, int len, int64 *seconds, int *nanoseconds)
{
	const char *at = text;
	const char *end = text + len;
	int64		days;
	int			hour;
	int			minute;
	int			second;
	int			offset;

	*nanoseconds = 0;
	if (!read_date(&at, end, &days) || !read_char(&at, end, 'T') || !read_digits(&at, end, 2, 23, &hour) ||
		!read_char(&at, end, ':') || !read_digits(&at, end, 2, 59, &minute) || !read_char(&at, end, ':') ||
		!read_digits(&at, end, 2, 59, &second))
		return false;
	if (read_char(&at, end, '.'))
	{
		const char *start = at;

		for (int unit = 100000000; at < end && isdigit((unsigned char) *at); unit /= 10)
			*nanoseconds += unit * (*at++ - '0');
		if (at == start)
			return false;
	}
	if (!read_offset(&at, end, &offset) || at != end)
		return false;
	*seconds = days * SECS_PER_DAY + hour * SECS_PER_HOUR + minute * SECS_PER_MINUTE + second - offset;
	return true;
}

static bool
read_digits(const char **at, const char *end, int n, int max, int *number)
{
	*number = 0;
	for (int i = 0; i < n; i++)
	{
		if (*at >= end || !isdigit((unsigned char) **at))
			return false;
		*number = *number * 10 + *(*at)++ - '0';
	}
	return *number <= max;
}

static bool
read_char(const char **at, const char *end, char c)
{
	if (*at >= end || **at != c)
		return false;
	(*at)++;
	return true;
}

static bool
read_date(const char **at, const char *end, int64 *days)
{
	int			year;
	int			month;
	int			day;

	if (!read_digits(at, end, 4, 9999, &year) || !read_char(at, end, '-') || !read_digits(at, end, 2, MONTHS_PER_YEAR, &month) ||
		!read_char(at, end, '-') || !read_digits(at, end, 2, 31, &day))
		return false;
	if (month == 0 || day == 0 || day > day_tab[isleap(year)][month - 1])
		return false;
	*days = (int64) date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

static bool
read_offset(const char **at, const char *end, int *seconds)
{
	int			sign = read_char(at, end, '-') ? -1 : 1;
	int			hour;
	int			minute;

	*seconds = 0;
	if (sign > 0 && read_char(at, end, 'Z'))
		return true;
	if ((sign > 0 && !read_char(at, end, '+')) || !read_digits(at, end, 2, 23, &hour) || !read_char(at, end, ':') ||
		!read_digits(at, end, 2, 59, &minute))
		return false;
	*seconds = sign * (hour * SECS_PER_HOUR + minute * SECS_PER_MINUTE);
	return true;
}
