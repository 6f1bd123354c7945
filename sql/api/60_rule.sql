CREATE OR REPLACE FUNCTION evtstore.create_rule(
    name text, filter jsonb, target text, transform jsonb DEFAULT NULL, mode text DEFAULT 'sync')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_rule';
COMMENT ON FUNCTION evtstore.create_rule IS
'Events that match the filter go to the target, in the append''s transaction. filter: {"categories","types","tags","streams"}, each an array, {"pattern"} and {"expression"},
all given ones must match; {} is every event. target: ''queue:NAME''; the stream becomes the key of the message. Errors: ST008, ST009, 42710.';

CREATE OR REPLACE FUNCTION evtstore.alter_rule(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_rule';
COMMENT ON FUNCTION evtstore.alter_rule IS 'Changes "filter" or "target" of a rule, for appends that begin after the commit. Errors: ST008, ST009, 22023.';

CREATE OR REPLACE FUNCTION evtstore.drop_rule(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_rule';
COMMENT ON FUNCTION evtstore.drop_rule IS 'Forgets a rule; messages that it sent stay. Errors: ST008.';
