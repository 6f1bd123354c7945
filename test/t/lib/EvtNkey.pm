
=head1 NAME

EvtNkey - keys and tokens of NATS for tests, made with openssl

=head1 SYNOPSIS

	use EvtNkey;

	my $user = EvtNkey->new($folder, 'user');          # 'operator', 'account'; undef: no openssl that can
	print $user->{public}, $user->{seed};
	my $jwt = $account->jwt($user, { type => 'user', version => 2 });    # what the account says of the user

=cut

package EvtNkey;

use strict;
use warnings;

use JSON::PP;
use MIME::Base64 qw(encode_base64url);

my %prefix = (operator => 14 << 3, account => 0, user => 20 << 3);
my $made   = 0;

sub slurp
{
	my $file = shift;
	open my $in, '<:raw', $file or die "$file: $!";
	local $/;
	return <$in>;
}

# CRC-16 of XMODEM
sub checksum
{
	my $sum = 0;
	foreach my $byte (unpack 'C*', shift)
	{
		$sum ^= $byte << 8;
		$sum = ($sum & 0x8000 ? $sum << 1 ^ 0x1021 : $sum << 1) & 0xffff foreach 1 .. 8;
	}
	return $sum;
}

sub base32
{
	my $raw  = shift;
	my $bits = unpack 'B*', $raw . pack('v', checksum($raw));
	$bits .= '0' x (-length($bits) % 5);
	return join '', map { (split //, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')[ oct "0b$_" ] } $bits =~ /.{5}/g;
}

sub new
{
	my ($class, $folder, $kind) = @_;
	my $file = "$folder/nkey_" . ++$made;

	system("openssl genpkey -algorithm ed25519 -out $file.pem 2>/dev/null") == 0 or return;
	system("openssl pkey -in $file.pem -outform DER -out $file.der && openssl pkey -in $file.pem -pubout -outform DER -out $file.pub") == 0 or return;
	my ($seed, $public) = map { substr slurp($_), -32 } "$file.der", "$file.pub";
	my $p = $prefix{$kind};

	return bless {
		file   => $file,
		public => base32(pack('C', $p) . $public),
		seed   => base32(pack('CC', 18 << 3 | $p >> 5, ($p & 31) << 3) . $seed),
	  },
	  $class;
}

sub jwt
{
	my ($self, $subject, $claims) = @_;
	my $text = join '.', map { encode_base64url(encode_json($_)) }
	  { typ => 'JWT', alg => 'ed25519-nkey' },
	  { jti => 'TEST', iat => 1, name => 'test', iss => $self->{public}, sub => $subject->{public}, nats => $claims };

	open my $out, '>:raw', "$self->{file}.in" or die "$self->{file}.in: $!";
	print $out $text;
	close $out;
	system("openssl pkeyutl -sign -rawin -inkey $self->{file}.pem -in $self->{file}.in -out $self->{file}.sig") == 0 or die 'openssl';
	return $text . '.' . encode_base64url(slurp("$self->{file}.sig"));
}

1;
