CREATE OR REPLACE FUNCTION evtstore.create_endpoint(name text, url text, options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_endpoint';
COMMENT ON FUNCTION evtstore.create_endpoint IS
'Where workers deliver. url: ''sql:schema.function'' (takes evtstore.delivery; its effect and the acknowledgement commit together), ''https://...'',
''kafka://...'', ''amqp://...'', ''nats://...'', ''postgresql://...''; plain text only to addresses of evtstore.allowed_networks. options: {"format": "binary"|
"structured"|"batched"|"debezium"|"plain", "topic": "orders.${category}", "key": "${data.customerId}", "headers": {}, "timeout": "10s", "max_in_flight",
"rate", "breaker": {"failures": 10, "open_for": "5s", "max_open_for": "5min"}, "source": "URI"}, and from superusers "tls": {"verify", "ca_file",
"server_name"} and "client": settings of the client library. Errors: 22023, 22004 no topic, 42501, 42710, 42883 no such function, 58P01 the transport
is not installed.';

CREATE OR REPLACE FUNCTION evtstore.alter_endpoint(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_endpoint';
COMMENT ON FUNCTION evtstore.alter_endpoint IS 'Changes the url or options of an endpoint; a null removes an option. Errors: ST008, 22023.';

CREATE OR REPLACE FUNCTION evtstore.drop_endpoint(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_endpoint';
COMMENT ON FUNCTION evtstore.drop_endpoint IS 'Forgets an endpoint. Errors: ST008 unknown, 2BP01 a queue still names it.';

CREATE OR REPLACE FUNCTION evtstore.reset_breaker(endpoint text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_reset_breaker';
COMMENT ON FUNCTION evtstore.reset_breaker IS
'Closes the breaker of an endpoint, so that it is delivered to at once, and enables one that is disabled because it answered 410 Gone. Errors:
ST008.';

CREATE OR REPLACE FUNCTION evtstore.test_endpoint(name text)
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_test_endpoint';
COMMENT ON FUNCTION evtstore.test_endpoint IS
'Sends an event of type evtstore.test, which is not in the store, from this session, and says what came of it: {"outcome": "delivered"|"failed"|
"rejected"|"unavailable"|"gone", "status", "ms", "error"}. Takes no longer than the time-out of the endpoint and some seconds. Errors: ST008, 42809 a
sql: endpoint, 55000 this store is a copy.';

CREATE OR REPLACE FUNCTION evtstore.replay(
    endpoint text, filter jsonb DEFAULT '{}', from_position bigint DEFAULT NULL, from_time timestamptz DEFAULT NULL,
    to_position bigint DEFAULT NULL, rate int DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_replay';
COMMENT ON FUNCTION evtstore.replay IS
'Sends past events to an endpoint once more, beside what goes there anyway: those that the filter selects, from a position or time (NULL: the beginning)
to to_position (NULL: the head as it is now), rate a second (NULL: any), in order of each stream, with the header evtstore-replay. Returns how many there
are, for which it reads them. It is a subscription "ENDPOINT replay N", which goes away at its end; pause, resume and drop_subscription work.
Errors: ST008, 22023.';

CREATE OR REPLACE FUNCTION evtstore_internal.endpoint_figures()
RETURNS TABLE (endpoint_id int, breaker text, in_flight int, delivered bigint, failed bigint, latency_p50 interval, latency_p99 interval,
    last_error text, failed_at timestamptz, next_attempt_at timestamptz, has_fault boolean)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_endpoint_figures';
COMMENT ON FUNCTION evtstore_internal.endpoint_figures IS 'what the relay does with its endpoints, from shared memory';

CREATE OR REPLACE FUNCTION evtstore_internal.endpoint_tries()
RETURNS TABLE (endpoint_id int, source_id int, number bigint, attempt int, started_at timestamptz, took interval, outcome text, status int, error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_endpoint_tries';
COMMENT ON FUNCTION evtstore_internal.endpoint_tries IS 'the last attempts of each endpoint, from shared memory';

CREATE OR REPLACE VIEW evtstore.endpoint_status AS
    SELECT d.name,
           CASE WHEN d.state <> 'active' THEN 'disabled' WHEN f.has_fault THEN 'fault' ELSE 'active' END AS state,
           coalesce(f.breaker, 'closed') AS breaker, coalesce(f.in_flight, 0) AS in_flight, coalesce(f.delivered, 0) AS delivered,
           coalesce(f.failed, 0) AS failed, f.latency_p50, f.latency_p99, f.last_error, f.failed_at, f.next_attempt_at,
           pg_catalog.split_part(d.spec->>'url', ':', 1) AS transport
    FROM evtstore_internal.definition d
    LEFT JOIN evtstore_internal.endpoint_figures() f ON f.endpoint_id = d.id
    WHERE d.kind = 'endpoint';
COMMENT ON VIEW evtstore.endpoint_status IS
    'one row per endpoint: state (active; disabled: it answered 410 Gone, see reset_breaker; fault: it cannot be connected to as it is defined), breaker (closed,
open: left alone until next_attempt_at, half_open: a probe is under way), in_flight, delivered and failed (attempts since the start of the
server), latency_p50 and latency_p99 (of those delivered, within a fifth), last_error and failed_at, transport (scheme of the url). Of sql: endpoints, which
delivery workers call, there are no figures';

CREATE OR REPLACE VIEW evtstore.endpoint_attempts AS
    SELECT d.name AS endpoint, s.kind, s.name, CASE WHEN s.kind = 'queue' THEN NULL ELSE t.number END AS "position",
           CASE WHEN s.kind = 'queue' THEN t.number END AS message_id, t.attempt, t.started_at, t.took, t.outcome, t.status, t.error
    FROM evtstore_internal.endpoint_tries() t
    JOIN evtstore_internal.definition d ON d.id = t.endpoint_id
    LEFT JOIN evtstore_internal.definition s ON s.id = t.source_id;
COMMENT ON VIEW evtstore.endpoint_attempts IS
    'the last attempts to deliver, 32 of each endpoint: of which subscription or queue (kind, name), which event (position) or message (message_id),
outcome (delivered, failed, rejected, unavailable: no attempt spent, gone), status (of HTTP, or the like), error';

CREATE OR REPLACE FUNCTION evtstore.set_endpoint_secret(
    name text, secret text, kind text DEFAULT 'signing', keep_old interval DEFAULT '24h')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_set_endpoint_secret';
COMMENT ON FUNCTION evtstore.set_endpoint_secret IS
'What an endpoint signs or logs in with; NULL removes it. kind: ''signing'' (HTTP: whsec_ and base64, signs by Standard Webhooks; the one before goes on
signing, too, until keep_old has passed), ''basic'' (USER:PASSWORD), ''bearer'', ''sasl'', ''tls'' (certificate and key in PEM). Nothing shows it again; dumps do
not have it. Pass it as a parameter, so that no log has it. Errors: ST008, 22023, 54000 ten hold already.';

CREATE OR REPLACE FUNCTION evtstore.resume_delivery()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resume_delivery';
COMMENT ON FUNCTION evtstore.resume_delivery IS
'Says that this copy of the database is now the one that delivers. A restored, cloned or templated store delivers to nobody until then.';
