#
# The reference against the catalog (docs/reference/functions.md, types.md, views.md).
#
# Every function, procedure, aggregate, view and type of schema evtstore has a COMMENT and a heading "### name" in the
# reference: views in views.md, types in types.md, the rest in functions.md.  A heading that is a name without an object
# is a fault too.
#
# Functions: the first ```sql block below the heading holds the signature of each overload as the catalog has it, beginning
# at the left margin; lines may be broken and the rest indented:
#
#	evtstore.name(arguments as of pg_get_function_arguments()) RETURNS result as of pg_get_function_result()
#
# without the casts of defaults (NULL rather than NULL::bigint).  A procedure has no RETURNS.
#
# Views and composite types: each column stands in backticks somewhere in the section.
#
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use EvtTest;

my $node = new_node('reference');

my %section   = (%{ sections('functions.md') }, %{ sections('types.md') }, %{ sections('views.md') });
my %view_page = map { $_ => 1 } keys %{ sections('views.md') };

my @routines = rows(q{
	SELECT p.proname,
	       'evtstore.' || p.proname || '(' || pg_get_function_arguments(p.oid) || ')'
	       || CASE WHEN p.prokind = 'p' THEN '' ELSE ' RETURNS ' || pg_get_function_result(p.oid) END,
	       (obj_description(p.oid, 'pg_proc') IS NOT NULL)::text
	FROM pg_proc p WHERE p.pronamespace = 'evtstore'::regnamespace ORDER BY 1, 2});
my @relations = rows(q{
	SELECT c.relname, c.relkind, (coalesce(obj_description(c.oid, 'pg_class'),
	                                       obj_description(c.reltype, 'pg_type')) IS NOT NULL)::text,
	       string_agg(a.attname, ' ' ORDER BY a.attnum)
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	WHERE c.relnamespace = 'evtstore'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'c', 'p')
	GROUP BY c.oid ORDER BY 1});
my @other_types = rows(q{
	SELECT t.typname, (obj_description(t.oid, 'pg_type') IS NOT NULL)::text FROM pg_type t
	WHERE t.typnamespace = 'evtstore'::regnamespace AND t.typtype IN ('d', 'e', 'r') ORDER BY 1});

my %known = map { $_->[0] => 1 } @routines, @relations, @other_types;
my @uncommented = map { $_->[0] } (
	grep({ $_->[2] ne 'true' } @routines),
	grep({ $_->[2] ne 'true' } @relations),
	grep({ $_->[1] ne 'true' } @other_types));

ok(@routines > 0, 'schema evtstore has functions');
is("@uncommented", '', 'every public object has a COMMENT');
is(join(' ', grep { !$section{$_} } sort keys %known), '', 'every public object has its heading');
is(join(' ', grep { !$known{$_} } sort keys %section), '', 'no heading without its object');
is(join(' ', map { $_->[0] } grep { $_->[1] eq 'v' && $section{ $_->[0] } && !$view_page{ $_->[0] } } @relations),
	'', 'views are in views.md');

subtest 'signatures' => sub {
	my %in_catalog;

	push @{ $in_catalog{ $_->[0] } }, normal($_->[1]) foreach @routines;
	foreach my $name (grep { $section{$_} } sort keys %in_catalog)
	{
		my ($block) = $section{$name} =~ /^```sql\n(.*?)^```/ms;
		my @documented = map { normal($_) } split /\n(?=\S)/, $block // '';

		is(join("\n", sort @documented), join("\n", sort @{ $in_catalog{$name} }), $name);
	}
	ok(1, 'all compared');
};

subtest 'columns' => sub {
	foreach my $relation (grep { $section{ $_->[0] } } @relations)
	{
		my ($name, undef, undef, $columns) = @$relation;

		is(join(' ', grep { $section{$name} !~ /`\Q$_\E`/ } split / /, $columns), '', "columns of $name");
	}
	ok(1, 'all compared');
};

$node->stop;
done_testing();

# name => text of each "### name" section of a page
sub sections
{
	my $page = shift;
	my $file = test_tree() . "/docs/reference/$page";
	my %found;

	return {} unless -e $file;
	my ($name, $fenced);
	foreach (split /^/, slurp_file($file))
	{
		$fenced = !$fenced if /^```/;
		if (!$fenced && /^(#+)\s+`?([a-z_]+)`?(?:\(\))?\s*$/)
		{
			$name = $1 eq '###' ? $2 : undef;
			$found{$name} = '' if defined $name;
		}
		elsif (!$fenced && /^#{1,3}\s/)
		{
			$name = undef;
		}
		elsif (defined $name)
		{
			$found{$name} .= $_;
		}
	}
	return \%found;
}

sub rows
{
	my $query = shift;
	my $out   = $node->safe_psql('postgres', "COPY ($query) TO STDOUT");

	return map { [ split /\t/ ] } split /\n/, $out;
}

# white space and the casts of defaults do not count
sub normal
{
	my $signature = shift;

	$signature =~ s/\s+/ /g;
	$signature =~ s/^ | ;?$//g;
	$signature =~ s/(?<= DEFAULT )((?:'(?:[^']|'')*'|\w+))::[a-z ]+(?:\[\])?/$1/g;
	return $signature;
}
