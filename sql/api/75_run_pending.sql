CREATE OR REPLACE FUNCTION evtstore.run_pending(max_count int DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_run_pending';
COMMENT ON FUNCTION evtstore.run_pending IS
'Does in this call and transaction what delivery workers would do now: async projections and rules, queues and subscriptions with an endpoint sql:, timers and whatever
else has come for sagas. For tests, and for databases without workers. Up to max_count things; returns how many, failed attempts among them, and 0 when there
is nothing to do. What somebody else is at is passed over, as are endpoints outside, and events that this transaction appended. Errors: 22023,
25001 in REPEATABLE READ, 55000 in a copy, or called by what it runs.';
