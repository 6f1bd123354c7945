package Session;

#
# Session.pm: one database session, held by a psql that we talk to through pipes.  The demo needs nothing but psql.
#
#	my $session = Session->new(\@psql_options, $log);			# where messages of psql go
#	my ($state, $message, @rows) = $session->query($sql);		# rows are references to arrays of text
#
# $state is the SQLSTATE, '00000' for success, and undef when the session is lost: then open a new one.
#
use strict;
use warnings;

use IPC::Open3 ();
use Symbol     ();

my $MARK = '--answered--';

sub new
{
	my ($class, $options, $log) = @_;
	my $self = bless {}, $class;

	open my $messages, '>>', $log or die "$log: $!\n";
	$self->{pid} = IPC::Open3::open3(
		$self->{in},
		$self->{out} = Symbol::gensym(),
		'>&' . fileno $messages,
		'psql', qw(-X -q -A -t), '-F', "\x1f", @$options);
	$self->{in}->autoflush(1);
	return $self;
}

# undef unless the server takes connections
sub connect_now
{
	my ($class, $options, $log) = @_;
	my $self = $class->new($options, $log);

	return ($self->query('SELECT 1'))[0] ? $self : undef;
}

sub query
{
	my ($self, $sql) = @_;
	my @rows;

	local $SIG{PIPE} = 'IGNORE';
	if (!defined $self->{pid})
	{
		return;
	}
	if (print { $self->{in} } "$sql;\n\\echo '$MARK' :SQLSTATE :LAST_ERROR_MESSAGE\n")
	{
		while (defined(my $line = readline $self->{out}))
		{
			chomp $line;
			if ($line =~ /^\Q$MARK\E (\S*) ?(.*)/)
			{
				# psql may live on without its connection, and has no state to tell then; 57P..: the server shuts down
				last if $1 eq '' || $1 =~ /^57P/;
				# the message is that of the last error, however long ago
				return ($1, $1 eq '00000' ? '' : $2, @rows);
			}
			push @rows, [ split /\x1f/, $line, -1 ];
		}
	}
	$self->close;
	return;
}

sub close
{
	my $self = shift;
	my $pid  = delete $self->{pid} or return;

	CORE::close $self->{in};
	CORE::close $self->{out};
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	my $self = shift;

	local $?;
	$self->close;
	return;
}

# a text as an SQL literal; undef is NULL
sub literal
{
	my $text = shift;

	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return $text =~ /\\/ ? "E'" . $text =~ s/\\/\\\\/gr . "'" : "'$text'";
}

1;
