#!/bin/sh
# A worker of the saga "order", with psql.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
#
# saga.sh              effects in the saga's database: a batch, its effects and its answers are one transaction
# saga.sh elsewhere    effects in the database that PARTICIPANT says, which has evtstore too: each is a transaction there, then answered
set -u
tab=$(printf '\t')
queues='inventory.reserve inventory.release payment.charge shipping.book'

# The handlers, made by each session for itself.  A no that the saga is told is an exception: its name, with its cause as DETAIL; HINT
# again where it is of use to try again.
handlers=$(cat <<'SQL'
-- what is done in one's own tables; done is what came of the do that an undo undoes
CREATE FUNCTION pg_temp.handle(queue text, body jsonb, done jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    CASE queue
    WHEN 'inventory.reserve' THEN
        UPDATE stock SET free = free - (body->'pieces')::int WHERE sku = body->>'sku' AND free >= (body->'pieces')::int;
        IF NOT found THEN RAISE 'SoldOut' USING DETAIL = body->>'sku'; END IF;
        INSERT INTO reservation (order_id, sku, pieces) VALUES (body->>'order', body->>'sku', (body->'pieces')::int) RETURNING id INTO made;
        RETURN jsonb_build_object('reservation', made);
    WHEN 'inventory.release' THEN
        UPDATE stock SET free = free + r.pieces FROM reservation r WHERE r.id = (done->'reservation')::bigint AND stock.sku = r.sku;
        INSERT INTO released (reservation_id) VALUES ((done->'reservation')::bigint);
    WHEN 'payment.charge' THEN
        UPDATE card SET credit = credit - (body->'amount')::numeric WHERE number = body->>'card' AND credit >= (body->'amount')::numeric;
        IF NOT found THEN RAISE 'Declined' USING DETAIL = body->>'card'; END IF;
        INSERT INTO payment (order_id, amount) VALUES (body->>'order', (body->'amount')::numeric);
    WHEN 'shipping.book' THEN
        IF EXISTS (SELECT FROM carrier WHERE name = body->>'carrier' AND busy) THEN RAISE 'Busy' USING DETAIL = body->>'carrier', HINT = 'again'; END IF;
        INSERT INTO shipment (order_id, carrier) VALUES (body->>'order', body->>'carrier');
    END CASE;
    RETURN 'null';
END $$;

-- does a command if it is to be done, and returns what is to be answered
CREATE FUNCTION pg_temp.answer(queue text, body jsonb, headers jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    undo boolean := headers->'undo';
    key text := headers->>CASE WHEN undo THEN 'forward_key' ELSE 'idempotency_key' END;
    guard record;
    output jsonb;
    cause text;
    hint text;
BEGIN -- a savepoint: who fails undoes his effect, and what the guard knows of it
    SELECT * INTO guard FROM evtstore.guard_step(key, CASE WHEN undo THEN 'undo' ELSE 'do' END);
    IF guard.decision = 'rejected' THEN RAISE 'Rejected' USING DETAIL = 'its undo was here before it'; END IF;
    IF guard.decision = 'empty' AND headers->>'forward' = 'done' THEN
        RAISE 'Forgotten' USING DETAIL = 'the saga knows that it was done, and the guard does not';
    END IF;
    output := guard.output;
    IF guard.decision = 'run' THEN
        output := pg_temp.handle(queue, body, guard.output);
        PERFORM evtstore.guard_output(key, output);
    END IF;
    RETURN jsonb_build_object('do', 'reply', 'output', output);
EXCEPTION
    WHEN raise_exception THEN
        GET STACKED DIAGNOSTICS cause = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN jsonb_build_object('do', 'fail', 'error', SQLERRM, 'cause', cause, 'retryable', hint = 'again');
    WHEN OTHERS THEN -- nobody's answer: the same attempt again, by the queue's retry policy
        RETURN jsonb_build_object('do', 'nack', 'reason', SQLERRM);
END $$;
SQL
)

# sql [ARGUMENT...]: runs its standard input
sql() {
	psql -XqAt -F "$tab" -v ON_ERROR_STOP=1 "$@"
}

# Only the waiting is cancelled; who works finishes first.
stopping='' waiting=''
trap 'stopping=1; [ -z "$waiting" ] || kill -INT "$waiting"' TERM

# Sleeps until there is work; fails when the connection does.
wait_for_work() {
	psql -Xq -c "CALL evtstore.wait_for_work(string_to_array('$queues', ' '), '30s')" &
	waiting=$!
	wait "$waiting"
	status=$?
	waiting=
	return "$status"
}

# Claim, effects and answers are one transaction: all of it happens, or nothing.  What is late, a duplicate or stale is told; the saga
# knows what to make of it.
work() {
	{
		echo "$handlers"
		for queue in $queues; do
			cat <<SQL
BEGIN;
CREATE TEMP TABLE answers ON COMMIT DROP AS SELECT pg_temp.answer('$queue', body, headers) || jsonb_build_object('receipt', receipt) AS answer
    FROM evtstore.receive('$queue', max_count => 10);
SELECT s.receipt, s.outcome FROM evtstore.settle((SELECT coalesce(jsonb_agg(answer), '[]') FROM answers)) s WHERE s.outcome <> 'accepted';
COMMIT;
SQL
		done
	} | sql
}

# Who dies between effect and answer has the command delivered again: the guard, over there, knows what came of it.
work_elsewhere() {
	for queue in $queues; do
		while [ -z "$stopping" ]; do
			command=$(echo "SELECT receipt, body, headers FROM evtstore.receive(:'queue')" | sql -v queue="$queue") || return
			[ -n "$command" ] || break
			IFS=$tab read -r receipt body headers <<-END
				$command
			END
			# during a long effect call evtstore.extend(receipt, '30s') now and then, and stop where that is false
			answer=$(echo "$handlers SELECT pg_temp.answer(:'queue', :'body', :'headers')" |
				sql -v queue="$queue" -v body="$body" -v headers="$headers" "$PARTICIPANT") || return
			echo "SELECT receipt, outcome FROM evtstore.settle(jsonb_build_array(:'answer'::jsonb || jsonb_build_object('receipt', :'receipt')))
				WHERE outcome <> 'accepted'" | sql -v answer="$answer" -v receipt="$receipt" || return
		done
	done
}

consume=work
[ "${1:-}" != elsewhere ] || consume=work_elsewhere
pause=0
while [ -z "$stopping" ]; do
	if wait_for_work && $consume; then
		pause=0
	elif [ -z "$stopping" ]; then
		pause=$((pause < 8 ? 2 * pause + 1 : 10))
		sleep "$pause" &
		wait $!
	fi
done
