# An appender is stopped between reading the last position and publishing it as its floor, others pass it, it goes on.  What
# it publishes then is older than a head that readers were shown: the head must not go back, nor pass what it appends.  The
# trap of the preempted writer.
#
# It takes a debugger to stop a process between two lines: skipped where there is none, or none that may attach.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = test_tree() . '/src/feed.c';
my @lines  = split /\n/, slurp_file($source);
# the line that publishes; the floor's value is read in the line before
my ($line) = grep { $lines[ $_ - 1 ] =~ /pg_atomic_write_u64\(&floor->floor, my_floor \+ 1\)/ } 1 .. @lines;
die "feed.c no longer publishes its floor where this test stops it" unless $line && $lines[ $line - 2 ] =~ /my_floor = .*last_allocated/;

# IPC::Run dies where there is no such program
plan skip_all => 'no gdb'
  unless eval { IPC::Run::run([ 'gdb', '--version' ], '<', '/dev/null', '>', \my $version, '2>', '/dev/null') };

my $node = new_node('main', conf => "log_statement = none\nevtstore.enabled = off\n");
my $writer = session($node);
my $pid    = $writer->query_safe('SELECT pg_backend_pid()');

sub sql { return $node->safe_psql('postgres', shift) }
sub append { return sql("SELECT position FROM evtstore.append('$_[0]', 'T', '1')") }

append('b-1');
# so that it has all in place that a first append makes
$writer->query_safe(q{SELECT FROM evtstore.append('a-1', 'T', '1')});
my $reader = EvtFeed::Reader->new($node, 'read_all');
my $other  = EvtFeed::Reader->new($node, 'read_category a');
$_->catch_up foreach $reader, $other;

# gdb stops the writer at the line, tells by a file, and lets it go when another file appears
my $here = PostgreSQL::Test::Utils::tempdir;
my $seconds = $PostgreSQL::Test::Utils::timeout_default;
my ($out, $err) = ('', '');
my $gdb = IPC::Run::start(
	[
		'gdb', '--batch', '-nx', '-p', $pid, '-ex', 'set pagination off', '-ex', "break feed.c:$line",
		'-ex', "shell touch $here/armed", '-ex', 'continue', '-ex', 'print my_floor',
		# sleep: gdb can only wait in a shell
		'-ex', "shell touch $here/stopped; for i in \$(seq ${seconds}0); do [ -e $here/go ] && break; sleep 0.1; done",
		'-ex', 'delete', '-ex', 'detach'
	],
	'<', '/dev/null', '>', "$here/gdb.out", '2>', "$here/gdb.err");
eval { poll_until('gdb', sub { -e "$here/armed" || !$gdb->pumpable }) };
my $said = slurp_file("$here/gdb.out") . slurp_file("$here/gdb.err");
if (!-e "$here/armed" || $said !~ /^Breakpoint 1 at/m || $said =~ /ptrace: Operation not permitted|No (?:source|symbol)/)
{
	eval { $gdb->finish };
	plan skip_all => 'gdb cannot stop a server process here';
}

my $started = last_position($node);
$writer->query_until(qr/sent/,
	"\\echo sent\nBEGIN;\nSELECT position FROM evtstore.append('a-2', 'T', '1');\n\\echo appended\n");
poll_until('the writer at the line', sub { -e "$here/stopped" });

# others pass it: it has read the last position but nobody knows
my @passed = map { append($_) } qw(b-1 a-1 b-1);
is(sql('SELECT evtstore.head_position()'), $passed[-1], 'a head above what the writer has in its hand');
$_->catch_up foreach $reader, $other;
is($reader->{at}, $passed[-1], 'readers were given all of it');

open my $go, '>', "$here/go" or die "$here/go: $!";
close $go;
$writer->query_until(qr/appended/, '');
$gdb->finish;
is(sql('SELECT floor FROM evtstore.why_behind()'), $started, 'the floor that it publishes is older than that');
is(sql('SELECT evtstore.head_position()'), $passed[-1], 'the head does not go back');
is(sql(qq{SELECT count(*) FROM evtstore.read_category('a') WHERE position = $passed[1]}), 1,
	'nor that of its category');
is(sql(qq{SELECT count(*) FROM evtstore.read_all() WHERE position = $passed[2]}), 1, 'what was read can be read');
my $above = append('b-1');
is(sql("SELECT count(*) FROM evtstore.read_all($passed[-1])"), 0, 'it holds what is above');
$writer->query_safe('COMMIT');
$_->catch_up foreach $reader, $other;
is($reader->{at}, $above, 'then all comes');
is($_->faults, '', "$_->{call}: nothing lost, nothing twice") foreach $reader, $other;
$writer->quit;

done_testing();
