# An appender is stopped between reading the last position and publishing it as its floor, others pass it, it goes on.  What
# it publishes then is older than a head that readers were shown: the head must not go back, nor pass what it appends.  The
# trap of the preempted writer.
#
# It takes a debugger to stop a process between two lines: skipped where there is none, or none that may attach.
use strict;
use warnings;

use EvtFeed;
use EvtGdb;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = test_tree() . '/src/feed.c';
my @lines  = split /\n/, slurp_file($source);
# the line that publishes; the floor's value is read in the line before
my ($line) = grep { $lines[ $_ - 1 ] =~ /pg_atomic_write_u64\(&floor->floor, my_floor \+ 1\)/ } 1 .. @lines;
die "feed.c no longer publishes its floor where this test stops it" unless $line && $lines[ $line - 2 ] =~ /my_floor = .*last_allocated/;

my $node = new_node('main', conf => "log_statement = none\nevtstore.enabled = off\n");
EvtGdb::require_gdb($node);
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

my $gdb = eval { EvtGdb->attach($pid, "feed.c:$line") };
plan skip_all => 'the library has no line numbers' if $@ =~ /No (?:source|symbol)/;
die $@ if $@;

my $started = last_position($node);
$writer->query_until(qr/sent/,
	"\\echo sent\nBEGIN;\nSELECT position FROM evtstore.append('a-2', 'T', '1');\n\\echo appended\n");
$gdb->wait_until_stopped;

# others pass it: it has read the last position but nobody knows
my @passed = map { append($_) } qw(b-1 a-1 b-1);
is(sql('SELECT evtstore.head_position()'), $passed[-1], 'a head above what the writer has in its hand');
$_->catch_up foreach $reader, $other;
is($reader->{at}, $passed[-1], 'readers were given all of it');

$gdb->let_go;
$writer->query_until(qr/appended/, '');
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
