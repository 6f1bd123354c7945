--
-- Definitions of sagas: what is accepted, what is wrong with others, versions, the short form, drawings, rights.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

-- what is wrong with one state A, which is followed by a Succeed Z
CREATE FUNCTION faults(state text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT path || ': ' || fault
    FROM evtstore.check_saga(format('{"StartAt": "A", "States": {"A": %s, "Z": {"Type": "Succeed"}}}', state)::json)
    WHERE (path, fault) <> ('$.States.Z', 'no state leads to it') $$;
-- with a whole definition
CREATE FUNCTION all_faults(definition text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT path || ': ' || fault FROM evtstore.check_saga(definition::json) $$;
-- with a Task in whose "Saga" these are
CREATE FUNCTION saga_faults(saga text, more text DEFAULT '') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT faults(format('{"Type": "Task", "Resource": "queue:a", "Next": "Z", "Saga": %s %s}', saga, more)) $$;

-- every type of state with every field of it: no fault
SELECT all_faults($d${"Comment": "all", "StartAt": "Task", "Version": "1.0", "QueryLanguage": "JSONPath", "TimeoutSeconds": 86400.5,
 "Saga": {"OnFail": "compensate", "OnCompensateFail": "continue", "Events": false, "Correlation": "$.data.order"},
 "States": {
  "Task": {"Type": "Task", "Comment": "c", "Resource": "queue:a", "InputPath": "$.a", "Parameters": {"b.$": "$.b", "c.$": "States.Array(1, $.d)"},
   "ResultSelector": {"r.$": "$.r"}, "ResultPath": "$.r", "OutputPath": null, "TimeoutSeconds": 1.5, "HeartbeatSeconds": 1,
   "Retry": [{"ErrorEquals": ["23505", "SoldOut"], "IntervalSeconds": 0.5, "MaxAttempts": 0, "BackoffRate": 1, "MaxDelaySeconds": 9, "JitterStrategy": "NONE"},
             {"ErrorEquals": ["States.ALL"], "MaxAttempts": "unlimited", "JitterStrategy": "FULL", "Comment": "c"}],
   "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Fail", "ResultPath": null}, {"ErrorEquals": ["States.ALL"], "Next": "Fail", "ResultPath": "$.error", "Comment": "c"}],
   "Saga": {"Class": "compensatable", "Undo": "sql:shop.undo", "UndoInput": {"id.$": "$.output.id"}, "UndoRetry": [{"ErrorEquals": ["States.ALL"]}],
            "UndoTimeoutSeconds": 3, "UndoUnknown": false, "Lock": "States.Format('sku-{}', $.sku)", "ReplyEvents": ["Reserved"], "Correlate": "$.order"},
   "Next": "Paths"},
  "Paths": {"Type": "Task", "Resource": "queue:paid", "TimeoutSecondsPath": "$.t", "HeartbeatSecondsPath": "$$.h", "Next": "Pass"},
  "Pass": {"Type": "Pass", "Result": [1], "InputPath": null, "Parameters": {}, "ResultPath": "$.p", "Next": "Choice"},
  "Choice": {"Type": "Choice", "InputPath": "$.c", "OutputPath": "$.c", "Choices": [
     {"Variable": "$.n", "NumericGreaterThan": 1, "Next": "Wait"},
     {"And": [{"Variable": "$.n", "IsPresent": true}, {"Not": {"Variable": "$.s", "StringEquals": "x"}}], "Next": "Until"},
     {"Variable": "$.n", "IsNull": true, "Next": "From", "Comment": "nothing is there"}], "Default": "To"},
  "Wait": {"Type": "Wait", "Seconds": 0, "Next": "Parallel"},
  "Until": {"Type": "Wait", "Timestamp": "2026-01-31T14:00:00.5+01:00", "Next": "Parallel"},
  "From": {"Type": "Wait", "SecondsPath": "$.s", "Next": "Parallel"},
  "To": {"Type": "Wait", "TimestampPath": "$.s", "Next": "Parallel"},
  "Parallel": {"Type": "Parallel", "Branches": [{"Comment": "b", "StartAt": "B0", "States": {"B0": {"Type": "Pass", "End": true}}},
     {"StartAt": "B1", "States": {"B1": {"Type": "Task", "Resource": "event:Placed", "End": true}}}], "Saga": {"Scope": true},
     "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Old"}], "Next": "Map"},
  "Map": {"Type": "Map", "ItemsPath": "$.items", "ItemSelector": {"v.$": "$$.Map.Item.Value"}, "MaxConcurrency": 3, "ToleratedFailureCount": 1,
     "ToleratedFailurePercentage": 12.5, "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "I",
     "States": {"I": {"Type": "Task", "Resource": "endpoint:e", "End": true}}}, "Next": "Old"},
  "Old": {"Type": "Map", "Parameters": {}, "MaxConcurrencyPath": "$.m", "ToleratedFailureCountPath": "$.c", "ToleratedFailurePercentagePath": "$.p",
     "Iterator": {"StartAt": "J", "States": {"J": {"Type": "Task", "Resource": "saga:child@2", "End": true}}}, "Next": "Succeed"},
  "Succeed": {"Type": "Succeed", "InputPath": "$.x", "OutputPath": "$.y"},
  "Fail": {"Type": "Fail", "ErrorPath": "$.error", "CausePath": "States.Format('{}', $.c)"}}}$d$);

\echo the definition as a whole
SELECT all_faults('{}');
SELECT all_faults('7');
SELECT all_faults('[]');
SELECT all_faults('{"StartAt": 1, "States": {}}');
SELECT all_faults('{"StartAt": "B", "States": {"A": {"Type": "Pass"}}, "Version": "2.0", "TimeoutSeconds": 0, "Comment": 1, "Extra": 1}');
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}, "QueryLanguage": "JSONata", "Extra": 1}');
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}, "QueryLanguage": "SQL"}');
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Succeed"}},
    "Saga": {"OnFail": "x", "OnCompensateFail": "x", "Events": 1, "Correlation": "$..a", "Extra": 1}}');
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}, "Saga": {"Correlation": 1}}');
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}, "Saga": 1}');

\echo fields that are there twice, and the names of fields in paths
SELECT all_faults('{"StartAt": "A", "StartAt": "A", "States": {"A": {"Type": "Pass", "Result": [{"a: b": 1, "a: b": 2}], "Next": "it''s"}, "it''s": {"Type": "Succeed", "\n": 1}}}');
SELECT path FROM evtstore.check_saga('{"StartAt": "a: b", "States": {"a: b": {"Type": "Succeed", "x: y": 1}}}');

\echo states
SELECT faults('1');
SELECT faults('{"Type": "Job"}');
SELECT faults('{}');
SELECT faults('{"Type": "Pass"}');
SELECT faults('{"Type": "Pass", "Next": "Z", "End": true}');
SELECT faults('{"Type": "Pass", "End": false}');
SELECT faults('{"Type": "Pass", "Next": 1}');
SELECT faults('{"Type": "Pass", "End": "true"}');
SELECT faults('{"Type": "Pass", "Next": "Z", "Comment": 1, "comment": ""}');
SELECT faults('{"Type": "Pass", "Next": "Z", "InputPath": "a", "OutputPath": 1, "ResultPath": "$.a[*]", "Parameters": {"a.$": "b"}}');
SELECT faults('{"Type": "Pass", "Next": "Z", "ResultPath": 1, "InputPath": "States.UUID()", "Resource": "queue:a", "Retry": [], "Seconds": 1}');
SELECT faults('{"Type": "Succeed", "Next": "Z", "Parameters": 1}');
SELECT faults('{"Type": "Fail", "InputPath": "$", "Error": 1, "Cause": "a", "CausePath": "$.a"}');
SELECT faults('{"Type": "Fail", "Error": "a", "ErrorPath": 1}');
SELECT all_faults(format('{"StartAt": "%s", "States": {"%1$s": {"Type": "Succeed"}, "": {"Type": "Succeed"}}}', repeat('ä', 81)));
SELECT all_faults(format('{"StartAt": "%s", "States": {"%1$s": {"Type": "Succeed"}}}', repeat('ä', 80)));

\echo what of the language is not there is refused by name
SELECT faults('{"Type": "Pass", "QueryLanguage": "JSONata", "Output": 1, "Nothing": 1}');
SELECT faults('{"Type": "Task", "Resource": "queue:a", "Next": "Z", "Assign": {}, "Arguments": {}, "Output": 1, "Credentials": {}}');
SELECT faults('{"Type": "Map", "Next": "Z", "Items": 1, "ItemReader": {}, "ItemBatcher": {}, "ResultWriter": {}, "Label": "",
    "ItemProcessor": {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}, "StartAt": "I", "States": {"I": {"Type": "Succeed"}}}}');
SELECT faults('{"Type": "Task", "Resource": "queue:a", "Next": "Z", "Catch": [{"ErrorEquals": ["a"], "Next": "Z", "Assign": {}, "Output": 1}]}');

\echo Task
SELECT faults('{"Type": "Task", "Next": "Z"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": 1}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "arn:aws:lambda:eu-west-1:1:function:f"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "sql:f"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "saga:s@0"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "saga:s@x"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "saga:@1"}');
SELECT faults(format('{"Type": "Task", "Next": "Z", "Resource": "event:%s"}', repeat('e', 256)));
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "TimeoutSeconds": 0, "HeartbeatSeconds": "5"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "TimeoutSeconds": 5, "HeartbeatSeconds": 5}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "sql:a.b", "HeartbeatSecondsPath": "$.a"}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "TimeoutSeconds": 5, "TimeoutSecondsPath": "$.a", "HeartbeatSeconds": 1, "HeartbeatSecondsPath": "$.b[*]"}');

\echo Retry and Catch
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "Retry": {}, "Catch": []}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "Retry": [1, {}, {"ErrorEquals": []}, {"ErrorEquals": [1, ""]}, {"ErrorEquals": "a"}]}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "Retry": [{"ErrorEquals": ["a"], "IntervalSeconds": 0, "MaxAttempts": 1.5, "BackoffRate": 0.9,
    "MaxDelaySeconds": -1, "JitterStrategy": "HALF", "Extra": 1}, {"ErrorEquals": ["b"], "MaxAttempts": "many"}, {"ErrorEquals": ["c"], "MaxAttempts": 1e400}]}');
SELECT faults('{"Type": "Task", "Next": "Z", "Resource": "queue:a", "Retry": [{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["a"]}],
    "Catch": [{"ErrorEquals": ["States.ALL", "b"], "Next": "Z"}, {"ErrorEquals": ["States.TimeOut"], "Next": "Y", "ResultPath": "b"}, {"ErrorEquals": ["c"]}]}');

\echo Choice, Wait
SELECT faults('{"Type": "Choice", "Next": "Z", "Default": 1}');
SELECT faults('{"Type": "Choice", "Choices": [{"Variable": "$.a", "NumericEquals": 1, "Next": "Y"}], "Default": "X"}');
SELECT faults('{"Type": "Choice", "Choices": []}');
SELECT faults('{"Type": "Wait", "Next": "Z"}');
SELECT faults('{"Type": "Wait", "Next": "Z", "Seconds": 1, "TimestampPath": "$.a"}');
SELECT faults('{"Type": "Wait", "Next": "Z", "Seconds": -1}');
SELECT faults('{"Type": "Wait", "Next": "Z", "SecondsPath": 1}');
SELECT faults('{"Type": "Wait", "Next": "Z", "Timestamp": "2026-02-30T00:00:00Z"}');
SELECT faults('{"Type": "Wait", "Next": "Z", "Timestamp": 1}');

\echo Parallel, Map
SELECT faults('{"Type": "Parallel", "Next": "Z"}');
SELECT faults('{"Type": "Parallel", "Next": "Z", "Branches": []}');
SELECT faults('{"Type": "Parallel", "Next": "Z", "Branches": [1, {"StartAt": "Z", "States": {"B": {"Type": "Pass", "Next": "Z"}}, "Extra": 1}]}');
SELECT faults('{"Type": "Parallel", "Next": "B", "Branches": [{"StartAt": "B", "States": {"B": {"Type": "Succeed"}}}, {"StartAt": "C", "States": {"C": {"Type": "Pass", "Next": "B"}}}]}');
SELECT faults('{"Type": "Parallel", "Next": "Z", "Branches": [{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}]}');
SELECT faults('{"Type": "Map", "Next": "Z"}');
SELECT faults('{"Type": "Map", "Next": "Z", "Iterator": {}, "ItemProcessor": {}, "ItemSelector": {}, "Parameters": {}}');
SELECT faults('{"Type": "Map", "Next": "Z", "ItemsPath": null, "MaxConcurrency": 1.5, "ToleratedFailureCount": -1, "ToleratedFailurePercentage": 101,
    "ItemProcessor": {"ProcessorConfig": {"Mode": "FAST"}, "StartAt": "I", "States": {"I": {"Type": "Succeed"}}}}');
SELECT faults('{"Type": "Map", "Next": "Z", "MaxConcurrency": 1, "MaxConcurrencyPath": "$.a", "ToleratedFailureCount": 1, "ToleratedFailureCountPath": "$.a",
    "ToleratedFailurePercentage": 1, "ToleratedFailurePercentagePath": "$.a", "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Succeed"}}}}');

\echo the key Saga in states
SELECT saga_faults('1');
SELECT saga_faults('{"Class": "x", "Undo": 1, "UndoInput": {"a.$": "b"}, "UndoRetry": 1, "UndoTimeoutSeconds": 0, "UndoUnknown": 1, "OnUnknown": "x", "Lock": 1,
    "ReplyEvents": [1], "Correlate": 1, "Extra": 1, "Scope": true}');
SELECT saga_faults('{"Undo": "arn:x"}');
SELECT saga_faults('{"Undo": "signal:x"}');
SELECT saga_faults('{"UndoInput": {}, "UndoRetry": [{"ErrorEquals": ["a"]}], "UndoTimeoutSeconds": 1, "UndoUnknown": true}');
SELECT saga_faults('{"Undo": "none", "UndoUnknown": true}');
SELECT saga_faults('{"Class": "compensatable"}');
SELECT saga_faults('{"Class": "retriable", "Undo": "queue:b"}');
SELECT saga_faults('{"Class": "pivot", "Undo": "queue:b"}');
SELECT saga_faults('{"Class": "pivot", "OnUnknown": "undo"}');
SELECT saga_faults('{"Undo": "queue:b", "OnUnknown": "undo"}');
SELECT saga_faults('{"Class": "pivot", "Undo": "queue:b", "OnUnknown": "undo"}');
SELECT saga_faults('{"ReplyEvents": ["Done"]}');
SELECT saga_faults('{"Correlate": "$.a"}');
SELECT faults('{"Type": "Task", "Resource": "sql:a.b", "Next": "Z", "Saga": {"ReplyEvents": ["Done"], "Correlate": "$.a"}}');
SELECT faults('{"Type": "Pass", "Next": "Z", "Saga": {"Undo": "queue:a"}}');
SELECT faults('{"Type": "Parallel", "Next": "Z", "Saga": {"Scope": 1, "Class": "pivot"}, "Branches": [{"StartAt": "B", "States": {"B": {"Type": "Succeed"}}}]}');

\echo the graph
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}, "B": {"Type": "Pass", "Next": "A"}, "C": {"Type": "Pass", "Next": "C"}}}');
SELECT all_faults('{"StartAt": "A", "States": {"A": {"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": true, "Next": "B"}], "Default": "Z"},
    "B": {"Type": "Pass", "Next": "B"}, "Z": {"Type": "Succeed"}}}');

-- Tasks one after the other, each by its class: c, p, r, u (undeclared); f: a Fail; one with ! catches everything.  Behind the last: next
CREATE FUNCTION chain(prefix text, classes text[], next text) RETURNS text LANGUAGE sql AS $$
    SELECT format('{"StartAt": "%s1", "States": {%s}}', prefix, string_agg(
        CASE WHEN c = 'f' THEN format('"%s%s": {"Type": "Fail"}', prefix, n)
        ELSE format('"%s%s": {"Type": "Task", "Resource": "queue:a"%s%s, %s}', prefix, n,
            CASE left(c, 1) WHEN 'c' THEN ', "Saga": {"Undo": "queue:b"}' WHEN 'p' THEN ', "Saga": {"Class": "pivot"}'
                WHEN 'r' THEN ', "Saga": {"Class": "retriable"}' ELSE '' END,
            CASE WHEN c LIKE '%!' THEN ', "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Z"}]' ELSE '' END,
            CASE WHEN n < cardinality(classes) THEN format('"Next": "%s%s"', prefix, n + 1) ELSE next END) END, ', '))
    FROM unnest(classes) WITH ORDINALITY AS t(c, n) $$;
CREATE FUNCTION chain_faults(VARIADIC classes text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT all_faults(CASE WHEN classes[cardinality(classes)] = 'f' THEN chain('s', classes, '')
        ELSE replace(chain('s', classes, '"Next": "Z"'), '"States": {', '"States": {"Z": {"Type": "Succeed"}, ') END) $$;

\echo classes: in order
SELECT chain_faults('c', 'u', 'c', 'p', 'r', 'r');
SELECT chain_faults('c', 'r');
SELECT chain_faults('p', 'u!', 'r');
SELECT chain_faults('c', 'c', 'f');
\echo classes: not
SELECT chain_faults('p', 'c');
SELECT chain_faults('p', 'r', 'p');
SELECT chain_faults('r', 'c');
SELECT chain_faults('r', 'p');
SELECT chain_faults('p', 'u');
SELECT chain_faults('c', 'p', 'f');
\echo classes: loops are taken twice
SELECT all_faults($${"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "pivot"}, "Next": "B"},
    "B": {"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": true, "Next": "A"}], "Default": "Z"}, "Z": {"Type": "Succeed"}}}$$);
SELECT all_faults($${"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:b"}, "Next": "C"},
    "C": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "retriable"}, "Next": "B"},
    "B": {"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": true, "Next": "A"}], "Default": "Z"}, "Z": {"Type": "Succeed"}}}$$);
\echo classes: a failed Task has done nothing
SELECT all_faults($${"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "pivot"}, "Next": "Z",
    "Catch": [{"ErrorEquals": ["Declined"], "Next": "F"}]}, "F": {"Type": "Fail"}, "Z": {"Type": "Succeed"}}}$$);

-- a Parallel, or a Map, of such chains, and a Task behind it
CREATE FUNCTION branch_faults(branches text[], behind text, type text DEFAULT 'Parallel', more text DEFAULT '') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT all_faults(replace(chain('s', ARRAY[behind], '"End": true'), '"StartAt": "s1", "States": {',
        format('"StartAt": "P", "States": {"P": {"Type": "%s", "Next": "s1"%s, %s}, ', type, more,
            CASE type WHEN 'Map' THEN format('"ItemProcessor": %s', b.json) ELSE format('"Branches": [%s]', b.json) END)))
    FROM (SELECT string_agg(chain('b' || n || '_', string_to_array(b, ' '), '"End": true'), ', ') FROM unnest(branches) WITH ORDINALITY AS t(b, n)) AS b(json) $$;
\echo classes: branches
SELECT branch_faults('{c,c c}', 'p');
SELECT branch_faults('{c p r}', 'r');
SELECT branch_faults('{c p}', 'c');
SELECT branch_faults('{c,p}', 'r');
SELECT branch_faults('{c,r}', 'r');
SELECT branch_faults('{r,r}', 'c');
SELECT branch_faults('{c c}', 'p', 'Map');
SELECT branch_faults('{c r}', 'r', 'Map');
SELECT branch_faults('{p}', 'r', 'Map');
SELECT branch_faults('{r}', 'c', 'Map');
\echo classes: what a Parallel catches
SELECT branch_faults('{p u}', 'r');
SELECT branch_faults('{p u f}', 'r', more => ', "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "s1"}]');
SELECT branch_faults('{p f}', 'c', more => ', "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "s1"}]');

\echo versions
CREATE SCHEMA shop;
CREATE FUNCTION shop.book(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION shop.no(jsonb) RETURNS text LANGUAGE sql AS 'SELECT 1::text';
CREATE PROCEDURE shop.procedure(jsonb) LANGUAGE sql AS 'SELECT 1';
DO $$ BEGIN PERFORM evtstore.create_queue(q) FROM unnest('{inventory.reserve,inventory.release,payment.charge}'::text[]) q; END $$;
\set order '{"StartAt": "Reserve", "TimeoutSeconds": 86400, "States": {"Reserve": {"Type": "Task", "Resource": "queue:inventory.reserve", "ResultPath": "$.stock", "Retry": [{"ErrorEquals": ["SoldOut"], "MaxAttempts": 0}, {"ErrorEquals": ["States.ALL"]}], "Saga": {"Undo": "queue:inventory.release"}, "Next": "Charge"}, "Charge": {"Type": "Task", "Resource": "queue:payment.charge", "Saga": {"Class": "pivot"}, "Next": "Ship"}, "Ship": {"Type": "Task", "Resource": "sql:shop.book", "Saga": {"Class": "retriable"}, "End": true}}}'
SELECT evtstore.define_saga('order', :'order');
SELECT evtstore.define_saga('order', :'order');
SELECT evtstore.define_saga('order', :'order'::jsonb || '{"Comment": "with a comment"}');
SELECT evtstore.explain_definition('order') = evtstore.explain_definition('order', 2);
SELECT evtstore.define_saga('order', :'order');
SELECT name, spec, state FROM evtstore_internal.definition WHERE kind = 'saga';
SELECT version, spec ? 'Comment' FROM evtstore_internal.saga_version ORDER BY version;
SELECT evtstore.explain_definition('order');
-- a number that was rolled back comes again with other content
BEGIN;
SELECT evtstore.define_saga('order', '{"StartAt": "Gone", "States": {"Gone": {"Type": "Succeed"}}}');
SELECT evtstore.explain_definition('order');
ROLLBACK;
SELECT evtstore.define_saga('order', '{"StartAt": "There", "States": {"There": {"Type": "Succeed"}}}');
SELECT evtstore.explain_definition('order', 3);

\echo drawings
SELECT evtstore.define_saga('drawn', $${"StartAt": "Which <one>?", "States": {
  "Which <one>?": {"Type": "Choice", "Choices": [{"Variable": "$.n", "NumericGreaterThan": 1, "Next": "Both"},
     {"Or": [{"And": [{"Variable": "$.s", "StringEquals": "`a\"b`"}, {"Variable": "$.t", "IsPresent": true}]}, {"Not": {"Variable": "$.u", "IsNull": true}}], "Next": "Each"},
     {"Variable": "$.n", "IsNull": true, "Next": "No", "Comment": "nothing is there"}], "Default": "Later"},
  "Both": {"Type": "Parallel", "Next": "Done", "Catch": [{"ErrorEquals": ["SoldOut", "States.Timeout"], "Next": "No"}],
    "Branches": [{"StartAt": "B0", "States": {"B0": {"Type": "Pass", "End": true}}}, {"StartAt": "B1", "States": {"B1": {"Type": "Pass", "End": true}}}]},
  "Each": {"Type": "Map", "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Task", "Resource": "queue:inventory.reserve", "Saga": {"Undo": "queue:inventory.release"}, "End": true}}}, "End": true},
  "Later": {"Type": "Wait", "Seconds": 1, "Next": "Done"}, "Done": {"Type": "Succeed"}, "No": {"Type": "Fail", "Error": "Nothing"}}}$$);
SELECT evtstore.explain_definition('drawn');

\echo the short form
SELECT evtstore.define_saga('short', '[{"do": "queue:inventory.reserve", "undo": "queue:inventory.release"}, {"do": "queue:payment.charge", "pivot": true, "name": "Charge"}, {"do": "sql:shop.book"}]');
SELECT evtstore.explain_definition('short');
SELECT jsonb_pretty(v.spec) FROM evtstore_internal.saga_version v JOIN evtstore_internal.definition d ON d.id = v.definition_id WHERE d.name = 'short';
SELECT evtstore.define_saga('short', '{"comment": "c", "timeout": 60, "steps": [{"name": "Book", "do": "sql:shop.book", "undo": "none", "input": {"a.$": "$.a"}, "timeout": 1.5, "retry": [{"ErrorEquals": ["States.ALL"]}]},
    {"do": "signal:paid", "undo": "sql:shop.book", "undo_input": {"b": 1}}]}');
SELECT v.spec FROM evtstore_internal.saga_version v JOIN evtstore_internal.definition d ON d.id = v.definition_id WHERE d.name = 'short' AND version = 2;
SELECT all_faults('{"steps": [1, {}, {"do": "arn:x", "undo": 1, "pivot": 1, "timeout": 0, "extra": 1}], "timeout": 0, "extra": 1}');
SELECT all_faults('[{"do": "queue:a"}, {"do": "queue:a", "pivot": true}, {"do": "queue:b", "undo": "queue:c"}, {"do": "queue:d", "pivot": true}]');
SELECT all_faults('[{"do": "queue:a", "undo_input": {}}]');

\pset tuples_only off
\echo errors
SELECT evtstore.define_saga('bad', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Retry": [{"ErrorEquals": []}], "Next": "B"}}}');
SELECT evtstore.define_saga('bad', '[{"do": "queue:none", "undo": "endpoint:none"}, {"do": "saga:none", "name": "child"}, {"do": "saga:order@9", "name": "x"}, {"do": "sql:shop.none", "name": "y"},
    {"do": "sql:shop.no"}, {"do": "sql:shop.procedure"}, {"do": "saga:order@2"}]');
-- itself it may start, but not in a version that there is not yet
SELECT evtstore.define_saga('self', '[{"do": "saga:self@1"}]');
SELECT evtstore.define_saga('self', '[{"do": "saga:self"}]');
SELECT evtstore.define_saga(NULL, '[]');
SELECT evtstore.define_saga('', '[]');
SELECT evtstore.define_saga('x', NULL);
SELECT evtstore.check_saga(NULL);
SELECT evtstore.explain_definition('none');
SELECT evtstore.explain_definition('order', 9);
SELECT evtstore.explain_definition('order', 0);
SELECT evtstore.drop_saga('none');
-- of many faults a hundred are told
DO $$
DECLARE
    detail text;
BEGIN
    PERFORM evtstore.define_saga('bad', (SELECT jsonb_build_object('StartAt', 's1', 'States', jsonb_object_agg(format('s%s', i), '{"Type": "Succeed", "a": 1}'::jsonb))
        FROM generate_series(1, 60) i));
EXCEPTION WHEN SQLSTATE 'ST009' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '% lines, the last: %', regexp_count(detail, E'\n') + 1, substring(detail FROM '[^\n]*$');
END $$;

\echo what says nothing of an undo is told, where something behind it may fail
SELECT evtstore.define_saga('silent', '[{"do": "queue:inventory.reserve"}, {"do": "sql:shop.book"}]');
SELECT evtstore.define_saga('silent', '[{"do": "queue:inventory.reserve"}, {"do": "sql:shop.book", "pivot": true}]');
SELECT evtstore.define_saga('silent', '[{"do": "signal:paid"}, {"do": "saga:order"}, {"do": "queue:inventory.reserve"}]');
SELECT evtstore.define_saga('silent', '{"StartAt": "A", "Saga": {"OnFail": "stop"}, "States": {"A": {"Type": "Task", "Resource": "sql:shop.book", "Next": "F"}, "F": {"Type": "Fail"}}}');
SELECT evtstore.define_saga('silent', '{"StartAt": "M", "States": {"M": {"Type": "Map", "End": true, "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Task", "Resource": "sql:shop.book", "End": true}}}}}}');

\echo rights: whoever defines the first version owns the saga
CREATE ROLE regress_saga_one;
CREATE ROLE regress_saga_two;
GRANT evtstore_admin TO regress_saga_one, regress_saga_two;
GRANT USAGE ON SCHEMA shop TO regress_saga_one;
REVOKE EXECUTE ON FUNCTION shop.book FROM PUBLIC;
SET ROLE regress_saga_one;
SELECT evtstore.define_saga('theirs', '[{"do": "sql:shop.book"}]');
RESET ROLE;
GRANT EXECUTE ON FUNCTION shop.book TO regress_saga_one;
SET ROLE regress_saga_one;
SELECT evtstore.define_saga('theirs', '[{"do": "sql:shop.book"}]');
SET ROLE regress_saga_two;
SELECT evtstore.define_saga('theirs', '[{"do": "queue:payment.charge"}]');
SELECT evtstore.drop_saga('theirs');
RESET ROLE;
GRANT regress_saga_one TO regress_saga_two;
CREATE FUNCTION shop.of_two(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
REVOKE EXECUTE ON FUNCTION shop.of_two FROM PUBLIC;
GRANT EXECUTE ON FUNCTION shop.of_two TO regress_saga_two;
SET ROLE regress_saga_two;
SELECT evtstore.define_saga('theirs', '[{"do": "queue:payment.charge"}]');
-- the owner stays, and it is he who has to be able to call it
SELECT evtstore.define_saga('theirs', '[{"do": "sql:shop.book"}, {"do": "queue:payment.charge", "pivot": true}]');
SELECT evtstore.define_saga('theirs', '[{"do": "sql:shop.of_two"}]');
RESET ROLE;
SELECT owner, spec FROM evtstore_internal.definition WHERE name = 'theirs';
SELECT evtstore.drop_saga('theirs');
SELECT count(*) FROM evtstore_internal.saga_version v WHERE NOT EXISTS (SELECT FROM evtstore_internal.definition d WHERE d.id = v.definition_id);
SELECT evtstore.explain_definition('theirs');
DROP OWNED BY regress_saga_one, regress_saga_two;
DROP ROLE regress_saga_one, regress_saga_two;

-- not in a transaction that may not write, nor where the name is newer than the snapshot
BEGIN READ ONLY;
SELECT evtstore.define_saga('order', '[{"do": "queue:payment.charge"}]');
ROLLBACK;
