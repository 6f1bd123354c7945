#!/bin/sh
# A consumer of the subscription "orders", with psql.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
#
# poll.sh              effects in this database, exactly once
# poll.sh elsewhere    effects elsewhere, at least once
set -u
tab=$(printf '\t')
# one name for each process, the same after a restart
consumer=${CONSUMER:-$(hostname)}

# sql [OPTION...]: runs its standard input
sql() {
	psql -XqAt -F "$tab" -v ON_ERROR_STOP=1 "$@"
}

# Only the waiting is cancelled; who works finishes first.
stopping='' waiting=''
trap 'stopping=1; [ -z "$waiting" ] || kill -INT "$waiting"' TERM

# Sleeps until there is work; fails when the connection does.
wait_for_work() {
	psql -Xq -c "CALL evtstore.wait_for_work('{orders}', '30s')" &
	waiting=$!
	wait "$waiting"
	status=$?
	waiting=
	return "$status"
}

leave() {
	echo "SELECT evtstore.leave('orders', :'consumer')" | sql -v consumer="$consumer" >/dev/null
}

# Poll, effect and ack are one transaction: all of it happens, or nothing.  The setting takes the name into DO, where psql
# replaces no variables.
work() {
	sql -1 -v consumer="$consumer" <<'SQL'
SELECT set_config('sample.consumer', :'consumer', true) \g /dev/null
DO $$
DECLARE
    event evtstore.delivery;
BEGIN
    FOR event IN SELECT * FROM evtstore.poll('orders', current_setting('sample.consumer'), max_count => 10) LOOP
        BEGIN -- a savepoint: who fails undoes his own effect only
            INSERT INTO order_log (position, stream, version, total)
                VALUES (event.position, event.stream, event.version, (event.body->>'total')::numeric);
            PERFORM evtstore.ack(event.receipt);
        EXCEPTION WHEN OTHERS THEN
            -- settle does not mind that it is stale: an older event of its key failed, and this one comes again after it
            PERFORM evtstore.settle(jsonb_build_array(jsonb_build_object(
                'receipt', event.receipt, 'do', 'nack', 'reason', SQLERRM)));
        END;
    END LOOP;
END $$;
SQL
}

# $1 is the event's id, which tells when it comes a second time; $2 the total
effect_elsewhere() {
	[ -n "$2" ] || return 1
	echo "$1 $2"
}

# No transaction is open during the effect.  Who dies between effect and ack has the event delivered again.  extend is a
# heartbeat, since those before it took their time, and fails for what is stale: the lease was over and somebody else has it,
# or an older event of its key failed, and it comes again after that.
work_elsewhere() {
	batch=$(echo "SELECT receipt, event_id, body->>'total' FROM evtstore.poll('orders', :'consumer', max_count => 10)" |
		sql -v consumer="$consumer") || return
	[ -n "$batch" ] || return 0
	echo "$batch" | while IFS=$tab read -r receipt id total; do
		echo "SELECT evtstore.extend(:'receipt', '30s')" | sql -v receipt="$receipt" >/dev/null || continue
		settle="ack(:'receipt')"
		effect_elsewhere "$id" "$total" || settle="nack(:'receipt', 'no total')"
		echo "SELECT evtstore.$settle" | sql -v receipt="$receipt" >/dev/null
	done
}

consume=work
[ "${1:-}" != elsewhere ] || consume=work_elsewhere
# what an earlier life of this consumer did not settle comes again at once
leave
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
# the others have its lanes at once
leave
