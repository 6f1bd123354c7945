#!/bin/sh
# A consumer of the queue "mail", with psql.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
#
# receive.sh              effects in this database, exactly once
# receive.sh elsewhere    effects elsewhere, at least once
set -u
tab=$(printf '\t')

# sql [OPTION...]: runs its standard input
sql() {
	psql -XqAt -F "$tab" -v ON_ERROR_STOP=1 "$@"
}

# Only the waiting is cancelled; who works finishes first.
stopping='' waiting=''
trap 'stopping=1; [ -z "$waiting" ] || kill -INT "$waiting"' TERM

# Sleeps until there is work; fails when the connection does.
wait_for_work() {
	psql -Xq -c "CALL evtstore.wait_for_work('{mail}', '30s')" &
	waiting=$!
	wait "$waiting"
	status=$?
	waiting=
	return "$status"
}

# Claim, effect and ack are one transaction: all of it happens, or nothing.
work() {
	sql <<'SQL'
DO $$
DECLARE
    message evtstore.delivery;
BEGIN
    FOR message IN SELECT * FROM evtstore.receive('mail', max_count => 10) LOOP
        BEGIN -- a savepoint: who fails undoes his own effect only
            INSERT INTO sent_mail (message_id, recipient, subject)
                VALUES (message.message_id, message.body->>'to', message.body->>'subject');
            PERFORM evtstore.ack(message.receipt);
        EXCEPTION WHEN OTHERS THEN
            PERFORM evtstore.nack(message.receipt, SQLERRM);
        END;
    END LOOP;
END $$;
SQL
}

# $1 is the message's id, which tells when it comes a second time; $2 who is written to
effect_elsewhere() {
	[ -n "$2" ] || return 1
	echo "$1 $2"
}

# No transaction is open during the effect.  Who dies between effect and ack has the message delivered again.
work_elsewhere() {
	batch=$(sql -c "SELECT receipt, message_id, body->>'to' FROM evtstore.receive('mail', max_count => 10)") || return
	[ -n "$batch" ] || return 0
	echo "$batch" | while IFS=$tab read -r receipt id to; do
		# a heartbeat: those before it took their time; stale where the lease was over and somebody else has it
		echo "SELECT evtstore.extend(:'receipt', '30s')" | sql -v receipt="$receipt" >/dev/null || continue
		settle="ack(:'receipt')"
		effect_elsewhere "$id" "$to" || settle="nack(:'receipt', 'not sent')"
		echo "SELECT evtstore.$settle" | sql -v receipt="$receipt" >/dev/null
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
