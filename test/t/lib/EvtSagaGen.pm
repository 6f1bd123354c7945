=head1 NAME

EvtSagaGen - random definitions of sagas: sequences, loops, Parallel and Map in each other, signals, events, children

=head1 SYNOPSIS

	use EvtSagaGen;

	my $gen = EvtSagaGen->new(queues => [ 'steady', 'fickle' ], can => { child => 1, scope => 0 }, children => { compensatable => ['c1'], pivot => ['c2'] });
	my ($definition, @facts) = $gen->make('d7');
	my $input = $gen->input;

A definition is made of elements, each with states and ways out of it.  Whatever its order of elements is, define_saga takes it: what can be undone, then a
pivot or none, then what is retriable.

The data of an instance: luck, for Choices; items, for Maps, each with luck and items of its own; at.path: the way to here through loops, branches and items.
So saga, state and at.path are the same for all attempts at one entry into a state, and different for any two entries.

A fact is what a checker has to know of a state: [state, resource, class, undo, scope, lock, answers: '' or event]; the first one, of state '', is of the definition: OnFail and OnCompensateFail.

=cut

package EvtSagaGen;

use strict;
use warnings;

use JSON::PP ();

my $TRUE  = JSON::PP::true;
my $FALSE = JSON::PP::false;

# at.path grows by what tells two entries apart
my $SAME   = 'States.Format(\'{}\', $.at.path)';
my $AGAIN  = 'States.Format(\'{}+\', $.at.path)';
my $BRANCH = 'States.Format(\'{}/{}\', $.at.path, $$.State.RetryCount)';
my $ITEM   = 'States.Format(\'{}/{}.{}\', $.at.path, $$.State.RetryCount, $$.Map.Item.Index)';

sub new
{
	my ($class, %option) = @_;
	return bless { can => {}, children => {}, %option }, $class;
}

sub one_of { return $_[ rand @_ ] }

# what an instance is started with
sub input
{
	my $self = shift;
	return { luck => rand, at => { path => '', n => 0 }, items => [ map { item(one_of(0, 0, 1, 2)) } 1 .. (rand() < 0.06 ? int rand 21 : int rand 4) ] };
}

sub item
{
	my $n = shift;
	return { luck => rand, items => [ map { item(0) } 1 .. $n ] };
}

# The definition and its facts.  pivot => 0 or 1: whether it has one; size => elements at most; sure => 1: when the weather is calm it succeeds
sub make
{
	my ($self, $name, %option) = @_;
	my $size  = 1 + int rand($option{size} // 5);
	my $pivot = $option{pivot} // rand() < 0.7;
	my $behind = $pivot ? int rand $size : 0;

	@$self{qw(number facts scope sure)} = (0, [], '', $option{sure});
	my @elements = map { $self->element('compensatable', 0) } 1 .. $size - $behind;
	push @elements, $self->step('pivot', 0) if $pivot;
	push @elements, map { $self->element('retriable', 0) } 1 .. $behind;
	my $lost = !$pivot && !$option{sure} && rand() < 0.25;
	push @elements, $self->leaf('Lost', { Type => 'Fail', Error => 'Lost' }) if $lost;

	my %saga = (
		OnFail           => !$option{child} && rand() < 0.1 ? 'stop' : 'compensate',
		OnCompensateFail => rand() < 0.1 ? 'continue' : 'stuck');
	$saga{Correlation} = '$.data.for' if grep { $_->[6] ne '' } @{ $self->{facts} };
	my $definition = { %{ $self->machine(@elements) }, Saga => \%saga };
	$definition->{TimeoutSeconds} = 5 + int rand 10 if !$option{sure} && rand() < 0.2;
	return ($definition, [ '', $saga{OnFail}, $saga{OnCompensateFail}, '', '', '', '' ], @{ $self->{facts} });
}

# --- elements: { start, states, ways: functions that are told where it goes on } ---

sub named
{
	my ($self, $letter) = @_;
	return $letter . ++$self->{number};
}

# of one state
sub leaf
{
	my ($self, $name, $state) = @_;
	my $ends = $state->{Type} =~ /^(?:Fail|Succeed)$/;
	return { start => $name, states => { $name => $state }, ways => $ends ? [] : [ goes_to($state, 'Next') ], risky => delete $state->{risky} ? [$state] : [] };
}

sub goes_to
{
	my ($state, $key) = @_;
	return sub { $state->{$key} = shift };
}

# one after the other; where each begins is where the ways of the one before lead, and failures that are caught
sub machine
{
	my ($self, @elements) = @_;

	push @elements, $self->leaf($self->named('End'), { Type => 'Succeed' }) if @{ $elements[-1]{ways} };
	my $line = $self->line(@elements);
	return { StartAt => $line->{start}, States => $line->{states} };
}

sub line
{
	my ($self, @elements) = @_;
	my %states = map { %{ $_->{states} } } @elements;

	foreach my $i (0 .. $#elements - 1)
	{
		my $next = $elements[ $i + 1 ]{start};
		$_->($next) foreach @{ $elements[$i]{ways} };
		$_->{Catch}[0]{Next} = $next foreach @{ $elements[$i]{risky} };
	}
	return { start => $elements[0]{start}, states => \%states, ways => $elements[-1]{ways}, risky => $elements[-1]{risky} };
}

# something of that class; depth: in how many Parallels and Maps it is
sub element
{
	my ($self, $class, $depth) = @_;
	my $way = rand;
	my $element =
	    $depth < 2 && $way < 0.14 ? $self->parallel($class, $depth)
	  : $depth < 2 && $way < 0.28 ? $self->map_items($class, $depth)
	  : $depth < 2 && $way < 0.36 ? $self->circle($class, $depth)
	  :                             $self->step($class, $depth);

	return $element if rand() < 0.7;
	return $self->line($element, $self->leaf($self->named('Wait'), { Type => 'Wait', Seconds => int rand 3 })) if rand() < 0.5;
	return $self->choice($element);
}

# some instances leave it out
sub choice
{
	my ($self, $element) = @_;
	my $name  = $self->named('Choice');
	my %state = (Type => 'Choice', Choices => [ { Variable => '$.luck', NumericGreaterThan => 0.4, Next => $element->{start} } ]);

	return { %$element, start => $name, states => { %{ $element->{states} }, $name => \%state }, ways => [ @{ $element->{ways} }, goes_to(\%state, 'Default') ] };
}

# once, twice or three times: what it does, a count, and back
sub circle
{
	my ($self, $class, $depth) = @_;
	my ($begin, $count, $again) = map { $self->named($_) } qw(Begin Count Again);
	my $body = $self->line(map { $self->step($class, $depth) } 1 .. 1 + int rand 2);
	my %begin = (Type => 'Pass', Parameters => { 'path.$' => $SAME, n => 1 }, ResultPath => '$.at', Next => $body->{start});
	my %count = (Type => 'Pass', Parameters => { 'path.$' => $AGAIN, 'n.$' => 'States.MathAdd($.at.n, 1)' }, ResultPath => '$.at', Next => $again);
	my %again = (Type => 'Choice', Choices => [ { Variable => '$.at.n', NumericLessThanEquals => 1 + int rand 3, Next => $body->{start} } ]);

	$_->($count) foreach @{ $body->{ways} };
	$_->{Catch}[0]{Next} = $count foreach @{ $body->{risky} };
	return {
		start  => $begin,
		states => { %{ $body->{states} }, $begin => \%begin, $count => \%count, $again => \%again },
		ways   => [ goes_to(\%again, 'Default') ],
		risky  => [] };
}

# side by side; what fails in one ends the other
sub parallel
{
	my ($self, $class, $depth) = @_;

	return $self->container(
		'Both', $class,
		sub {
			return (
				Type       => 'Parallel',
				Parameters => { 'luck.$' => '$.luck', 'items.$' => '$.items', at => { 'path.$' => $BRANCH, n => 0 } },
				Branches   => [ map { $self->inside($class, $depth) } 1 .. 2 + (rand() < 0.3) ]);
		});
}

sub map_items
{
	my ($self, $class, $depth) = @_;
	my %limits;

	$limits{MaxConcurrency} = 1 + int rand 3 if rand() < 0.4;
	if    (rand() < 0.25) { $limits{ToleratedFailureCount}      = 1 + int rand 2 }
	elsif (rand() < 0.15) { $limits{ToleratedFailurePercentage} = one_of(20, 50) }
	return $self->container(
		'Each', $class,
		sub {
			return (
				Type          => 'Map',
				ItemsPath     => '$.items',
				ItemSelector  => { 'luck.$' => '$$.Map.Item.Value.luck', 'items.$' => '$$.Map.Item.Value.items', at => { 'path.$' => $ITEM, n => 0 } },
				ItemProcessor => $self->inside($class, $depth),
				%limits);
		});
}

# the inner machine of a branch, or of the items
sub inside
{
	my ($self, $class, $depth) = @_;
	return $self->machine(map { $self->element($class, $depth + 1) } 1 .. 1 + (rand() < 0.4));
}

# code: makes the state, with what is in it
sub container
{
	my ($self, $letter, $class, $code) = @_;
	my $name  = $self->named($letter);
	my $scope = $self->{can}{scope} && $class eq 'compensatable' && $self->{scope} eq '' && rand() < 0.4;

	$self->{scope} = $name if $scope;
	my %state = ($code->(), ResultPath => undef);
	$self->{scope} = '' if $scope;
	$state{Saga}  = { Scope => $TRUE } if $scope;
	$state{Retry} = [ { ErrorEquals => [ one_of('States.ALL', 'Busy', 'States.Timeout') ], IntervalSeconds => 1, MaxAttempts => 1 } ] if rand() < 0.2;
	$self->may_be_caught(\%state) if $class eq 'compensatable' && rand() < ($scope ? 0.8 : 0.2);
	return $self->leaf($name, \%state);
}

# whoever puts it in line says where the Catch leads
sub may_be_caught
{
	my ($self, $state) = @_;

	$state->{Catch} = [ { ErrorEquals => [ one_of('States.ALL', 'States.ALL', 'Broken', 'States.Timeout') ], ResultPath => '$.error', Next => '' } ];
	$state->{risky} = 1;
	return;
}

# --- Tasks ---

sub step
{
	my ($self, $class, $depth) = @_;
	my $way = rand;

	return $self->signal($class) if $way < 0.1;
	return $self->event($class) if $way < 0.2;
	return $self->child($class) if $way < 0.35 && $depth < 2 && $self->{can}{child} && $self->children($class);
	return $self->work($class);
}

# %task, with what is the same for all of them
sub task
{
	my ($self, $class, $name, %task) = @_;
	my %saga = (Class => $class, %{ delete $task{Saga} // {} });

	# few, that all sagas share; who has to succeed in the end must not find himself in a circle for ever
	my $lock = $class ne 'retriable' && !$self->{sure} && rand() < 0.1 ? 1 + int rand 6 : '';
	$saga{Lock} = "States.Format('thing-{}', $lock)" if $lock;
	push @{ $self->{facts} }, [ $name, $task{Resource}, $class, $saga{Undo} // 'none', $self->{scope}, $lock && "thing-$lock", $saga{Correlate} ? 'event' : '' ];
	%task = (Type => 'Task', ResultPath => one_of(undef, '$.' . $name), %task, Saga => \%saga);
	$self->may_be_caught(\%task) if $class ne 'retriable' && rand() < ($class eq 'pivot' ? 0.1 : 0.2);
	return $self->leaf($name, \%task);
}

sub who_is_it
{
	my $name = shift;
	return ('saga.$' => '$$.Execution.Id', state => $name, 'path.$' => '$.at.path');
}

# by a participant, or a function
sub work
{
	my ($self, $class) = @_;
	my $name     = $self->named('T');
	my $on_queue = rand() < 0.6;
	my %task     = (
		Resource   => $on_queue ? 'queue:' . one_of(@{ $self->{queues} }) : 'sql:public.work',
		Parameters => { who_is_it($name) });

	$task{TimeoutSeconds} = 1 + int rand 4 if $on_queue;
	$task{Retry} = [ { ErrorEquals => [ one_of('States.ALL', 'Busy', 'States.Timeout', 'division_by_zero', 'evtstore.LockDeadlock') ], IntervalSeconds => 1, MaxAttempts => 1 + int rand 2 } ]
	  if rand() < ($class eq 'compensatable' ? 0.4 : 0.7);
	$task{Saga} = $self->undo if $class eq 'compensatable';
	return $self->task($class, $name, %task);
}

sub undo
{
	my $self  = shift;
	my $undo  = one_of('sql:public.unwork', (map { 'queue:' . one_of(@{ $self->{queues} }) } 1 .. 2), 'none');
	my %saga  = (Undo => $undo);

	return \%saga if $undo eq 'none';
	$saga{UndoTimeoutSeconds} = 1 + int rand 3 if $undo =~ /queue/;
	$saga{UndoRetry}   = [ { ErrorEquals => ['States.ALL'], IntervalSeconds => 1, MaxAttempts => int rand 3 } ] if rand() < 0.6;
	$saga{UndoUnknown} = $FALSE if rand() < 0.15;
	return \%saga;
}

# an event is an effect, and undone by another event; some want a version that the stream rarely has
sub event
{
	my ($self, $class) = @_;
	my $name = $self->named('Tell');
	my %task = (Resource => 'event:Did', Parameters => { stream => 'book-' . int rand 4, data => { who_is_it($name) } });

	if ($class eq 'compensatable')
	{
		$task{Saga} = { Undo => 'event:Undid', UndoInput => { 'stream.$' => '$.input.stream', 'data.$' => '$.input.data' } };
		$task{Saga} = { Undo => 'queue:' . one_of(@{ $self->{queues} }), UndoInput => { 'path.$' => '$.input.data.path' } } if rand() < 0.3;
		$task{Parameters}{expected_version} = int rand 4 if rand() < 0.1 && !$self->{sure};
	}
	return $self->task($class, $name, %task);
}

# one of a few names, that each saga may be told early, in time, late or never
sub signal
{
	my ($self, $class) = @_;
	my %task = (Resource => 'signal:' . one_of(qw(go stop turn)), Parameters => {});

	$task{TimeoutSeconds} = 1 + int rand 6 if rand() < 0.75;
	$task{Retry} = [ { ErrorEquals => ['States.Timeout'], IntervalSeconds => 1, MaxAttempts => 1 } ] if rand() < 0.3;
	$task{Saga} = { Undo => 'none' } if $class eq 'compensatable';
	return $self->task($class, $self->named('Hear'), %task);
}

# whom a Task of that class may start
sub children
{
	my ($self, $class) = @_;
	return @{ $self->{children}{ $class eq 'compensatable' && $self->{sure} ? 'retriable' : $class } // [] };
}

# another saga; it undoes what it did itself
sub child
{
	my ($self, $class) = @_;
	my $name = $self->named('Child');
	my %task = (
		Resource   => 'saga:' . one_of($self->children($class)),
		Parameters => { 'luck.$' => '$.luck', 'items.$' => '$.items', at => { path => '', n => 0 } });

	$task{TimeoutSeconds} = 2 + int rand 6 if $class ne 'retriable' && !$self->{sure} && rand() < 0.3;
	$task{Retry} = [ { ErrorEquals => ['States.ALL'], IntervalSeconds => 1, MaxAttempts => 1 } ] if rand() < ($class eq 'retriable' ? 0.7 : 0.2);
	my $element = $self->task($class, $name, %task);
	# it has no Undo, and so no class where it can be undone
	delete $element->{states}{$name}{Saga}{Class} if $class eq 'compensatable';
	delete $element->{states}{$name}{Saga} unless %{ $element->{states}{$name}{Saga} };
	return $element;
}

1;
