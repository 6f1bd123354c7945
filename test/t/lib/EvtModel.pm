
=head1 NAME

EvtModel - what the record of the property test's clients and readers (EvtLoad) must have led to

=head1 SYNOPSIS

	my $model = EvtModel->new(stored => \@rows, attempts => \@attempts, crashes => [ [ $from, $to ] ]);
	is($model->faults('versions'), '', 'versions have no gaps');

stored: position, stream, version, id, type, tags, data of all events in order of position.  The rules are the functions named
check_..., each with its reason.

=cut

package EvtModel;

use strict;
use warnings;

use JSON::PP;
use List::Util qw(max min);

# at most so many faults of a kind are told
my $SHOWN = 8;

# what may become of a statement that did nothing wrong
my %EXPECTED = map { $_ => 1 } qw(ST001 ST003 40P01 40001 57014);

sub new
{
	my ($class, %self) = @_;
	my $self = bless { %self, faults => {} }, $class;

	$self->index_stored;
	$self->index_sent;
	foreach my $rule (rules())
	{
		my $check = $self->can("check_$rule");
		$self->{faults}{$rule} = [];
		$self->{rule} = $rule;
		$self->$check;
	}
	return $self;
}

sub rules { return qw(sent versions acknowledged whole expectations conditions causes refusals positions) }

sub faults
{
	my ($self, $rule) = @_;
	my @faults = @{ $self->{faults}{$rule} };
	my $more   = @faults - $SHOWN;

	return join "\n", $more > 0 ? (@faults[ 0 .. $SHOWN - 1 ], "and $more more") : @faults;
}

sub fault
{
	my ($self, $text) = @_;
	push @{ $self->{faults}{ $self->{rule} } }, $text;
	return;
}

# ---- what is there, and what was sent ----

sub index_stored
{
	my $self = shift;

	foreach my $event (@{ $self->{stored} })
	{
		push @{ $self->{by_id}{ $event->{id} } }, $event;
		push @{ $self->{stream}{ $event->{stream} } }, $event if defined $event->{stream};
		push @{ $self->{tag}{$_} }, $event foreach @{ $event->{tags} };
		push @{ $self->{type}{ $event->{type} } }, $event;
	}
	return;
}

sub index_sent
{
	my $self = shift;

	foreach my $attempt (@{ $self->{attempts} })
	{
		foreach my $done (@{ $attempt->{ops} })
		{
			my $op = $done->{op};
			# by id: the same op in several attempts came out of the files as several
			my $known = $self->{ops}{ $op->{id} } //= { op => $op, attempts => [] };
			push @{ $known->{attempts} }, [ $attempt, $done ];
			$self->{sent_at}{ $op->{id} } = min($done->{sent}, $self->{sent_at}{ $op->{id} } // $done->{sent});
			foreach my $part (@{ $op->{parts} })
			{
				$self->{sent}{ $_->{id} } = { %$_, op => $op->{id}, stream => $part->{stream} } foreach @{ $part->{events} };
			}
		}
	}
	foreach my $known (values %{ $self->{ops} })
	{
		my @ids = map { $_->{id} } map { @{ $_->{events} } } @{ $known->{op}{parts} };
		$known->{events} = [ sort { $a->{position} <=> $b->{position} } map { @{ $self->{by_id}{$_} // [] } } @ids ];
		$known->{wanted} = scalar @ids;
	}
	# streams that a crash took something from: what clients were told of their versions in between cannot be checked
	foreach my $attempt (grep { $_->{outcome} ne 'refused' && $_->{sync} eq 'off' } @{ $self->{attempts} })
	{
		foreach my $done (grep { $_->{state} eq 'live' } @{ $attempt->{ops} })
		{
			next if @{ $self->{ops}{ $done->{op}{id} }{events} };
			$self->{shrunk}{ $_->{stream} // '' } = 1 foreach @{ $done->{op}{parts} };
		}
	}
	return;
}

# may a crash have taken this answer back?
sub may_be_lost
{
	my ($self, $attempt, $done) = @_;

	# a duplicate is on disk when it is told, whoever wrote it
	return 0 if $attempt->{sync} eq 'on' || grep { $_->[5] eq 't' } @{ $done->{rows} };
	return scalar grep { $_->[1] > $attempt->{ended} } @{ $self->{crashes} };
}

sub matches
{
	my ($items, $event) = @_;
	my %tags = map { $_ => 1 } @{ $event->{tags} };

	return 1 unless @$items;
	foreach my $item (@$items)
	{
		next if $item->{types} && !grep { $_ eq $event->{type} } @{ $item->{types} };
		next if grep { !$tags{$_} } @{ $item->{tags} // [] };
		return 1;
	}
	return 0;
}

# how many of these events, in order of position, stand at or below a position: the index of the first one above it
sub count_upto
{
	my ($list, $position) = @_;
	my ($low, $high) = (0, scalar @$list);

	while ($low < $high)
	{
		my $middle = int(($low + $high) / 2);
		if   ($list->[$middle]{position} > $position) { $high = $middle }
		else                                          { $low  = $middle + 1 }
	}
	return $low;
}

# the first of these events, in order of position, above one position and below another that matches
sub first_match
{
	my ($self, $items, $after, $below, $is_wanted) = @_;
	my @lists;
	my $first;

	push @lists, $self->{stored} unless @$items;
	foreach my $item (@$items)
	{
		push @lists, $item->{tags} && @{ $item->{tags} } ? $self->{tag}{ $item->{tags}[0] } : @{ $self->{type} }{ @{ $item->{types} } };
	}
	foreach my $list (grep { defined } @lists)
	{
		for (my $low = count_upto($list, $after); $low < @$list && $list->[$low]{position} < $below; $low++)
		{
			my $event = $list->[$low];
			next unless matches($items, $event) && (!$is_wanted || $is_wanted->($event));
			$first = $event if !$first || $event->{position} < $first->{position};
			last;
		}
	}
	return $first;
}

sub show
{
	my $event = shift;
	return sprintf '%s at %s (%s/%s)', $event->{id}, $event->{position}, $event->{stream} // '', $event->{version} // '';
}

# ---- rules ----

# Every event is one that somebody sent, as it was sent, and there once.
sub check_sent
{
	my $self = shift;

	foreach my $event (@{ $self->{stored} })
	{
		my $sent = $self->{sent}{ $event->{id} };

		$self->fault("$event->{id} stands there " . @{ $self->{by_id}{ $event->{id} } } . ' times') if @{ $self->{by_id}{ $event->{id} } } > 1;
		if (!$sent)
		{
			$self->fault('nobody sent ' . show($event));
			next;
		}
		$self->fault(show($event) . ' has other content than was sent')
		  if ($sent->{stream} // '') ne ($event->{stream} // '') || $sent->{type} ne $event->{type} || $sent->{data} ne $event->{data}
		  || "@{ $sent->{tags} }" ne "@{ $event->{tags} }";
	}
	return;
}

# Versions of a stream are 1, 2, 3 in the order of positions.
sub check_versions
{
	my $self = shift;

	foreach my $stream (sort keys %{ $self->{stream} })
	{
		my $n = 0;
		foreach my $event (@{ $self->{stream}{$stream} })
		{
			$self->fault(show($event) . " stands where version $n belongs") if $event->{version} != ++$n;
		}
	}
	return;
}

# What was acknowledged is there, where the answer said, or a crash took it that may.
sub check_acknowledged
{
	my $self = shift;

	foreach my $attempt (grep { $_->{outcome} eq 'acked' } @{ $self->{attempts} })
	{
		foreach my $done (grep { $_->{state} eq 'live' } @{ $attempt->{ops} })
		{
			my $known = $self->{ops}{ $done->{op}{id} };

			next if !$known->{wanted};
			if (!@{ $known->{events} })
			{
				$self->fault("$done->{op}{id} was acknowledged, sync $attempt->{sync}, and is not there") unless $self->may_be_lost($attempt, $done);
				next;
			}
			# lost in the crash and sent again: then the answer was about another place
			next if $self->may_be_lost($attempt, $done) && @{ $known->{attempts} } > 1;
			$self->check_answer($done);
		}
	}
	return;
}

sub check_answer
{
	my ($self, $done) = @_;
	my $n = 0;

	foreach my $part (@{ $done->{op}{parts} })
	{
		my $row    = $done->{rows}[ $n++ ] // [];
		my @events = map { $self->{by_id}{ $_->{id} }[0] } @{ $part->{events} };

		next unless @events;
		my $fits = !grep { !$_ } @events;
		$fits &&= $events[0]{position} == $row->[3] && $events[-1]{position} == $row->[4];
		$fits &&= defined $part->{stream} ? $events[0]{version} == $row->[1] && $events[-1]{version} == $row->[2] : !defined $row->[2];
		$fits &&= $events[$_]{position} > $events[ $_ - 1 ]{position} foreach 1 .. $#events;
		$fits &&= !defined $part->{stream} || $events[$_]{version} == $events[ $_ - 1 ]{version} + 1 foreach 1 .. $#events;
		$self->fault("$done->{op}{id}: the answer was " . join('|', map { $_ // '' } @$row) . ', what is there is '
			. join(', ', map { $_ ? show($_) : 'nothing' } @events)) unless $fits;
	}
	return;
}

#
# Each transaction is there as a whole or not at all; one that was refused or rolled back is not.  An op that is there was
# brought by an attempt that may have committed, and with it everything else that was alive in that attempt.
#
sub check_whole
{
	my $self = shift;
	my %there;

	foreach my $id (sort keys %{ $self->{ops} })
	{
		my $known = $self->{ops}{$id};
		my $n     = @{ $known->{events} };

		$self->fault("$n of the $known->{wanted} events of $id are there") if $n && $n != $known->{wanted};
		$there{$id} = $n;
	}
	foreach my $id (grep { $there{$_} } sort keys %there)
	{
		my @attempts = @{ $self->{ops}{$id}{attempts} };
		my $brought  = 0;

		foreach my $try (@attempts)
		{
			my ($attempt, $done) = @$try;

			next if $attempt->{outcome} eq 'refused' || $done->{state} ne 'live';
			$brought ||= !grep { $_->{state} eq 'live' && $self->{ops}{ $_->{op}{id} }{wanted} && !$there{ $_->{op}{id} } } @{ $attempt->{ops} };
		}
		$self->fault("$id is there; its attempts: "
			. join ', ', map { "$_->[0]{outcome}/$_->[1]{state}" . ($_->[1]{sqlstate} ? " $_->[1]{sqlstate}" : '') } @attempts) unless $brought;
	}
	return;
}

# In the order of positions each append found its stream as it expected.
sub check_expectations
{
	my $self = shift;

	foreach my $known (map { $self->{ops}{$_} } sort keys %{ $self->{ops} })
	{
		next unless @{ $known->{events} };
		my $op     = $known->{op};
		my $before = $known->{events}[0]{position};
		my %grown;

		foreach my $part (@{ $op->{parts} })
		{
			my $stream = $part->{stream} // next;
			my $found  = ($grown{$stream} // 0) + count_upto($self->{stream}{$stream} // [], $before - 1);

			$grown{$stream} += @{ $part->{events} };
			$self->fault("$op->{id} expected $stream at $part->{expected}, it was at $found") if defined $part->{expected} && $part->{expected} != $found;
			$self->fault("$op->{id} wanted $stream to exist") if ($part->{require} // '') eq 'exists' && !$found;
			$self->fault("$op->{id} wanted $stream to be deleted") if ($part->{require} // '') eq 'deleted';
		}
	}
	return;
}

# In the order of positions no event that a condition forbids stands between what it had seen and what it let through.
sub check_conditions
{
	my $self = shift;

	foreach my $known (map { $self->{ops}{$_} } sort keys %{ $self->{ops} })
	{
		my $op = $known->{op};

		next unless $op->{items} && @{ $known->{events} };
		my $match = $self->first_match($op->{items}, $op->{after} // 0, $known->{events}[0]{position});
		$self->fault("$op->{id} at $known->{events}[0]{position}, after " . ($op->{after} // 'none') . ', comes above ' . show($match)) if $match;
	}
	return;
}

# What was sent after something was acknowledged, by whomever, has a higher position.
sub check_causes
{
	my $self = shift;
	my (@acknowledged, @begun);

	foreach my $known (values %{ $self->{ops} })
	{
		next unless @{ $known->{events} };
		push @begun, [ $self->{sent_at}{ $known->{op}{id} }, $known->{events}[0] ];
		my @ended = map { $_->[0]{ended} } grep { $_->[0]{outcome} eq 'acked' && $_->[1]{state} eq 'live' } @{ $known->{attempts} };
		push @acknowledged, [ min(@ended), $known->{events}[-1] ] if @ended;
	}
	@acknowledged = sort { $a->[0] <=> $b->[0] } @acknowledged;
	my $highest;
	foreach my $one (sort { $a->[0] <=> $b->[0] } @begun)
	{
		while (@acknowledged && $acknowledged[0][0] < $one->[0])
		{
			my $event = (shift @acknowledged)->[1];
			$highest = $event if !$highest || $event->{position} > $highest->{position};
		}
		$self->fault(show($one->[1]) . ' was sent after the acknowledgement of ' . show($highest))
		  if $highest && $one->[1]{position} <= $highest->{position};
	}
	return;
}

# Each refusal was true at some moment between call and reply, as far as that can be told.
sub check_refusals
{
	my $self = shift;
	my $json = JSON::PP->new;

	foreach my $attempt (@{ $self->{attempts} })
	{
		$self->fault($_) foreach @{ $attempt->{faults} };
		for my $n (0 .. $#{ $attempt->{ops} })
		{
			my $done  = $attempt->{ops}[$n];
			my $state = $done->{sqlstate} // next;

			$self->fault("$done->{op}{id} got $state: $done->{message}") if !$EXPECTED{$state} && $state !~ /^57P0/;
			$self->fault("$done->{op}{id} has no rival and got $state: $done->{message}") if $done->{op}{must} && $state =~ /^(?:ST|40001)/;
			$self->check_st001($attempt, $n, $json->decode($done->{detail})) if $state eq 'ST001';
			$self->check_st003($done, $json->decode($done->{detail})) if $state eq 'ST003';
		}
	}
	return;
}

sub check_st001
{
	my ($self, $attempt, $n, $detail) = @_;
	my $done   = $attempt->{ops}[$n];
	my $stream = $detail->{stream};
	my $actual = $detail->{actual};
	my @mine   = grep { defined $_->{stream} && $_->{stream} eq ($stream // '') } map { @{ $_->{op}{parts} } } @{ $attempt->{ops} }[ 0 .. $n ];
	my $what   = "$done->{op}{id} was told that " . ($stream // 'nothing') . " is at " . ($actual // '?');

	if (!grep { defined $_->{expected} || $_->{require} } @{ $done->{op}{parts} })
	{
		# partly known: nobody sends that, but in probes
		$self->fault("$what, and had expected nothing");
		return;
	}
	$self->fault("$what, as it expected") if defined $detail->{expected} && $detail->{expected} =~ /^\d+$/ && $detail->{expected} == $actual;
	# what this transaction had written there itself, and what a crash took, leave no trace
	return if @mine > 1 || $self->{shrunk}{$stream};
	my $events = $self->{stream}{$stream} // [];
	my $next   = $events->[$actual];
	$self->fault("$what, and version " . ($actual + 1) . ' had been acknowledged') if $next && $self->acknowledged_at($next) < $done->{sent};
	return if $actual == 0;
	my $last = $events->[ $actual - 1 ];
	if    (!$last)                                                             { $self->fault("$what, and it never was") }
	elsif ($self->{sent_at}{ $self->{sent}{ $last->{id} }{op} } > $done->{replied}) { $self->fault("$what, and it was not yet") }
	return;
}

sub check_st003
{
	my ($self, $done, $detail) = @_;
	my $op    = $done->{op};
	my $after = $op->{after} // 0;
	my $event = $self->{sent}{ $detail->{id} };
	my $what  = "$op->{id}, after $after, was told of $detail->{id} at $detail->{position}";

	return $self->fault("$what, which nobody sent") unless $event;
	$self->fault("$what, which does not match") unless matches($op->{items}, $event);
	$self->fault("$what, which lies below") unless $detail->{position} > $after;
	$self->fault("$what, which was not sent yet") if $self->{sent_at}{ $event->{op} } > $done->{replied};
	my $earlier = $self->first_match($op->{items}, $after, $detail->{position}, sub { $self->acknowledged_at(shift) < $done->{sent} });
	$self->fault("$what, and not of " . show($earlier) . ', which comes first') if $earlier;
	return;
}

# when somebody was told for certain that this event is there; later than everything where nobody was
sub acknowledged_at
{
	my ($self, $event) = @_;
	my $known = $self->{ops}{ $self->{sent}{ $event->{id} }{op} };

	return $known->{acknowledged} //= min(9**9**9,
		map { $_->[0]{ended} }
		  grep { $_->[0]{outcome} eq 'acked' && $_->[1]{state} eq 'live' && !$self->may_be_lost(@$_) } @{ $known->{attempts} });
}

# No position ever names two events, over rollbacks and crashes.
sub check_positions
{
	my $self = shift;
	my %named = map { $_->{position} => $_->{id} } @{ $self->{stored} };

	foreach my $attempt (@{ $self->{attempts} })
	{
		foreach my $done (grep { $_->{rows} } @{ $attempt->{ops} })
		{
			my $n = 0;
			foreach my $part (@{ $done->{op}{parts} })
			{
				my $row = $done->{rows}[ $n++ ] // next;
				next unless @{ $part->{events} };
				foreach my $told ([ $row->[3], $part->{events}[0]{id} ], [ $row->[4], $part->{events}[-1]{id} ])
				{
					my ($position, $id) = @$told;
					$self->fault("$position names $id and $named{$position}") if ($named{$position} //= $id) ne $id;
				}
			}
		}
	}
	return;
}

# What is wrong with the record of a reader's cursor, who is to have seen what $wanted selects: '' when nothing is.
sub reader_faults
{
	my ($self, $wanted, @lines) = @_;
	my @faults;
	my $at = 0;
	my %seen;

	foreach my $line (@lines)
	{
		my ($position, $id) = @$line;
		push @faults, "$id at $position came when the cursor was at $at" if $position <= $at;
		$at = $position if $position > $at;
		$seen{$position} = $id;
	}
	foreach my $event (@{ $self->{stored} })
	{
		next if $wanted && $wanted->{items} && !matches($wanted->{items}, $event);
		next if $wanted && $wanted->{category} && ($event->{stream} // '-') !~ /^\Q$wanted->{category}\E-/;
		my $id = delete $seen{ $event->{position} };
		push @faults, !defined $id ? 'never saw ' . show($event) : "saw $id for " . show($event) if ($id // '') ne $event->{id};
	}
	push @faults, map { "saw $seen{$_} at $_, which is not there" } sort { $a <=> $b } keys %seen;
	my $more = @faults - $SHOWN;
	return join "\n", $more > 0 ? (@faults[ 0 .. $SHOWN - 1 ], "and $more more") : @faults;
}

1;
