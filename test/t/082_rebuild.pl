# Rebuilding projections: what becomes of the table and of all that depends on it, what handlers may do meanwhile, new versions,
# cancelling, in place.
use strict;
use warnings;

use EvtTest;
use EvtWire;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nevtstore.poll_interval = 200ms\nmax_worker_processes = 16\n");

sub sql { return $node->safe_psql('postgres', shift) }

sub is_over
{
	my ($name) = @_;

	poll_until("the rebuild of $name to end", sub { sql("SELECT count(*) FROM evtstore.projection_status WHERE name = '$name' AND rebuild_progress IS NOT NULL") == 0 });
	return;
}

sub rebuild
{
	my ($name, $options) = @_;

	sql("SELECT evtstore.rebuild_projection('$name'" . (defined $options ? ", '$options')" : ')'));
	return is_over($name);
}

sub applied
{
	my ($name) = @_;

	return sql("CALL evtstore.wait_for('$name', " . sql('SELECT evtstore.head_position()') . ", '60s')");
}

# --- a table with everything ---

sql(q{
	CREATE ROLE reader;
	CREATE ROLE keeper LOGIN;
	GRANT evtstore_admin TO keeper;
	CREATE SCHEMA shop AUTHORIZATION keeper;
	GRANT USAGE ON SCHEMA shop TO reader});
sql(q{
	SET ROLE keeper;
	CREATE TABLE shop.orders (
		gone text,
		id text CONSTRAINT "the order" PRIMARY KEY WITH (fillfactor = 70),
		number bigint GENERATED ALWAYS AS IDENTITY,
		also_gone numeric(10, 2) NOT NULL DEFAULT 1,
		total numeric CHECK (total >= 0),
		"Double" numeric GENERATED ALWAYS AS (total * 2) STORED,
		note text COLLATE "C" DEFAULT 'none',
		big text,
		stamped text,
		UNIQUE (number)) WITH (fillfactor = 80, autovacuum_enabled = false);
	ALTER TABLE shop.orders DROP COLUMN gone, DROP COLUMN also_gone;
	ALTER TABLE shop.orders ALTER COLUMN big SET STORAGE EXTERNAL;
	CREATE TABLE shop.lines (order_id text REFERENCES shop.orders ON DELETE CASCADE, n int, sku text, EXCLUDE (sku WITH =) WHERE (n > 1000));
	CREATE INDEX ON shop.orders (lower(note), total DESC) WHERE total > 10;
	CREATE INDEX lines_order ON shop.lines (order_id) INCLUDE (n);
	COMMENT ON TABLE shop.orders IS 'what was ordered';
	COMMENT ON COLUMN shop.orders.note IS 'from the customer';
	GRANT SELECT (id, total) ON shop.orders TO reader;
	ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
	CREATE POLICY cheap ON shop.orders FOR SELECT TO reader USING (total < 100);
	CREATE VIEW shop.dear AS SELECT id, total FROM shop.orders WHERE total > 50;
	CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.stamped := upper(NEW.id); RETURN NEW; END $$;
	CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.stamp();
	CREATE FUNCTION shop.never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
	CREATE TRIGGER never AFTER INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.never();
	ALTER TABLE shop.orders DISABLE TRIGGER never;
	CREATE STATISTICS shop.together ON id, total FROM shop.orders;
	-- through a view, dynamic SQL, and with a name found by the search_path
	CREATE VIEW shop.totals AS SELECT id, total FROM shop.orders;
	CREATE FUNCTION shop.on_line(e evtstore.event) RETURNS void LANGUAGE plpgsql SET search_path = shop AS $$
	BEGIN
		EXECUTE format('INSERT INTO %I VALUES ($1, $2, $3)', 'lines') USING e.stream, e.version, e.data->>'sku';
		UPDATE totals SET total = total + (SELECT count(*) FROM lines WHERE order_id = e.stream) WHERE id = e.stream;
	END $$;
	SELECT evtstore.create_projection('orders', jsonb_build_object(
		'Placed', $$INSERT INTO shop.orders (id, total, big) SELECT ($1).stream, (($1).data->>'total')::numeric, repeat(($1).data->>'total', 5000)
			ON CONFLICT ON CONSTRAINT "the order" DO UPDATE SET total = EXCLUDED.total, note = orders.note || '+'$$,
		'Line', jsonb_build_object('fn', 'shop.on_line')), tables => '{shop.orders, shop.lines}')});
sql(q{SELECT evtstore.append('order-' || i, 'Placed', jsonb_build_object('total', i)) FROM generate_series(1, 200) i});
sql(q{SELECT evtstore.append('order-' || i % 200 + 1, 'Line', jsonb_build_object('sku', 'sku-' || i)) FROM generate_series(1, 600) i});
sql(q{SELECT evtstore.append('order-' || i, 'Placed', jsonb_build_object('total', i * 2)) FROM generate_series(1, 20) i});
applied('orders');

my %kept = (
	rows    => q{SELECT md5(string_agg(o::text, '' ORDER BY id)) FROM (SELECT id, total, "Double", note, big, stamped FROM shop.orders) o},
	lines   => q{SELECT md5(string_agg(l::text, '' ORDER BY order_id, n)) FROM shop.lines l},
	view    => q{SELECT md5(string_agg(l::text, '' ORDER BY id)) FROM shop.dear l},
	columns => q{SELECT string_agg(a::text, E'\n') FROM (SELECT attrelid::regclass, attname, attnum, atttypid::regtype, attnotnull, attisdropped, attgenerated, attidentity, attstorage, attacl, col_description(attrelid, attnum)
		FROM pg_attribute WHERE attrelid IN ('shop.orders'::regclass, 'shop.lines'::regclass) ORDER BY attrelid, attnum) a},
	classes => q{SELECT string_agg(c::text, E'\n') FROM (SELECT oid, relname, relowner::regrole, relacl, reloptions, relkind, relrowsecurity, obj_description(oid) FROM pg_class
		WHERE relnamespace = 'shop'::regnamespace ORDER BY oid) c},
	indexes => q{SELECT string_agg(pg_get_indexdef(indexrelid), E'\n' ORDER BY indexrelid) FROM pg_index WHERE indrelid IN ('shop.orders'::regclass, 'shop.lines'::regclass)},
	rules   => q{SELECT string_agg(format('%s %s %s', oid, conname, pg_get_constraintdef(oid)), E'\n' ORDER BY oid) FROM pg_constraint WHERE conrelid IN ('shop.orders'::regclass, 'shop.lines'::regclass)},
	seen    => q{SET ROLE reader; SELECT count(*), sum(total) FROM shop.orders});
my %before = map { $_ => sql($kept{$_}) } keys %kept;
sql(q{CREATE TABLE files_before AS SELECT oid, relfilenode FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'i')});

rebuild('orders');
is(sql($kept{$_}), $before{$_}, "after a rebuild: $_") foreach sort keys %kept;
is(sql('SELECT count(*), count(*) FILTER (WHERE b.relfilenode = c.relfilenode) FROM files_before b JOIN pg_class c USING (oid)'), '7|0', 'each table and each index has another file');
is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'evtstore_rebuild'::regnamespace}), 0, 'no shadow is left');
is(sql(q{SELECT c.oid = substr(t.relname, 10)::oid FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.relname = 'orders'}), 't', 'the toast table has its name');
is(sql(q{SELECT has_schema_privilege('keeper', 'evtstore_rebuild', 'CREATE')}), 'f', 'the owner can make nothing more in the schema of shadows');
is(sql(qq{SET enable_seqscan = off; SELECT total FROM shop.orders WHERE id = 'order-150'}), sql(q{SELECT total FROM shop.orders WHERE id || '' = 'order-150'}), 'its index has the new rows');
is(sqlstate($node, q{INSERT INTO shop.orders (id, total) VALUES ('order-1', 1)}), '23505', 'and refuses what is there');
is(sqlstate($node, q{INSERT INTO shop.lines VALUES ('nobody', 1, 'x')}), '23503', 'so do the foreign key');
is(sqlstate($node, q{INSERT INTO shop.orders (id, total) VALUES ('x', -1)}), '23514', 'and the check');
sql(q{SELECT evtstore.append('order-1', 'Placed', '{"total": 77}')});
applied('orders');
is(sql(q{SELECT total FROM shop.orders WHERE id = 'order-1'}), 77, 'the projection goes on');
sql('VACUUM FULL shop.orders; REINDEX TABLE shop.orders; ANALYZE shop.orders; CREATE EXTENSION amcheck');
is(sql(q{SELECT count(bt_index_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relnamespace = 'shop'::regnamespace}), 5, 'its indexes are sound');

# --- what handlers may do meanwhile ---

sql(q{
	SELECT evtstore.create_queue('mail');
	CREATE TABLE customers (id text PRIMARY KEY, orders int, spent numeric, seen int);
	CREATE TABLE elsewhere (n int);
	CREATE TABLE heard (n int);
	CREATE FUNCTION known(s text) RETURNS SETOF customers LANGUAGE sql STABLE AS 'SELECT * FROM customers WHERE id = s';
	CREATE FUNCTION on_bought(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		sent bigint;
	BEGIN
		CREATE TEMP TABLE IF NOT EXISTS scratch (n int);
		TRUNCATE scratch;
		INSERT INTO scratch VALUES ((SELECT count(*) FROM public.known(e.data->>'customer')));
		INSERT INTO public.customers VALUES (e.data->>'customer', 1, (e.data->>'total')::numeric, (SELECT sum(n) FROM scratch))
		ON CONFLICT (id) DO UPDATE SET orders = customers.orders + 1, spent = customers.spent + EXCLUDED.spent, seen = customers.seen + EXCLUDED.seen;
		PERFORM evtstore.append('letters', 'Written', jsonb_build_object('to', e.data->>'customer'));
		sent := evtstore.send('mail', jsonb_build_object('to', e.data->>'customer'));
		NOTIFY bought;
	END $$;
	SELECT evtstore.create_projection('customers', '{"Bought": {"fn": "public.on_bought"}}', tables => '{customers}')});
sql(q{SELECT evtstore.append('sale-' || i, 'Bought', jsonb_build_object('customer', 'c' || i % 10, 'total', i)) FROM generate_series(1, 100) i});
applied('customers');
my $customers = q{SELECT md5(string_agg(c::text, '' ORDER BY id)) FROM customers c};
my $done      = q{SELECT (SELECT count(*) FROM evtstore.events WHERE type = 'Written'), (SELECT count(*) FROM evtstore_internal.message)};
my ($was, $did) = (sql($customers), sql($done));
is($did, '100|100', 'each event was answered with an event and a message');
rebuild('customers');
is(sql($customers), $was, 'the customers are the same after a rebuild');
is(sql($done), $did, 'nothing was appended or sent once more');

# what it writes without having said so would be written twice
sql(q{CREATE OR REPLACE FUNCTION on_bought(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.customers (id) VALUES (e.data->>'customer') ON CONFLICT DO NOTHING;
		INSERT INTO public.elsewhere VALUES (1);
	END $$;
	SELECT evtstore.rebuild_projection('customers')});
my $error = q{SELECT count(*) FROM evtstore.projection_status WHERE name = 'customers' AND last_error LIKE '%%%s%%'};
poll_until('the error', sub { sql(sprintf $error, 'writes table "elsewhere"') == 1 });
is(sql('SELECT count(*) FROM elsewhere'), 0, 'a table that is not declared is not written');
is(sql($customers), $was, 'the customers are still there');
sql(q{SELECT evtstore.cancel_rebuild('customers')});
is(sql(q{SELECT rebuild_progress IS NULL AND last_error IS NULL FROM evtstore.projection_status WHERE name = 'customers'}), 't', 'a cancelled rebuild leaves no error');
is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'evtstore_rebuild'::regnamespace}), 0, 'and no shadow');
is(sql(q{SELECT count(*) FROM evtstore_internal.failed_event}), 0, 'and nothing that failed');

foreach my $case (
	[ 'TRUNCATE public.customers',                                          'TRUNCATE TABLE cannot be run' ],
	[ 'CREATE TABLE public.more ()',                                        'CREATE TABLE cannot be run' ],
	[ q{PERFORM evtstore.delete_stream('sale-1')},                          'delete_stream cannot be called' ],
	[ q{PERFORM evtstore.once('me', gen_random_uuid())},                    'once cannot be called' ],
	[ 'WITH w AS (INSERT INTO public.elsewhere VALUES (2) RETURNING 1) INSERT INTO public.heard SELECT 1 FROM w', 'writes table' ])
{
	my ($body, $says) = @$case;

	sql(qq{CREATE OR REPLACE FUNCTION on_bought(e evtstore.event) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN $body; END \$\$;
		SELECT evtstore.rebuild_projection('customers')});
	poll_until("the error of $body", sub { sql(sprintf $error, $says) == 1 });
	sql(q{SELECT evtstore.cancel_rebuild('customers')});
}
is(sql($customers), $was, 'none of them did anything');

# --- a person helps ---

sql(q{CREATE TABLE bad (id text);
	CREATE OR REPLACE FUNCTION on_bought(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF e.data->>'customer' IN (SELECT id FROM public.bad) THEN RAISE 'a bad customer'; END IF;
		INSERT INTO public.customers VALUES (e.data->>'customer', 1, (e.data->>'total')::numeric) ON CONFLICT (id) DO UPDATE SET orders = customers.orders + 1;
	END $$;
	SELECT evtstore.drop_projection('customers');
	TRUNCATE customers;
	SELECT evtstore.create_projection('customers', '{"Bought": {"fn": "public.on_bought"}}', tables => '{customers}',
		options => '{"retry": {"max_attempts": 1}, "key": "${data.customer}"}')});
applied('customers');
sql(q{INSERT INTO bad VALUES ('c3'); SELECT evtstore.rebuild_projection('customers')});
poll_until('a key that is blocked in the rebuild', sub { sql(q{SELECT count(*) FROM evtstore.blocked_keys WHERE key = 'c3' AND state = 'blocked'}) == 1 });
is(sql(q{SELECT orders FROM customers WHERE id = 'c3'}), 10, 'the projection has its rows meanwhile');
is(sql(q{SELECT rebuild_progress < 1.01 FROM evtstore.projection_status WHERE name = 'customers'}), 't', 'its rebuild waits');
sql(q{DELETE FROM bad; SELECT evtstore.unblock_key('customers', 'c3')});
is_over('customers');
is(sql(q{SELECT count(*), sum(orders) FROM customers}), '10|100', 'and goes on when the key is unblocked');

# --- new versions ---

sql(q{CREATE TABLE totals (kind text PRIMARY KEY, n bigint);
	CREATE VIEW totals_view AS SELECT * FROM totals});
my $version = q{SELECT evtstore.create_projection('totals', '{"Bought": "INSERT INTO totals VALUES (''%s'', %d) ON CONFLICT (kind) DO UPDATE SET n = totals.n + %d"}'%s)};
sql(sprintf $version, 'v1', 1, 1, '');
applied('totals');
is(sql('TABLE totals_view'), 'v1|100', 'the first version');
my $lock = session($node);
$lock->query_safe('BEGIN; SELECT * FROM totals_view');
sql(sprintf $version, 'v2', 2, 2, '');
sql(sprintf $version, 'v2', 2, 2, '');
is(sql(q{SELECT count(*) FROM evtstore_internal.definition WHERE kind = 'rebuild'}), 1, 'the second time it is on its way already');
sql(q{SELECT evtstore.append('sale-1', 'Bought', '{"customer": "c1", "total": 1}')});
applied('totals');
is(sql('TABLE totals_view'), 'v1|101', 'the old version goes on while somebody reads its table');
sql(sprintf $version, 'v1', 1, 1, '');
is(sql(q{SELECT count(*) FROM evtstore_internal.definition WHERE kind = 'rebuild'}), 1, 'who starts with the old version does not stop the new one');
is($lock->query_safe('SELECT n FROM totals_view'), 101, 'who reads is not held up');
$lock->query_safe('COMMIT');
is_over('totals');
is(sql('TABLE totals_view'), 'v2|202', 'then the new one takes its place');
sql(q{SELECT evtstore.append('sale-1', 'Bought', '{"customer": "c1", "total": 1}')});
applied('totals');
is(sql('TABLE totals_view'), 'v2|204', 'and goes on');
sql(sprintf $version, 'v3', 3, 3, q{, 'sync'});
is_over('totals');
is(sql('TABLE totals_view'), 'v3|306', 'a version that is sync');
sql(q{SELECT evtstore.append('sale-1', 'Bought', '{"customer": "c1", "total": 1}')});
is(sql('TABLE totals_view'), 'v3|309', 'it is');
is(sql(q{SELECT mode FROM evtstore.projection_status WHERE name = 'totals'}), 'sync', 'and says so');
is(sql(q{SELECT count(*) FROM evtstore_internal.checkpoint c LEFT JOIN evtstore_internal.definition d ON d.id = c.subscription_id WHERE d.id IS NULL}), 0, 'no place is left of what is gone');
rebuild('totals');
is(sql('TABLE totals_view'), 'v3|309', 'a sync one is rebuilt');
sql(sprintf $version, 'v4', 4, 4, '');
is_over('totals');
sql(q{SELECT evtstore.append('sale-1', 'Bought', '{"customer": "c1", "total": 1}')});
applied('totals');
is(sql('TABLE totals_view'), 'v4|416', 'and becomes async');

# --- a snapshot that is older ---

my $old = session($node);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql(sprintf $version, 'v5', 5, 5, '');
poll_until('the rebuild to be level', sub { sql(q{SELECT rebuild_progress >= 1 FROM evtstore.projection_status WHERE name = 'totals'}) eq 't' });
is($old->query_safe('TABLE totals_view'), 'v4|416', 'it sees the old rows, as it has an old snapshot');
is(sql('TABLE totals_view'), 'v4|416', 'and so do all others');
$old->query_safe('COMMIT');
is_over('totals');
is($old->query_safe('TABLE totals_view'), 'v5|520', 'a new snapshot has the new ones');

# one that is taken over from somebody who ends before the rebuild does
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $exported = $old->query_safe('SELECT pg_export_snapshot()');
sql(sprintf $version, 'v5b', 5, 5, '');
poll_until('the rebuild to be level', sub { sql(q{SELECT rebuild_progress >= 1 FROM evtstore.projection_status WHERE name = 'totals'}) eq 't' });
my $heir = session($node);
$heir->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '$exported'");
# a look of the worker, at least
poll_until('a worker to look', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore rebuild%' AND state_change > clock_timestamp() - interval '20 ms'}) > 0 });
$old->query_safe('COMMIT');
is($heir->query_safe('TABLE totals_view'), 'v5|520', 'who took over an old snapshot sees the old rows');
$heir->query_safe('COMMIT');
is_over('totals');
is(sql('TABLE totals_view'), 'v5b|520', 'and the rebuild ends after him');
$heir->quit;

# who appends with an old snapshot does not see the rows that a sync handler would change
sql(q{SELECT evtstore.switch_projection('totals', 'sync')});
$old->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM evtstore.events});
sql(q{SELECT evtstore.switch_projection('totals', 'async'); SELECT evtstore.switch_projection('totals', 'sync')});
like($old->query(q{SELECT evtstore.append('sale-1', 'Bought', '{}'); \echo :LAST_ERROR_SQLSTATE}), qr/40001/, 'and is told to begin again');
$old->query('ROLLBACK');
$old->quit;

# --- in place ---

is(sqlstate($node, q{SELECT evtstore.rebuild_projection('totals', '{"in_place": true}')}), '55000', 'a sync one is not rebuilt in place');
sql(q{SELECT evtstore.switch_projection('totals', 'async')});
$lock->query_safe(q{BEGIN; SELECT evtstore.rebuild_projection('totals', '{"in_place": true}')});
$lock->query_safe('COMMIT');
is_over('totals');
is(sql('TABLE totals_view'), 'v5b|520', 'a rebuild in place');
is(sql(q{SELECT state FROM evtstore.projection_status WHERE name = 'totals'}), 'active', 'the projection goes on after it');
# handlers that fail for ever: another version is the way out
sql(q{SELECT evtstore.alter_projection('totals', '{"retry": {"max_attempts": 1}}');
	BEGIN;
	ALTER TABLE totals ADD CONSTRAINT none CHECK (n > 1000) NOT VALID;
	SELECT evtstore.rebuild_projection('totals', '{"in_place": true}');
	COMMIT});
poll_until('the error', sub { sql(q{SELECT count(*) FROM evtstore.projection_status WHERE name = 'totals' AND last_error LIKE '%none%' AND state = 'rebuilding'}) == 1 });
is(sqlstate($node, q{SELECT evtstore.cancel_rebuild('totals')}), '55000', 'it is not cancelled');
is(sqlstate($node, q{SELECT evtstore.resume_projection('totals')}), '55000', 'nor resumed');
is(sqlstate($node, q{CALL evtstore.wait_for('totals', 1)}), '55000', 'nor waited for');
sql('ALTER TABLE totals DROP CONSTRAINT none');
sql(sprintf $version, 'v6', 6, 6, '');
is_over('totals');
is(sql('TABLE totals_view'), 'v6|624', 'but another version can be begun');

# --- what cannot go on, and what cannot begin ---

$lock->query_safe('BEGIN; SELECT * FROM totals');
sql(q{SELECT evtstore.rebuild_projection('totals')});
is(sqlstate($node, q{SELECT evtstore.rebuild_projection('totals')}), '55000', 'one at a time');
is(sqlstate($node, q{SELECT evtstore.alter_projection('totals', '{"lanes": 2}')}), '55000', 'its options stay meanwhile');
is(sqlstate($node, q{SELECT evtstore.switch_projection('totals', 'sync')}), '55000', 'and its mode');
$lock->query_safe('COMMIT');
is_over('totals');

sub workers
{
	my ($n) = @_;

	$node->append_conf('postgresql.conf', "evtstore.rebuild_workers = $n");
	$node->reload;
	return poll_until("$n rebuild workers", sub { $n > 0 || sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore rebuild%'}) == 0 });
}

# what the owner does to the table after its shadow was made
sql(q{SELECT evtstore.create_queue('one');
	CREATE FUNCTION on_total(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		r record;
	BEGIN
		SELECT * INTO r FROM public.totals WHERE kind = 'f';
		INSERT INTO public.totals (kind, n) VALUES ('f', 1) ON CONFLICT (kind) DO UPDATE SET n = totals.n + 1 RETURNING * INTO r;
	END $$;
	SELECT evtstore.create_projection('totals', '{"Bought": {"fn": "public.on_total"}}', tables => '{totals}')});
is_over('totals');
my $total = sql('SELECT kind, n FROM totals');
foreach my $case (
	[ 'ALTER TABLE totals ' . join(', ', map { "ADD COLUMN more$_ text" } 1 .. 10), 'ALTER TABLE totals ' . join(', ', map { "DROP COLUMN more$_" } 1 .. 10), 'altered' ],
	[ 'ALTER TABLE totals ALTER n TYPE numeric',                  'ALTER TABLE totals ALTER n TYPE bigint',      'altered' ],
	[ 'ALTER TABLE totals RENAME TO others',                      'ALTER TABLE others RENAME TO totals',         'gone' ],
	[ 'ALTER TABLE totals OWNER TO keeper',                       'ALTER TABLE totals OWNER TO CURRENT_USER',    'altered' ],
	[ 'CREATE INDEX more ON totals (n)',                          'DROP INDEX more',                             'altered' ],
	[ 'ALTER TABLE totals ADD CHECK (n > 0)',                     'ALTER TABLE totals DROP CONSTRAINT totals_n_check', 'altered' ],
	[ 'CREATE UNLOGGED TABLE u (id int); CREATE TABLE refers (kind text REFERENCES totals)', 'DROP TABLE u, refers', 'cannot be rebuilt beside itself' ])
{
	my ($do, $undo, $says) = @$case;

	workers(0);
	sql(q{DROP VIEW totals_view; SELECT evtstore.rebuild_projection('totals')});
	sql($do);
	workers(2);
	if ($says ne 'cannot be rebuilt beside itself')
	{
		poll_until("the rebuild to fail after $do", sub { sql(qq{SELECT count(*) FROM evtstore.projection_status WHERE name = 'totals' AND last_error LIKE '%$says%'}) == 1 });
		is(sql(q{SELECT fix FROM evtstore.stuck WHERE kind = 'projection'}), q{SELECT evtstore.cancel_rebuild('totals')}, "stuck says what to do after $do");
	}
	sql(q{SELECT evtstore.cancel_rebuild('totals')});
	sql($undo);
	sql('CREATE VIEW totals_view AS SELECT kind, n FROM totals');
	is(sqlstate($node, q{SELECT evtstore.cancel_rebuild('totals')}), '55000', 'not twice');
	is(sql('SELECT kind, n FROM totals'), $total, "the table is what it was after $do");
}
# and what he may do, whatever the settings of who began it
workers(0);
sql(q{ALTER TABLE totals ADD COLUMN at timestamptz CHECK (at > timestamptz '2020-01-01 00:00+00'), ADD COLUMN i interval CHECK (i > interval '1 day')});
sql(q{SET TimeZone = 'America/New_York'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET quote_all_identifiers = on; SELECT evtstore.rebuild_projection('totals')});
sql('REINDEX TABLE CONCURRENTLY totals');
sql(q{SELECT evtstore.create_projection('late', '{"Never": "SELECT 1"}')});
is(sqlstate($node, q{SELECT evtstore.create_projection('more', '{"Never": "INSERT INTO totals VALUES (''x'', 1)"}')}), '55000', 'nobody else writes its tables meanwhile');
workers(2);
is_over('totals');
is(sql('SELECT kind, n FROM totals'), $total, 'a rebuild after REINDEX CONCURRENTLY, begun with other settings');

# --- grants and names ---

sql(q{ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader});
workers(0);
sql(q{CREATE TABLE secret (id int); REVOKE ALL ON secret FROM reader; ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
	CREATE TABLE "käufe ääääääääääääääää %s 'a' ""x""" (id int, "Spalte %I" int);
	SELECT evtstore.create_projection('secret', '{"Never": "INSERT INTO secret VALUES (1)"}'); SELECT evtstore.rebuild_projection('secret')});
sql(q{SELECT evtstore.create_projection('odd', jsonb_build_object('Bought', 'INSERT INTO "käufe ääääääääääääääää %s ''a'' ""x""" VALUES (1, 2)'))});
is(sql(q{SELECT count(*) FROM pg_class c, aclexplode(c.relacl) e WHERE c.relnamespace = 'evtstore_rebuild'::regnamespace AND e.grantee <> c.relowner}), 0, 'default privileges give nothing of a shadow');
applied('odd');
sql(q{SELECT evtstore.rebuild_projection('odd')});
$node->command_ok([ 'pg_dump', '-f', '/dev/null', $node->connstr('postgres') ], 'a dump with names that are odd');
workers(2);
is_over('odd');
is_over('secret');
is(sql(q{SELECT count(*) = (SELECT count(*) FROM evtstore.events WHERE type = 'Bought') FROM "käufe ääääääääääääääää %s 'a' ""x"""}), 't', 'a table with an odd name');
sql('ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM reader; DROP TABLE secret');

# --- partitions, in place ---

sql(q{CREATE TABLE parted (id text, n int) PARTITION BY HASH (id); CREATE TABLE parted0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE parted1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE FUNCTION on_parted(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE public.parted SET n = n + 1 WHERE id = e.stream;
		IF NOT FOUND THEN INSERT INTO public.parted VALUES (e.stream, 1); END IF;
	END $$;
	SELECT evtstore.create_projection('parted', '{"Bought": {"fn": "public.on_parted"}}', tables => '{parted}')});
applied('parted');
my $parted = sql('SELECT count(*), sum(n) FROM parted');
sql(q{SELECT evtstore.rebuild_projection('parted', '{"in_place": true}')});
is_over('parted');
is(sql('SELECT count(*), sum(n) FROM parted'), $parted, 'a partitioned table in place');
workers(0);
sql(q{SELECT evtstore.rebuild_projection('parted', '{"in_place": true}'); ALTER TABLE parted RENAME TO elsewhere2});
workers(2);
poll_until('the rebuild in place to fail', sub { sql(q{SELECT count(*) FROM evtstore.stuck WHERE kind = 'projection' AND cause LIKE '%gone%'}) == 1 });
sql('ALTER TABLE elsewhere2 RENAME TO parted');
sql(sql(q{SELECT fix FROM evtstore.stuck WHERE kind = 'projection'}));
is_over('parted');
is(sql('SELECT count(*), sum(n) FROM parted'), $parted, 'what stuck says begins it again');
sql(q{SELECT evtstore.pause_projection('parted')});
is(sqlstate($node, q{SELECT evtstore.rebuild_projection('parted', '{"in_place": true}')}), '55000', 'not while it is paused');

rebuild('totals');
is(sql('SELECT kind, n FROM totals'), $total, 'begun again it ends');
is(sqlstate($node, q{SELECT evtstore.rebuild_projection('nobody')}), 'ST008', 'unknown');
is(sqlstate($node, q{SELECT evtstore.rebuild_projection('totals', '{"place": true}')}), '22023', 'an unknown option');
is(sqlstate($node, q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT evtstore.rebuild_projection('totals')}), '25001', 'in a snapshot');
is(sqlstate($node, q{SELECT evtstore.create_projection('none', '{"Bought": {"fn": "public.on_bought"}}', tables => '{nowhere}')}), '42P01', 'a table that is not there');
is(sqlstate($node, q{SELECT evtstore.create_projection('none', '{"Bought": {"fn": "public.on_bought"}}', tables => '{totals_view}')}), '42809', 'a view');
sql(q{SELECT evtstore.create_projection('unsaid', '{"Never": {"fn": "public.on_bought"}}')});
is(sqlstate($node, q{SELECT evtstore.rebuild_projection('unsaid')}), '55000', 'no tables');
foreach my $case (
	[ 'CREATE TABLE t (id int) PARTITION BY LIST (id)',                    '0A000', 'a partitioned table' ],
	[ 'CREATE UNLOGGED TABLE t (id int)',                                  '0A000', 'an unlogged table' ],
	[ 'CREATE TABLE t (id int); CREATE TABLE t2 () INHERITS (t)',          '0A000', 'a table that others inherit from' ],
	[ 'CREATE TABLE t (id int REFERENCES other)',                          '0A000', 'a table with a foreign key to another' ],
	[ 'CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE other ADD FOREIGN KEY (id) REFERENCES t', '0A000', 'a table that another refers to' ],
	[ 'CREATE TABLE t (id int); CREATE PUBLICATION p FOR TABLE t',         '0A000', 'a table in a publication' ],
	[ q{CREATE TABLE t (id int); SELECT evtstore.create_projection('also', '{"Never": "INSERT INTO t VALUES (1)"}')}, '55000', 'a table of two projections' ],
	[ 'SET ROLE keeper; CREATE TABLE keep.t (id int); RESET ROLE; ALTER TABLE keep.t SET SCHEMA public', '', 'a table of another owner, for a superuser' ])
{
	my ($table, $state, $what) = @$case;

	sql(q{CREATE SCHEMA IF NOT EXISTS keep AUTHORIZATION keeper; CREATE TABLE IF NOT EXISTS other (id int PRIMARY KEY)});
	sql("$table; SELECT evtstore.create_projection('t', '{\"Never\": \"INSERT INTO t VALUES (1)\"}')");
	my $got = $state eq '' ? do { rebuild('t'); '' } : sqlstate($node, q{SELECT evtstore.rebuild_projection('t')});
	is($got, $state, $what);
	sql(q{SELECT evtstore.drop_projection('t'); SELECT evtstore.drop_projection(name) FROM evtstore.projection_status WHERE name = 'also'; DROP TABLE t, other CASCADE; DROP PUBLICATION IF EXISTS p});
}
sql('GRANT evtstore_admin TO reader; CREATE TABLE his (id int); GRANT ALL ON his TO reader');
sql(q{SET ROLE reader; SELECT evtstore.create_projection('his', '{"Never": "INSERT INTO public.his VALUES (1)"}')});
is(sqlstate($node, q{SELECT evtstore.rebuild_projection('his')}), '42501', 'a table that is not the owner of the projection\'s');

# --- dumped and restored in the middle ---

$lock->query_safe('BEGIN; SELECT * FROM customers');
sql(q{SELECT evtstore.rebuild_projection('customers')});
poll_until('the rebuild to be level', sub { sql(q{SELECT rebuild_progress >= 1 FROM evtstore.projection_status WHERE name = 'customers'}) eq 't' });
my $dump = "$PostgreSQL::Test::Utils::tmp_check/rebuild.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'a dump in the middle of a rebuild');
$lock->query_safe('COMMIT');
is_over('customers');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-q', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'is restored');
sub restored { return $node->safe_psql('restored', shift) }
is(restored(q{SELECT rebuild_progress >= 1 FROM evtstore.projection_status WHERE name = 'customers'}), 't', 'with the rebuild as it was');
restored(q{SELECT evtstore.append('sale-1', 'Bought', '{"customer": "c1", "total": 1}'); SELECT evtstore.resume_delivery()});
poll_until('the rebuild to end there', sub { restored(q{SELECT rebuild_progress IS NULL FROM evtstore.projection_status WHERE name = 'customers'}) eq 't' });
restored(q{CALL evtstore.wait_for('customers', evtstore.head_position(), '60s')});
is(restored('SELECT sum(orders) FROM customers'), 1 + sql('SELECT sum(orders) FROM customers'), 'which goes on there');
is(restored(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'evtstore_rebuild'::regnamespace}), 0, 'and leaves nothing');

# --- all of it goes ---

$lock->query_safe('BEGIN; SELECT * FROM totals');
sql(q{SELECT evtstore.rebuild_projection('totals')});
sql(q{SELECT evtstore.drop_projection('totals')});
is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'evtstore_rebuild'::regnamespace}), 0, 'a dropped projection leaves no shadow');
$lock->query_safe('COMMIT');
$lock->query_safe('BEGIN; SELECT * FROM customers');
sql(q{SELECT evtstore.rebuild_projection('customers')});
sql(q{SET evtstore.allow_drop = on; DROP FUNCTION on_bought, on_total, on_parted, shop.on_line; DROP EXTENSION evtstore});
is(sql(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'evtstore_rebuild'}), 0, 'shadows go with the extension');
$lock->quit;

done_testing();
