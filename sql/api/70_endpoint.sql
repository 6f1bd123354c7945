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

CREATE OR REPLACE FUNCTION evtstore.resume_delivery()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resume_delivery';
COMMENT ON FUNCTION evtstore.resume_delivery IS
'Says that this copy of the database is now the one that delivers. A restored, cloned or templated store delivers to nobody until then.';
