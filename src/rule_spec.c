/*
 * rule_spec.c
 *		What a rule says: its target and its transform, checked and compiled.
 *
 * Runs in backends that define rules, and wherever rules are read; keeps nothing.
 */
#include "postgres.h"

#include "utils/jsonb.h"

#include "arg.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "rule_apply.h"

static const char *const prefixes[] = {
	[ES_RULE_QUEUE] = "queue:",
	[ES_RULE_FUNCTION] = "sql:",
	[ES_RULE_SAGA] = "saga:",
	[ES_RULE_ENDPOINT] = "endpoint:",
};

/* with the limits of send_messages: a hundred years; a priority's negative is stored */
const EsOption es_rule_number_options[] = {
	{"delay", ES_OPTION_INTERVAL, 0, 100.0 * 365 * 24 * 3600},
	{"priority", ES_OPTION_INT, -PG_INT32_MAX, PG_INT32_MAX},
	{NULL}
};

/* what a part of a transform can be */
typedef enum Shape
{
	SHAPE_ANY,
	SHAPE_OBJECT,
	SHAPE_STRING,				/* or null */
	SHAPE_SCALAR
} Shape;

static const struct
{
	const char *key;
	size_t		offset;			/* in EsTransform */
	Shape		shape;
	bool		is_message;		/* only messages of queues have it */
}			parts[] = {
	{"body", offsetof(EsTransform, body), SHAPE_ANY, false},
	{"headers", offsetof(EsTransform, headers), SHAPE_OBJECT, false},
	{"key", offsetof(EsTransform, key), SHAPE_STRING, true},
	{"delay", offsetof(EsTransform, delay), SHAPE_SCALAR, true},
	{"priority", offsetof(EsTransform, priority), SHAPE_SCALAR, true},
	{"dedup_id", offsetof(EsTransform, dedup_id), SHAPE_STRING, true},
};

static void compile_target(EsRule *rule, const char *target, StringInfo faults);
static void compile_transform(EsRule *rule, Jsonb *transform, StringInfo faults);
static void compile_part(EsRule *rule, const char *key, const JsonbValue *value, StringInfo faults);
static const char *shape_fault(Shape shape, const EsTemplate *template, const JsonbValue *value);
static void add_fault(StringInfo faults, const char *path, const char *fault);

const char *
es_rule_prefix(EsRuleTarget kind)
{
	return prefixes[kind];
}

void
es_rule_compile(EsRule *rule, const char *target, Jsonb *transform)
{
	StringInfoData faults;

	initStringInfo(&faults);
	compile_target(rule, target, &faults);
	if (transform != NULL)
		compile_transform(rule, transform, &faults);
	if (faults.len > 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("the rule is invalid"),
				 errdetail("%s", faults.data),
				 errhint("A transform has \"body\", \"headers\", \"key\", \"delay\", \"priority\" and \"dedup_id\". Placeholders are ${data}, ${data.field.field}, ${metadata}, ${metadata.field}, ${stream}, ${category}, ${type}, ${id}, "
						 "${position}, ${version}, ${schema_version}, ${tags}, ${tenant}, ${occurred_at}, ${recorded_at}; $${ is ${ itself.")));
}

static void
compile_target(EsRule *rule, const char *target, StringInfo faults)
{
	const char *name = NULL;

	for (int i = 0; i < lengthof(prefixes); i++)
		if (strncmp(target, prefixes[i], strlen(prefixes[i])) == 0)
		{
			rule->kind = i;
			name = target + strlen(prefixes[i]);
		}
	if (name == NULL || *name == '\0')
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("unknown target \"%s\"", es_arg_shown(target, strlen(target))),
				 errdetail("target: neither a queue nor a function nor a saga nor an endpoint."),
				 errhint("Write 'queue:NAME', 'sql:schema.function', 'saga:NAME' or 'endpoint:NAME'.")));
	rule->target = es_template_compile_text(name, "target", faults);
	rule->constant = es_template_constant(rule->target);
	if (rule->kind == ES_RULE_QUEUE && rule->constant != NULL)
		es_queue_refuse_reserved(rule->constant);
	if (rule->kind == ES_RULE_FUNCTION && rule->constant == NULL)
		add_fault(faults, "target", "a function cannot be computed");
	if (rule->kind == ES_RULE_SAGA && rule->constant == NULL)
		add_fault(faults, "target", "a saga cannot be computed");
}

static void
compile_transform(EsRule *rule, Jsonb *transform, StringInfo faults)
{
	JsonbIterator *it = JsonbIteratorInit(&transform->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	if (!JB_ROOT_IS_OBJECT(transform))
	{
		add_fault(faults, "transform", "it is an object");
		return;
	}
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			compile_part(rule, key, &v, faults);
}

static void
compile_part(EsRule *rule, const char *key, const JsonbValue *value, StringInfo faults)
{
	char	   *path = psprintf("transform.%s", es_arg_shown(key, strlen(key)));

	for (int i = 0; i < lengthof(parts); i++)
	{
		EsTemplate *template;
		const char *fault;

		if (strcmp(key, parts[i].key) != 0)
			continue;
		if (parts[i].is_message && rule->kind != ES_RULE_QUEUE)
		{
			add_fault(faults, path, "only the messages of a queue have it");
			return;
		}
		template = es_template_compile(value, path, faults);
		fault = shape_fault(parts[i].shape, template, value);
		if (fault != NULL)
			add_fault(faults, path, fault);
		else if (parts[i].shape == SHAPE_SCALAR && value->type != jbvNull && es_template_is_constant(template))
			es_options_check(es_options_of(key, es_template_jsonb(template, NULL)), es_rule_number_options, "transform");
		*(EsTemplate **) ((char *) &rule->transform + parts[i].offset) = template;
		return;
	}
	add_fault(faults, path, "unknown key");
}

/* NULL: none, as far as that can be known before there is an event */
static const char *
shape_fault(Shape shape, const EsTemplate *template, const JsonbValue *value)
{
	switch (shape)
	{
		case SHAPE_ANY:
			break;
		case SHAPE_OBJECT:
			if (!es_template_may_be_object(template))
				return "it is an object, or one placeholder";
			break;
		case SHAPE_STRING:
			if (value->type != jbvString && value->type != jbvNull)
				return "it is a string, or null";
			break;
		case SHAPE_SCALAR:
			if (value->type == jbvBinary)
				return "it is no object or array";
			break;
	}
	return NULL;
}

static void
add_fault(StringInfo faults, const char *path, const char *fault)
{
	appendStringInfo(faults, "%s%s: %s", faults->len > 0 ? "; " : "", path, fault);
}
