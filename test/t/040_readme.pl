#
# README.md, docs/quickstart.md, docs/read-models.md, docs/rules.md, docs/sagas.md, docs/concepts.md and docs/dcb.md do what they say.
#
# Every ```sql block of a page is run, from top to bottom, each by a psql of its own in one database per page.  A block
# without a language that follows it, with nothing but empty lines between, is what psql prints: it is compared.  A sql
# block without such a block must not fail.  After the comment
#	<!-- wait -->
# a block is run again until it prints what is shown: workers take their time.
#
# Ids, times and the widths of columns do not count, nor does the line that says where in the source an error arose.
# 127.0.0.1:8080 stands for the receiver.  A ```http block shows the beginning of the last request that it got.
#
use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use EvtTest;

my $shown_address = '127.0.0.1:8080';
# receipts of a page as they are printed here, by what the page shows
my %receipt;
my $receipt_form = qr/\bq\d+\.\d+\.\d{4,}\b/;

my $node = new_node('readme', extension => 0);
my $receiver = start_receiver();
my ($real_address) = $receiver->url =~ m{//([^/]+)};

run_page('README.md',          'readme');
run_page('docs/quickstart.md', 'quickstart');
run_page('docs/read-models.md', 'read_models', before => 'CREATE EXTENSION evtstore');
run_page('docs/rules.md', 'rules', before => 'CREATE EXTENSION evtstore');
run_page('docs/sagas.md', 'sagas', before => 'CREATE EXTENSION evtstore; CREATE SCHEMA shop');
run_page('docs/concepts.md', 'concepts', before => 'CREATE EXTENSION evtstore; CREATE SCHEMA acme');
# no CONTEXT: it would show a line of PL/pgSQL under each error of the page's functions
run_page('docs/dcb.md', 'dcb', options => [ '-v', 'SHOW_CONTEXT=never' ]);

$node->stop;
done_testing();

sub run_page
{
	my ($page, $database, %how) = @_;
	my @options = @{ $how{options} // [] };
	my @blocks = blocks_of($page);
	my $run    = 0;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, $how{before}) if defined $how{before};
	foreach my $i (0 .. $#blocks)
	{
		my $block = $blocks[$i];
		my $name  = "$page line $block->{line}";

		if ($block->{language} eq 'sql')
		{
			my $next = $blocks[ $i + 1 ];
			my $shown = $next && $next->{language} eq '' && $next->{adjacent} ? $next->{text} : undef;

			run_block($database, $name, $block, $shown, @options);
			$run++;
		}
		elsif ($block->{language} eq 'http')
		{
			compare_request($name, $block->{text});
		}
	}
	cmp_ok($run, '>', 2, "$page has SQL");
	return;
}

sub run_block
{
	my ($database, $name, $block, $shown, @options) = @_;
	my $printed = '';

	if (!defined $shown)
	{
		unlike(psql($database, $block->{text}, @options), qr/^(?:ERROR|FATAL|PANIC):/m, "$name does not fail");
		return;
	}
	if ($block->{wait})
	{
		# what it printed last is compared below, whether it came in time or not
		eval {
			poll_until($name,
				sub { $printed = psql($database, $block->{text}, @options); return normal($printed) eq normal($shown) }, 60);
		};
	}
	else
	{
		$printed = psql($database, $block->{text}, @options);
	}
	is(normal($printed), normal($shown), "$name prints what is shown");
	@receipt{ $shown =~ /$receipt_form/g } = $printed =~ /$receipt_form/g;
	return;
}

# The lines of the block are the request line and some headers, in any order.
sub compare_request
{
	my ($name, $text) = @_;
	my @requests = $receiver->requests;
	my $request = $requests[-1] or return fail("$name: no request came");
	my %sent    = map { lc "$_: " . normal($request->{headers}{$_}) => 1 } keys %{ $request->{headers} };
	my ($first, @headers) = split /\n/, $text;
	my @missing = grep { $_ ne '' && !$sent{ lc normal($_) } } @headers;

	like($first, qr/^\Q$request->{method} $request->{path}\E /, "$name: request line");
	is("@missing", '', "$name: headers");
	return;
}

# What psql prints, errors in their place among the rest.
sub psql
{
	my ($database, $sql, @options) = @_;
	my $output = '';

	$sql =~ s/\Q$shown_address\E/$real_address/g;
	$sql =~ s/($receipt_form)/$receipt{$1} \/\/ $1/ge;
	IPC::Run::run([ 'psql', '-X', '-v', 'VERBOSITY=verbose', @options, '-d', $node->connstr($database) ],
		'<', \$sql, '>&', \$output);
	$output =~ s/\Q$real_address\E/$shown_address/g;
	return $output;
}

sub normal
{
	my $text = shift;

	$text =~ s/\Q$real_address\E/$shown_address/g;
	$text =~ s/^LOCATION: .*\n//mg;
	$text =~ s/$receipt_form/RECEIPT/g;
	$text =~ s/\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b/UUID/g;
	$text =~ s/\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)?/TIME/g;
	$text =~ s/\b\d\d:\d\d:\d\d\.\d+/AGE/g;
	$text =~ s/-{2,}/--/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/ $//mg;
	$text =~ s/\n*\z/\n/;
	return $text;
}

# The fenced blocks of a page, in order: language, text, line; adjacent: nothing stands between it and the one before.
sub blocks_of
{
	my $page = shift;
	my @blocks;
	my ($block, $adjacent, $wait, $line) = (undef, 0, 0, 0);

	foreach (split /^/, slurp_file(test_tree() . "/$page"))
	{
		$line++;
		if ($block && /^```\s*$/)
		{
			push @blocks, $block;
			($block, $adjacent, $wait) = (undef, 1, 0);
		}
		elsif ($block)
		{
			$block->{text} .= $_;
		}
		elsif (/^```(\w*)\s*$/)
		{
			$block = { language => $1, text => '', line => $line, adjacent => $adjacent, wait => $wait };
		}
		elsif (/^<!-- wait -->\s*$/)
		{
			$wait = 1;
		}
		elsif (/\S/)
		{
			$adjacent = 0;
		}
	}
	die "$page: a block is not closed\n" if $block;
	return @blocks;
}
