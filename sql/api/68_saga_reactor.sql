CREATE OR REPLACE FUNCTION evtstore.define_reactor(name text, routes jsonb, fn text, options jsonb DEFAULT '{}')
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_define_reactor';
COMMENT ON FUNCTION evtstore.define_reactor IS
'A process manager: events of routes ([{"types": ["OrderPlaced"], "correlate": "$.data.order", "starts": true}, ...]) go to the instance of their value, in order of position, each once.
fn(state jsonb, event jsonb) returns jsonb: {"state", "commands": [{"queue", "body", "key", "headers", "delay"}], "events": [{"stream", "type", "data"}], "timers": [{"name", "after" or "at", "data"}],
"cancel_timers": [name], "done": true, "output"}, all optional, done in the same transaction; it runs as who defined the reactor first. Where no instance is open an event of a route with "starts" starts one, others
are passed over. Timers are events of type evtstore.timer. An error is tried again by options "retry", then the instance is stuck (retry_saga, skip_step, cancel_saga); its later events wait. Options: "retry", "lanes",
"start_at" (''now'' or ''beginning''). Another definition of the name takes its place, for open instances too; returns the version. Errors: ST009, 22023, 42501, 25001.';

CREATE OR REPLACE FUNCTION evtstore.drop_reactor(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_reactor';
COMMENT ON FUNCTION evtstore.drop_reactor IS
'Forgets a reactor with its instances and its place. Errors: ST008, 42501 a reactor of another role, 2BP01 instances are open, 25001.';
