--
-- What another database delivers: accept_events, its inbox, what becomes of events and messages, and of those that come back.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET client_min_messages = warning;

-- event n of a stream, as a relay writes it
CREATE FUNCTION event(n int, stream text, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', format('00000000-0000-7000-8000-%s', lpad(n::text, 12, '0')), 'stream', stream, 'type', 'T' || n,
        'data', n, 'position', (100 + n)::text) || more $$;
CREATE FUNCTION batch(VARIADIC jsonb[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb($1) $$;

--
-- an event keeps what it is
--
SET evtstore.actor = 'nobody';
SET evtstore.correlation_id = 'of the session';
SELECT evtstore.accept_events('/a', '[{"id": "00000000-0000-7000-8000-00000000ABCD", "stream": "order-ü 1", "type": "Placed",
    "data": {"n": 9007199254740993.10, "t": "a\\b\n", "none": null}, "metadata": {"causation_id": "c", "causation_depth": 99, "n": 1.50},
    "tags": ["x", "y"], "schema_version": 3, "occurred_at": "2001-02-03T04:05:06.789012Z", "position": "17", "source": "/a"}]');
SELECT id, stream, version, type, data, metadata, tags, schema_version, occurred_at = '2001-02-03 04:05:06.789012Z' AS same_time,
    recorded_at > now() - interval '1 hour' AS recorded_here FROM evtstore.read_stream('order-ü 1');
RESET evtstore.actor;
RESET evtstore.correlation_id;
-- where it was first stays
SELECT evtstore.accept_events('/b', batch(event(1, 'far-1', '{"metadata": {"origin": {"source": "/z", "position": "5"}}}')));
SELECT metadata FROM evtstore.read_stream('far-1');
-- no stream: tags only
SELECT evtstore.accept_events('/a', batch(event(2, NULL, '{"tags": ["t"]}')));
SELECT stream, version, data, tags FROM evtstore.read_query('{"items": [{"tags": ["t"]}]}');

--
-- the same again
--
SELECT evtstore.accept_events('/a', batch(event(11, 's-1'), event(12, 's-2'), event(13, 's-1'))) AS new;
SELECT evtstore.accept_events('/a', batch(event(11, 's-1'), event(12, 's-2'), event(13, 's-1'))) AS new;
-- known and new ones, in whatever order
SELECT evtstore.accept_events('/a', batch(event(14, 's-1'), event(13, 's-1'), event(15, 's-2'), event(11, 's-1'))) AS new;
-- twice in one call
SELECT evtstore.accept_events('/a', batch(event(16, 's-1'), event(17, 's-1'), event(16, 's-1'), event(18, 's-1'))) AS new;
-- from two sources
SELECT evtstore.accept_events(NULL, batch(event(19, 's-1', '{"source": "/a"}'), event(19, 's-1', '{"source": "/b"}'))) AS new;
SELECT stream, version, data FROM evtstore.events WHERE stream LIKE 's-%' ORDER BY position;
-- a rollback takes it back
BEGIN;
SELECT evtstore.accept_events('/a', batch(event(20, 's-3'))) AS new;
ROLLBACK;
SELECT evtstore.accept_events('/a', batch(event(20, 's-3'))) AS new;
-- other content
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(11, 's-1', '{"data": 0}')))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(11, 's-other')))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(21, 's-4'), event(21, 's-4', '{"data": 0}')))$$);
SELECT evtstore.stream_version('s-4');
-- forgotten by the inbox, and known to the store
SET evtstore.clock_offset = '20d';
SELECT evtstore_internal.trim_inbox(1000) > 0 AS trimmed;
RESET evtstore.clock_offset;
SELECT evtstore.accept_events('/a', batch(event(11, 's-1'))) AS new;
SELECT evtstore.stream_version('s-1');
-- deleted, and known to the inbox
SELECT evtstore.accept_events('/a', batch(event(31, 'gone-1'), event(32, 'gone-1'))) AS new;
SELECT evtstore.truncate_stream('gone-1', 2);
SELECT evtstore.scavenge() > 0 AS scavenged;
SELECT evtstore.accept_events('/a', batch(event(31, 'gone-1'))) AS new;
SELECT data FROM evtstore.read_stream('gone-1');
SELECT evtstore.delete_stream('gone-1', hard => true);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(33, 'gone-1')))$$);

--
-- what began here comes back: it is the same event, whatever is in its metadata by now
--
SELECT count(*) FROM evtstore.append('loop-1', 'Began', '1', id => '00000000-0000-7000-8000-0000000000aa', metadata => '{"causation_depth": 15}');
SELECT evtstore.accept_events('/there', batch('{"id": "00000000-0000-7000-8000-0000000000aa", "stream": "loop-1", "type": "Began", "data": 1,
    "metadata": {"causation_depth": 15, "origin": {"source": "/here", "position": "1"}}, "schema_version": 1, "position": "700"}')) AS new;
SELECT evtstore.accept_events('/there', batch('{"id": "00000000-0000-7000-8000-0000000000aa", "stream": "loop-1", "type": "Began", "data": 1}')) AS new;
SELECT version, metadata FROM evtstore.read_stream('loop-1');
-- the depth goes with events from store to store, so that handlers that answer each other end
SHOW evtstore.max_causation_depth;
CREATE FUNCTION answer(event evtstore.event) RETURNS void LANGUAGE sql AS $$
    SELECT evtstore.append('answer-1', 'Answered', '{}') $$;
SELECT evtstore.create_projection('answerer', '{"Asked": {"fn": "public.answer"}}', 'sync');
SELECT evtstore.accept_events('/a', batch(event(41, 'q-1', '{"type": "Asked", "metadata": {"causation_depth": 3}}'))) AS new;
SELECT type, metadata - 'correlation_id' - 'causation_id' AS metadata, metadata->>'causation_id' AS cause FROM evtstore.read_stream('answer-1');
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(42, 'q-1', '{"type": "Asked", "metadata": {"causation_depth": 1000}}')))$$);
SELECT evtstore.accept_events('/a', batch(event(41, 'q-1', '{"type": "Asked", "metadata": {"causation_depth": 1000}}'))) AS new;

--
-- rules act on what is accepted
--
SELECT evtstore.create_queue('work');
SELECT evtstore.create_rule('work', '{"categories": ["job"]}', 'queue:work');
SELECT evtstore.accept_events('/a', batch(event(51, 'job-1'))) AS new;
SELECT body, type, event_id FROM evtstore.receive('work');

--
-- into one stream, into a queue
--
SELECT evtstore.accept_events('/a', batch(event(61, 'a-1'), event(62, NULL), event(63, 'all')), 'stream:all') AS new;
SELECT evtstore.accept_events('/a', batch('{"id": "jobs-7", "type": "message", "data": {"n": 1}, "metadata": {"h": "x"}, "key": "k",
    "occurred_at": "2020-01-01T00:00:00Z"}'), 'stream:all') AS new;
-- the same number of another day is another message, the same one is not
SELECT evtstore.accept_events('/a', batch('{"id": "jobs-7", "type": "message", "data": {"n": 2}, "occurred_at": "2020-01-02T00:00:00Z"}'), 'stream:all') AS new;
SELECT evtstore.accept_events('/a', batch('{"id": "jobs-7", "type": "message", "data": {"n": 2}, "occurred_at": "2020-01-02T00:00:00Z"}'), 'stream:all') AS new;
SELECT version, id, type, data, metadata FROM evtstore.read_stream('all');
SELECT evtstore.create_queue('inbox');
SELECT evtstore.accept_events('/a', batch(event(61, 'a-1', '{"tags": ["x"], "schema_version": 2, "metadata": {"m": 1}, "occurred_at": "2020-01-01T00:00:00Z"}'),
    '{"id": "jobs-8", "type": "Do", "data": null, "metadata": {"type": "Do"}, "key": "k", "occurred_at": "2020-01-01T00:00:00Z"}',
    '{"id": "jobs-9", "type": "message", "data": 9, "key": null, "stream": null}'), 'queue:inbox') AS new;
SELECT evtstore.accept_events('/a', batch('{"id": "jobs-8", "type": "Do", "data": null, "metadata": {"type": "Do"}, "key": "k", "occurred_at": "2020-01-01T00:00:00Z"}',
    '{"id": "jobs-9", "type": "message", "data": 9}', '{"id": "jobs-10", "type": "message", "data": 10}', '{"id": "jobs-10", "type": "message", "data": 10}'),
    'queue:inbox') AS new;
SELECT message_id, key, body, headers FROM evtstore.receive('inbox', max_count => 10) ORDER BY message_id;
-- another target is another inbox; a source and a target that are too long for a name are told apart, too
SELECT evtstore.accept_events('/a', batch('{"id": "jobs-10", "type": "message", "data": 10}'), 'stream:others') AS new;
SELECT evtstore.accept_events(repeat('s', 1000) || i % 2, batch('{"id": "jobs-1", "type": "message", "data": 1}'), 'queue:inbox') AS new FROM generate_series(1, 4) i;

--
-- tenants do not meet
--
SET evtstore.tenant = 'acme';
SELECT evtstore.accept_events('/a', batch(event(11, 's-1'))) AS new;
SELECT evtstore.accept_events('/a', batch(event(11, 's-1'))) AS new;
SELECT tenant, version, data FROM evtstore.read_stream('s-1');
RESET evtstore.tenant;

--
-- bad input: nothing of the call happens
--
SELECT evtstore.accept_events(NULL, '[]');
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1'), '{"id": "x"}'))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1') - 'data'))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1') - 'id'))$$);
SELECT fails($$SELECT evtstore.accept_events(NULL, batch(event(71, 'bad-1')))$$);
SELECT fails($$SELECT evtstore.accept_events('', batch(event(71, 'bad-1')))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', NULL)$$);
SELECT fails($$SELECT evtstore.accept_events('/a', '{}')$$);
SELECT fails($$SELECT evtstore.accept_events('/a', '[1]')$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1', '{"position": 5}')))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1', '{"nonsense": 5}')))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1', '{"id": "q-1"}') - 'stream'))$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1')), 'topic')$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1')), 'queue:none')$$);
SELECT fails($$SELECT evtstore.accept_events('/a', batch(event(71, 'bad-1')), 'stream:')$$);
SELECT evtstore.stream_version('bad-1');
SELECT count(*) FROM evtstore.events WHERE stream = '';
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.accept_events('/a', '[]')$$);
COMMIT;
SET ROLE evtstore_reader;
SELECT evtstore.accept_events('/a', '[]');
RESET ROLE;
SET ROLE evtstore_writer;
SELECT evtstore.accept_events('/a', batch(event(81, 'by-writer'))) AS new;
RESET ROLE;
