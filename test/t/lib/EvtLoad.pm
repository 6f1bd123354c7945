
=head1 NAME

EvtLoad - clients and readers of the property test (060_property.pl): what they do, and what they write down

=head1 SYNOPSIS

	run_client($node, number => 3, seed => 42, until => $time, file => 'client_3');
	run_reader($node, number => 1, seed => 42, stop => 'stop', file => 'reader_1');

Each runs in a process of its own and keeps its record in a file outside of the database, where no crash takes anything
back.  A client's record has one line for each attempt at a transaction, which read_records reads:

	{ sync, iso, outcome: acked|refused|unknown, ended,
	  ops: [ { op, sent, replied, state: live|undone|refused|unknown, sqlstate, detail, rows } ] }

ended is when the commit was acknowledged.  op is what was sent; the same op, with the same event ids, may be in several
attempts: after a lost reply, or in the record of the client's twin, who sends it at the same moment.

	{ id, kind, parts: [ { stream, expected, require, events: [ { id, type, tags, data } ] } ], items, after, must }

A reader's record has a line "cursor position id" for each event that it was given.

=cut

package EvtLoad;

use strict;
use warnings;

use Data::Dumper;
use Digest::MD5 qw(md5_hex);
use EvtWire;
use Exporter qw(import);
use IO::Handle;
use JSON::PP;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our @EXPORT    = qw(run_client run_reader);
our @EXPORT_OK = qw(now readers read_records);

my $json = JSON::PP->new->canonical->utf8;

# streams, types and tags are few: all that matters here are conflicts
my @STREAMS = map { ("a-$_", "b-$_") } 1 .. 3;
my @TYPES   = map { "T$_" } 0 .. 4;
my @TAGS    = map { "t$_" } 0 .. 5;

# seconds between two operations of a pair of twins
my $TWIN_SLOT = 0.15;
# seconds for which everybody commits as slots say: some slots are asynchronous throughout, so that nobody flushes for others
my $SYNC_SLOT = 2;

# of this process
my ($node, %option, $wire, $out);
my ($sync_is, $numbers, $seen_head) = ('', 0, 0);
my $last_failure = 0;

sub now { return clock_gettime(CLOCK_MONOTONIC) }

sub one_of { return $_[ int rand @_ ] }
sub chance { return rand() < $_[0] }

# ---- clients ----

sub run_client
{
	($node, %option) = @_;
	srand $option{seed} * 1000 + $option{number};
	open $out, '>', $option{file} or die "$option{file}: $!";
	$out->autoflush;
	my $slot = -1;

	while (now() < $option{until})
	{
		next unless connected();
		my $this_slot = int((now() - $option{started}) / $TWIN_SLOT);
		my $twin      = $this_slot != $slot;
		$slot = $this_slot;
		my $plan = $twin ? { ops => [ twin_op($slot) ], retry => 0.5 } : make_plan();
		my $attempts = 1 + ($plan->{retry} > rand() ? 3 : 0);
		while ($attempts-- > 0 && now() < $option{until} + 5)
		{
			next unless connected();
			my $record = attempt($plan);
			print $out written($record), "\n";
			last if $record->{outcome} eq 'refused' || ($record->{outcome} eq 'acked' && !chance(0.05));
		}
	}
	close $out or die "$option{file}: $!";
	return;
}

# As Perl, which is read and written ten times as fast as JSON is where no library does it.
sub written
{
	local ($Data::Dumper::Indent, $Data::Dumper::Terse, $Data::Dumper::Deepcopy, $Data::Dumper::Useqq) = (0, 1, 1, 0);
	# the detail of a deadlock has several lines
	return Dumper(shift) =~ s/\n/ /gr;
}

sub read_records
{
	my $file = shift;
	my @records;

	open my $in, '<', $file or die "$file: $!";
	while (<$in>)
	{
		my $record = eval;
		push @records, $record // die "$file:$.: $@";
	}
	return @records;
}

sub connected
{
	return 1 if $wire && $wire->{socket};
	$sync_is = '';
	$wire    = EvtWire->new($node, 'postgres', 'property client');
	return 1 if $wire;
	select undef, undef, undef, 0.05;    # sleep: the server is coming up
	return 0;
}

# What a transaction will do; 'save', 'back' and 'release' between its operations are savepoints.
sub make_plan
{
	my %plan = (iso => 'READ COMMITTED', retry => 0.8, steps => [], end => 'COMMIT');

	if (chance(0.5))
	{
		$plan{ops} = [ make_op() ];
		$plan{lose} = chance(0.03);
		return \%plan;
	}
	$plan{block} = 1;
	$plan{iso} = one_of('REPEATABLE READ', 'SERIALIZABLE') if chance(0.3);
	my $depth = 0;
	foreach (1 .. 1 + int rand 4)
	{
		if (chance(0.35))
		{
			push @{ $plan{ops} }, 'save';
			$depth++;
		}
		push @{ $plan{ops} }, make_op();
		if ($depth && chance(0.5))
		{
			push @{ $plan{ops} }, one_of('back', 'release');
			$depth--;
		}
	}
	$plan{end}     = 'ROLLBACK' if chance(0.15);
	$plan{lose}    = chance(0.03);
	$plan{timeout} = 1 + int rand 15 if chance(0.03);
	return \%plan;
}

sub new_id
{
	my $hex = md5_hex("$option{seed} $option{number} " . $numbers++);
	return join '-', unpack 'A8A4A4A4A12', $hex;
}

sub make_events
{
	my ($n, @more) = @_;
	return [
		map {
			my %tags = map { $_ => 1 } @more, map { one_of(@TAGS) } 1 .. int rand 3;
			{ id => new_id(), type => one_of(@TYPES), tags => [ sort keys %tags ], data => $_ }
		} 1 .. $n ];
}

# Expectations that need a look at the store are made when their turn comes: see prepare.
sub make_part
{
	my $n = shift;
	my $part = { stream => one_of(@STREAMS), events => make_events($n), expected => undef, require => undef };

	$part->{stream} = "c-$option{number}." . $numbers++ if chance(0.1);
	my $kind = rand;
	if    ($kind < 0.4)  { $part->{look}     = 1 }
	elsif ($kind < 0.5)  { $part->{expected} = 0 }
	elsif ($kind < 0.6)  { $part->{require}  = 'exists' }
	elsif ($kind < 0.62) { $part->{require}  = 'deleted' }
	return $part;
}

sub make_op
{
	my $op   = { id => "$option{number}." . $numbers++, items => undef, after => undef };
	my $kind = rand;

	if ($kind < 0.35)
	{
		@$op{qw(kind parts)} = ('append', [ make_part(1) ]);
	}
	elsif ($kind < 0.5)
	{
		@$op{qw(kind parts)} = ('append_events', [ make_part(int rand 5) ]);
	}
	elsif ($kind < 0.65)
	{
		@$op{qw(kind parts)} = ('append_streams', [ map { make_part(int rand 3) } 1 .. 1 + int rand 3 ]);
	}
	else
	{
		my @more = chance(0.3) ? ("u$option{number}." . $numbers++) : ();
		$op->{kind} = 'append_if';
		$op->{parts} = [ {
				stream => chance(0.3) ? one_of(@STREAMS) : undef,
				events => make_events(1 + int rand 2, @more), expected => undef, require => undef } ];
		# one that nobody else can fail, or one above the head that somebody saw
		$op->{items} = @more ? [ { tags => [@more] } ] : make_items();
		$op->{look} = !@more;
	}
	return $op;
}

sub make_items
{
	my $kind = rand;

	return [] if $kind < 0.1;
	return [ { types => [ one_of(@TYPES) ] } ] if $kind < 0.25;
	return [
		map {
			my %item;
			my %tags  = map { one_of(@TAGS)  => 1 } 1 .. 1 + int rand 2;
			my %types = map { one_of(@TYPES) => 1 } 1 .. int rand 3;
			$item{tags}  = [ sort keys %tags ];
			$item{types} = [ sort keys %types ] if %types;
			\%item
		} 1 .. 1 + int rand 2 ];
}

# The operation that both twins send at the beginning of a slot: the same ids and content, made from the slot's number alone.
# Nobody else can be in its way, so both must succeed, and one of them writes.
sub twin_op
{
	my $slot = shift;
	my $pair = int($option{number} / 2);
	my $name = "p$pair.$slot";
	my @dice = map { hex } split //, md5_hex("$option{seed} $name");
	my $n    = 1 + $dice[0] % 3;
	my $op   = { id => $name, must => 1, items => undef, after => undef };
	my $part = {
		stream   => "twin-$name",
		expected => $dice[1] % 2 ? 0 : undef,
		require  => undef,
		events   => [
			map {
				{ id => join('-', unpack 'A8A4A4A4A12', md5_hex("$option{seed} $name $_")), type => 'Twin', tags => [ "tw$name" ], data => $_ }
			} 1 .. $n ] };

	$op->{parts} = [$part];
	$op->{kind} = (qw(append append_events append_streams append_if))[ $dice[2] % 4 ];
	if ($op->{kind} eq 'append')
	{
		$part->{events} = [ $part->{events}[0] ];
	}
	elsif ($op->{kind} eq 'append_streams')
	{
		push @{ $op->{parts} }, { stream => "twin-$name-2", expected => 0, require => undef, events => [ pop @{ $part->{events} } ] };
	}
	elsif ($op->{kind} eq 'append_if')
	{
		$part->{expected} = undef;
		$part->{stream} = undef if $dice[3] % 2;
		$op->{items} = [ { tags => ["tw$name"] } ];
	}
	return $op;
}

# ---- one attempt at a transaction ----

sub attempt
{
	my $plan   = shift;
	my $record = { ops => [], faults => [], outcome => 'acked', iso => $plan->{iso} // 'READ COMMITTED' };

	choose_sync($record) or return lost($record, 0);
	run_plan($plan, $record);
	if ($wire && $wire->{socket})
	{
		probe($plan, $record) if $record->{outcome} eq 'acked' && $record->{sync} eq 'on' && !$plan->{block} && chance(0.05);
		note_fault("the transaction is open: $wire->{status}", $record) if $wire->{socket} && $wire->{status} ne 'I';
	}
	return $record;
}

sub note_fault
{
	my ($fault, $record) = @_;
	push @{ $record->{faults} }, $fault;
	return;
}

sub choose_sync
{
	my $record = shift;
	my $slot   = int((now() - $option{started}) / $SYNC_SLOT);
	my $throw  = hex substr md5_hex("$option{seed} sync $slot"), 0, 2;
	my $sync   = $throw < 100 ? 'off' : chance(0.5) ? 'on' : 'off';

	if ($sync ne $sync_is)
	{
		return 0 if $wire->query("SET synchronous_commit = $sync")->{lost};
		$sync_is = $sync;
	}
	$record->{sync} = $sync;
	return 1;
}

# What was live may be there or not.
sub lost
{
	my ($record, $may_have_committed) = @_;

	$record->{sync} //= 'off';
	$record->{outcome} = $may_have_committed ? 'unknown' : 'refused';
	foreach my $done (@{ $record->{ops} })
	{
		$done->{state} = 'undone' if $done->{state} eq 'live' && !$may_have_committed;
		$done->{state} = $may_have_committed ? 'live' : 'undone' if $done->{state} eq 'unknown';
	}
	return $record;
}

sub run_plan
{
	my ($plan, $record) = @_;
	my @marks;

	if ($plan->{block})
	{
		foreach my $sql ("BEGIN ISOLATION LEVEL $plan->{iso}", $plan->{timeout} ? "SET LOCAL statement_timeout = $plan->{timeout}" : ())
		{
			my $answer = $wire->query($sql);
			return lost($record, 0) if $answer->{lost};
			return give_up($record) if $answer->{sqlstate};
		}
	}
	foreach my $step (@{ $plan->{ops} })
	{
		if (!ref $step)
		{
			next if $step ne 'save' && !@marks;
			my $answer = savepoint($step, \@marks, $record);
			return lost($record, 0) if $answer->{lost};
			return give_up($record) if $answer->{sqlstate};
			next;
		}
		my $done = run_op($step, $plan, $record);
		return lost($record, !$plan->{block}) if $done->{state} eq 'unknown';
		# a look at what was written may be refused too: 40001
		next if $done->{state} ne 'refused' && ($wire->{status} // '') ne 'E';
		return give_up($record) unless @marks;
		my $answer = savepoint('back', \@marks, $record);
		return lost($record, 0) if $answer->{lost};
		return give_up($record) if $answer->{sqlstate};
	}
	if (!$plan->{block})
	{
		$record->{ended} = $record->{ops}[-1]{replied};
		return;
	}
	return end_block($plan, $record);
}

sub savepoint
{
	my ($step, $marks, $record) = @_;

	if ($step eq 'save')
	{
		push @$marks, scalar @{ $record->{ops} };
		return $wire->query('SAVEPOINT s' . scalar @$marks);
	}
	my $name = 's' . scalar @$marks;
	my $from = pop @$marks;
	return $wire->query("RELEASE $name") if $step eq 'release';
	# before the answer: whatever it is, these are not there unless the transaction goes on and commits
	my $answer = $wire->query("ROLLBACK TO $name");
	foreach my $done (@{ $record->{ops} }[ $from .. $#{ $record->{ops} } ])
	{
		$done->{state} = 'undone' if $done->{state} eq 'live';
	}
	return $answer;
}

# The transaction failed, or there was none.
sub give_up
{
	my $record = shift;

	$wire->query('ROLLBACK') if $wire->{status} ne 'I';
	$record->{outcome} = 'refused';
	foreach my $done (@{ $record->{ops} })
	{
		$done->{state} = 'undone' if $done->{state} eq 'live';
	}
	return;
}

sub end_block
{
	my ($plan, $record) = @_;

	return give_up($record) if $plan->{end} eq 'ROLLBACK';
	$wire->put('COMMIT');
	if ($plan->{lose})
	{
		$wire->close;
		return lost($record, 1);
	}
	my $answer = take();
	$record->{ended} = now();
	return lost($record, 1) if $answer->{lost};
	return give_up($record) if $answer->{sqlstate} || $answer->{tag} ne 'COMMIT';
	return;
}

# Now and then with a Ctrl-C on the way.
sub take
{
	if (chance(0.02) && !$wire->ready(rand 0.004))
	{
		$wire->cancel;
	}
	return $wire->take;
}

sub run_op
{
	my ($op, $plan, $record) = @_;
	my $done = { op => $op, state => 'unknown' };

	if (!prepare($op))
	{
		# nothing was sent: the transaction is over, or the connection
		$done->{state} = $wire->{socket} ? 'refused' : 'undone';
		return $done->{state} eq 'refused' ? $done : { state => 'unknown' };
	}
	push @{ $record->{ops} }, $done;
	$done->{sent} = now();
	$wire->put(op_sql($op));
	if ($plan->{lose} && !$plan->{block})
	{
		$wire->close;
		return $done;
	}
	my $answer = take();
	$done->{replied} = now();
	return $done if $answer->{lost};
	@$done{qw(sqlstate detail message)} = @$answer{qw(sqlstate detail message)};
	$done->{state} = $answer->{sqlstate} ? 'refused' : 'live';
	$done->{rows} = $answer->{rows};
	look_back($op, $done, $plan, $record) if $wire->{status} ne 'E';
	return $done;
}

# What an operation expects of what is there: taken when it is sent for the first time.
sub prepare
{
	my $op = shift;

	if (delete $op->{look})
	{
		# of an earlier moment now and then: then more may have happened since
		if (!$seen_head || chance(0.7))
		{
			my $answer = $wire->query('SELECT evtstore.head_position()');
			if ($answer->{lost} || $answer->{sqlstate})
			{
				$op->{look} = 1;
				return 0;
			}
			$seen_head = $answer->{rows}[0][0];
		}
		$op->{after} = $seen_head;
	}
	foreach my $part (@{ $op->{parts} })
	{
		next unless $part->{look};
		my $answer = $wire->query("SELECT evtstore.stream_version('$part->{stream}')");
		return 0 if $answer->{lost} || $answer->{sqlstate};
		delete $part->{look};
		$part->{expected} = $answer->{rows}[0][0] + 0;
	}
	return 1;
}

sub literal { return defined $_[0] ? "'$_[0]'" : 'NULL' }

sub op_sql
{
	my ($op, @events) = @_;
	my @parts = @{ $op->{parts} };
	my $part  = $parts[0];
	my $first = $part->{events}[0];
	my $list  = literal($json->encode($part->{events}));
	my $expected = $part->{expected} // 'NULL';

	return sprintf q{SELECT * FROM evtstore.append('%s', '%s', '%s', %s, tags => '{%s}', id => '%s', require => %s)},
	  $part->{stream}, $first->{type}, $first->{data}, $expected, join(',', @{ $first->{tags} }), $first->{id}, literal($part->{require})
	  if $op->{kind} eq 'append';
	return sprintf q{SELECT * FROM evtstore.append_events('%s', %s, %s, %s)}, $part->{stream}, $list, $expected, literal($part->{require})
	  if $op->{kind} eq 'append_events';
	return sprintf q{SELECT * FROM evtstore.append_if(%s, '%s', %s, %s)}, $list, $json->encode({ items => $op->{items} }),
	  $op->{after} // 'NULL', literal($part->{stream})
	  if $op->{kind} eq 'append_if';
	my @appends = map {
		{ stream => $_->{stream}, events => $_->{events}, expected_version => defined $_->{expected} ? $_->{expected} + 0 : undef, require => $_->{require} }
	} @parts;
	return sprintf q{SELECT * FROM evtstore.append_streams('%s')}, $json->encode(\@appends);
}

# A transaction reads its own write, whoever holds the head; who lost a race can read what beat it.
sub look_back
{
	my ($op, $done, $plan, $record) = @_;
	my ($stream, $from);

	return unless chance(0.1);
	if ($done->{state} eq 'live')
	{
		($stream, $from) = @{ $done->{rows}[0] }[ 0, 2 ];
		return unless defined $stream && $from > 0;
		# what others wrote meanwhile is told, and not in the snapshot
		return if $record->{iso} ne 'READ COMMITTED' && (!defined $done->{rows}[0][1] || $done->{rows}[0][5] eq 't');
	}
	elsif ($done->{sqlstate} eq 'ST001' && $record->{iso} eq 'READ COMMITTED')
	{
		my $detail = $json->decode($done->{detail});
		($stream, $from) = @$detail{qw(stream actual)};
		return unless defined $stream && $from > 0;
		# named twice: the second part is told what the first one would have made of it
		return if 1 < grep { ($_->{stream} // '') eq $stream } @{ $op->{parts} };
	}
	else { return }
	my $answer = $wire->query("SELECT version FROM evtstore.read_stream('$stream', " . ($from - 1) . ', 1)');
	return if $answer->{lost} || $answer->{sqlstate};
	note_fault("version $from of $stream cannot be read", $record) unless @{ $answer->{rows} } && $answer->{rows}[0][0] == $from;
	return;
}

# Retries of an acknowledged append that are not the same again.
sub probe
{
	my ($plan, $record) = @_;
	my $op   = $record->{ops}[0]{op};
	my $part = $op->{parts}[0];

	return unless @{ $op->{parts} } == 1 && $op->{kind} ne 'append' && @{ $part->{events} };
	my @events  = @{ $part->{events} };
	my %other   = (%{ $events[-1] }, data => 'other');
	my %unknown = (id => new_id(), type => 'T0', tags => [], data => 'never');
	my @probes  = (
		[ 'the same again',      '00000', @events ],
		[ 'a prefix',            '00000', $events[0] ],
		[ 'a prefix and more',   'ST001', @events, \%unknown ],
		[ 'other content',       'ST004', @events[ 0 .. $#events - 1 ], \%other ],
		[ 'out of order',        @events > 1 ? 'ST001' : '00000', reverse @events ]);
	my ($what, $wanted, @sent) = @{ one_of(@probes) };
	my $answer = $wire->query(op_sql({ %$op, parts => [ { %$part, events => \@sent } ] }));
	my $got    = $answer->{sqlstate} // '00000';

	# not about ids: a cancel from outside, or a circle of waits that others made
	return if $answer->{lost} || $got eq '57014' || $got eq '40P01';
	note_fault("$op->{id}, $what: $got instead of $wanted", $record) if $got ne $wanted;
	return if $got ne '00000';
	my ($row, $before) = ($answer->{rows}[0], $record->{ops}[0]{rows}[0]);
	note_fault("$op->{id}, $what: another answer than before", $record)
	  if $row->[5] ne 't' || grep { ($row->[$_] // '') ne ($before->[$_] // '') } 1, 3;
	return;
}

# ---- readers ----

# What each cursor reads: SQL with the cursor and the page, and which events that must be, as in the model.
sub readers
{
	return (
		all      => [ 'evtstore.read_all(%s, %s)' ],
		snapshot => [ 'evtstore.read_all(%s, %s)' ],
		category => [ q{evtstore.read_category('a', %s, %s)}, { category => 'a' } ],
		twin     => [ q{evtstore.read_category('twin', %s, %s)}, { category => 'twin' } ],
		tag      => [ q{evtstore.read_query('{"items": [{"tags": ["t1"]}]}', %s, %s)}, { items => [ { tags => ['t1'] } ] } ],
		type     => [ q{evtstore.read_query('{"items": [{"types": ["T2"]}]}', %s, %s)}, { items => [ { types => ['T2'] } ] } ],
		items    => [
			q{evtstore.read_query('{"items": [{"types": ["T1", "T3"], "tags": ["t2", "t3"]}, {"tags": ["t4"], "types": ["T0"]}]}', %s, %s)},
			{ items => [ { types => [ 'T1', 'T3' ], tags => [ 't2', 't3' ] }, { tags => ['t4'], types => ['T0'] } ] } ],
		every => [ q{evtstore.read_query('{}', %s, %s)} ]);
}

sub run_reader
{
	($node, %option) = @_;
	srand $option{seed} * 1000 + 500 + $option{number};
	open $out, '>', $option{file} or die "$option{file}: $!";
	my %readers = readers();
	my %at      = map { $_ => 0 } @{ $option{cursors} };

	while (1)
	{
		my $last = -e $option{stop};
		my $seen = 0;

		next unless connected();
		foreach my $cursor (@{ $option{cursors} })
		{
			last unless $wire && $wire->{socket};
			my $n = poll($cursor, $readers{$cursor}[0], \$at{$cursor});
			$seen += $n // 1;
		}
		last if $last && !$seen;
		select undef, undef, undef, 0.002 unless $seen;    # sleep: there is nothing new
	}
	close $out or die "$option{file}: $!";
	return;
}

# One page: how many events came; undef where the server did not answer.
sub poll
{
	my ($name, $sql, $at) = @_;
	my $read = sprintf "SELECT position, id FROM $sql", $$at, 1 + int rand 300;

	if ($name eq 'snapshot')
	{
		# the ledger's head, with some time between the snapshot and the read
		foreach my $sql ('BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT count(*) FROM evtstore.streams')
		{
			return undef if failed($wire->query($sql));
		}
	}
	my $answer = $wire->query($read);
	return undef if failed($answer);
	return undef if $name eq 'snapshot' && failed($wire->query('COMMIT'));
	foreach my $row (@{ $answer->{rows} })
	{
		print $out "$name $row->[0] $row->[1]\n";
		$$at = $row->[0] if $row->[0] > $$at;
	}
	return scalar @{ $answer->{rows} };
}

sub failed
{
	my $answer = shift;
	return 1 if $answer->{lost};
	die "a reader got $answer->{sqlstate}: $answer->{message}\n" if ($answer->{sqlstate} // '57014') ne '57014';
	return 0 unless $answer->{sqlstate};
	$wire->query('ROLLBACK');
	return 1;
}

1;
