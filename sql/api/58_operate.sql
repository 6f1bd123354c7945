CREATE OR REPLACE FUNCTION evtstore.pause(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_pause';
COMMENT ON FUNCTION evtstore.pause IS
'A queue or subscription hands nothing out any more, to consumers and to workers; what is out can be settled, and sending goes on. Errors: ST008.';

CREATE OR REPLACE FUNCTION evtstore.resume(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resume';
COMMENT ON FUNCTION evtstore.resume IS 'Ends a pause. Errors: ST008.';

CREATE OR REPLACE FUNCTION evtstore.redrive(name text, filter jsonb DEFAULT '{}', max_count int DEFAULT NULL, patch jsonb DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_redrive';
COMMENT ON FUNCTION evtstore.redrive IS
'Dead letters of a queue or subscription come again, the oldest first; returns how many. filter: {"type","key","error" (a part of the last
one),"from","to" (when it was given up),"id"}, all given ones must match. A message is sent anew, its body merged with patch; an event is
handed out again in the order of its key, and moves no checkpoint. Errors: ST008, 22023, 0A000 a patch for events.';

CREATE OR REPLACE FUNCTION evtstore.discard(dead_letter_id bigint, reason text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_discard';
COMMENT ON FUNCTION evtstore.discard IS 'Deletes a dead letter; who did it and why is in the server''s log. Errors: ST008, 22004.';

CREATE OR REPLACE FUNCTION evtstore.unblock_key(name text, key text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_unblock_key';
COMMENT ON FUNCTION evtstore.unblock_key IS
'The event that blocks a key of a subscription is handed out again at once, with all its attempts; a key that waits for its next attempt is
left as it is. Errors: ST008 unknown subscription, nothing waits for that key.';

CREATE OR REPLACE FUNCTION evtstore.skip_event(subscription text, event_id uuid, reason text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_skip_event';
COMMENT ON FUNCTION evtstore.skip_event IS
'An event that failed, or waits behind one, becomes a dead letter, cause skipped, and its key goes on. Errors: ST008 it is not set aside.';

CREATE OR REPLACE FUNCTION evtstore.evict_consumer(name text, consumer text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_evict_consumer';
COMMENT ON FUNCTION evtstore.evict_consumer IS
'As evtstore.leave, said by somebody else. Of a queue: what the consumer holds is ready again, at once, and the attempts count.
Errors: ST008 unknown name or consumer.';

CREATE OR REPLACE PROCEDURE evtstore.wait_for_work(names text[], timeout interval)
LANGUAGE C AS 'MODULE_PATHNAME', 'evtstore_wait_for_work';
COMMENT ON PROCEDURE evtstore.wait_for_work IS
'Sleeps until one of the queues and subscriptions (1 to 16) has something to receive or poll, or the timeout is over, which
is no error. Woken through shared memory by the commit that makes the work; holds no snapshot and no transaction while it
sleeps. Errors: 25001 inside a transaction block, ST008 unknown name, 22023 too many names, 25006 on a standby.';

CREATE OR REPLACE FUNCTION evtstore.grant_use(kind text, name text, grantee name, privilege text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_grant_use';
COMMENT ON FUNCTION evtstore.grant_use IS
'Lets a role that is no writer use one queue or subscription: kind queue with privilege send (send, send_batch, send_messages) or consume
(receive, wait_for_work, and settling what it received), kind subscription with consume. Grants it USAGE on the schema and EXECUTE on these
functions, too; each of them looks whether the current user may use what it names. Errors: ST008 unknown, 42704 no such role, 22023.';

CREATE OR REPLACE FUNCTION evtstore.revoke_use(kind text, name text, grantee name, privilege text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_revoke_use';
COMMENT ON FUNCTION evtstore.revoke_use IS
'Takes back what evtstore.grant_use gave; EXECUTE on the functions goes with the last one. Errors: ST008 unknown, 22023.';
