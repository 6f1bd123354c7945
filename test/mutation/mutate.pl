#!/usr/bin/env perl
#
# test/mutation/mutate.pl [MUTANT...]: the loop of test/mutation/run, in its scratch copy of the tree, unprivileged.
#
# Every test that a mutant names is first run on the sources as they are: what fails there proves nothing.
#
use strict;
use warnings;

use Cwd qw(getcwd);
use Time::HiRes qw(time);

$| = 1;
$ENV{EVTSTORE_SUITES} = 'regress isolation tap';

my @mutants = do { my $list = do "./test/mutation/mutants.pl" or die $@ || $!; @$list };
$mutants[$_]{number} = $_ + 1 foreach 0 .. $#mutants;
if (my @wanted = map { split /,/ } @ARGV)
{
	@mutants = grep { my $m = $_; grep { /^\d+$/ ? $m->{number} == $_ : $m->{name} =~ /\Q$_\E/i } @wanted } @mutants;
	die "no mutant is called @wanted\n" unless @mutants;
}

# --- the sources as they are ---

my %tests = map { $_ => 1 } map { split ' ', $_->{tests} } @mutants;
my ($bad, $ran) = run_tests(sort keys %tests);
die "the sources do not build\n" unless $ran;
print "fails without any mutant, so proves nothing: $_\n" foreach sort keys %$bad;

# --- each mutant ---

my $survivors = 0;
printf "%-3s %-66s %s\n", '', 'mutant', 'killed by';
foreach my $mutant (@mutants)
{
	my $started = time;
	my %original;
	my $verdict = eval { change($mutant, \%original); 1 } ? undef : "does not fit: $@";

	if (!defined $verdict)
	{
		my ($failed, $built) = run_tests(split ' ', $mutant->{tests});
		my @killers = grep { !$bad->{$_} } sort keys %$failed;

		$verdict = !$built ? 'does not build' : @killers ? join ', ', @killers : 'SURVIVES';
		if ($mutant->{harmless})
		{
			$verdict = $verdict eq 'SURVIVES' ? "(nobody, as it should be)" : "$verdict, but it is harmless";
		}
		$survivors++ if $mutant->{harmless} ? $verdict !~ /^\(/ : $verdict =~ /^(?:does not build|SURVIVES)/;
	}
	else
	{
		$survivors++;
	}
	restore(\%original);
	printf "%-3d %-66s %s  (%.0f s)\n", $mutant->{number}, $mutant->{name}, $verdict =~ s/\s+\z//r, time - $started;
}
printf "%d mutants, %d not as they should be\n", scalar @mutants, $survivors;
exit($survivors ? 1 : 0);

#
# Applies a mutant: pairs of text as it stands, once, in the file, and what stands there instead.
#
sub change
{
	my ($mutant, $original) = @_;
	my @changes = @{ $mutant->{change} };

	while (my ($from, $to) = splice @changes, 0, 2)
	{
		my $file = 'src/' . $mutant->{file};
		my $text = read_file($file);
		my $n    = () = $text =~ /\Q$from\E/g;

		die "$file has $n times: $from\n" if $n != 1;
		$original->{$file} //= $text;
		$text =~ s/\Q$from\E/$to/;
		write_file($file, $text);
	}
	return;
}

sub restore
{
	my ($original) = @_;
	write_file($_, $original->{$_}) foreach keys %$original;
	return;
}

# The tests that failed, and whether it came to running them.
sub run_tests
{
	my @tests = @_;
	my (%failed, $ran);

	open my $suite, '-|', $^X, 'test/setup/suite', @tests or die "suite: $!";
	while (<$suite>)
	{
		$ran = 1 if /^(?:ok|FAILED|skip)\s+(?:regress|isolation|tap)\b/;
		$failed{$1} = 1 if /^FAILED\s+(?:regress|isolation|tap|log)\s+(\w+)/;
	}
	close $suite;
	return (\%failed, $ran);
}

sub read_file
{
	my $name = shift;
	open my $in, '<', $name or die "$name: $!\n";
	local $/;
	return scalar <$in>;
}

# The time of change tells make what to build: it has to differ from that of the object, whatever the file system rounds to.
sub write_file
{
	my ($name, $text) = @_;
	my $object = $name =~ s/\.c$/.o/r;

	unlink $object;
	open my $out, '>', $name or die "$name: $!\n";
	print $out $text;
	close $out;
	return;
}
