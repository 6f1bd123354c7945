/*
 * saga_event.c
 *		Steps of sagas that are answered by events: which events, and whose.
 *
 * A step with ReplyEvents is a row for each of their types from its beginning on, with the value that an event has to have where the definition's
 * Correlation points.  Who appends an event of such a type looks for rows, and leaves an arrival (saga_arrival.c) for each; a worker makes the
 * transition.  So event and arrival are one transaction, nothing is lost, and an append waits for no instance.
 *
 * Runs in the appender's backend and transaction, and within transitions (saga_move.c), which write the rows under the lock of their instance.
 * Appends read them under the latest snapshot and lock nothing: one that finds a row which is about to go leaves an answer that is late, or
 * a duplicate.  Locks: those of sending.
 *
 * Which types are named at all each backend knows by a cache, read when definitions have changed.  A crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "append.h"
#include "asl_value.h"
#include "catalog.h"
#include "compat.h"
#include "queue.h"
#include "saga_event.h"
#include "spi.h"

/* a type, and where its events have what they are found by */
typedef struct Type
{
	char	   *name;
	int			len;
	List	   *paths;			/* EsAslPath * */
	struct Type *next;			/* with the same hash */
} Type;

static EsPlan types_plan = {
	.sql = "SELECT DISTINCT t.type #>> '{}', v.spec->'Saga'->>'Correlation' FROM evtstore_internal.saga_version v CROSS JOIN LATERAL ("
	"SELECT jsonb_path_query(v.spec, 'lax $.**.Saga.ReplyEvents[*]') UNION ALL SELECT jsonb_path_query(v.spec, 'lax $.**.Saga.FailEvents[*]')) t (type)"
	" WHERE v.spec->'Saga' ? 'Correlation' AND jsonb_typeof(t.type) = 'string' AND jsonb_typeof(v.spec->'Saga'->'Correlation') = 'string'",
};

static EsPlan find_plan = {
	.sql = "SELECT saga_id, parent, seq, fails FROM evtstore_internal.saga_correlation WHERE type = $1 AND path = $2 AND tenant = $3"
	" AND jsonb_hash_extended(value, 0) = jsonb_hash_extended($4, 0) AND value = $4 ORDER BY saga_id, first_seq",
	.nargs = 4,
	.args = {TEXTOID, TEXTOID, TEXTOID, JSONBOID},
};

/* a later attempt at the same entry takes the place of the earlier one, and is answered by what that one is */
static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_correlation (saga_id, first_seq, parent, seq, fails, tenant, type, path, value)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (saga_id, first_seq, type) DO UPDATE SET seq = EXCLUDED.seq",
	.nargs = 9,
	.args = {UUIDOID, INT4OID, INT4OID, INT4OID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.saga_correlation WHERE saga_id = $1 AND first_seq = $2",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan delete_all_plan = {
	.sql = "DELETE FROM evtstore_internal.saga_correlation WHERE saga_id = $1",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan is_answered_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_correlation WHERE saga_id = $1 AND parent = $2 AND seq = $3 LIMIT 1",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

/* the cache; in a context of its own */
static MemoryContext types_context = NULL;
static uint64 types_generation = 0;
static Type **types = NULL;		/* by hash; NULL: there are none */
static uint32 types_mask = 0;

static void leave_arrivals(const EsAppendPart *parts, int nparts, int nevents);
static void refresh(void);
static void add_type(const char *name, const char *path);
static const Type *find_type(Datum name);
static void answer(const Type *type, const EsEvent *event);
static bool correlation_of(const EsAslPath *path, Jsonb *doc, JsonbValue *value);
static List *find_waiting(const Type *type, const EsAslPath *path, const EsEvent *event, Jsonb *value);
static void insert_row(EsMove *move, const EsStep *step, const char *type, bool fails);
static bool may_acknowledge(const EsCommand *command);

void
es_saga_event_init(void)
{
	es_append_register_hook(leave_arrivals);
	es_queue_register_acknowledge_hook(may_acknowledge);
}

Jsonb *
es_saga_event_doc(const EsEvent *event)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"id\": \"%s\", \"type\": ", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id))));
	escape_json(&buf, TextDatumGetCString(event->type));
	if (event->stream != (Datum) 0)
	{
		appendStringInfoString(&buf, ", \"stream\": ");
		escape_json(&buf, TextDatumGetCString(event->stream));
		appendStringInfo(&buf, ", \"version\": " INT64_FORMAT, event->version);
	}
	appendStringInfo(&buf, ", \"position\": " INT64_FORMAT ", \"data\": ", event->position);
	(void) JsonbToCString(&buf, &DatumGetJsonbP(event->data)->root, VARSIZE_ANY(DatumGetPointer(event->data)));
	appendStringInfoString(&buf, ", \"metadata\": ");
	(void) JsonbToCString(&buf, &DatumGetJsonbP(event->metadata)->root, VARSIZE_ANY(DatumGetPointer(event->metadata)));
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

bool
es_saga_event_expect(EsMove *move, EsStep *step, const EsAslState *state, const EsAslScope *scope, EsEnding *failure)
{
	EsAslFault	fault = {0};
	JsonbValue	value;

	if (state->correlate == NULL)
		return true;
	if (!es_asl_expression_value(state->correlate, scope, &value, &fault))
	{
		*failure = (EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1};
		return false;
	}
	if (value.type == jbvNull)
	{
		*failure = (EsEnding) {.error = ES_ASL_RUNTIME, .cause = psprintf("\"Correlate\" of state \"%s\" is null, by which no event is found", state->name),
			.is_final = true, .retry_after = -1};
		return false;
	}
	step->correlate = es_asl_value_jsonb(&value);
	return true;
}

void
es_saga_event_follow(EsMove *move, EsStep *step)
{
	const EsAslState *state;
	Datum		values[2];
	ListCell   *lc;
	EsSpiState	spi;

	if (move->version->definition->correlation == NULL || step->kind != ES_STEP_TASK)
		return;
	state = es_asl_find_state(move->version->definition, step->state);
	if (state == NULL || state->correlate == NULL)
		return;
	if (step->correlate != NULL)
	{
		if (step->status == ES_STEP_WAITING)
		{
			foreach(lc, state->reply_events)
				insert_row(move, step, lfirst(lc), false);
			foreach(lc, state->fail_events)
				insert_row(move, step, lfirst(lc), true);
		}
		step->correlate = NULL;
	}
	/* what failed, or nobody knows of, may be known to be done by an event that comes late */
	else if (step->status == ES_STEP_DONE || step->status == ES_STEP_SKIPPED || (step->status == ES_STEP_WITHDRAWN && step->attempt == 1))
	{
		values[0] = UUIDPGetDatum(&move->saga.id);
		values[1] = Int32GetDatum(step->first_seq);
		es_queue_spi_begin(&spi);
		(void) es_spi_run(&delete_plan, values, NULL, false, 0);
		es_spi_end(&spi);
	}
}

void
es_saga_event_end(EsMove *move)
{
	Datum		values[1] = {UUIDPGetDatum(&move->saga.id)};
	EsSpiState	spi;

	if (move->version->definition->correlation == NULL)
		return;
	es_queue_spi_begin(&spi);
	(void) es_spi_run(&delete_all_plan, values, NULL, false, 0);
	es_spi_end(&spi);
}

/* what is imported was answered where it happened */
static void
leave_arrivals(const EsAppendPart *parts, int nparts, int nevents)
{
	const Type *type;

	if (es_append_is_history())
		return;
	if (types_context == NULL || types_generation != es_catalog_generation())
		refresh();
	for (int p = 0; types != NULL && p < nparts; p++)
		for (int i = 0; i < parts[p].n; i++)
			/* what was sent may have called a trigger, which may append, and find definitions changed */
			if (types != NULL && (type = find_type(parts[p].events[i].type)) != NULL)
				answer(type, &parts[p].events[i]);
}

/* of all versions, because instances of each may be open */
static void
refresh(void)
{
	uint64		generation = es_catalog_generation();
	EsSpiState	spi;
	uint64		n;
	uint32		size = 8;

	types = NULL;
	if (types_context == NULL)
		types_context = AllocSetContextCreate(TopMemoryContext, "evtstore types of sagas", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(types_context);
	es_spi_begin(&spi);
	n = es_spi_run_latest(&types_plan, NULL, NULL);
	while (size < 2 * n)
		size *= 2;
	if (n > 0)
	{
		types = MemoryContextAllocZero(types_context, size * sizeof(Type *));
		types_mask = size - 1;
	}
	for (uint64 i = 0; i < n; i++)
		add_type(es_spi_text(i, 0), es_spi_text(i, 1));
	es_spi_end(&spi);
	types_generation = generation;
}

static void
add_type(const char *name, const char *path)
{
	MemoryContext old = MemoryContextSwitchTo(types_context);
	StringInfoData faults;
	EsAslPath  *compiled;
	Type	  **bucket = &types[hash_bytes((const unsigned char *) name, strlen(name)) & types_mask];
	Type	   *type = *bucket;

	initStringInfo(&faults);
	compiled = es_asl_path_compile(path, true, "$.Saga.Correlation", &faults);
	/* it was good when it was defined */
	if (compiled == NULL || faults.len > 0)
		elog(ERROR, "a saga's Correlation \"%s\" is no path", path);
	while (type != NULL && strcmp(type->name, name) != 0)
		type = type->next;
	if (type == NULL)
	{
		type = palloc0(sizeof(Type));
		type->name = pstrdup(name);
		type->len = strlen(name);
		type->next = *bucket;
		*bucket = type;
	}
	type->paths = lappend(type->paths, compiled);
	MemoryContextSwitchTo(old);
}

/* NULL: no saga names it */
static const Type *
find_type(Datum name)
{
	text	   *packed = DatumGetTextPP(name);
	const char *data = VARDATA_ANY(packed);
	int			len = VARSIZE_ANY_EXHDR(packed);

	for (const Type *type = types[hash_bytes((const unsigned char *) data, len) & types_mask]; type != NULL; type = type->next)
		if (type->len == len && memcmp(type->name, data, len) == 0)
			return type;
	return NULL;
}

static void
answer(const Type *type, const EsEvent *event)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "evtstore answer", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	char	   *name = pstrdup(type->name);
	List	   *paths = list_copy(type->paths);
	Jsonb	   *doc = es_saga_event_doc(event);
	EsEnding	done = {.is_success = true, .output = doc, .retry_after = -1};
	EsEnding	failed = {.error = name, .retry_after = -1};
	List	   *found = NIL;
	ListCell   *lc;
	JsonbValue	value;

	foreach(lc, paths)
		if (correlation_of(lfirst(lc), doc, &value))
			found = list_concat(found, find_waiting(type, lfirst(lc), event, es_asl_value_jsonb(&value)));
	if (found != NIL)
		failed.cause = es_queue_clip_reason(JsonbToCString(NULL, &DatumGetJsonbP(event->data)->root, VARSIZE_ANY(DatumGetPointer(event->data))));
	foreach(lc, found)
	{
		EsAnswered *answered = lfirst(lc);

		es_arrival_leave(&answered->saga_id, TextDatumGetCString(event->tenant), answered->parent, answered->seq, answered->fails ? &failed : &done);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}

static bool
correlation_of(const EsAslPath *path, Jsonb *doc, JsonbValue *value)
{
	EsAslScope	scope = {doc, NULL};

	return es_asl_path_get(path, &scope, value) && value->type != jbvNull;
}

/* list of EsAnswered * */
static List *
find_waiting(const Type *type, const EsAslPath *path, const EsEvent *event, Jsonb *value)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[4] = {event->type, CStringGetTextDatum(es_asl_path_text(path)), event->tenant, JsonbPGetDatum(value)};
	List	   *found = NIL;
	EsSpiState	spi;
	uint64		n;
	bool		isnull;

	es_queue_spi_begin(&spi);
	n = es_spi_run_latest(&find_plan, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		EsAnswered *answered = MemoryContextAlloc(context, sizeof(EsAnswered));
		MemoryContext old;

		answered->saga_id = *DatumGetUUIDP(es_spi_value(i, 0, &isnull));
		answered->parent = es_spi_int32(i, 1);
		answered->seq = es_spi_int32(i, 2);
		answered->fails = DatumGetBool(es_spi_value(i, 3, &isnull));
		old = MemoryContextSwitchTo(context);
		found = lappend(found, answered);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&spi);
	return found;
}

static void
insert_row(EsMove *move, const EsStep *step, const char *type, bool fails)
{
	const EsAslPath *path = move->version->definition->correlation;
	Datum		values[9] = {UUIDPGetDatum(&move->saga.id), Int32GetDatum(step->first_seq), Int32GetDatum(step->parent), Int32GetDatum(step->seq),
		BoolGetDatum(fails), CStringGetTextDatum(move->saga.tenant), CStringGetTextDatum(type), CStringGetTextDatum(es_asl_path_text(path)),
		JsonbPGetDatum(step->correlate)};
	EsSpiState	spi;

	es_queue_spi_begin(&spi);
	(void) es_spi_run(&insert_plan, values, NULL, false, 0);
	es_spi_end(&spi);
}

/* an event answers it: who has the command may be done with the message before */
static bool
may_acknowledge(const EsCommand *command)
{
	Datum		values[3] = {UUIDPGetDatum(&command->saga_id), Int32GetDatum(command->parent), Int32GetDatum(command->seq)};
	EsSpiState	spi;
	bool		is_answered;

	es_queue_spi_begin(&spi);
	is_answered = es_spi_run_latest(&is_answered_plan, values, NULL) > 0;
	es_spi_end(&spi);
	return is_answered;
}
