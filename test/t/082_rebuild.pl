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

done_testing();
