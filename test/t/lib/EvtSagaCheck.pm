=head1 NAME

EvtSagaCheck - what has to be true of sagas when 097_sagas.pl is over

=head1 SYNOPSIS

	use EvtSagaCheck;

	my $check = EvtSagaCheck->new($disturb_or_whatever_asks, can => { child => 1, scope => 1 });
	$check->all(sub { $node->safe_psql('postgres', shift) });     # a test for each
	diag $_ foreach $check->summary(...);

It compares what participants did (EvtSagaActors.pm) with the rows of sagas and steps, and with their events.

An entry into a state is (saga, state, path).  What undoes an entry begins and ends; of a child, with the first and the last of what it undoes.

=cut

package EvtSagaCheck;

use strict;
use warnings;

use Test::More;

sub new
{
	my ($class, %option) = @_;
	return bless { can => {}, %option }, $class;
}

#
# step: with the path of its entry.  happened: effects, those of events too.  line: a step with all that it is in: the way down, as numbers and as the order of
# ending.  Two whose ways part at two branches of one row have no order; two others have that of what they are in where their ways part.
# root: of a child, up to the saga that somebody started; mercy: what nobody undoes, or need not.
#
my $VIEWS = q{
	CREATE TABLE step AS SELECT t.*, coalesce(path_of(t.sent), '') AS path, s.name AS saga, d.class, d.undo, d.scope, d.lock, d.answers
		FROM evtstore_internal.saga_step t JOIN evtstore.sagas s ON s.id = t.saga_id LEFT JOIN state d ON (d.saga, d.state) = (s.name, t.state);
	CREATE UNIQUE INDEX ON step (saga_id, seq);
	CREATE INDEX ON step (saga_id, state, path);
	CREATE INDEX ON step (message_id);
	CREATE TABLE happened AS
		SELECT n, key, saga, state, path, way, undo_key, times FROM effect
		UNION ALL SELECT position, 'event', (data->>'saga')::uuid, data->>'state', data->>'path', CASE type WHEN 'Did' THEN 'do' ELSE 'undo' END, position::text, 1
		FROM evtstore.events WHERE stream LIKE 'book-%' AND type IN ('Did', 'Undid');
	CREATE INDEX ON happened (saga, state, path);
	CREATE VIEW tree AS WITH RECURSIVE up AS (
			SELECT id AS saga, id AS above, PARENT AS next FROM evtstore_internal.saga
			UNION ALL SELECT up.saga, s.id, PARENT FROM up JOIN evtstore_internal.saga s ON s.id = up.next)
		SELECT saga, above, next IS NULL AS is_root FROM up;
	CREATE TABLE mercy AS SELECT DISTINCT t.saga FROM tree t JOIN evtstore.sagas s ON s.id = t.above LEFT JOIN state d ON (d.saga, d.state) = (s.name, '')
		WHERE EXISTS (SELECT FROM cancelled c WHERE c.saga = s.id AND NOT c.compensate) OR (s.status = 'failed' AND d.resource = 'stop');
	CREATE TABLE line AS WITH RECURSIVE up AS (
			SELECT saga_id, seq, seq AS at, parent, ARRAY[seq] AS way, ARRAY[coalesce(ended, 2147483647)] AS ended FROM step WHERE kind IN ('task', 'child')
			UNION ALL SELECT up.saga_id, up.seq, b.seq, b.parent, b.seq || up.way, coalesce(b.ended, 2147483647) || up.ended
			FROM up JOIN step b ON b.saga_id = up.saga_id AND b.seq = up.parent)
		SELECT saga_id, seq, way, ended FROM up WHERE parent = 0;
	CREATE UNIQUE INDEX ON line (saga_id, seq);
	-- where their ways part in one sequence, in which that of a comes before that of b: at two steps, or Parallels or Maps that they are in; NULL: it does not
	CREATE FUNCTION parting(a int[], a_ended int[], b int[], b_ended int[]) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		i int := 1;
	BEGIN
		WHILE a[i] = b[i] LOOP i := i + 1; END LOOP;
		-- container, branch, container, branch, ... step
		RETURN CASE WHEN i % 2 = 1 AND a_ended[i] < b_ended[i] THEN i END;
	END $$;
	-- since when it is being undone: it, or something in it
	CREATE FUNCTION undone_since(id uuid, what int) RETURNS timestamptz LANGUAGE plpgsql AS $$
	BEGIN
		RETURN (SELECT min(u.began) FROM public.undone u JOIN public.line l ON (l.saga_id, l.seq) = (u.saga_id, u.seq) WHERE u.saga_id = id AND what = ANY (l.way));
	END $$;
	CREATE TABLE undone AS SELECT t.saga_id, t.seq, t.state, t.path, t.ended, t.ended_at, t.error, b.started_at AS began, u.ended_at AS finished
		FROM step t JOIN step u ON u.saga_id = t.saga_id AND u.undoes = t.seq AND u.kind = 'undo' AND u.status = 'done' JOIN step b ON b.saga_id = t.saga_id AND b.seq = u.first_seq
		WHERE t.status = 'undone' AND t.kind IN ('task', 'child');
	CREATE INDEX ON undone (saga_id);
	CREATE VIEW pivot AS SELECT t.saga_id, t.ended_at, EXISTS (SELECT FROM evtstore.events e, jsonb_array_elements(e.data->'steps') p
			WHERE e.stream = 'saga-' || t.saga_id AND p->>'state' = t.state AND p->>'status' IN ('failed', 'skipped')) AS was_failed
		FROM step t WHERE t.kind <> 'undo' AND t.status = 'done' AND t.class = 'pivot'};

# entry: the first attempt at the step that has the child.  A child that is taken back tells the undo of that step
my $CHILD_VIEWS = q{
	CREATE TABLE child AS SELECT c.id, c.status, c.ended_at, t.saga_id AS parent, t.seq, t.first_seq AS entry, t.status AS step_status, t.state,
			EXISTS (SELECT FROM pivot v WHERE v.saga_id = c.id) AS has_pivot
		FROM evtstore_internal.saga c LEFT JOIN step p ON p.saga_id = c.parent_id AND p.parent = coalesce(c.parent_parent, 0) AND p.seq = c.parent_seq
		LEFT JOIN step t ON t.saga_id = c.parent_id AND t.seq = CASE p.kind WHEN 'undo' THEN p.undoes ELSE p.seq END WHERE c.parent_id IS NOT NULL};

# --- effects ---

my %EFFECTS = (
	'what is done has its effect' => q{SELECT * FROM step WHERE kind = 'task' AND status = 'done'
		AND NOT EXISTS (SELECT FROM happened e WHERE (e.saga, e.state, e.path, e.way) = (step.saga_id, step.state, step.path, 'do'))},
	'what has an effect is known to be done' => q{SELECT * FROM happened e WHERE way = 'do' AND NOT EXISTS (SELECT FROM step WHERE (saga_id, step.state, step.path) = (e.saga, e.state, e.path)
		AND kind = 'task' AND (status IN ('done', 'undone') OR step.error = 'evtstore.UndoFailed'))},
	'nothing is done twice' => q{SELECT saga_id, state, path FROM step WHERE kind = 'task' AND status IN ('done', 'undone') GROUP BY 1, 2, 3
		HAVING count(DISTINCT first_seq) > 1 OR count(*) FILTER (WHERE status = 'done') > 1},
	'each entry into a state has one key' => q{SELECT saga, state, path FROM happened WHERE way = 'do' GROUP BY 1, 2, 3 HAVING count(*) > 1},
	'functions have effect once' => q{SELECT * FROM happened WHERE (key LIKE 'sql %' AND way = 'do' OR undo_key = 'sql') AND times > 1},
	'nothing is undone twice' => q{SELECT saga, state, path FROM happened WHERE way = 'undo' GROUP BY 1, 2, 3 HAVING count(*) > 1},
	'what failed is undone' => q{SELECT e.saga, e.state, e.path FROM happened e JOIN evtstore.sagas s ON s.id = e.saga JOIN state ON (state.saga, state.state) = (s.name, e.state)
		WHERE way = 'do' AND s.status IN ('compensated', 'cancelled', 'failed') AND state.undo <> 'none' AND e.saga NOT IN (SELECT saga FROM mercy)
			AND NOT EXISTS (SELECT FROM happened u WHERE (u.saga, u.state, u.path, u.way) = (e.saga, e.state, e.path, 'undo'))
			AND NOT EXISTS (SELECT FROM step WHERE (saga_id, step.state, step.path) = (e.saga, e.state, e.path) AND step.error = 'evtstore.UndoFailed')},
	'what is undone says so' => q{SELECT e.* FROM happened e WHERE way = 'undo' AND NOT EXISTS (SELECT FROM step WHERE (saga_id, step.state, step.path) = (e.saga, e.state, e.path)
		AND (status = 'undone' OR step.error = 'evtstore.UndoFailed')) AND e.saga NOT IN (SELECT saga FROM mercy)},
	# what is in a Scope may be undone before the saga goes on
	'nothing is undone in a saga that succeeded' => q{SELECT e.* FROM happened e JOIN evtstore.sagas s ON s.id = e.saga JOIN state d ON (d.saga, d.state) = (s.name, e.state)
		WHERE way = 'undo' AND status = 'succeeded' AND d.scope = ''},
	'nothing is undone where a failure stops' => q{SELECT e.* FROM happened e JOIN evtstore.sagas s ON s.id = e.saga JOIN state d ON (d.saga, d.state) = (s.name, '')
		JOIN state t ON (t.saga, t.state) = (s.name, e.state)
		WHERE way = 'undo' AND d.resource = 'stop' AND t.scope = '' AND NOT EXISTS (SELECT FROM cancelled c WHERE c.saga = e.saga)},
	# whose participant did not say first that it had failed, nor the queue for him, nor a person
	'nothing is undone where a pivot is done' => q{SELECT u.saga_id, u.state, u.path FROM step u JOIN pivot p USING (saga_id) WHERE u.kind = 'undo' AND NOT p.was_failed AND u.scope = ''
		UNION ALL SELECT saga, o.state, verb FROM operated o JOIN pivot p ON p.saga_id = o.saga WHERE verb = 'undone' AND NOT p.was_failed
			AND NOT EXISTS (SELECT FROM state d JOIN evtstore.sagas s ON s.name = d.saga WHERE s.id = o.saga AND d.state = o.state AND d.scope <> '')},
	'nothing begins to be undone when somebody cancelled without' => q{SELECT c.saga, u.state FROM cancelled c JOIN step u ON u.saga_id = c.saga
		WHERE NOT c.compensate AND u.kind = 'undo' AND u.started_at > c.at},
	# but for a y that was known to be done only when the undo of x, of what x or y is in, or of what came before y had begun, or whose undo was given up and succeeded after all
	'what ended last is undone first' => q{SELECT x.saga_id, x.seq, x.state AS first, y.seq, y.state AS and_then, x.began, y.finished FROM undone x JOIN undone y ON y.saga_id = x.saga_id
		AND x.ended < y.ended AND x.began < y.finished AND x.began > y.ended_at AND y.error IS DISTINCT FROM 'evtstore.UndoFailed'
		JOIN line a ON (a.saga_id, a.seq) = (x.saga_id, x.seq) JOIN line b ON (b.saga_id, b.seq) = (y.saga_id, y.seq)
		CROSS JOIN LATERAL parting(a.way, a.ended, b.way, b.ended) i
		WHERE y.ended_at < undone_since(x.saga_id, a.way[i]) AND y.ended_at < undone_since(x.saga_id, b.way[i])
			AND NOT EXISTS (SELECT FROM undone z JOIN line c ON (c.saga_id, c.seq) = (z.saga_id, z.seq)
				WHERE z.saga_id = y.saga_id AND z.began < y.ended_at AND parting(c.way, c.ended, b.way, b.ended) IS NOT NULL)},
);

# --- rows, events, messages ---

my %RECORDS = (
	'every start is there, and nothing else' => q{SELECT id FROM started FULL JOIN (SELECT id FROM evtstore_internal.saga WHERE PARENT IS NULL) s USING (id) WHERE started.id IS NULL OR s.id IS NULL},
	'all have ended, and say when' => q{SELECT id, status, ended_at FROM evtstore.sagas WHERE status NOT IN ('succeeded', 'compensated', 'failed', 'cancelled') OR ended_at IS NULL},
	'no step of an ended saga waits' => q{SELECT * FROM step JOIN evtstore.sagas ON sagas.id = saga_id WHERE sagas.ended_at IS NOT NULL
		AND (step.status IN ('waiting', 'pending') OR (step.status = 'undoing' AND saga_id NOT IN (SELECT saga FROM mercy)))},
	'its last event says how it ended' => q{SELECT s.id, s.status, e.data->>'status' AS said, e.type FROM evtstore.sagas s LEFT JOIN LATERAL (
		SELECT data, type FROM evtstore.events WHERE stream = 'saga-' || s.id AND tenant = s.tenant ORDER BY version DESC LIMIT 1) e ON true
		WHERE e.data->>'status' IS DISTINCT FROM s.status},
	'the last event that is no mere move is of its type' => q{SELECT s.id, s.status, e.type FROM evtstore.sagas s LEFT JOIN LATERAL (
		SELECT type FROM evtstore.events WHERE stream = 'saga-' || s.id AND tenant = s.tenant AND type <> 'SagaMoved' ORDER BY version DESC LIMIT 1) e ON true
		WHERE s.ended_at IS NOT NULL AND e.type <> 'Saga' || initcap(s.status)},
	'its events tell what became of each step' => q{SELECT t.saga_id, t.seq, t.status, e.status AS said FROM step t LEFT JOIN (
		SELECT DISTINCT ON (stream, seq) stream, (p->>'seq')::int AS seq, p->>'status' AS status FROM evtstore.events e, jsonb_array_elements(e.data->'steps') p
		WHERE category = 'saga' ORDER BY stream, seq, version DESC) e ON (e.stream, e.seq) = ('saga-' || t.saga_id, t.seq)
		WHERE e.status IS DISTINCT FROM t.status},
	'keys of ended sagas are free' => q{SELECT k.* FROM evtstore_internal.saga_key k JOIN evtstore.sagas ON id = saga_id WHERE kind = 'business' AND ended_at IS NOT NULL},
	'one saga for each start key' => q{SELECT name, tenant, start_key FROM started WHERE start_key IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1},
	'no message and no timer is left' => q{SELECT m.id, d.name FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id},
	'nothing is done without its lock' => q{SELECT * FROM unlocked},
	'no lock is left' => q{SELECT * FROM evtstore_internal.saga_lock},
	# an answer that was left for a busy saga may be worth less when it is brought
	'accepted answers are in their steps' => q{SELECT a.*, t.status FROM answer a LEFT JOIN step t USING (message_id) WHERE told = 'accepted'
		AND NOT coalesce(CASE WHEN success THEN t.status IN ('done', 'undone') ELSE t.status IN ('failed', 'done', 'undone', 'skipped') END OR t.error = 'evtstore.UndoFailed', false)
		AND (alone OR NOT EXISTS (SELECT FROM evtstore_internal.saga_answer r WHERE (r.saga_id, r.seq) = (t.saga_id, t.seq)))},
	'answers that changed nothing are written down' => q{SELECT t.saga_id, t.seq, a.* FROM (SELECT message_id, count(*) AS n FROM answer WHERE told IN ('late', 'duplicate') AND alone GROUP BY 1) a
		LEFT JOIN step t USING (message_id) WHERE n > (SELECT count(*) FROM evtstore_internal.saga_answer r WHERE (r.saga_id, r.seq) = (t.saga_id, t.seq))},
);

# --- Parallel and Map, signals ---

my %BRANCHES = (
	'a Parallel or Map that is done has done all its branches' => q{SELECT c.saga_id, c.seq, c.state, c.status, b.seq, b.status FROM step c JOIN step b ON b.saga_id = c.saga_id AND b.parent = c.seq
		WHERE c.kind IN ('parallel', 'map') AND b.kind = 'branch' AND c.status = 'done' AND b.status <> 'done'},
	'its output has an element for each' => q{SELECT c.saga_id, c.seq, c.state, jsonb_array_length(c.output), n FROM step c CROSS JOIN LATERAL
		(SELECT count(*) AS n FROM step b WHERE b.saga_id = c.saga_id AND b.parent = c.seq AND b.kind = 'branch') b
		WHERE c.kind IN ('parallel', 'map') AND c.status = 'done' AND jsonb_array_length(c.output) <> n},
	'a Map has an item for each that came in' => q{SELECT c.saga_id, c.seq, c.state FROM step c WHERE c.kind = 'map' AND c.status = 'done'
		AND jsonb_array_length(c.input->'items') <> (SELECT count(*) FROM step b WHERE b.saga_id = c.saga_id AND b.parent = c.seq AND b.kind = 'branch')},
	'what is done has ended after what is in it, unless an answer was late' => q{SELECT t.saga_id, t.seq, t.state, t.status, b.seq, b.kind, b.status FROM step t JOIN step b ON b.saga_id = t.saga_id AND b.seq = t.parent
		WHERE t.kind <> 'undo' AND t.ended > b.ended AND b.status = 'done' AND NOT EXISTS (SELECT FROM evtstore_internal.saga_answer r WHERE (r.saga_id, r.seq) = (t.saga_id, t.seq))},
	'a signal is there once' => q{SELECT s.n, s.saga, s.dedup_id FROM signalled s WHERE (SELECT count(*) FROM evtstore_internal.saga_signal g WHERE g.saga_id = s.saga
		AND (g.payload->>'n' = s.n::text OR g.dedup_id = s.dedup_id)) <> 1},
	'a step has the signal that it waited for, and nobody else has that' => q{SELECT t.saga_id, t.seq, t.state, t.output FROM step t
		WHERE t.kind = 'signal' AND t.status = 'done' AND NOT coalesce(t.output, 'null') = '"resolved"' AND 1 <> (SELECT count(*) FROM evtstore_internal.saga_signal g
			JOIN state d ON (d.saga, d.state) = (t.saga, t.state)
			WHERE g.saga_id = t.saga_id AND g.taken_by = t.seq AND g.payload = t.output AND d.resource = 'signal:' || g.name)},
	'no signal is taken by a step that did not have it' => q{SELECT g.* FROM evtstore_internal.saga_signal g LEFT JOIN step t ON (t.saga_id, t.seq) = (g.saga_id, g.taken_by)
		WHERE g.taken_by IS NOT NULL AND (t.status <> 'done' OR t.output <> g.payload)},
	'signals are had in the order in which they came' => q{SELECT g.saga_id, g.name, g.number, g.taken_by, h.number, h.taken_by FROM evtstore_internal.saga_signal g
		JOIN evtstore_internal.saga_signal h ON h.saga_id = g.saga_id AND h.name = g.name AND h.number > g.number WHERE h.taken_by IS NOT NULL AND g.taken_by IS NULL},
);

# --- children, and Parallels and Maps that undo what they did before they go on ---

my %CHILDREN = (
	'each child has its step' => q{SELECT * FROM child WHERE parent IS NULL},
	'a step has one child' => q{SELECT parent, seq FROM child GROUP BY 1, 2 HAVING count(*) > 1},
	'no child is open where its parent has ended' => q{SELECT c.* FROM child c JOIN evtstore.sagas p ON p.id = c.parent WHERE c.ended_at IS NULL AND p.ended_at IS NOT NULL},
	'what a child did is kept where its step is done' => q{SELECT * FROM child WHERE step_status = 'done' AND status <> 'succeeded'},
	'a step that is done has its child' => q{SELECT t.* FROM step t WHERE kind = 'child' AND status = 'done' AND NOT EXISTS (SELECT FROM child WHERE (parent, child.seq) = (t.saga_id, t.seq))},
	'of one entry one child is kept' => q{SELECT parent, entry, state FROM child WHERE status = 'succeeded' GROUP BY 1, 2, 3 HAVING count(*) > 1},
	# a child that has passed its pivot is kept, whatever its parent wants
	'what a child did is undone where its step is, or has failed' => q{SELECT * FROM child WHERE step_status <> 'done' AND status = 'succeeded' AND NOT has_pivot AND id NOT IN (SELECT saga FROM mercy)
		AND EXISTS (SELECT FROM happened e JOIN state d ON (d.saga, d.state) = ((SELECT name FROM evtstore.sagas WHERE sagas.id = child.id), e.state) WHERE e.saga = child.id AND e.way = 'do' AND d.undo <> 'none')},
	# where it had succeeded; but for what became known to be done only then
	'a child is undone when it is its turn' => q{SELECT c.*, u.began, u.finished, x.state AS child_state, x.began AS child_began, x.finished AS child_finished FROM child c JOIN undone u ON (u.saga_id, u.seq) = (c.parent, c.seq)
		JOIN undone x ON x.saga_id = c.id WHERE (x.began < u.began OR x.finished > u.finished) AND x.ended_at < u.began
			AND EXISTS (SELECT FROM evtstore.events e WHERE e.stream = 'saga-' || c.id AND e.type = 'SagaSucceeded')},
);

my %SCOPES = (
	'what a Scope did is undone when it has failed and its saga goes on' => q{SELECT e.saga, e.state, e.path FROM happened e JOIN step t ON (t.saga_id, t.state, t.path) = (e.saga, e.state, e.path) AND t.kind = 'task' AND t.status = 'done'
		JOIN line l ON (l.saga_id, l.seq) = (t.saga_id, t.seq) JOIN step c ON c.saga_id = t.saga_id AND c.seq = ANY (l.way) AND c.kind IN ('parallel', 'map') AND c.state = t.scope
		JOIN evtstore.sagas s ON s.id = t.saga_id
		WHERE e.way = 'do' AND t.undo <> 'none' AND c.status NOT IN ('done', 'undone') AND s.status = 'succeeded' AND t.ended < c.ended
			AND NOT EXISTS (SELECT FROM step n WHERE n.saga_id = c.saga_id AND n.first_seq = c.first_seq AND n.seq > c.seq AND n.kind = c.kind)
			AND NOT EXISTS (SELECT FROM happened u WHERE (u.saga, u.state, u.path, u.way) = (e.saga, e.state, e.path, 'undo'))},
	'a Scope that is through is not undone' => q{SELECT u.saga_id, u.state, u.path FROM step u JOIN step t ON t.saga_id = u.saga_id AND t.seq = u.undoes
		JOIN line l ON (l.saga_id, l.seq) = (t.saga_id, t.seq) JOIN step c ON c.saga_id = t.saga_id AND c.seq = ANY (l.way) AND c.kind IN ('parallel', 'map') AND c.state = t.scope
		JOIN evtstore.sagas s ON s.id = t.saga_id WHERE u.kind = 'undo' AND c.status = 'done' AND s.status = 'succeeded'},
);

# sql: runs a statement and returns what psql says.  A test for each
sub all
{
	my ($self, $sql) = @_;
	my $can    = $self->{can};
	my $parent = $can->{child} ? 'parent_id' : 'NULL::uuid';
	my %faults = (%EFFECTS, %RECORDS, %BRANCHES, $can->{child} ? %CHILDREN : (), $can->{scope} ? %SCOPES : ());

	$sql->(($VIEWS . ($can->{child} ? ";$CHILD_VIEWS" : '')) =~ s/\bPARENT\b/$parent/gr);
	foreach my $what (sort keys %faults)
	{
		my $fault = $faults{$what} =~ s/\bPARENT\b/$parent/gr;
		is($sql->("SELECT count(*) || coalesce(': ' || left(string_agg(f::text, E'\\n'), 2000), '') FROM (SELECT * FROM ($fault) f LIMIT 8) f"), 0, $what);
	}
	return;
}

# what there was, in lines
sub summary
{
	my ($self, $sql) = @_;
	my @lines;

	push @lines, $sql->(q{SELECT count(*) FROM started}) . ' sagas: ' . $sql->(q{SELECT string_agg(status || ' ' || n, ', ') FROM (SELECT status, count(*) AS n FROM evtstore.sagas WHERE id IN (SELECT id FROM started) GROUP BY 1 ORDER BY 1) s});
	push @lines, 'children: ' . $sql->(q{SELECT string_agg(status || ' ' || n, ', ') FROM (SELECT status, count(*) AS n FROM child GROUP BY 1 ORDER BY 1) s}) if $self->{can}{child};
	push @lines, 'answers: ' . $sql->(q{SELECT string_agg(format('%s %s%s', told, n, CASE WHEN NOT alone THEN ' with others' END), ', ') FROM (SELECT told, alone, count(*) AS n FROM answer GROUP BY 1, 2 ORDER BY 1, 2) s});
	push @lines, 'steps: ' . $sql->(q{SELECT string_agg(format('%s %s %s', kind, status, n), ', ') FROM (SELECT kind, status, count(*) AS n FROM step GROUP BY 1, 2 ORDER BY 1, 2) s});
	push @lines, 'deepest in ' . $sql->(q{SELECT coalesce(max(cardinality(way)), 0) / 2 FROM line}) . ', most items ' . $sql->(q{SELECT coalesce(max(jsonb_array_length(output)), 0) FROM step WHERE kind = 'map'})
	  . ', undone ' . $sql->(q{SELECT count(*) FROM undone}) . ', in one saga ' . $sql->(q{SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM undone GROUP BY saga_id) u})
	  . '; signals ' . $sql->(q{SELECT format('%s, had %s, by dedup_id one %s', count(*), count(taken_by), count(dedup_id)) FROM evtstore_internal.saga_signal})
	  . '; operators: ' . $sql->(q{SELECT coalesce(string_agg(verb || ' ' || n, ', '), 'nothing') FROM (SELECT verb, count(*) AS n FROM operated GROUP BY 1 ORDER BY 1) o});
	push @lines, 'steps with a lock ' . $sql->(q{SELECT format('%s, in a circle %s', count(*), count(*) FILTER (WHERE error = 'evtstore.LockDeadlock')) FROM step WHERE resource IS NOT NULL AND kind <> 'undo'});
	push @lines, 'pivots done that had been said to have failed, and what came before them undone: ' . $sql->(q{SELECT count(DISTINCT saga_id) FROM pivot JOIN undone USING (saga_id)});
	return @lines;
}

1;
