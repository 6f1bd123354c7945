
=head1 NAME

EvtFeed - readers and appenders for TAP tests of the store and its feed

=head1 SYNOPSIS

	use EvtFeed;

	my $reader = EvtFeed::Reader->new($node, 'read_all');     # remembers its last position and what it was given
	my $child  = start_psql($node, "SELECT ...;\n" x 1000);   # a psql of its own that works through a script
	$reader->poll while $child->running;
	is($reader->faults, '', 'nothing lost, nothing twice, order kept');
	is(store_faults($node), '', 'versions without gaps, ids once');

A reader keeps what it saw outside of the database: a crash there takes nothing from it.

=cut

package EvtFeed;

use strict;
use warnings;

use EvtTest;
use Exporter qw(import);
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(start_psql store_faults last_position);

my $psql_number = 0;

#
# A psql that runs a script, in the background; its results go to a file, line by line.  PGOPTIONS by options => '-c ...'.
#
sub start_psql
{
	my ($node, $script, %option) = @_;
	my $name = "$PostgreSQL::Test::Utils::tmp_check/psql_" . $psql_number++;

	open my $file, '>', "$name.sql" or die "$name.sql: $!";
	print $file $script;
	close $file;
	local $ENV{PGOPTIONS} = $option{options} if defined $option{options};
	my $run = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr($option{database} // 'postgres'), '-f', "$name.sql" ],
		'<', '/dev/null', '>', "$name.out", '2>', "$name.err");
	return bless { run => $run, out => "$name.out", err => "$name.err" }, 'EvtFeed::Psql';
}

# What is wrong with a store by itself: '' when nothing is.
sub store_faults
{
	my ($node, $database) = @_;
	return $node->safe_psql(
		$database // 'postgres', q{
		SELECT coalesce(string_agg(fault, '; '), '') FROM (
			SELECT format('%s: version %s where %s belongs', stream, version, n) AS fault
			FROM (SELECT tenant, stream, version, row_number() OVER (PARTITION BY tenant, stream ORDER BY position) AS n
			      FROM evtstore.events WHERE stream IS NOT NULL) e
			WHERE version IS DISTINCT FROM n
			UNION ALL
			SELECT format('id %s stands %s times', id, count(*)) FROM evtstore.events GROUP BY tenant,
				id HAVING count(*) > 1
			UNION ALL
			SELECT format('stream %s has no event', name) FROM evtstore_internal.stream s
			WHERE NOT EXISTS (SELECT FROM evtstore_internal.event e WHERE e.stream_id = s.id)
			LIMIT 20) faults
	});
}

# What the sequence gave out last.
sub last_position
{
	my ($node, $database) = @_;
	return $node->safe_psql($database // 'postgres', 'SELECT last_value FROM evtstore_internal.position_seq');
}

package EvtFeed::Psql;

use strict;
use warnings;

use PostgreSQL::Test::Utils;

sub running
{
	my $self = shift;
	return $self->{run}->pumpable;
}

# Waits for its end.
sub finish
{
	my $self = shift;
	$self->{run}->finish;
	return;
}

# The complete lines that it printed so far: what it was answered, so what was committed.
sub lines
{
	my $self = shift;

	return () unless -e $self->{out};
	return slurp_file($self->{out}) =~ /^(.*)\n/mg;
}

sub errors
{
	my $self = shift;
	return -e $self->{err} ? slurp_file($self->{err}) : '';
}

package EvtFeed::Reader;

use strict;
use warnings;

# read: read_all, or read_category with the category after a space; holes => 1 where events are scavenged meanwhile
sub new
{
	my ($class, $node, $read, %option) = @_;
	my ($function, $category) = split / /, $read;
	my $call = defined $category ? "evtstore.$function('$category', %s, %d)" : "evtstore.$function(%s, %d)";

	return bless {
		node     => $node,
		call     => $call,
		category => $category,
		database => $option{database} // 'postgres',
		page     => $option{page} // 1000,
		before   => $option{before} // '',
		at       => $option{at} // 0,
		start    => $option{at} // 0,
		holes    => $option{holes} // 0,
		seen     => {},
		id       => {},
		version  => {},
		faults   => [],
	}, $class;
}

# One poll: how many events it was given; undef when the server did not answer.
sub poll
{
	my $self = shift;
	my ($out, $err) = ('', '');
	my $read = sprintf $self->{call}, $self->{at}, $self->{page};
	my $n    = 0;

	my $status = $self->{node}->psql(
		$self->{database}, "$self->{before} SELECT position, id, stream, version FROM $read",
		stdout => \$out,
		stderr => \$err);
	return undef if $status != 0;
	foreach my $line (split /\n/, $out)
	{
		my ($position, $id, $stream, $version) = split /\|/, $line;

		push @{ $self->{faults} }, "$stream/$version at $position came after $self->{at}" if $position <= $self->{at};
		push @{ $self->{faults} }, "$stream/$version came twice" if $self->{id}{$id}++;
		push @{ $self->{faults} }, "$stream/$version came after version " . ($self->{version}{$stream} // 'none')
		  if $version != ($self->{version}{$stream} // $version - 1) + 1
		  && !($self->{holes} && $version > $self->{version}{$stream});
		$self->{at}               = $position;
		$self->{seen}{$position}  = $id;
		$self->{version}{$stream} = $version;
		$n++;
	}
	return $n;
}

# Polls until there is nothing more.
sub catch_up
{
	my $self = shift;
	1 while $self->poll;
	return;
}

# What went wrong so far, compared with what is in the store now: '' when nothing did.
sub faults
{
	my $self   = shift;
	my @faults = @{ $self->{faults} };
	my $where  = defined $self->{category} ? "AND s.category = '$self->{category}'" : '';
	my %stored = map { split /\|/ } split /\n/,
	  $self->{node}->safe_psql($self->{database},
		"SELECT e.position, e.id FROM evtstore.events e JOIN evtstore.streams s USING (tenant, stream) WHERE e.position > $self->{start} $where");

	foreach my $position (sort { $a <=> $b } keys %stored)
	{
		push @faults, "lost $position" if $position <= $self->{at} && !exists $self->{seen}{$position};
	}
	foreach my $position (sort { $a <=> $b } keys %{ $self->{seen} })
	{
		my $is = $stored{$position} // ($self->{holes} ? $self->{seen}{$position} : 'gone');
		push @faults, "$position was $self->{seen}{$position}, is $is" if $is ne $self->{seen}{$position};
	}
	splice @faults, 20;
	return join '; ', @faults;
}

sub count
{
	my $self = shift;
	return scalar keys %{ $self->{seen} };
}

1;
