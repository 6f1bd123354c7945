/*
 * asl.h
 *		Definitions of sagas: Amazon States Language with JSONPath, compiled.
 *
 * https://states-language.net/spec.html; what is ours stands under the key "Saga".
 *
 * asl_path.c, asl_function.c, asl_payload.c and asl_choice.c evaluate; asl_parse.c makes the tree, asl_check.c looks at it as a graph;
 * asl_state.c is what a state does with its input and its result.  None of them knows tables or transactions.
 *
 * Everything is allocated in the current context, and refers to nothing that was given.  Payloads are jsonb, never cJSON: numbers stay as
 * they were written.
 */
#ifndef ES_ASL_H
#define ES_ASL_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/*
 * Faults of a definition, one a line: "$.States.Charge.Retry[0].MaxAttempts: it is a number from 0 on".  where: the path so far, as in
 * the result; what is wrong is added and compilation goes on, so that all are told at once.  With faults the result is good for nothing.
 */

/* what paths and functions see */
typedef struct EsAslScope
{
	Jsonb *input;	/* $ */
	Jsonb *context; /* $$ */
} EsAslScope;

/* why a state failed, as Retry and Catch match it; error NULL: it did not */
typedef struct EsAslFault
{
	const char *error; /* States.ParameterPathFailure, … */
	char *cause;
} EsAslFault;

#define ES_ASL_ALL "States.ALL"
#define ES_ASL_TASK_FAILED "States.TaskFailed"
#define ES_ASL_TIMEOUT "States.Timeout"
#define ES_ASL_HEARTBEAT_TIMEOUT "States.HeartbeatTimeout"
#define ES_ASL_RUNTIME "States.Runtime"
#define ES_ASL_PERMISSIONS "States.Permissions"
#define ES_ASL_RESULT_PATH "States.ResultPathMatchFailure"
#define ES_ASL_PARAMETER_PATH "States.ParameterPathFailure"
#define ES_ASL_BRANCH_FAILED "States.BranchFailed"
#define ES_ASL_NO_CHOICE "States.NoChoiceMatched"
#define ES_ASL_INTRINSIC "States.IntrinsicFailure"
#define ES_ASL_TOLERATED "States.ExceedToleratedFailureThreshold"

/* where and a key of it: $.States.Charge, or $.States['Charge it'] where the key is not plain */
extern char *es_asl_where(const char *where, const char *key);
extern void es_asl_add_fault(StringInfo faults, const char *where, const char *format, ...) pg_attribute_printf(3, 4);
/* sets it, where none is set yet; false, so that it can be returned */
extern bool es_asl_fail(EsAslFault *fault, const char *error, const char *format, ...) pg_attribute_printf(3, 4);

/* ---- asl_path.c: paths ---- */

typedef struct EsAslPath EsAslPath;

/* reference: it names one node at most (no wildcards, filters, slices, no $$), and may be written to */
extern EsAslPath *es_asl_path_compile(const char *text, bool is_reference, const char *where, StringInfo faults);
/* false: it names nothing.  A path that can name several nodes gives an array of them, as it may be empty */
extern bool es_asl_path_get(const EsAslPath *path, const EsAslScope *scope, JsonbValue *value);
/* input with value put there; what is missing on the way is made.  NULL and States.ResultPathMatchFailure: something is in the way */
extern Jsonb *es_asl_path_set(const EsAslPath *path, Jsonb *input, Jsonb *value, EsAslFault *fault);

/* ---- asl_function.c: intrinsic functions, and what may be written where a path or one of them may ---- */

typedef struct EsAslExpression EsAslExpression;

/* "$.a", "$$.b", "States.Format('{}', $.a)"; functions nest ten deep */
extern EsAslExpression *es_asl_expression_compile(const char *text, const char *where, StringInfo faults);
extern bool es_asl_expression_is_function(const EsAslExpression *expression);
extern bool es_asl_expression_value(const EsAslExpression *expression, const EsAslScope *scope, JsonbValue *value, EsAslFault *fault);

/* ---- asl_payload.c: payload templates (Parameters, ItemSelector, ResultSelector, Undo's input) ---- */

typedef struct EsAslPayload EsAslPayload;

/* an object whose fields that end in .$ are expressions; anything else stands for itself */
extern EsAslPayload *es_asl_payload_compile(const JsonbValue *value, const char *where, StringInfo faults);
extern Jsonb *es_asl_payload_make(const EsAslPayload *payload, const EsAslScope *scope, EsAslFault *fault); /* NULL: it failed */

/* ---- asl_choice.c: choice rules ---- */

typedef struct EsAslChoices EsAslChoices;

extern EsAslChoices *es_asl_choices_compile(const JsonbValue *rules, const char *where, StringInfo faults);
/* the names of states that they lead to, char *, in order */
extern List *es_asl_choices_targets(const EsAslChoices *choices);
/* the first that holds; NULL without a fault: none does */
extern const char *es_asl_choices_next(const EsAslChoices *choices, const EsAslScope *scope, EsAslFault *fault);

/* ---- asl_parse.c: the tree ---- */

typedef enum EsAslType
{
	ES_ASL_TASK,
	ES_ASL_PASS,
	ES_ASL_CHOICE,
	ES_ASL_WAIT,
	ES_ASL_SUCCEED,
	ES_ASL_FAIL,
	ES_ASL_PARALLEL,
	ES_ASL_MAP
} EsAslType;

typedef enum EsAslResource
{
	ES_ASL_QUEUE,	 /* queue:NAME: a command, a reply is expected */
	ES_ASL_SQL,		 /* sql:schema.function: in the transition */
	ES_ASL_SAGA,	 /* saga:NAME or saga:NAME@VERSION: a child */
	ES_ASL_SIGNAL,	 /* signal:NAME: waits for it */
	ES_ASL_EVENT,	 /* event:TYPE: appends one; Parameters are {"stream", "data", "metadata"?, "tags"?, "expected_version"?} */
	ES_ASL_ENDPOINT	 /* endpoint:NAME: sent there; done when it was taken */
} EsAslResource;

/* of a Task, as it says or as follows from its Undo */
typedef enum EsAslClass
{
	ES_ASL_UNDECLARED,	 /* no Undo, and nothing said */
	ES_ASL_COMPENSATABLE, /* it has an Undo, or "Undo": "none" */
	ES_ASL_PIVOT,
	ES_ASL_RETRIABLE
} EsAslClass;

/* what InputPath and its kin select */
typedef struct EsAslSelect
{
	bool is_null;				 /* "InputPath": null: an empty object; "ResultPath": null: the result is thrown away */
	EsAslExpression *expression; /* NULL and not is_null: everything */
} EsAslSelect;

/* a number that stands there or comes from the input; seconds of 1.5 are allowed */
typedef struct EsAslNumber
{
	bool is_set;
	double value;
	EsAslExpression *expression; /* NULL: value */
} EsAslNumber;

/* a text that stands there or comes from the input */
typedef struct EsAslText
{
	char *value;				 /* NULL: neither, or the expression */
	EsAslExpression *expression;
} EsAslText;

typedef struct EsAslRetrier
{
	List *errors; /* char * */
	double interval; /* s */
	int max_attempts; /* retries; -1: without end (ours: "MaxAttempts": "unlimited") */
	double backoff;
	double max_delay; /* s; 0: none */
	bool full_jitter;
} EsAslRetrier;

typedef struct EsAslCatcher
{
	List *errors; /* char * */
	EsAslPath *result_path; /* NULL: the error takes the place of the input, or is thrown away */
	bool discards;
	char *next_name;
	struct EsAslState *next;
} EsAslCatcher;

/* a resource with what belongs to it: a Task's, or its Undo's */
typedef struct EsAslCall
{
	EsAslResource kind;
	char *name;	 /* what is behind the colon, without a version */
	int version; /* saga: 0: the newest at the start */
} EsAslCall;

typedef struct EsAslState
{
	char *name;
	char *where; /* $.States.Charge */
	int number;	 /* in the whole definition, from 0; a state before those in it, else in the order that jsonb has */
	EsAslType type;
	struct EsAslMachine *machine; /* that it is in */
	char *next_name; /* NULL: it has none */
	List *followers; /* EsAslState *: next, those of choices and catchers; each once */
	struct EsAslState *next; /* NULL: it ends the machine, or it is a Choice, a Succeed, a Fail */
	bool is_end;

	EsAslSelect input_path;
	EsAslPayload *parameters; /* of a Map: ItemSelector, per item */
	EsAslPayload *result_selector;
	EsAslSelect output_path;
	EsAslPath *result_path; /* NULL and not discards: the result takes the place of the input */
	bool discards_result;
	EsAslRetrier *retriers;
	int nretriers;
	EsAslCatcher *catchers;
	int ncatchers;

	/* Task */
	EsAslCall call;
	EsAslNumber timeout; /* s; is_set false: the default of settings */
	EsAslNumber heartbeat;
	/* Pass */
	Jsonb *result; /* NULL: its input */
	/* Choice */
	EsAslChoices *choices;
	List *conditions; /* char *: of each, for a drawing */
	char *fallback_name;
	struct EsAslState *fallback; /* Default; NULL: none */
	/* Wait: one of these */
	EsAslNumber seconds;
	EsAslText timestamp;
	/* Fail */
	EsAslText error;
	EsAslText cause;
	/* Parallel, and Map with one */
	struct EsAslMachine **branches;
	int nbranches;
	/* Map */
	EsAslSelect items_path;
	EsAslNumber max_concurrency; /* 0 or not set: all */
	EsAslNumber tolerated_count;
	EsAslNumber tolerated_percentage;

	/* "Saga" */
	EsAslClass class;
	bool has_undo;
	EsAslCall undo;
	EsAslPayload *undo_input; /* NULL: {"input", "output"} of the step.  In it $ is that object */
	EsAslRetrier *undo_retriers;
	int nundo_retriers;
	EsAslNumber undo_timeout;
	bool undo_unknown;	  /* true unless "UndoUnknown": false */
	bool undo_on_unknown; /* a pivot with "OnUnknown": "undo" */
	bool is_scope;		  /* a Parallel or Map with "Scope": true: compensated before its Catch goes on */
	EsAslExpression *lock; /* the semantic lock that it takes; NULL: none */
	List *reply_events; /* char *: types of events that answer it, besides reply(); NIL: none */
	EsAslExpression *correlate; /* of its input: what "Correlation" of the event has to be; with reply_events */
} EsAslState;

typedef struct EsAslMachine
{
	EsAslState *owner; /* NULL: the definition's own */
	int number;		   /* in the whole definition, from 0 */
	int place;		   /* which of the owner's branches */
	char *where;	   /* $, $.States.Both.Branches[0] */
	char *start_name;
	EsAslState *start;
	EsAslState **states;
	int nstates;
} EsAslMachine;

/* what becomes of a saga that fails */
typedef enum EsAslOnFail
{
	ES_ASL_COMPENSATE, /* the default */
	ES_ASL_STOP		   /* "OnFail": "stop": it is failed, and nothing is undone */
} EsAslOnFail;

typedef struct EsAslDefinition
{
	char *comment;
	EsAslMachine *machine;
	EsAslState **states; /* all, by number */
	EsAslState **by_name; /* the same, in order of names */
	int nstates;
	EsAslMachine **machines; /* all, by number */
	int nmachines;
	double timeout; /* s; 0: none */
	EsAslOnFail on_fail;
	bool goes_on;	/* "OnCompensateFail": "continue": an undo that failed for good is left, and the next one follows; else stuck */
	bool has_scopes;
	bool uses_context; /* a path of it begins with $$ */
	bool is_silent; /* "Events": false */
	EsAslPath *correlation; /* of events: where the value is that reply_events are found by; NULL: none */
	List *undeclared; /* char *: Tasks that say nothing of an undo, though something behind them may fail */
} EsAslDefinition;

/*
 * NULL: there are faults.  name: for the message only.  Both forms: States Language, or a JSON array or {"steps": [...]} of the short one,
 * which asl_steps.c makes a definition of
 */
extern EsAslDefinition *es_asl_parse(Jsonb *definition, StringInfo faults);
/* in asl_steps.c: the definition that a short form stands for; the same pointer where it is none */
extern Jsonb *es_asl_expand_steps(Jsonb *definition, StringInfo faults);
/* in asl_check.c: puts states in the place of their names, and looks at names, reachability, ends; part of es_asl_parse */
extern void es_asl_link(EsAslDefinition *definition, StringInfo faults);
/* in asl_class.c: classes on every path; what is wrong is added to faults.  Fills undeclared.  Part of es_asl_parse, on what is linked */
extern void es_asl_check_classes(EsAslDefinition *definition, StringInfo faults);
/* "Task" */
extern const char *es_asl_type_name(EsAslType type);
/* "queue:orders", as it was written */
extern char *es_asl_call_text(const EsAslCall *call);
/* the state with that name; NULL: none.  Names are unique in a definition */
extern EsAslState *es_asl_find_state(const EsAslDefinition *definition, const char *name);
/* does the error (a name, or 'SQLSTATE condition_name': either is one) match one of these? */
extern bool es_asl_error_matches(const List *errors, const char *error);

/* ---- asl_text.c: fields that are there twice, which a jsonb no longer shows ---- */

extern void es_asl_find_duplicates(text *json, StringInfo faults);
/* one fault of several: its end, and the length of its path.  NULL: there is none */
extern const char *es_asl_next_fault(const char *fault, int *path_length);

/* ---- asl_draw.c: Mermaid ---- */

/* what became of a state, for a drawing of an instance */
typedef struct EsAslLive
{
	const char *status; /* waiting, pending, done, failed, unknown, withdrawn, undone; NULL: not entered */
	const char *note;	/* a line more; NULL: none */
} EsAslLive;

/* live: by the number of the state; NULL: of the definition alone */
extern char *es_asl_draw(const EsAslDefinition *definition, const EsAslLive *live);
/* "$.total NumericGreaterThan 100" */
extern char *es_asl_condition_text(const JsonbValue *rule);

/* ---- asl_state.c: what a state does with its input and its result ---- */

/* InputPath and Parameters: what its work gets.  NULL: it failed */
extern Jsonb *es_asl_state_input(const EsAslState *state, const EsAslScope *scope, EsAslFault *fault);
/* of a Map: ItemsPath, an array, from what es_asl_state_input gave.  NULL: it failed */
extern Jsonb *es_asl_state_items(const EsAslState *state, const EsAslScope *scope, EsAslFault *fault);
/* ItemSelector: an item's input; scope->input as above.  $$.Map.Item is there for it, with Index and Value */
extern Jsonb *es_asl_item_input(const EsAslState *state, const EsAslScope *scope, int index, Jsonb *item, EsAslFault *fault);
/* ResultSelector, ResultPath and OutputPath: the next state's input.  scope->input: the state's input as it came */
extern Jsonb *es_asl_state_output(const EsAslState *state, const EsAslScope *scope, Jsonb *result, EsAslFault *fault);
/* the input of a catcher's next state */
extern Jsonb *es_asl_catch_output(const EsAslCatcher *catcher, Jsonb *input, const char *error, const char *cause, EsAslFault *fault);
/* the first that matches; -1: none.  A States.ALL does not match States.Runtime, nor the data limit */
extern int es_asl_find_retrier(const EsAslRetrier *retriers, int n, const char *error);
extern int es_asl_find_catcher(const EsAslState *state, const char *error);
/* s until the retry after so many of that retrier; < 0: it is spent */
extern double es_asl_retry_delay(const EsAslRetrier *retrier, int used);
/* of a number or text; false: it failed */
extern bool es_asl_number(const EsAslNumber *number, const EsAslScope *scope, double *value, EsAslFault *fault);
extern bool es_asl_text(const EsAslText *text, const EsAslScope *scope, char **value, EsAslFault *fault);

#endif
