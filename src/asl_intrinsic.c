/*
 * asl_intrinsic.c
 *		The intrinsic functions of States Language.
 *
 * Runs in any backend; keeps nothing.  What a function cannot do is a failure of the state, States.IntrinsicFailure, with its name and the value
 * in the cause: never an error of the server, which would undo the transition instead.  So text is looked at before the
 * server's functions get it.  Limits are those of Step Functions; numbers that have to be integers are rounded, as there.
 */
#include "postgres.h"

#include <ctype.h>

#include "common/base64.h"
#include "common/cryptohash.h"
#include "common/jsonapi.h"
#include "common/md5.h"
#include "common/pg_prng.h"
#include "common/sha1.h"
#include "common/sha2.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

#include "arg.h"
#include "asl_intrinsic.h"
#include "compat.h"

#define MAX_CHARACTERS 10000	/* of what is encoded, decoded, hashed */
#define MAX_RANGE 1000
#define MAX_JSON_DEPTH 1000
#define MAX_JSON_NUMBER_BYTES 10000
#define MAX_JSON_EXPONENT 1000

typedef struct Element
{
	Jsonb	   *jsonb;
	int			place;
} Element;

static const struct
{
	const char *name;
	pg_cryptohash_type type;
	int			len;
}			algorithms[] = {
	{"MD5", PG_MD5, MD5_DIGEST_LENGTH},
	{"SHA-1", PG_SHA1, SHA1_DIGEST_LENGTH},
	{"SHA-256", PG_SHA256, PG_SHA256_DIGEST_LENGTH},
	{"SHA-384", PG_SHA384, PG_SHA384_DIGEST_LENGTH},
	{"SHA-512", PG_SHA512, PG_SHA512_DIGEST_LENGTH}
};

static bool fail(const AslIntrinsic *intrinsic, EsAslFault *fault, const char *format, ...) pg_attribute_printf(3, 4);
static bool fail_at(const AslIntrinsic *intrinsic, EsAslFault *fault, const JsonbValue *value, const char *problem);
static bool need_string(const AslIntrinsic *intrinsic, const JsonbValue *arg, int max_characters, EsAslFault *fault);
static bool need_array(const AslIntrinsic *intrinsic, const JsonbValue *arg, EsAslFault *fault);
static bool need_integer(const AslIntrinsic *intrinsic, const JsonbValue *arg, int32 *number, EsAslFault *fault);
static void set_array(JsonbValue *value, const JsonbValue *elements, int n);
static JsonbValue *elements_of(const JsonbValue *array, int *n);

#define RUN(name) static bool name(const AslIntrinsic *intrinsic, const JsonbValue *args, int nargs, JsonbValue *value, EsAslFault *fault)

RUN(run_format);
RUN(run_string_to_json);
RUN(run_json_to_string);
RUN(run_array);
RUN(run_array_partition);
RUN(run_array_contains);
RUN(run_array_range);
RUN(run_array_get_item);
RUN(run_array_length);
RUN(run_array_unique);
RUN(run_base64_encode);
RUN(run_base64_decode);
RUN(run_hash);
RUN(run_json_merge);
RUN(run_math_random);
RUN(run_math_add);
RUN(run_string_split);
RUN(run_uuid);

static const AslIntrinsic intrinsics[] = {
	{"States.Format", 1, -1, run_format},
	{"States.StringToJson", 1, 1, run_string_to_json},
	{"States.JsonToString", 1, 1, run_json_to_string},
	{"States.Array", 0, -1, run_array},
	{"States.ArrayPartition", 2, 2, run_array_partition},
	{"States.ArrayContains", 2, 2, run_array_contains},
	{"States.ArrayRange", 3, 3, run_array_range, true},
	{"States.ArrayGetItem", 2, 2, run_array_get_item},
	{"States.ArrayLength", 1, 1, run_array_length},
	{"States.ArrayUnique", 1, 1, run_array_unique},
	{"States.Base64Encode", 1, 1, run_base64_encode},
	{"States.Base64Decode", 1, 1, run_base64_decode},
	{"States.Hash", 2, 2, run_hash},
	{"States.JsonMerge", 3, 3, run_json_merge},
	{"States.MathRandom", 2, 3, run_math_random, true},
	{"States.MathAdd", 2, 2, run_math_add, true},
	{"States.StringSplit", 2, 2, run_string_split},
	{"States.UUID", 0, 0, run_uuid}
};

static const char *json_problem(const char *text, int len);
static bool is_json(const char *text, int len);
static int	compare_elements(const void *a, const void *b);
static bool hash_text(const char *text, int algorithm, char *hex);
static const char *piece_end(const char *at, const char *end, const JsonbValue *delimiters);
static int	character_len(const char *at, const char *end);

const AslIntrinsic *
es_asl_intrinsic_find(const char *name, int len)
{
	for (int i = 0; i < lengthof(intrinsics); i++)
		if (strlen(intrinsics[i].name) == len && memcmp(intrinsics[i].name, name, len) == 0)
			return &intrinsics[i];
	return NULL;
}

bool
es_asl_intrinsic_is_format(const AslIntrinsic *intrinsic)
{
	return intrinsic->run == run_format;
}

static bool
fail(const AslIntrinsic *intrinsic, EsAslFault *fault, const char *format, ...)
{
	StringInfoData problem;

	initStringInfo(&problem);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&problem, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&problem, needed);
	}
	return es_asl_fail(fault, ES_ASL_INTRINSIC, "%s: %s", intrinsic->name, problem.data);
}

static bool
fail_at(const AslIntrinsic *intrinsic, EsAslFault *fault, const JsonbValue *value, const char *problem)
{
	return fail(intrinsic, fault, "%s %s", es_asl_value_shown(value), problem);
}

/* max_characters 0: as long as it is */
static bool
need_string(const AslIntrinsic *intrinsic, const JsonbValue *arg, int max_characters, EsAslFault *fault)
{
	if (arg->type != jbvString)
		return fail_at(intrinsic, fault, arg, "is no string");
	if (max_characters > 0 && pg_mbstrlen_with_len(arg->val.string.val, arg->val.string.len) > max_characters)
		return fail(intrinsic, fault, "a string has %d characters, more than %d",
					pg_mbstrlen_with_len(arg->val.string.val, arg->val.string.len), max_characters);
	return true;
}

static bool
need_array(const AslIntrinsic *intrinsic, const JsonbValue *arg, EsAslFault *fault)
{
	return es_asl_value_is_array(arg) || fail_at(intrinsic, fault, arg, "is no array");
}

static bool
need_integer(const AslIntrinsic *intrinsic, const JsonbValue *arg, int32 *number, EsAslFault *fault)
{
	bool		is_out_of_range = false;

	if (arg->type != jbvNumeric)
		return fail_at(intrinsic, fault, arg, "is no number");
	*number = numeric_int4_opt_error(arg->val.numeric, &is_out_of_range);
	if (is_out_of_range)
		return fail_at(intrinsic, fault, arg, "is not between -2147483648 and 2147483647");
	return true;
}

static void
set_array(JsonbValue *value, const JsonbValue *elements, int n)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		JsonbValue	element = elements[i];

		(void) pushJsonbValue(&state, WJB_ELEM, &element);
	}
	es_asl_value_set_jsonb(value, JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

static JsonbValue *
elements_of(const JsonbValue *array, int *n)
{
	JsonbIterator *it = JsonbIteratorInit(array->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue	v;
	JsonbValue *elements = MemoryContextAllocHuge(CurrentMemoryContext,
												  Max(JsonContainerSize(array->val.binary.data), 1) * sizeof(JsonbValue));

	*n = 0;
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			elements[(*n)++] = v;
	return elements;
}

int
es_asl_intrinsic_count_places(const char *template, int len, bool has_escapes)
{
	int			n = 0;

	for (int i = 0; i + 1 < len; i++)
	{
		if (has_escapes && template[i] == '\\')
			i++;
		else if (template[i] == '{' && template[i + 1] == '}')
		{
			n++;
			i++;
		}
	}
	return n;
}

bool
es_asl_intrinsic_format(const AslIntrinsic *intrinsic, const char *template, int len, bool has_escapes,
						const JsonbValue *args, int nargs, JsonbValue *value, EsAslFault *fault)
{
	int			nplaces = es_asl_intrinsic_count_places(template, len, has_escapes);
	StringInfoData buf;

	if (nplaces != nargs)
		return fail(intrinsic, fault, "'%s' has %d {}, and %d values follow", es_arg_shown(template, len), nplaces, nargs);
	initStringInfo(&buf);
	for (int i = 0; i < len; i++)
	{
		if (has_escapes && template[i] == '\\' && i + 1 < len)
			appendStringInfoChar(&buf, template[++i]);
		else if (template[i] == '{' && i + 1 < len && template[i + 1] == '}')
		{
			int			n;
			const char *text = es_asl_value_text(args++, &n);

			appendBinaryStringInfo(&buf, text, n);
			i++;
		}
		else
			appendStringInfoChar(&buf, template[i]);
	}
	es_asl_value_set_string(value, buf.data, buf.len);
	return true;
}

/* with a template that comes from somewhere */
RUN(run_format)
{
	return need_string(intrinsic, &args[0], 0, fault) &&
		es_asl_intrinsic_format(intrinsic, args[0].val.string.val, args[0].val.string.len, false, args + 1, nargs - 1, value, fault);
}

RUN(run_string_to_json)
{
	char	   *text;
	const char *problem;

	if (!need_string(intrinsic, &args[0], 0, fault))
		return false;
	text = es_asl_value_string(&args[0]);
	problem = json_problem(text, strlen(text));
	if (problem == NULL && !is_json(text, strlen(text)))
		problem = "is no JSON";
	if (problem != NULL)
		return fail_at(intrinsic, fault, &args[0], problem);
	es_asl_value_set_jsonb(value, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text))));
	return true;
}

/* what the server's own functions would raise an error for, although it may be JSON; NULL: nothing */
static const char *
json_problem(const char *text, int len)
{
	int			depth = 0;

	for (const char *c = text; c < text + len; c++)
	{
		const char *start = c;

		if (*c == '"')
			for (c++; c < text + len && *c != '"'; c++)
				c += *c == '\\';
		else if (*c == '[' || *c == '{')
			depth++;
		else if (*c == ']' || *c == '}')
			depth--;
		else if (isdigit((unsigned char) *c))
		{
			while (isdigit((unsigned char) *c) || *c == '.')
				c++;
			if ((*c == 'e' || *c == 'E') && (strtol(c + 1, NULL, 10) > MAX_JSON_EXPONENT || strtol(c + 1, NULL, 10) < -MAX_JSON_EXPONENT))
				return "has a number that is too large or too small";
			if (c - start > MAX_JSON_NUMBER_BYTES)
				return "has a number that is too long";
			c--;
		}
		if (depth > MAX_JSON_DEPTH)
			return "is nested too deep";
	}
	return NULL;
}

static bool
is_json(const char *text, int len)
{
	return pg_parse_json(es_json_lexer(unconstify(char *, text), len), &nullSemAction) == JSON_SUCCESS;
}

RUN(run_json_to_string)
{
	Jsonb	   *jsonb = es_asl_value_jsonb(&args[0]);
	char	   *text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));

	es_asl_value_set_string(value, text, strlen(text));
	return true;
}

RUN(run_array)
{
	set_array(value, args, nargs);
	return true;
}

RUN(run_array_partition)
{
	JsonbValue *elements;
	JsonbValue *parts;
	int			n;
	int			nparts = 0;
	int32		size;

	if (!need_array(intrinsic, &args[0], fault) || !need_integer(intrinsic, &args[1], &size, fault))
		return false;
	if (size < 1)
		return fail_at(intrinsic, fault, &args[1], "is no size of a part: it is a number from 1 on");
	elements = elements_of(&args[0], &n);
	parts = MemoryContextAllocHuge(CurrentMemoryContext, Max(n, 1) * sizeof(JsonbValue));
	for (int64 i = 0; i < n; i += size)
		set_array(&parts[nparts++], elements + i, Min(size, n - i));
	set_array(value, parts, nparts);
	return true;
}

RUN(run_array_contains)
{
	JsonbValue *elements;
	int			n;

	if (!need_array(intrinsic, &args[0], fault))
		return false;
	value->type = jbvBool;
	value->val.boolean = false;
	elements = elements_of(&args[0], &n);
	for (int i = 0; i < n && !value->val.boolean; i++)
		value->val.boolean = es_asl_value_equal(&elements[i], &args[1]);
	return true;
}

/* both ends are in it */
RUN(run_array_range)
{
	JsonbValue	elements[MAX_RANGE];
	int32		first;
	int32		last;
	int32		step;
	int64		n;

	if (!need_integer(intrinsic, &args[0], &first, fault) || !need_integer(intrinsic, &args[1], &last, fault) ||
		!need_integer(intrinsic, &args[2], &step, fault))
		return false;
	if (step == 0)
		return fail_at(intrinsic, fault, &args[2], "is no step: nothing would end");
	n = Max(((int64) last - first) / step + 1, 0);
	if ((step > 0) != (last >= first) && last != first)
		n = 0;
	if (n > MAX_RANGE)
		return fail(intrinsic, fault, "%d to %d by %d has " INT64_FORMAT " items, more than %d", first, last, step, n, MAX_RANGE);
	for (int i = 0; i < n; i++)
		es_asl_value_set_integer(&elements[i], first + (int64) i * step);
	set_array(value, elements, n);
	return true;
}

RUN(run_array_get_item)
{
	int32		place;
	int			n;

	if (!need_array(intrinsic, &args[0], fault) || !need_integer(intrinsic, &args[1], &place, fault))
		return false;
	n = JsonContainerSize(args[0].val.binary.data);
	if (place < 0 || place >= n)
		return fail(intrinsic, fault, "there is no item %d in an array of %d", place, n);
	*value = *getIthJsonbValueFromContainer(args[0].val.binary.data, place);
	return true;
}

RUN(run_array_length)
{
	if (!need_array(intrinsic, &args[0], fault))
		return false;
	es_asl_value_set_integer(value, JsonContainerSize(args[0].val.binary.data));
	return true;
}

/* the first of equal ones, in their order */
RUN(run_array_unique)
{
	JsonbValue *elements;
	Element    *sorted;
	bool	   *is_first;
	int			n;
	int			nkept = 0;

	if (!need_array(intrinsic, &args[0], fault))
		return false;
	elements = elements_of(&args[0], &n);
	sorted = MemoryContextAllocHuge(CurrentMemoryContext, Max(n, 1) * sizeof(Element));
	is_first = MemoryContextAllocHuge(CurrentMemoryContext, Max(n, 1) * sizeof(bool));
	for (int i = 0; i < n; i++)
		sorted[i] = (Element) {es_asl_value_jsonb(&elements[i]), i};
	qsort(sorted, n, sizeof(Element), compare_elements);
	for (int i = 0; i < n; i++)
		is_first[sorted[i].place] = i == 0 || compareJsonbContainers(&sorted[i].jsonb->root, &sorted[i - 1].jsonb->root) != 0;
	for (int i = 0; i < n; i++)
		if (is_first[i])
			elements[nkept++] = elements[i];
	set_array(value, elements, nkept);
	return true;
}

static int
compare_elements(const void *a, const void *b)
{
	const Element *x = a;
	const Element *y = b;
	int			order = compareJsonbContainers(&x->jsonb->root, &y->jsonb->root);

	return order != 0 ? order : x->place - y->place;
}

/* of the text in UTF-8, whatever the server's encoding */
RUN(run_base64_encode)
{
	char	   *utf8;
	char	   *text;
	int			max;
	int			len;

	if (!need_string(intrinsic, &args[0], MAX_CHARACTERS, fault))
		return false;
	utf8 = pg_server_to_any(es_asl_value_string(&args[0]), args[0].val.string.len, PG_UTF8);
	max = pg_b64_enc_len(strlen(utf8)) + 1;
	text = palloc(max);
	len = pg_b64_encode((const void *) utf8, strlen(utf8), text, max);
	if (len < 0)
		elog(ERROR, "could not encode %zu bytes in base64", strlen(utf8));
	es_asl_value_set_string(value, text, len);
	return true;
}

RUN(run_base64_decode)
{
	int			max;
	char	   *bytes;
	int			len;

	if (!need_string(intrinsic, &args[0], MAX_CHARACTERS, fault))
		return false;
	max = pg_b64_dec_len(args[0].val.string.len);
	bytes = palloc(max + 1);
	len = pg_b64_decode(args[0].val.string.val, args[0].val.string.len, (void *) bytes, max);
	if (len < 0)
		return fail_at(intrinsic, fault, &args[0], "is no base64");
	if (!pg_verify_mbstr(PG_UTF8, bytes, len, true))
		return fail_at(intrinsic, fault, &args[0], "is base64 of something that is no text in UTF-8");
	bytes[len] = '\0';
	bytes = pg_any_to_server(bytes, len, PG_UTF8);
	es_asl_value_set_string(value, bytes, strlen(bytes));
	return true;
}

/* what is no string is hashed as JSON */
RUN(run_hash)
{
	char		hex[PG_SHA512_DIGEST_LENGTH * 2 + 1];
	int			len;
	const char *text = es_asl_value_text(&args[0], &len);
	char	   *copy = pnstrdup(text, len);

	if (pg_mbstrlen(copy) > MAX_CHARACTERS)
		return fail(intrinsic, fault, "a value has %d characters, more than %d", pg_mbstrlen(copy), MAX_CHARACTERS);
	if (!need_string(intrinsic, &args[1], 0, fault))
		return false;
	for (int i = 0; i < lengthof(algorithms); i++)
		if (strcmp(es_asl_value_string(&args[1]), algorithms[i].name) == 0)
		{
			if (!hash_text(pg_server_to_any(copy, len, PG_UTF8), i, hex))
				return fail_at(intrinsic, fault, &args[1], "is an algorithm that this server does not compute");
			es_asl_value_set_string(value, pstrdup(hex), strlen(hex));
			return true;
		}
	return fail_at(intrinsic, fault, &args[1], "is none of MD5, SHA-1, SHA-256, SHA-384, SHA-512");
}

/* false: the library under it refuses, as MD5 in FIPS mode */
static bool
hash_text(const char *text, int algorithm, char *hex)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(algorithms[algorithm].type);
	uint8		digest[PG_SHA512_DIGEST_LENGTH];
	bool		is_done = pg_cryptohash_init(hash) >= 0 && pg_cryptohash_update(hash, (const uint8 *) text, strlen(text)) >= 0 &&
		pg_cryptohash_final(hash, digest, algorithms[algorithm].len) >= 0;

	pg_cryptohash_free(hash);
	if (is_done)
		hex[hex_encode((const char *) digest, algorithms[algorithm].len, hex)] = '\0';
	return is_done;
}

RUN(run_json_merge)
{
	for (int i = 0; i < 2; i++)
		if (!es_asl_value_is_object(&args[i]))
			return fail_at(intrinsic, fault, &args[i], "is no object");
	if (args[2].type != jbvBool || args[2].val.boolean)
		return fail_at(intrinsic, fault, &args[2], "has to be false: objects are merged by their own fields only");
	es_asl_value_set_jsonb(value, DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(es_asl_value_jsonb(&args[0])),
																	JsonbPGetDatum(es_asl_value_jsonb(&args[1])))));
	return true;
}

/* from start on, below end; the same number for the same seed */
RUN(run_math_random)
{
	pg_prng_state seeded;
	pg_prng_state *state = &pg_global_prng_state;
	int32		start;
	int32		end;
	int32		seed;

	if (!need_integer(intrinsic, &args[0], &start, fault) || !need_integer(intrinsic, &args[1], &end, fault))
		return false;
	if (start >= end)
		return fail(intrinsic, fault, "there is no number from %d on and below %d", start, end);
	if (nargs > 2)
	{
		if (!need_integer(intrinsic, &args[2], &seed, fault))
			return false;
		pg_prng_seed(&seeded, (uint64) seed);
		state = &seeded;
	}
	es_asl_value_set_integer(value, start + (int64) pg_prng_uint64_range(state, 0, (uint64) ((int64) end - start - 1)));
	return true;
}

RUN(run_math_add)
{
	int32		a;
	int32		b;

	if (!need_integer(intrinsic, &args[0], &a, fault) || !need_integer(intrinsic, &args[1], &b, fault))
		return false;
	es_asl_value_set_integer(value, (int64) a + b);
	return true;
}

/* at each of the characters; what is empty between them is left out */
RUN(run_string_split)
{
	JsonbParseState *state = NULL;
	const char *at;
	const char *end;

	if (!need_string(intrinsic, &args[0], 0, fault) || !need_string(intrinsic, &args[1], 0, fault))
		return false;
	if (args[1].val.string.len == 0)
		return fail_at(intrinsic, fault, &args[1], "has no character to split at");
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	at = args[0].val.string.val;
	end = at + args[0].val.string.len;
	while (at < end)
	{
		const char *next = piece_end(at, end, &args[1]);
		JsonbValue	piece;

		es_asl_value_set_string(&piece, at, next - at);
		if (next > at)
			(void) pushJsonbValue(&state, WJB_ELEM, &piece);
		at = next < end ? next + character_len(next, end) : end;
	}
	es_asl_value_set_jsonb(value, JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
	return true;
}

static const char *
piece_end(const char *at, const char *end, const JsonbValue *delimiters)
{
	const char *last = delimiters->val.string.val + delimiters->val.string.len;

	for (; at < end; at += character_len(at, end))
	{
		int			len = character_len(at, end);

		for (const char *d = delimiters->val.string.val; d < last; d += character_len(d, last))
			if (character_len(d, last) == len && memcmp(d, at, len) == 0)
				return at;
	}
	return end;
}

static int
character_len(const char *at, const char *end)
{
	return Min(pg_encoding_mblen(GetDatabaseEncoding(), at), (int) (end - at));
}

RUN(run_uuid)
{
	Datum		uuid = DirectFunctionCall1(gen_random_uuid, (Datum) 0);
	char	   *text = DatumGetCString(DirectFunctionCall1(uuid_out, uuid));

	es_asl_value_set_string(value, text, strlen(text));
	return true;
}
