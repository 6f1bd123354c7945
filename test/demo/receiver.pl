#!/usr/bin/env perl
#
# receiver.pl: an HTTP receiver of CloudEvents in a process of its own, for the demo and for tests.
#
#	receiver.pl --record FILE [--port N] [--port-file FILE] [--pid-file FILE] [--status CODE] [--fail-every N]
#				[--delay-ms N] [--retry-after SECONDS] [--body-bytes N] [--location URL] [--record-all] [--fsync]
#
# Each accepted request becomes one line of JSON in the record, written before the answer goes out: what the sender
# takes for delivered is in the record, also when this process is killed a moment later.
#
#	{"received_at": 1700000000.123456, "status": 204, "method": "POST", "path": "/orders", "headers": {...},
#	 "body": ..., "ce": {"id": ..., "type": ..., "sequence": ...}}
#
#	--port 0			(the default) takes a free port; it is printed, and written to --port-file once we listen
#	--status CODE		what to answer; 204 when not given.  Only 2xx is recorded, everything with --record-all
#	--fail-every N		answers 503 to each Nth request
#	--delay-ms N		waits before the answer; other connections go on
#	--retry-after N, --location URL, --body-bytes N		make an answer with that header, or a body of that length
#	--drop				reads the request and closes the connection without an answer
#
# The same by request, so that one receiver plays many parts: a query string such as ?status=503&delay_ms=200 goes
# before the options, and ?fail_first=2 answers 503 to the first two requests with the same CloudEvents id.
#
# Perl's core modules only: it runs on a machine that has no more than the server and its tools.
#
use strict;
use warnings;

use Fcntl qw(O_WRONLY O_APPEND O_CREAT);
use Getopt::Long;
use IO::Handle;
use IO::Socket::INET;
use JSON::PP ();
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

my %option = (host => '127.0.0.1', port => 0, status => 204);
GetOptions(
	\%option,      'host=s',     'port=i',     'port-file=s', 'pid-file=s',    'record=s',
	'status=i',    'delay-ms=i', 'location=s', 'drop',        'retry-after=i', 'body-bytes=i',
	'record-all!', 'fsync!',     'fail-every=i') or die "usage: see the head of $0\n";

my $MAX_REQUEST = 64 * 1024 * 1024;
my $json        = JSON::PP->new->utf8->allow_nonref;
my %reason      = (
	200 => 'OK',          202 => 'Accepted',          204 => 'No Content', 302 => 'Found', 400 => 'Bad Request',
	408 => 'Timeout',     410 => 'Gone',              413 => 'Too Large',  429 => 'Too Many Requests',
	500 => 'Server Error', 503 => 'Service Unavailable');

my $running  = 1;
my $requests = 0;
my %seen;          # CloudEvents id => number of requests, kept for ?fail_first
my %connections;   # file number => state of a connection
my $record;

$SIG{TERM} = $SIG{INT} = sub { $running = 0 };
$SIG{PIPE} = 'IGNORE';

if (defined $option{record})
{
	sysopen($record, $option{record}, O_WRONLY | O_APPEND | O_CREAT) or die "$option{record}: $!\n";
}
my $listener = IO::Socket::INET->new(
	LocalAddr => $option{host},
	LocalPort => $option{port},
	Listen    => 1024,
	ReuseAddr => 1,
	Blocking  => 0) or die "cannot listen on $option{host}:$option{port}: $!\n";
announce();
serve();
foreach my $file (grep { defined } @option{qw(port-file pid-file)})
{
	unlink $file;
}
exit 0;

# Says where we are, in files that appear complete.
sub announce
{
	write_file($option{'pid-file'},  "$$\n")                    if defined $option{'pid-file'};
	write_file($option{'port-file'}, $listener->sockport . "\n") if defined $option{'port-file'};
	STDOUT->autoflush(1);
	print $listener->sockport, "\n";
	return;
}

sub write_file
{
	my ($name, $text) = @_;

	open my $out, '>', "$name.$$" or die "$name.$$: $!\n";
	print $out $text;
	close $out or die "$name.$$: $!\n";
	rename "$name.$$", $name or die "$name: $!\n";
	return;
}

sub serve
{
	my $listening = fileno $listener;

	while ($running)
	{
		my ($reading, $writing) = ('', '');
		my $now     = time;
		my $timeout = 1;

		vec($reading, $listening, 1) = 1;
		foreach my $fd (keys %connections)
		{
			my $c = $connections{$fd};

			if (defined $c->{due})
			{
				# an answer that waits for its time: nothing is read meanwhile
				if ($c->{due} <= $now)
				{
					$c->{due} = undef;
				}
				else
				{
					$timeout = $c->{due} - $now if $c->{due} - $now < $timeout;
					next;
				}
			}
			vec($writing, $fd, 1) = 1 if length $c->{out};
			vec($reading, $fd, 1) = 1 unless length $c->{out};
		}
		my $ready = select($reading, $writing, undef, $timeout);
		next if $ready <= 0;

		accept_all() if vec($reading, $listening, 1);
		foreach my $fd (keys %connections)
		{
			my $c = $connections{$fd} or next;

			if (vec($writing, $fd, 1))
			{
				flush_answer($c);
				serve_requests($c);
			}
			elsif (vec($reading, $fd, 1))
			{
				take_bytes($c);
			}
		}
	}
	return;
}

sub accept_all
{
	while (my $socket = $listener->accept)
	{
		$socket->blocking(0);
		setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
		$connections{ fileno $socket } =
		  { fd => fileno $socket, socket => $socket, in => '', out => '', due => undef, closing => 0 };
	}
	return;
}

sub drop_connection
{
	my $c = shift;

	$c->{closing} = 1;
	delete $connections{ $c->{fd} };
	close $c->{socket};
	return;
}

sub take_bytes
{
	my $c = shift;
	my $n = sysread $c->{socket}, $c->{in}, 65536, length $c->{in};

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	return drop_connection($c) unless $n;
	return serve_requests($c);
}

# Answers the requests that are complete, one after the other.
sub serve_requests
{
	my $c = shift;

	while (!length $c->{out} && !$c->{closing})
	{
		my $request = next_request($c) or return;
		answer($c, $request);
	}
	return;
}

# The next complete request; nothing while bytes are missing, or when the connection was ended.
sub next_request
{
	my $c   = shift;
	my $end = index $c->{in}, "\r\n\r\n";

	if ($end < 0)
	{
		drop_connection($c) if length $c->{in} > 1024 * 1024;
		return;
	}
	my ($first, @lines) = split /\r\n/, substr $c->{in}, 0, $end;
	my ($method, $target, $version) = ($first // '') =~ m{^([A-Z]+) (\S+) HTTP/(1\.[01])$}
	  or return refuse($c, 400);
	my %headers;
	foreach (@lines)
	{
		/^([^\s:]+):[ \t]*(.*?)[ \t]*$/ or return refuse($c, 400);
		$headers{ lc $1 } = exists $headers{ lc $1 } ? $headers{ lc $1 } . ", $2" : $2;
	}
	my $length = $headers{'content-length'} // 0;
	return refuse($c, 400) if $length !~ /^\d+$/ || exists $headers{'transfer-encoding'};
	return refuse($c, 413) if $length > $MAX_REQUEST;
	if (length $c->{in} < $end + 4 + $length)
	{
		if (($headers{expect} // '') =~ /100-continue/i && !$c->{continued}++)
		{
			syswrite $c->{socket}, "HTTP/1.1 100 Continue\r\n\r\n";
		}
		return;
	}
	my $body = substr $c->{in}, $end + 4, $length;
	substr($c->{in}, 0, $end + 4 + $length) = '';
	$c->{continued} = 0;

	my ($path, $query) = split /\?/, $target, 2;
	my %query = map { m/^([^=]+)(?:=(.*))?$/ ? ($1 => unescape($2 // 1)) : () } split /&/, $query // '';
	my $word  = lc($headers{connection} // '');
	my $keep  = $version eq '1.1' ? $word !~ /\bclose\b/ : $word =~ /\bkeep-alive\b/;
	return {
		at      => time,
		method  => $method,
		path    => $path,
		query   => \%query,
		headers => \%headers,
		body    => $body,
		keep    => $keep };
}

sub refuse
{
	my ($c, $status) = @_;

	$c->{in} = '';
	send_answer($c, $status, 0, []);
	return;
}

sub answer
{
	my ($c, $request) = @_;
	my ($body, $parsed) = body_json($request);
	my $ce     = cloudevent($request, $parsed);
	my $status = choose_status($request, $ce);

	append_record($request, $status, $body, $ce) if $record && ($option{'record-all'} || $status =~ /^2/);
	return drop_connection($c) if setting($request, 'drop');

	my @headers;
	my $retry_after = setting($request, 'retry-after');
	my $location    = setting($request, 'location');
	my $delay       = setting($request, 'delay-ms');
	push @headers, "Retry-After: $retry_after" if defined $retry_after;
	push @headers, "Location: $location"       if defined $location;
	$c->{due} = time + $delay / 1000 if $delay;
	send_answer($c, $status, $request->{keep}, \@headers, setting($request, 'body-bytes') // 0);
	return;
}

# of the request's query string, or else of the command line
sub setting
{
	my ($request, $name) = @_;

	return $request->{query}{ $name =~ tr/-/_/r } // $option{$name};
}

sub choose_status
{
	my ($request, $ce) = @_;
	my $fail_first = $request->{query}{fail_first};

	$requests++;
	return 503 if $option{'fail-every'} && $requests % $option{'fail-every'} == 0;
	return 503 if defined $fail_first && defined $ce->{id} && ++$seen{ $ce->{id} } <= $fail_first;
	return setting($request, 'status');
}

sub send_answer
{
	my ($c, $status, $keep, $headers, $body_bytes) = @_;
	my @lines = ("HTTP/1.1 $status " . ($reason{$status} // 'Status'), 'Server: receiver.pl', @$headers);
	my $has_body = $status != 204 && $status != 304;

	$body_bytes ||= 0;
	push @lines, "Content-Length: $body_bytes" if $has_body;
	push @lines, 'Connection: close'           if !$keep;
	$c->{out}     = join("\r\n", @lines, '', '') . ($has_body ? 'x' x $body_bytes : '');
	$c->{closing} = 1 if !$keep;
	flush_answer($c) if !defined $c->{due};
	return;
}

sub flush_answer
{
	my $c = shift;
	my $n = syswrite $c->{socket}, $c->{out};

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	return drop_connection($c) if !defined $n;
	substr($c->{out}, 0, $n) = '';
	drop_connection($c) if $c->{closing} && !length $c->{out};
	return;
}

# The body as JSON text in one line and, where it was JSON, what it says.
sub body_json
{
	my $request = shift;
	my $text    = $request->{body};
	my $parsed  = eval { $json->decode($text) };

	return (quote($text), undef) if $@;
	# the text itself, because a decoder would round big numbers; line breaks are only between its tokens
	$text =~ tr/\r\n/  /;
	return ($text, $parsed);
}

# The attributes of the CloudEvent, in either mode.
sub cloudevent
{
	my ($request, $parsed) = @_;
	my $headers = $request->{headers};
	my %ce;

	if (($headers->{'content-type'} // '') =~ m{^application/cloudevents\+json}i)
	{
		return {} unless ref $parsed eq 'HASH';
		foreach my $name (grep { !/^data(?:_base64)?$/ && defined $parsed->{$_} && !ref $parsed->{$_} } keys %$parsed)
		{
			$ce{$name} = $parsed->{$name};
			utf8::encode($ce{$name});
		}
		return \%ce;
	}
	foreach my $name (grep { /^ce-/ } keys %$headers)
	{
		$ce{ substr $name, 3 } = unescape($headers->{$name});
	}
	$ce{datacontenttype} = $headers->{'content-type'} if %ce && defined $headers->{'content-type'};
	return \%ce;
}

sub unescape
{
	return $_[0] =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ger;
}

sub append_record
{
	my ($request, $status, $body, $ce) = @_;
	my $line = sprintf '{"received_at":%.6f,"status":%d,"method":%s,"path":%s,"headers":%s,"body":%s,"ce":%s}' . "\n",
	  $request->{at}, $status, quote($request->{method}), quote($request->{path}), object($request->{headers}), $body,
	  object($ce);
	my $n = syswrite $record, $line;

	# an answer without a record would be a lie
	die "$option{record}: $!\n" unless defined $n && $n == length $line;
	$record->sync or die "$option{record}: $!\n" if $option{fsync};
	return;
}

sub object
{
	my $hash = shift;

	return '{' . join(',', map { quote($_) . ':' . quote($hash->{$_}) } sort keys %$hash) . '}';
}

# Bytes as a JSON string: UTF-8 stays, other bytes are taken for Latin-1.
sub quote
{
	my $bytes = shift;
	my $copy  = $bytes;

	utf8::encode($bytes) unless utf8::decode($copy);
	$bytes =~ s/(["\\])/\\$1/g;
	$bytes =~ s/([\x00-\x1f\x7f])/sprintf '\\u%04x', ord $1/ge;
	return '"' . $bytes . '"';
}
