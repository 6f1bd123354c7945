/*
 * saga_script.c
 *		The script of a simulation: what is answered to the calls of a saga.
 *
 * Runs in simulate_saga() (saga_simulate.c).  A script is read as a whole, against the definition, before anything is done; afterwards it is a list of
 * answers for each call, of which each is used once, but the last for all that follow.  Local to the process.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "compat.h"
#include "options.h"
#include "saga_script.h"

/* behind the name of a state: its undo */
#define UNDO ".undo"
/* s */
#define MAX_AFTER (100.0 * 365 * SECS_PER_DAY)

/* of one call */
typedef struct Entry
{
	const EsAslCall *call;
	int			n;
	EsScriptAnswer *answers;
	int			used;
	struct Entry *next;
} Entry;

struct EsScript
{
	Entry	   *entries;
};

static const EsAslCall *find_call(const EsSagaVersion *version, const char *key);
static void refuse_state(const EsSagaVersion *version, const char *key);
static Entry *read_entry(const EsAslCall *call, const char *key, Jsonb *value);
static void read_answer(const EsAslCall *call, const char *key, Jsonb *value, EsScriptAnswer *answer);
static EsScript *read_script(const EsAslCall *call, const char *key, Jsonb *value);
static bool read_word(const char *key, Jsonb *value, EsScriptAnswer *answer);
static void refuse(const char *key, Jsonb *value, const char *hint);

EsScript *
es_script_make(const EsSagaVersion *version, Jsonb *script)
{
	EsScript   *result = palloc0(sizeof(EsScript));
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	const EsAslCall *call = NULL;
	char	   *key = NULL;

	if (!JB_ROOT_IS_OBJECT(script))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("script is no object: %s", es_options_shown(script)),
				 errhint("Give answers by state, such as {\"Charge\": {\"output\": {\"paid\": true}}}.")));
	it = JsonbIteratorInit(&script->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		Entry	   *entry;

		if (token == WJB_KEY)
		{
			key = pnstrdup(v.val.string.val, v.val.string.len);
			call = find_call(version, key);
		}
		else if (token == WJB_VALUE)
		{
			entry = read_entry(call, key, JsonbValueToJsonb(&v));
			entry->next = result->entries;
			result->entries = entry;
		}
	}
	return result;
}

bool
es_script_answer(EsScript *script, const EsAslCall *call, EsScriptAnswer *answer)
{
	for (Entry *entry = script == NULL ? NULL : script->entries; entry != NULL; entry = entry->next)
		if (entry->call == call)
		{
			*answer = entry->answers[Min(entry->used, entry->n - 1)];
			entry->used++;
			return true;
		}
	return false;
}

/* a state that has such a name as well comes first */
static const EsAslCall *
find_call(const EsSagaVersion *version, const char *key)
{
	size_t		len = strlen(key);
	const EsAslState *state = es_asl_find_state(version->definition, key);

	if (state != NULL && state->type == ES_ASL_TASK)
		return &state->call;
	if (state == NULL && len > strlen(UNDO) && strcmp(key + len - strlen(UNDO), UNDO) == 0)
	{
		state = es_asl_find_state(version->definition, pnstrdup(key, len - strlen(UNDO)));
		if (state != NULL && state->has_undo)
			return &state->undo;
	}
	refuse_state(version, key);
	return NULL;
}

static void
refuse_state(const EsSagaVersion *version, const char *key)
{
	const EsAslDefinition *definition = version->definition;
	StringInfoData hint;

	initStringInfo(&hint);
	for (int i = 0; i < definition->nstates; i++)
	{
		const EsAslState *state = definition->by_name[i];

		if (state->type != ES_ASL_TASK)
			continue;
		appendStringInfo(&hint, "%s%s", hint.len > 0 ? ", " : "", state->name);
		if (state->has_undo)
			appendStringInfo(&hint, ", %s" UNDO, state->name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the script answers for \"%s\", which saga \"%s\" does not ask", key, version->name),
			 hint.len > 0 ? errhint("It asks for: %s.", hint.data) : errhint("It has no Tasks; the script is {}.")));
}

static Entry *
read_entry(const EsAslCall *call, const char *key, Jsonb *value)
{
	Entry	   *entry = palloc0(sizeof(Entry));
	Jsonb	  **elements = &value;

	entry->call = call;
	entry->n = 1;
	if (JB_ROOT_IS_ARRAY(value) && !JB_ROOT_IS_SCALAR(value))
		elements = es_options_elements(value, "script", "Give a list of answers.", &entry->n);
	if (entry->n == 0)
		refuse(key, value, "The list has one answer at least; leave the state out for none.");
	entry->answers = palloc0(entry->n * sizeof(EsScriptAnswer));
	for (int i = 0; i < entry->n; i++)
		read_answer(call, key, elements[i], &entry->answers[i]);
	return entry;
}

static void
read_answer(const EsAslCall *call, const char *key, Jsonb *value, EsScriptAnswer *answer)
{
	static const EsOption keys[] = {
		{"output", ES_OPTION_ANY},
		{"signal", ES_OPTION_ANY},
		{"error", ES_OPTION_STRING},
		{"cause", ES_OPTION_STRING},
		{"retryable", ES_OPTION_BOOL},
		{"retry_after", ES_OPTION_NUMBER, 0, MAX_AFTER},
		{"after", ES_OPTION_NUMBER, 0, MAX_AFTER},
		{"script", ES_OPTION_OBJECT},
		{NULL}
	};
	const char *result = call->kind == ES_ASL_SIGNAL ? "signal" : "output";
	bool		at_once = ES_CALL_IS_NOW(call) || call->kind == ES_ASL_SAGA;

	answer->ending.retry_after = -1;
	if (!at_once && read_word(key, value, answer))
		return;
	if (!JB_ROOT_IS_OBJECT(value))
		refuse(key, value, call->kind == ES_ASL_SAGA ? "Give {\"script\": {...}}, by which it runs, {\"output\": ...} or {\"error\": \"NAME\"}." :
			   at_once ? "Give {\"output\": ...} or {\"error\": \"NAME\"}: what is done at once answers at once." :
			   "Give {\"output\": ...}, {\"error\": \"NAME\"}, of a signal {\"signal\": ...}, or \"timeout\".");
	es_options_check(value, keys, "an answer of the script");
	if (es_options_has(value, "script"))
	{
		answer->script = read_script(call, key, value);
		return;
	}
	if (es_options_has(value, call->kind == ES_ASL_SIGNAL ? "output" : "signal"))
		refuse(key, value, call->kind == ES_ASL_SIGNAL ? "It waits for a signal: {\"signal\": PAYLOAD}." : "It waits for no signal: {\"output\": ...}.");
	if (es_options_has(value, result) && es_options_has(value, "error"))
		refuse(key, value, "An answer is a success or a failure.");
	if (call->kind == ES_ASL_SIGNAL && es_options_has(value, "error"))
		refuse(key, value, "Nobody answers a signal with an error; \"timeout\" is that none comes.");
	if (at_once && (es_options_has(value, "after") || es_options_has(value, "retry_after")))
		refuse(key, value, call->kind == ES_ASL_SAGA ? "A child that takes time is one with a \"script\"." : "What is done at once answers at once.");
	if (!es_options_has(value, "error") && (es_options_has(value, "cause") || es_options_has(value, "retryable") || es_options_has(value, "retry_after")))
		refuse(key, value, "cause, retryable and retry_after belong to an \"error\".");
	answer->after = es_options_number(value, "after", 0);
	answer->ending.error = es_options_string(value, "error", NULL);
	answer->ending.cause = es_options_string(value, "cause", NULL);
	answer->ending.is_final = !es_options_bool(value, "retryable", true);
	answer->ending.retry_after = es_options_number(value, "retry_after", -1);
	answer->ending.is_success = answer->ending.error == NULL;
	if (answer->ending.is_success)
		answer->ending.output = es_options_has(value, result) ? es_options_any(value, result) : es_script_null();
}

Jsonb *
es_script_null(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("null")));
}

/* of a child */
static EsScript *
read_script(const EsAslCall *call, const char *key, Jsonb *value)
{
	const EsSagaVersion *version;

	if (call->kind != ES_ASL_SAGA)
		refuse(key, value, "It starts no saga that has a script.");
	if (JB_ROOT_COUNT(value) > 1)
		refuse(key, value, "A child with a script answers itself.");
	version = es_saga_version_find(call->name, call->version);
	if (version == NULL)
		refuse(key, value, "The saga that it starts does not exist.");
	return es_script_make(version, es_options_object(value, "script"));
}

/* false: it is none */
static bool
read_word(const char *key, Jsonb *value, EsScriptAnswer *answer)
{
	JsonbValue	word;

	if (!JB_ROOT_IS_SCALAR(value) || !JsonbExtractScalar(&value->root, &word) || word.type != jbvString)
		return false;
	answer->is_unseen = word.val.string.len == strlen("unseen") && memcmp(word.val.string.val, "unseen", strlen("unseen")) == 0;
	answer->is_never = answer->is_unseen ||
		(word.val.string.len == strlen("timeout") && memcmp(word.val.string.val, "timeout", strlen("timeout")) == 0);
	if (!answer->is_never)
		refuse(key, value, "The words are \"timeout\", nobody answers what somebody has, and \"unseen\", nobody ever has it.");
	return true;
}

static void
refuse(const char *key, Jsonb *value, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the answer of the script for \"%s\" cannot be given: %s", key, es_options_shown(value)),
			 errhint("%s", hint)));
}
