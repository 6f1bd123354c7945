CREATE TYPE evtstore.event AS (
    position bigint,
    tenant text,
    stream text,
    version bigint,
    id uuid,
    type text,
    schema_version int,
    data jsonb,
    metadata jsonb,
    tags text[],
    occurred_at timestamptz,
    recorded_at timestamptz
);
COMMENT ON TYPE evtstore.event IS
    'one immutable fact; position counts in the whole store (gaps allowed), version in its stream (1, 2, 3 ... no gap)';

CREATE TYPE evtstore.append_result AS (
    stream text,
    first_version bigint,
    version bigint,
    first_position bigint,
    position bigint,
    duplicate boolean
);
COMMENT ON TYPE evtstore.append_result IS
    'what an append wrote; duplicate is true where an identical earlier append is answered again';

CREATE TYPE evtstore.delivery AS (
    receipt text,
    attempt int,
    key text,
    message_id bigint,
    body jsonb,
    headers jsonb,
    enqueued_at timestamptz,
    position bigint,
    stream text,
    version bigint,
    event_id uuid,
    type text,
    schema_version int,
    tags text[],
    recorded_at timestamptz
);
COMMENT ON TYPE evtstore.delivery IS
    'one message or event handed to a consumer; for events body is the data and headers the metadata; the receipt settles it';
