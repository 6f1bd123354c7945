-- Instances of sagas (docs/architecture-sagas.md). Who changes an instance holds its row's lock. What a transition changes of it is not
-- indexed, but for the time of its end, so that its update stays on its page; its keys have a table of their own.
CREATE TABLE evtstore_internal.saga (
    id uuid PRIMARY KEY,
    definition_id int NOT NULL,
    version int NOT NULL,
    last_seq int NOT NULL DEFAULT 0,
    last_ended int NOT NULL DEFAULT 0,
    has_pivot boolean NOT NULL DEFAULT false,
    timer_id bigint,
    timer_due timestamptz,
    deadline timestamptz,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    status text NOT NULL,
    ending text NOT NULL,
    reason text,
    tenant text COLLATE "C" NOT NULL DEFAULT '',
    business_key text COLLATE "C",
    error text,
    cause text,
    input jsonb NOT NULL,
    output jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    parent_id uuid,
    parent_parent int,
    parent_seq int,
    is_taken_back boolean NOT NULL DEFAULT false,
    has_lock boolean NOT NULL DEFAULT false,
    paused_from text,
    redriven_as uuid
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE evtstore_internal.saga IS 'instances of sagas, kept for evtstore.saga_retention when they have ended';
COMMENT ON COLUMN evtstore_internal.saga.last_seq IS 'the highest seq of a step';
COMMENT ON COLUMN evtstore_internal.saga.last_ended IS 'the highest number of a step that has ended, in order of ending';
COMMENT ON COLUMN evtstore_internal.saga.has_pivot IS 'a pivot is done: nothing is undone any more';
COMMENT ON COLUMN evtstore_internal.saga.timer_id IS 'the message that comes at timer_due; NULL: none is armed';
COMMENT ON COLUMN evtstore_internal.saga.ending IS 'what it is when compensation is through: compensated or cancelled; failed: it is not compensated';
COMMENT ON COLUMN evtstore_internal.saga.reason IS 'why it is stuck';
COMMENT ON COLUMN evtstore_internal.saga.parent_id IS 'of a child: the instance that started it; NULL: it is none';
COMMENT ON COLUMN evtstore_internal.saga.parent_seq IS 'of a child: the step that is told when it has ended; with parent_parent, which that one is in';
COMMENT ON COLUMN evtstore_internal.saga.is_taken_back IS 'of a child: the step that is told is the undo of the one that started it';
COMMENT ON COLUMN evtstore_internal.saga.has_lock IS 'it has asked for a semantic lock';
COMMENT ON COLUMN evtstore_internal.saga.metadata IS 'correlation and trace of the start, for what it sends and appends';
COMMENT ON COLUMN evtstore_internal.saga.paused_from IS 'the status that it has again when it is resumed; NULL: it is not paused';
COMMENT ON COLUMN evtstore_internal.saga.redriven_as IS 'the instance that began in its place, after it was compensated; NULL: none';
-- never changed: it costs transitions nothing
CREATE INDEX saga_ended_idx ON evtstore_internal.saga (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX saga_parent_idx ON evtstore_internal.saga (parent_id) WHERE parent_id IS NOT NULL;

-- Those that are open, and those of a status, beside however many that have ended. An update that changes an attribute of a predicate is not HOT: here
-- that is the end of an instance, and the rare change of status before it.
CREATE INDEX saga_open_idx ON evtstore_internal.saga (definition_id) WHERE ended_at IS NULL;
CREATE INDEX saga_status_idx ON evtstore_internal.saga (status) WHERE status NOT IN ('succeeded', 'compensated', 'failed', 'cancelled');

-- Keys by which instances are found: that of the business, which is gone when the instance has ended, and that of the start.
CREATE TABLE evtstore_internal.saga_key (
    definition_id int,
    saga_id uuid NOT NULL,
    kind text COLLATE "C",
    tenant text COLLATE "C",
    key text COLLATE "C",
    PRIMARY KEY (definition_id, tenant, kind, key)
);
COMMENT ON TABLE evtstore_internal.saga_key IS 'business keys of open instances, and idempotency keys of starts';
CREATE INDEX saga_key_saga_idx ON evtstore_internal.saga_key (saga_id);
COMMENT ON COLUMN evtstore_internal.saga_key.kind IS 'business or start';

-- What instances did and wait for: the history and the undo log. A row is inserted when a step begins and updated when it ends, in
-- columns that are not indexed.
CREATE TABLE evtstore_internal.saga_step (
    saga_id uuid,
    parent int,
    seq int,
    above int NOT NULL DEFAULT 0,
    place int NOT NULL DEFAULT 0,
    first_seq int NOT NULL,
    undoes int NOT NULL DEFAULT 0,
    attempt int NOT NULL DEFAULT 1,
    queue_id int,
    message_id bigint,
    ended int,
    open int,
    failed int,
    due timestamptz,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    kind text NOT NULL,
    status text NOT NULL,
    state text NOT NULL,
    error text,
    cause text,
    tries int[],
    via text[],
    input jsonb NOT NULL,
    sent jsonb,
    output jsonb,
    deadline timestamptz,
    heartbeat float8,
    resource text,
    PRIMARY KEY (saga_id, parent, seq)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE evtstore_internal.saga_step IS 'attempts at steps of sagas, and of undoing them';
COMMENT ON COLUMN evtstore_internal.saga_step.parent IS 'seq of the branch that it is in, or of a branch the Parallel or Map; 0: none';
COMMENT ON COLUMN evtstore_internal.saga_step.above IS 'parent of its parent';
COMMENT ON COLUMN evtstore_internal.saga_step.place IS 'of a branch: which one, from 0; of a Map: seq of the last item that has begun; of a stop: 1, the instance was to be undone';
COMMENT ON COLUMN evtstore_internal.saga_step.open IS 'of a Parallel or Map: branches that have not ended';
COMMENT ON COLUMN evtstore_internal.saga_step.failed IS 'of a Map: items whose failure is tolerated';
COMMENT ON COLUMN evtstore_internal.saga_step.first_seq IS 'seq of the first attempt: with the saga''s id the idempotency key';
COMMENT ON COLUMN evtstore_internal.saga_step.undoes IS 'seq of the step that it undoes; 0: it undoes none';
COMMENT ON COLUMN evtstore_internal.saga_step.ended IS 'its place in the order of ending';
COMMENT ON COLUMN evtstore_internal.saga_step.due IS 'when its time is over, or a retry begins';
COMMENT ON COLUMN evtstore_internal.saga_step.tries IS 'how often each retrier of its state was used';
COMMENT ON COLUMN evtstore_internal.saga_step.via IS 'states without a row that were passed on the way to it';
COMMENT ON COLUMN evtstore_internal.saga_step.deadline IS 'when its time is over, where due is an earlier look at it';
COMMENT ON COLUMN evtstore_internal.saga_step.heartbeat IS 's without a sign of life of who has its command, after which it has failed; NULL: any';
COMMENT ON COLUMN evtstore_internal.saga_step.resource IS 'the semantic lock that it has, or waits for';
COMMENT ON COLUMN evtstore_internal.saga_step.sent IS 'what its work got, where that is not its input';
CREATE INDEX saga_step_message_idx ON evtstore_internal.saga_step (message_id) WHERE message_id IS NOT NULL;

-- Signals of open instances, and those that were had: their dedup_ids are known for the life of the instance.
CREATE TABLE evtstore_internal.saga_signal (
    saga_id uuid,
    number int,
    taken_by int,
    sent_at timestamptz NOT NULL,
    name text NOT NULL,
    dedup_id text,
    payload jsonb NOT NULL,
    PRIMARY KEY (saga_id, number)
);
COMMENT ON TABLE evtstore_internal.saga_signal IS 'signals of sagas, before and after somebody waited for them';
COMMENT ON COLUMN evtstore_internal.saga_signal.taken_by IS 'seq of the step that had it; NULL: it waits for one';

-- Semantic locks: who has what, and who waits for it, in order of number. An instance has one number at a resource, however many of its steps wait.
CREATE TABLE evtstore_internal.saga_lock (
    tenant text COLLATE "C",
    resource text COLLATE "C",
    number bigint,
    seq int,
    parent int NOT NULL,
    saga_id uuid NOT NULL,
    since timestamptz NOT NULL,
    held_since timestamptz,
    PRIMARY KEY (tenant, resource, number, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE evtstore_internal.saga_lock IS 'semantic locks of open sagas, and who waits for them';
COMMENT ON COLUMN evtstore_internal.saga_lock.seq IS 'of the step that waits, or was given it and does not know yet; 0: it was used';
COMMENT ON COLUMN evtstore_internal.saga_lock.held_since IS 'NULL: it waits';
CREATE INDEX saga_lock_saga_idx ON evtstore_internal.saga_lock (saga_id);
CREATE UNIQUE INDEX saga_lock_holder_idx ON evtstore_internal.saga_lock (tenant, resource) WHERE held_since IS NOT NULL;

-- Answers that changed nothing, or came when the instance had gone on.
CREATE TABLE evtstore_internal.saga_answer (
    saga_id uuid,
    number int,
    seq int NOT NULL,
    answered_at timestamptz NOT NULL,
    outcome text NOT NULL,
    error text,
    cause text,
    output jsonb,
    parent int NOT NULL DEFAULT 0,
    is_final boolean NOT NULL DEFAULT false,
    retry_after float8,
    PRIMARY KEY (saga_id, number)
);
COMMENT ON TABLE evtstore_internal.saga_answer IS 'late and duplicate answers of workers, as they came, and those that came while the saga was paused';
COMMENT ON COLUMN evtstore_internal.saga_answer.outcome IS 'late or duplicate; held: the saga is paused; accepted: it was held';
COMMENT ON COLUMN evtstore_internal.saga_answer.error IS 'NULL: it is done';
COMMENT ON COLUMN evtstore_internal.saga_answer.parent IS 'that of the step';
COMMENT ON COLUMN evtstore_internal.saga_answer.is_final IS 'not to be tried again';
COMMENT ON COLUMN evtstore_internal.saga_answer.retry_after IS 's that a retry waits at least, from when it is taken';
CREATE INDEX saga_answer_held_idx ON evtstore_internal.saga_answer (saga_id, seq) WHERE outcome = 'held';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_key', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_step', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_answer', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_signal', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_lock', '');
