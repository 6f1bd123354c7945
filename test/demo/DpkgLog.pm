package DpkgLog;

#
# DpkgLog.pm: the machine's package history as events.
#
# A line of dpkg's log is about a package when it reads
#
#	DATE TIME status STATE PACKAGE:ARCH VERSION
#	DATE TIME install|upgrade|configure|trigproc|disappear|remove|purge PACKAGE:ARCH OLD-VERSION NEW-VERSION
#
# and then becomes an event of stream package-PACKAGE.  Its id is made of the line itself and of how often the same line
# came before: so it is the same at each attempt and in each run, and the store can tell a retry from a new event.
#
use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use IO::Uncompress::Gunzip ();
use JSON::PP               ();
use POSIX                  ();

my %TYPES = (
	status    => 'StatusChanged',
	install   => 'InstallBegun',
	upgrade   => 'UpgradeBegun',
	configure => 'ConfigureBegun',
	trigproc  => 'TriggersBegun',
	disappear => 'Disappeared',
	remove    => 'RemovalBegun',
	purge     => 'PurgeBegun');

my $json = JSON::PP->new->canonical->utf8;

# the files of the log, oldest first: dpkg.log.12.gz ... dpkg.log.1 dpkg.log
sub files
{
	my $folder = shift;
	my %age    = map { m/dpkg\.log(?:\.(\d+)(?:\.gz)?)?$/ ? ($_ => $1 // 0) : () } glob "$folder/dpkg.log*";

	return sort { $age{$b} <=> $age{$a} } grep { -r } keys %age;
}

sub lines
{
	my @lines;

	foreach my $file (@_)
	{
		my $in = $file =~ /\.gz$/ ? IO::Uncompress::Gunzip->new($file) : undef;

		if (!$in)
		{
			open $in, '<', $file or die "$file: $!\n";
		}
		while (defined(my $line = $in->getline))
		{
			push @lines, $line =~ s/\s+\z//r;
		}
	}
	return @lines;
}

#
# Where a machine has no log: a small invented one, of packages that are installed, upgraded and partly removed.
# Returns its lines, and what dpkg-query would say at the end of that history.
#
sub invented
{
	my (@lines, %now, %at);
	my $second = 0;
	my $say    = sub {
		push @lines, POSIX::strftime('%Y-%m-%d %H:%M:%S', gmtime(1_700_000_000 + $second++)) . " @_";
	};
	my $set = sub {
		my ($package, $version, @states) = @_;
		foreach my $state (@states)
		{
			$say->("status $state $package:all $version");
		}
		$now{$package} = [ $version, $states[-1] ];
	};

	foreach my $step (1 .. 5)
	{
		foreach my $n (1 .. 150)
		{
			my $package = "invented-$n";
			my $old     = $at{$package} // '<none>';
			my $new     = "1.$step-1";

			next if $step > 1 && $n % $step != 0;
			if ($step == 5 && $n % 2 == 0)
			{
				$say->("remove $package:all $old <none>");
				$set->($package, $old, qw(installed half-configured half-installed config-files));
				next;
			}
			$say->(($step == 1 ? 'install' : 'upgrade') . " $package:all $old $new");
			$set->($package, $new, qw(half-installed unpacked));
			$say->("configure $package:all $new <none>");
			$set->($package, $new, qw(unpacked half-configured installed));
			$at{$package} = $new;
		}
	}
	return (\@lines, [ map { join ' ', $_, 'all', @{ $now{$_} } } sort keys %now ]);
}

#
# Events of the lines that are about a package, in order: { n, stream, type, id, occurred_at, data (JSON text) }; and
# how many lines are not.
#
sub events
{
	my (@lines) = @_;
	my (@events, %seen, %time);
	my $others = 0;

	foreach my $line (@lines)
	{
		my ($time, $action, @word) =
		  $line =~ /^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\S+) (\S+) (\S+)(?: (\S+))?$/;
		my %data = (action => $action);
		my $name;

		if (!defined $action || !$TYPES{$action})
		{
			$others++;
			next;
		}
		if ($action eq 'status')
		{
			($data{status}, $name, $data{version}) = @word;
		}
		else
		{
			($name, $data{from}, $data{to}) = @word;
		}
		@data{qw(package arch)} = split /:/, $name, 2;
		delete @data{ grep { !defined $data{$_} || $data{$_} eq '<none>' } keys %data };
		push @events,
		  {
			n           => scalar @events,
			stream      => "package-$data{package}",
			type        => $TYPES{$action},
			id          => event_id($line, $seen{$line}++ // 0),
			occurred_at => $time{$time} //= utc($time),
			data        => $json->encode(\%data)
		  };
	}
	return (\@events, $others);
}

# a name-based UUID in the manner of RFC 9562, version 3
sub event_id
{
	my @hex = split //, md5_hex(join "\n", 'dpkg.log', @_);

	$hex[12] = '3';
	$hex[16] = sprintf '%x', hex($hex[16]) & 3 | 8;
	return join('', @hex) =~ s/^(.{8})(.{4})(.{4})(.{4})(.{12})$/$1-$2-$3-$4-$5/r;
}

# dpkg writes local time
sub utc
{
	my ($year, $month, $day, $hour, $minute, $second) = $_[0] =~ /\d+/g;
	my $epoch = POSIX::mktime($second, $minute, $hour, $day, $month - 1, $year - 1900, 0, 0, -1);

	return POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime $epoch);
}

1;
