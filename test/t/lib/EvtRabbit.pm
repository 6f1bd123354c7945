
=head1 NAME

EvtRabbit - a RabbitMQ of the test's own

=head1 SYNOPSIS

	use EvtRabbit;

	plan skip_all => 'no RabbitMQ' unless EvtRabbit::available();
	my $rabbit = EvtRabbit->new(
		vhosts    => ['shop'],                          # besides "/"
		exchanges => { orders => 'topic' },             # durable, of "/"
		queues    => { all => [ orders => 'order.#' ] },    # durable, of "/", with what it is bound to
		users     => { shop => 'its password' },        # besides guest; may do everything in "/"
		conf      => "max_message_size = 50000\n",
		tls       => 1);                                # certificates are made; see tls_port, ca_file
	my $url = $rabbit->url;                             # amqp://127.0.0.1:PORT
	$rabbit->kill9;
	$rabbit->start;                                     # waits until it listens
	my @messages = $rabbit->drain('all');               # takes all that is there: see test/transport/amqp_drain.c
	$rabbit->ctl('set_vm_memory_high_watermark', '0');  # rabbitmqctl: takes seconds

It runs as whoever runs the test, listens on loopback only, has a port mapper and a folder of its own, and ends with the test.  A
service of the machine is not touched.

=cut

package EvtRabbit;

use strict;
use warnings;

use Cwd qw(abs_path);
use EvtTest qw(poll_until test_tree);
use IO::Socket::INET;
use JSON::PP qw(encode_json);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $bin = '/usr/lib/rabbitmq/bin';
my @started;

sub available
{
	return -x "$bin/rabbitmq-server";
}

sub new
{
	my ($class, %option) = @_;
	my $self = bless { %option, dir => abs_path(PostgreSQL::Test::Utils::tempdir('rabbit')) }, $class;

	$self->{$_} = PostgreSQL::Test::Cluster::get_free_port() foreach qw(port tls_port dist_port epmd_port);
	push @started, $self;
	mkdir "$self->{dir}/$_" or die "$self->{dir}/$_: $!" foreach qw(home mnesia log);
	$self->make_certificates if $option{tls};
	$self->write_files;
	$self->start_epmd;
	$self->start;
	return $self;
}

END
{
	my $status = $?;
	$_->end foreach @started;
	$? = $status;
}

sub url
{
	my ($self, $vhost) = @_;
	return "amqp://127.0.0.1:$self->{port}" . (defined $vhost ? "/$vhost" : '');
}

sub tls_url
{
	my ($self, $host) = @_;
	return 'amqps://' . ($host // 'localhost') . ":$self->{tls_port}";
}

sub ca_file
{
	my $self = shift;
	return "$self->{dir}/ca.pem";
}

# On the ports that it had; until it can be talked to.
sub start
{
	my $self = shift;

	$self->{pid} = $self->spawn('rabbit.out', "$bin/rabbitmq-server");
	poll_until(
		'RabbitMQ to listen',
		sub {
			die "RabbitMQ ended: see $self->{dir}\n" . slurp_file("$self->{dir}/rabbit.out")
			  if waitpid($self->{pid}, POSIX::WNOHANG) > 0;
			# its first byte is not sent before it has read eight
			return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Timeout => 1);
		});
	return;
}

# At once, as by a power cut of its machine.
sub kill9
{
	my $self = shift;

	return unless $self->{pid};
	kill 'CONT', $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

# Still there, but silent: 'STOP', then 'CONT'.
sub signal
{
	my ($self, $signal) = @_;
	kill $signal, $self->{pid};
	return;
}

sub end
{
	my $self = shift;

	$self->kill9;
	return unless $self->{epmd};
	kill 'TERM', $self->{epmd};
	waitpid $self->{epmd}, 0;
	delete $self->{epmd};
	return;
}

sub ctl
{
	my ($self, @command) = @_;
	my $pid = $self->spawn('ctl.out', "$bin/rabbitmqctl", '-q', @command);

	waitpid $pid, 0;
	die "rabbitmqctl @command: " . slurp_file("$self->{dir}/ctl.out") if $?;
	return;
}

# Lines of its log that have the text.
sub count_in_log
{
	my ($self, $text) = @_;
	return scalar(() = slurp_file("$self->{dir}/log/evtstore$self->{port}\@localhost.log") =~ /\Q$text\E/g);
}

# Each as { id, exchange, routing_key, content_type, mode, app_id, body, headers => {} }, in the queue's order; they are gone then.
# With "hex" body and values of headers are in hexadecimal, so that any bytes may be in them.
sub drain
{
	my ($self, $queue, $vhost, @hex) = @_;
	my ($out, $err) = run_command([ $self->drainer, $self->{port}, $queue, $vhost // '/', @hex ]);

	die "amqp_drain: $err" if $err ne '';
	return map {
		my ($id, $exchange, $routing_key, $content_type, $mode, $app_id, $body, @headers) = split /\t/;
		+{
			id           => $id,
			exchange     => $exchange,
			routing_key  => $routing_key,
			content_type => $content_type,
			mode         => $mode,
			app_id       => $app_id,
			body         => $body,
			headers      => { map { /^(.*?)=(.*)$/s ? ($1, $2) : () } @headers }
		}
	} split /\n/, $out;
}

sub drainer
{
	my $self    = shift;
	my $program = "$self->{dir}/amqp_drain";

	return $program if -x $program;
	system_or_bail($ENV{CC} // 'cc', '-o', $program, test_tree() . '/test/transport/amqp_drain.c', '-lrabbitmq');
	return $program;
}

# A process of its environment, with its output in a file; returns its number.
sub spawn
{
	my ($self, $output, @command) = @_;
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	my $dir = $self->{dir};
	delete @ENV{ grep { /^(?:RABBITMQ|ERL)_/ } keys %ENV };
	%ENV = (
		%ENV,
		HOME                                => "$dir/home",
		ERL_EPMD_PORT                       => $self->{epmd_port},
		ERL_EPMD_ADDRESS                    => '127.0.0.1',
		RABBITMQ_NODENAME                   => "evtstore$self->{port}\@localhost",
		RABBITMQ_DIST_PORT                  => $self->{dist_port},
		RABBITMQ_MNESIA_BASE                => "$dir/mnesia",
		RABBITMQ_LOG_BASE                   => "$dir/log",
		RABBITMQ_CONFIG_FILE                => "$dir/rabbitmq.conf",
		RABBITMQ_ADVANCED_CONFIG_FILE       => "$dir/none.config",
		RABBITMQ_CONF_ENV_FILE              => "$dir/none.conf",
		RABBITMQ_ENABLED_PLUGINS_FILE       => "$dir/plugins",
		RABBITMQ_PID_FILE                   => "$dir/pid",
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '-kernel inet_dist_use_interface {127,0,0,1}',
		# the script becomes the server, so that the number is the server's
		RUNNING_UNDER_SYSTEMD => 'true');
	delete $ENV{NOTIFY_SOCKET};
	open STDIN,  '<',  '/dev/null'    or POSIX::_exit(126);
	open STDOUT, '>>', "$dir/$output" or POSIX::_exit(126);
	open STDERR, '>&', \*STDOUT       or POSIX::_exit(126);
	chdir $dir or POSIX::_exit(126);
	{ exec @command };
	POSIX::_exit(127);
}

# The default one of the machine would be shared, and listen everywhere.
sub start_epmd
{
	my $self = shift;

	$self->{epmd} = $self->spawn('epmd.out', 'epmd', '-port', $self->{epmd_port}, '-address', '127.0.0.1');
	poll_until('epmd to listen',
		sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{epmd_port}, Timeout => 1) });
	return;
}

sub write_files
{
	my $self = shift;
	my $dir  = $self->{dir};
	my $conf = "listeners.tcp.1 = 127.0.0.1:$self->{port}\nload_definitions = $dir/definitions.json\n"
	  . "default_user = guest\ndefault_pass = guest\ndisk_free_limit.absolute = 1MB\n" . ($self->{conf} // '');
	my $queues = $self->{queues} // {};
	my %users  = (guest => 'guest', %{ $self->{users} // {} });
	my %all    = map { $_ => '.*' } qw(configure write read);

	$conf .= "listeners.ssl.1 = 127.0.0.1:$self->{tls_port}\nssl_options.cacertfile = $dir/ca.pem\n"
	  . "ssl_options.certfile = $dir/server.pem\nssl_options.keyfile = $dir/server.key\n"
	  . "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n"
	  if $self->{tls};
	append_to_file("$dir/rabbitmq.conf", $conf);
	append_to_file("$dir/plugins", "[].\n");
	append_to_file(
		"$dir/definitions.json",
		encode_json(
			{
				vhosts => [ map { { name => $_ } } '/', @{ $self->{vhosts} // [] } ],
				users       => [ map { { name => $_, password => $users{$_}, tags => '' } } sort keys %users ],
				permissions => [
					( map { { %all, user => $_,      vhost => '/' } } sort keys %users ),
					( map { { %all, user => 'guest', vhost => $_ } } @{ $self->{vhosts} // [] } )
				],
				exchanges => [
					map {
						{ name => $_, vhost => '/', type => $self->{exchanges}{$_}, durable => JSON::PP::true,
							auto_delete => JSON::PP::false, internal => JSON::PP::false, arguments => {} }
					} sort keys %{ $self->{exchanges} // {} }
				],
				queues => [
					map { { name => $_, vhost => '/', durable => JSON::PP::true, auto_delete => JSON::PP::false, arguments => {} } }
					  sort keys %$queues
				],
				bindings => [
					map {
						{ source => $queues->{$_}[0], vhost => '/', destination => $_, destination_type => 'queue',
							routing_key => $queues->{$_}[1], arguments => {} }
					} grep { @{ $queues->{$_} } } sort keys %$queues
				]
			}));
	return;
}

# An authority, a server "localhost" of it, and a client; and an authority that nobody trusts.
sub make_certificates
{
	my $self = shift;
	my $dir  = $self->{dir};
	my @new  = qw(openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -batch);

	foreach my $name (qw(ca other))
	{
		system_log(@new, '-x509', '-days', '2', '-subj', "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.pem") == 0
		  or die 'openssl';
	}
	append_to_file("$dir/server.ext", "subjectAltName = DNS:localhost\n");
	append_to_file("$dir/client.ext", "extendedKeyUsage = clientAuth\n");
	foreach my $name (qw(server client))
	{
		(        system_log(@new, '-subj', "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr") == 0
			  && system_log(
				qw(openssl x509 -req -days 2 -CAcreateserial), '-in', "$dir/$name.csr", '-CA', "$dir/ca.pem",
				'-CAkey', "$dir/ca.key", '-extfile', "$dir/$name.ext", '-out', "$dir/$name.pem") == 0)
		  or die 'openssl';
	}
	return;
}

1;
