/*
 * reducer_merge.c
 *		The folds that everybody needs: the state is the data of all events, merged.
 *
 * Runs in backends; keeps nothing.  merge_data is the operator || of jsonb, merge_patch goes into nested objects and takes
 * a null for "remove" (RFC 7396).  state_of calls es_reducer_merge for them, without SQL.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "compat.h"
#include "reducer.h"

typedef struct MergeKey
{
	char	   *text;
	int			len;
} MergeKey;

/* a key of the state; what its value points to is in room, which the next value of that key uses again */
typedef struct MergeEntry
{
	MergeKey	key;
	JsonbValue	value;
	char	   *room;
	Size		size;
	uint32		hash;
	char		status;
} MergeEntry;

#define SH_PREFIX keys
#define SH_ELEMENT_TYPE MergeEntry
#define SH_KEY_TYPE MergeKey
#define SH_KEY key
#define SH_HASH_KEY(table, k) hash_bytes((const unsigned char *) (k).text, (k).len)
#define SH_EQUAL(table, a, b) ((a).len == (b).len && memcmp((a).text, (b).text, (a).len) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(table, a) (a)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct EsMerge
{
	MemoryContext context;
	keys_hash  *keys;
};

PG_FUNCTION_INFO_V1(evtstore_merge_data);
PG_FUNCTION_INFO_V1(evtstore_merge_patch);

static void keep_value(EsMerge *merge, MergeEntry *entry, const JsonbValue *value);
static char *make_room(EsMerge *merge, MergeEntry *entry, const void *content, Size size);
static Datum merge_row(FunctionCallInfo fcinfo, EsReducerFold fold);
static Jsonb *merge_patch(Jsonb *target, Jsonb *patch);
static JsonbValue *push_patched(JsonbParseState **parse, JsonbContainer *target, JsonbContainer *patch);
static void push_untouched(JsonbParseState **parse, JsonbContainer *target, JsonbContainer *patch);
static JsonbContainer *object_at(JsonbContainer *container, const JsonbValue *key);

/* evtstore.merge_data(state, event) */
Datum
evtstore_merge_data(PG_FUNCTION_ARGS)
{
	return merge_row(fcinfo, ES_FOLD_MERGE_DATA);
}

/* evtstore.merge_patch(state, event) */
Datum
evtstore_merge_patch(PG_FUNCTION_ARGS)
{
	return merge_row(fcinfo, ES_FOLD_MERGE_PATCH);
}

Jsonb *
es_reducer_merge(EsReducerFold fold, Jsonb *state, Jsonb *data)
{
	if (fold == ES_FOLD_MERGE_PATCH)
		return merge_patch(state, data);
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(state), JsonbPGetDatum(data)));
}

EsMerge *
es_reducer_merge_begin(Jsonb *state)
{
	MemoryContext context;
	EsMerge    *merge;

	if (!JB_ROOT_IS_OBJECT(state))
		return NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "evtstore merge", ALLOCSET_DEFAULT_SIZES);
	merge = MemoryContextAlloc(context, sizeof(EsMerge));
	merge->context = context;
	merge->keys = keys_create(context, 64, NULL);
	(void) es_reducer_merge_add(merge, state);
	return merge;
}

bool
es_reducer_merge_add(EsMerge *merge, Jsonb *data)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	MergeEntry *entry = NULL;

	if (!JB_ROOT_IS_OBJECT(data))
		return false;
	it = JsonbIteratorInit(&data->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			MergeKey	key = {v.val.string.val, v.val.string.len};
			bool		found;

			entry = keys_insert(merge->keys, key, &found);
			if (found)
				continue;
			entry->key.text = MemoryContextAlloc(merge->context, Max(key.len, 1));
			memcpy(entry->key.text, key.text, key.len);
			entry->room = NULL;
			entry->size = 0;
		}
		else if (token == WJB_VALUE)
			keep_value(merge, entry, &v);
	}
	return true;
}

Jsonb *
es_reducer_merge_end(EsMerge *merge)
{
	JsonbParseState *parse = NULL;
	keys_iterator it;
	MergeEntry *entry;
	Jsonb	   *state;

	pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	keys_start_iterate(merge->keys, &it);
	while ((entry = keys_iterate(merge->keys, &it)) != NULL)
	{
		JsonbValue	key = {.type = jbvString};

		key.val.string.val = entry->key.text;
		key.val.string.len = entry->key.len;
		pushJsonbValue(&parse, WJB_KEY, &key);
		pushJsonbValue(&parse, WJB_VALUE, &entry->value);
	}
	state = JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_OBJECT, NULL));
	MemoryContextDelete(merge->context);
	return state;
}

/* a value out of an event, whose memory goes with the event */
static void
keep_value(EsMerge *merge, MergeEntry *entry, const JsonbValue *value)
{
	entry->value = *value;
	switch (value->type)
	{
		case jbvString:
			entry->value.val.string.val = make_room(merge, entry, value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			entry->value.val.numeric = (Numeric) make_room(merge, entry, value->val.numeric, VARSIZE_ANY(value->val.numeric));
			break;
		case jbvBinary:
			entry->value.val.binary.data = (JsonbContainer *) make_room(merge, entry, value->val.binary.data, value->val.binary.len);
			break;
		case jbvNull:
		case jbvBool:
			break;
		default:
			elog(ERROR, "unexpected kind of jsonb value: %d", value->type);
	}
}

static char *
make_room(EsMerge *merge, MergeEntry *entry, const void *content, Size size)
{
	if (size > entry->size || entry->room == NULL)
	{
		if (entry->room != NULL)
			pfree(entry->room);
		entry->size = Max(size, 16);
		entry->room = MemoryContextAlloc(merge->context, entry->size);
	}
	memcpy(entry->room, content, size);
	return entry->room;
}

static Datum
merge_row(FunctionCallInfo fcinfo, EsReducerFold fold)
{
	Jsonb	   *state = PG_GETARG_JSONB_P(0);
	bool		isnull;
	Datum		data = GetAttributeByName(PG_GETARG_HEAPTUPLEHEADER(1), "data", &isnull);

	if (isnull)
		PG_RETURN_JSONB_P(state);
	PG_RETURN_JSONB_P(es_reducer_merge(fold, state, DatumGetJsonbP(data)));
}

/* what is no object takes the place of the whole, and is no base for one */
static Jsonb *
merge_patch(Jsonb *target, Jsonb *patch)
{
	JsonbParseState *parse = NULL;

	if (!JB_ROOT_IS_OBJECT(patch))
		return patch;
	return JsonbValueToJsonb(push_patched(&parse, JB_ROOT_IS_OBJECT(target) ? &target->root : NULL, &patch->root));
}

/* target, which may be missing, with the patch; keys may stand in any order, they are sorted when the object ends */
static JsonbValue *
push_patched(JsonbParseState **parse, JsonbContainer *target, JsonbContainer *patch)
{
	JsonbIterator *it = JsonbIteratorInit(patch);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	v;

	check_stack_depth();
	pushJsonbValue(parse, WJB_BEGIN_OBJECT, NULL);
	if (target != NULL)
		push_untouched(parse, target, patch);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = v;
		else if (token == WJB_VALUE && v.type != jbvNull)
		{
			pushJsonbValue(parse, WJB_KEY, &key);
			if (v.type == jbvBinary && JsonContainerIsObject(v.val.binary.data))
				push_patched(parse, target == NULL ? NULL : object_at(target, &key), v.val.binary.data);
			else
				pushJsonbValue(parse, WJB_VALUE, &v);
		}
	}
	return pushJsonbValue(parse, WJB_END_OBJECT, NULL);
}

/* what the patch does not name */
static void
push_untouched(JsonbParseState **parse, JsonbContainer *target, JsonbContainer *patch)
{
	JsonbIterator *it = JsonbIteratorInit(target);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	v;
	JsonbValue	other;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = v;
		else if (token == WJB_VALUE &&
				 getKeyJsonValueFromContainer(patch, key.val.string.val, key.val.string.len, &other) == NULL)
		{
			pushJsonbValue(parse, WJB_KEY, &key);
			pushJsonbValue(parse, WJB_VALUE, &v);
		}
	}
}

/* NULL where there is none */
static JsonbContainer *
object_at(JsonbContainer *container, const JsonbValue *key)
{
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(container, key->val.string.val, key->val.string.len, &v) == NULL ||
		v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
		return NULL;
	return v.val.binary.data;
}
