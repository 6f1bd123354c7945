#
# The mutants of test/mutation/run: a mechanism taken out, and the tests that have to notice.
#
# change: text of the file as it stands (once), and what stands there instead; several pairs.
# harmless: not a fault, but the delay that another mutant needs: nobody may notice.
#
# What a race needs two processors within a few instructions for is widened by a delay (DELAY), in the mutant and in a
# harmless twin that keeps the right order, so that it is the order that kills and not the delay.
#
use strict;
use warnings;

# some half of a millisecond, one time in eight
my $DELAY = 'do { if (random() % 8 == 0) pg_usleep(500); } while (0)';

return [
	# ---- participant.c ----
	{
		name   => 'guard: a do after its undo is told that it is done',
		file   => 'participant.c',
		change => [ 'return undo || strcmp(state, DONE) == 0 ? "duplicate"', 'return true || strcmp(state, DONE) == 0 ? "duplicate"' ],
		tests  => 'participant',
	},
	{
		name   => 'guard: an undo of nothing is not remembered',
		file   => 'participant.c',
		change => [
			"\tes_spi_begin(&state);\n\tchanged = es_spi_run(&decide_plan",
			"\tes_spi_begin(&state);\n\tif (undo && es_spi_run(&look_plan, values + 1, NULL, false, 0) == 0)\n\t{\n\t\tes_spi_end(&state);\n\t\treturn \"empty\";\n\t}\n\tchanged = es_spi_run(&decide_plan"
		],
		tests => 'participant',
	},
	{
		name   => 'guard: an undo is told to run again and again',
		file   => 'participant.c',
		change => [ "WHERE g.state = '\" DONE \"' AND excluded.state", "WHERE g.state <> '\" REFUSED \"' AND excluded.state" ],
		tests  => 'participant',
	},
	{
		name   => 'guard: whoever comes by keeps an output',
		file   => 'participant.c',
		change => [ '!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(es_spi_value(0, 2, &isnull)))', '(es_spi_value(0, 2, &isnull), false)' ],
		tests  => 'participant',
	},
	{
		name   => 'guard: the output of an undo takes the place of the first one',
		file   => 'participant.c',
		change => [ "SET output = CASE state WHEN '\" DONE \"' THEN \$3 ELSE output END,", 'SET output = $3,' ],
		tests  => 'participant',
	},
	{
		name   => 'guard: what was undone lately is forgotten with what was done long ago',
		file   => 'participant.c',
		change => [ ", changed_at = excluded.changed_at\"", '"' ],
		tests  => 'participant',
	},
	{
		name   => 'guard: the janitor waits for who is at a step',
		file   => 'participant.c',
		change => [ 'FOR UPDATE SKIP LOCKED', 'FOR UPDATE' ],
		tests  => 'participant',
	},
	# ---- feed.c: writers ----
	{
		name   => 'no floor is published',
		file   => 'feed.c',
		change => [ 'pg_atomic_write_u64(&floor->floor, my_floor + 1);', ';' ],
		tests  => 'feed_appenders feed_savepoint 005_feed_storm 060_property',
	},
	{
		name   => 'floor published after the allocation',
		file   => 'feed.c',
		change => [
			"\tpublish_floor(store, category_bits);\n", "\tmy_floor = pg_atomic_read_u64(&store->last_allocated);\n",
			"\tes_feed_raise(&store->last_allocated, positions[n - 1]);\n",
			"\t$DELAY;\n\tpublish_floor(store, category_bits);\n\tes_feed_raise(&store->last_allocated, positions[n - 1]);\n"
		],
		tests => '005_feed_storm',
	},
	{
		name     => 'the delay of the one before, in the right order',
		file     => 'feed.c',
		harmless => 1,
		change   => [ "\tes_feed_raise(&store->last_allocated, positions[n - 1]);\n", "\t$DELAY;\n\tes_feed_raise(&store->last_allocated, positions[n - 1]);\n" ],
		tests    => '005_feed_storm',
	},
	{
		name   => 'floor taken back before the commit is visible',
		file   => 'feed.c',
		change => [ "\t\tcase XACT_EVENT_PRE_COMMIT:\n", "\t\tcase XACT_EVENT_PRE_COMMIT:\n\t\t\tclear_floor();\n" ],
		tests  => '008_feed_outside 005_feed_storm 060_property',
	},
	{
		name   => 'floor not freed at ROLLBACK TO',
		file   => 'feed.c',
		change => [ 'if (event == SUBXACT_EVENT_ABORT_SUB && my_level >= level)', 'if (false)' ],
		tests  => 'feed_savepoint 009_feed_wait',
	},
	{
		name   => 'floor freed by any ROLLBACK TO',
		file   => 'feed.c',
		change => [ 'if (event == SUBXACT_EVENT_ABORT_SUB && my_level >= level)', 'if (event == SUBXACT_EVENT_ABORT_SUB)' ],
		tests  => 'feed_savepoint',
	},
	{
		name   => 'a released savepoint keeps its floor',
		file   => 'feed.c',
		change => [ 'my_level = level - 1;', ';' ],
		tests  => 'feed_savepoint',
	},
	{
		name   => 'nobody is woken',
		file   => 'feed.c',
		change => [ 'ConditionVariableBroadcast(&my_store->moved);', ';' ],
		tests  => '009_feed_wait',
	},
	{
		name   => 'rollbacks do not wake',
		file   => 'feed.c',
		change => [
			"\t\t\tclear_floor();\n\t\t\tbreak;\n",
			"\t\t\tif (event == XACT_EVENT_COMMIT)\n\t\t\t\tclear_floor();\n\t\t\tmy_level = 0;\n"
			  . "\t\t\tpg_atomic_write_u64(&floors()[es_my_procno()].floor, 0);\n\t\t\tbreak;\n"
		],
		tests => '009_feed_wait',
	},
	{
		name   => 'the bit of a second category is not set',
		file   => 'feed.c',
		change => [ 'if ((bits & category_bits) != category_bits)', 'if (false)' ],
		tests  => 'feed_appenders 005_feed_storm',
	},
	{
		name   => 'positions are not checked',
		file   => 'feed.c',
		change => [ 'if (positions[i] <= 0 || (uint64) positions[i] <= decided)', 'if (false)' ],
		tests  => 'feed_sequence',
	},
	{
		name   => 'positions are checked against the own floor only',
		file   => 'feed.c',
		change => [ 'decided = Max(my_floor, pg_atomic_read_u64(&store->last_allocated));', 'decided = my_floor;' ],
		tests  => 'feed_sequence',
	},
	{
		name   => 'PREPARE TRANSACTION is not refused',
		file   => 'feed.c',
		change => [ 'case XACT_EVENT_PRE_PREPARE:', "case XACT_EVENT_PRE_PREPARE:\n\t\t\tbreak;" ],
		tests  => '008_feed_outside',
	},
	# ---- feed.c: readers ----
	{
		name   => 'floors read before the last position',
		file   => 'feed.c',
		change => [
			"\tuint64		head = pg_atomic_read_u64(&store->last_allocated);\n\tuint32		used;", "\tuint64		head = PG_UINT64_MAX;\n\tuint32		used;",
			"\t\thead = Min(head, published - 1);\n\t}\n\treturn head;\n", "\t\thead = Min(head, published - 1);\n\t}\n\t$DELAY;\n\treturn Min(head, pg_atomic_read_u64(&store->last_allocated));\n"
		],
		tests => '005_feed_storm',
	},
	{
		name     => 'the delay of the one before, in the right order',
		file     => 'feed.c',
		harmless => 1,
		change   => [ "\t\thead = Min(head, published - 1);\n\t}\n\treturn head;\n", "\t\thead = Min(head, published - 1);\n\t}\n\t$DELAY;\n\treturn head;\n" ],
		tests    => '005_feed_storm',
	},
	{
		name   => 'snapshot before the head',
		file   => 'feed.c',
		change => [
			"\t\thead = es_feed_head(categories);\n\t\tPushActiveSnapshot(GetTransactionSnapshot());\n",
			"\t\tPushActiveSnapshot(GetTransactionSnapshot());\n\t\t$DELAY;\n\t\thead = es_feed_head(categories);\n"
		],
		tests => '005_feed_storm',
	},
	{
		name     => 'the delay of the one before, in the right order',
		file     => 'feed.c',
		harmless => 1,
		change   => [
			"\t\thead = es_feed_head(categories);\n\t\tPushActiveSnapshot(GetTransactionSnapshot());\n",
			"\t\thead = es_feed_head(categories);\n\t\t$DELAY;\n\t\tPushActiveSnapshot(GetTransactionSnapshot());\n"
		],
		tests => '005_feed_storm',
	},
	{
		name   => 'the snapshot of the statement',
		file   => 'feed.c',
		change => [
			"\t\thead = es_feed_head(categories);\n\t\tPushActiveSnapshot(GetTransactionSnapshot());\n",
			"\t\thead = es_feed_head(categories);\n\t\tPushActiveSnapshot(GetActiveSnapshot());\n"
		],
		tests => 'feed_snapshot',
	},
	{
		name   => 'the highest head is not kept',
		file   => 'feed.c',
		change => [
			"\tif (maximum != NULL)\n\t\t*head = Max(*head, pg_atomic_read_u64(maximum));\n", '',
			"\t*head = Max(*head, pg_atomic_read_u64(&store->head));\n",                        ''
		],
		tests => '010_feed_preempted',
	},
	{
		name   => 'floors of other stores count',
		file   => 'feed.c',
		change => [ "\t\tif (pg_atomic_read_u32(&floor->store) != store_index)\n", "\t\tif (false)\n" ],
		tests  => '008_feed_outside',
	},
	{
		name   => 'what is handed out is not flushed',
		file   => 'async_commit.c',
		change => [ "\tif (upto != InvalidXLogRecPtr)\n\t\tXLogFlush(upto);", "\t(void) upto;" ],
		tests  => '002_feed_crash 060_property',
	},
	{
		name   => 'REPEATABLE READ takes the head of the moment',
		file   => 'feed.c',
		change => [ 'return RecoveryInProgress() || IsolationUsesXactSnapshot();', 'return RecoveryInProgress();' ],
		tests  => '006_repeatable_read',
	},
	{
		name   => 'a standby takes its head from shared memory',
		file   => 'feed.c',
		change => [ 'return RecoveryInProgress() || IsolationUsesXactSnapshot();', 'return IsolationUsesXactSnapshot();' ],
		tests  => '007_standby_reads',
	},
	{
		name   => 'the ledger waits for nobody',
		file   => 'ledger.c',
		change => [ 'head = es_feed_head(ES_FEED_ALL_CATEGORIES);', 'head = es_feed_head(0);' ],
		tests  => '006_repeatable_read 007_standby_reads',
	},
	# ---- feed_store.c ----
	{
		name   => 'is_called is ignored',
		file   => 'feed_store.c',
		change => [ 'SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM', 'SELECT last_value FROM' ],
		tests  => 'read 003_dump_restore',
	},
	{
		name   => 'no leap after a crash',
		file   => 'feed_store.c',
		change => [ 'pg_atomic_write_u32(&entry->needs_leap, es_shmem_clean_start() ? 0 : 1);', 'pg_atomic_write_u32(&entry->needs_leap, 0);' ],
		tests  => '002_feed_crash 007_standby_reads',
	},
	{
		name   => 'a leap after every start',
		file   => 'feed_store.c',
		change => [ 'pg_atomic_write_u32(&entry->needs_leap, es_shmem_clean_start() ? 0 : 1);', 'pg_atomic_write_u32(&entry->needs_leap, 1);' ],
		tests  => '002_feed_crash',
	},
	{
		name   => 'heads of a replaced sequence are kept',
		file   => 'feed_store.c',
		change => [
			"\tpg_atomic_write_u64(&entry->head, 0);\n\tfor (int b = 0; b < ES_FEED_CATEGORY_BITS; b++)\n\t\tpg_atomic_write_u64(&entry->category_head[b], 0);\n\tpg_atomic_write_u32(&entry->needs_leap",
			"\tpg_atomic_write_u32(&entry->needs_leap"
		],
		tests => 'feed_sequence',
	},
	{
		name   => 'a replaced sequence is not noticed',
		file   => 'feed_store.c',
		change => [
			'if (entry != NULL && entry->sequence == sequence && entry->filenumber == filenumber)', 'if (entry != NULL)',
		],
		tests => 'feed_sequence privileges',
	},
	{
		name   => 'the sequence is not asked again during a restore',
		file   => 'feed_store.c',
		change => [ 'pg_atomic_write_u32(&entry->untouched, 1);', 'pg_atomic_write_u32(&entry->untouched, 0);' ],
		tests  => '003_dump_restore',
	},
	# ---- ledger.c, and what it needs of feed.c ----
	{
		name   => 'events are recorded before the floor is up',
		file   => 'feed.c',
		change => [
			"\tpublish_floor(store, category_bits);\n\trecorded = now_at(store);\n",
			"\trecorded = now_at(store);\n\t$DELAY;\n\tpublish_floor(store, category_bits);\n"
		],
		tests => '011_time_travel',
	},
	{
		name     => 'the delay of the one before, in the right order',
		file     => 'feed.c',
		harmless => 1,
		change   => [
			"\tpublish_floor(store, category_bits);\n\trecorded = now_at(store);\n",
			"\tpublish_floor(store, category_bits);\n\trecorded = now_at(store);\n\t$DELAY;\n"
		],
		tests => '011_time_travel',
	},
	{
		name   => 'a moment is settled though an appender is in flight',
		file   => 'feed.c',
		change => [ "\t\tif (has_floors(store))\n\t\t\treturn false;\n", "\t\t(void) has_floors;\n" ],
		tests  => 'position_at',
	},
	{
		name   => 'moments are not closed',
		file   => 'ledger.c',
		change => [ 'if (!settled && may_close)', 'if (false)' ],
		tests  => 'position_at',
	},
	{
		name   => 'closings go with the transaction that wrote them',
		file   => 'ledger.c',
		change => [ 'TABLE_INSERT_FROZEN', '0' ],
		tests  => 'position_at',
	},
	{
		name   => 'closings are not flushed',
		file   => 'ledger.c',
		change => [ "\tXLogFlush(XactLastRecEnd);\n", '' ],
		tests  => '011_time_travel',
	},
	{
		name   => 'no appender is given time to end',
		file   => 'ledger.c',
		change => [ "\t\tes_feed_give_time(GRACE_MS);\n", '' ],
		tests  => '011_time_travel',
	},
	{
		name   => 'the past is read under the snapshot of the transaction',
		file   => 'ledger.c',
		change => [ "\tint64		position = es_ledger_position_at(at);\n\n\tPushActiveSnapshot(GetLatestSnapshot());", "\tint64		position = es_ledger_position_at(at);\n\n\tPushActiveSnapshot(GetTransactionSnapshot());" ],
		tests  => 'position_at',
	},
	{
		name   => 'closings that answers depend on are trimmed',
		file   => 'ledger.c',
		change => [ '(c.next IS NOT NULL AND c.recorded_at <"', '(c.next IS NOT NULL AND c.recorded_at <> "' ],
		tests  => 'position_at',
	},
	{
		name   => 'the newest row of the ledger is trimmed',
		file   => 'ledger.c',
		change => [ '" WHERE r.position / " TRIM_DISTANCE " = r.next / " TRIM_DISTANCE " LIMIT $1)"', '" LIMIT $1)"' ],
		tests  => 'position_at',
	},
	# ---- reducers ----
	{
		name   => 'snapshots of another source are used',
		file   => 'reducer.c',
		change => [ 'hash = add_hash(hash, isnull ? "" : TextDatumGetCString(source));', '(void) source;' ],
		tests  => 'state_of',
	},
	{
		name   => 'what is gone is taken for never having been',
		file   => 'history.c',
		change => [ "\tif (first > from)\n\t\trefuse_gone(stream, first);\n", "\t(void) first;\n" ],
		tests  => 'state_of position_at',
	},
	{
		name   => 'reducers run as who asks',
		file   => 'reducer_state.c',
		change => [ 'es_spi_become(&state, fold->reducer->owner,', 'es_spi_become(&state, GetUserNameFromId(GetUserId(), false),' ],
		tests  => 'state_of',
	},
	# ---- bad input, tenants ----
	{
		name   => 'text of the start packet is not verified',
		file   => 'guc.c',
		change => [ 'if (source >= PGC_S_CLIENT && !pg_verifymbstr(*newval, strlen(*newval), true))', 'if (false)' ],
		tests  => '061_bad_input',
	},
	{
		name   => 'a value that is shown is cut anywhere',
		file   => 'arg.c',
		change => [ 'pg_mbcliplen(value, len, 40)', '40' ],
		tests  => 'bad_input',
	},
	{
		name   => 'reads are not confined to the tenant',
		file   => 'read_source.c',
		change => [ "if (reader->tenant[0] != '\\0')", 'if (false)' ],
		tests  => 'tenants read',
	},
	{
		name   => 'streams of all tenants are locked as one',
		file   => 'stream.c',
		change => [ 'hashes[i] = es_stream_hash(tenant, names[i], strlen(names[i]));', 'hashes[i] = es_stream_hash("", names[i], strlen(names[i]));' ],
		tests  => 'tenants',
	},
	{
		name   => 'tags of all tenants are locked as one',
		file   => 'tag.c',
		change => [ 'return es_stream_hash(tenant, tag, len);', 'return es_stream_hash("", tag, len);' ],
		tests  => 'tenants append_condition',
	},
	# ---- streams and appends ----
	{
		name   => 'the stream is not locked',
		file   => 'stream.c',
		change => [ "\t\tstreams_locked += es_lock_mode(ES_LOCK_STREAM, hashes[i], ExclusiveLock);\n", "\t\tstreams_locked++;\n" ],
		tests  => 'append_race append_isolation',
	},
	{
		name   => 'the version is that of the snapshot',
		file   => 'stream.c',
		change => [
			'scan = es_index_beginscan(es_table_relation(table), index, SnapshotSelf, 2);',
			'scan = es_index_beginscan(es_table_relation(table), index, GetTransactionSnapshot(), 2);'
		],
		tests => 'append_isolation 060_property',
	},
	{
		name   => 'the stream is that of the snapshot',
		file   => 'stream.c',
		change => [
			'scan = es_index_beginscan(es_table_relation(table), index, SnapshotSelf, 2);',
			'scan = es_index_beginscan(es_table_relation(table), index, GetTransactionSnapshot(), 2);'
		],
		tests => 'append_isolation append',
	},
	{
		name   => 'versions are remembered over ROLLBACK TO',
		file   => 'stream.c',
		change => [ "\tif (event != SUBXACT_EVENT_ABORT_SUB)\n\t\treturn;\n\tversion_epoch++;\n", "\tif (event != SUBXACT_EVENT_ABORT_SUB)\n\t\treturn;\n" ],
		tests  => 'append append_race',
	},
	{
		name   => 'a version of before is taken for a lower bound without looking',
		file   => 'stream.c',
		change => [ 'version = look_up_version(stream->id, 1);', 'version = memo->version;' ],
		tests  => 'append append_race',
	},
	{
		name   => 'versions are remembered over transactions',
		file   => 'stream.c',
		change => [ "\t\treturn;\n\tversion_epoch++;\n\tstreams_locked", "\t\treturn;\n\tstreams_locked" ],
		tests  => 'append append_race',
	},
	{
		name   => 'streams are remembered though rolled back',
		file   => 'stream.c',
		change => [ "\tmade_any = true;\n", '' ],
		tests  => 'append',
	},
	{
		name   => 'the expected version is not checked',
		file   => 'append.c',
		change => [ 'if (part->expected != ES_EXPECT_ANY && part->expected != part->version &&', 'if (false &&' ],
		tests  => 'append append_race',
	},
	{
		name   => 'an id with other content passes for the same event',
		file   => 'append.c',
		change => [ 'if (!same_content(stream, event, slot))', 'if (false)' ],
		tests  => 'idempotency',
	},
	{
		name   => 'known events are not looked for',
		file   => 'append.c',
		change => [ "\tif (!any_id)\n\t\treturn false;\n", "\treturn false;\n" ],
		tests  => 'idempotency append_race 060_property',
	},
	{
		name   => 'the category is not checked behind its hash',
		file   => 'read.c',
		change => [ 'es_stream_category_hash(es_guc_tenant, category, strlen(category));', 'es_stream_category_hash(es_guc_tenant, category, 1);' ],
		tests  => 'read stream_names',
	},
	{
		name   => 'reads do not stop at the head',
		file   => 'read.c',
		change => [ "\tes_walk_add_key(walk, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));\n", "\t(void) head;\n" ],
		tests  => 'feed_appenders read',
	},
	{
		name   => 'reads of a category do not stop at the head',
		file   => 'read.c',
		change => [ "\tes_walk_add_key(walk, 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));\n", "\t(void) head;\n" ],
		tests  => 'feed_appenders read',
	},
	# ---- direct table writes ----
	{
		name   => 'the pin of a failed scan is kept',
		file   => 'table.c',
		change => [ "((BufferHeapTupleTableSlot *) tables[t].scan_slot)->buffer = InvalidBuffer;\n\t\t\tExecClearTuple(tables[t].scan_slot);", ';' ],
		tests  => 'idempotency',
	},
	{
		name   => 'slots of AFTER triggers are not given back',
		file   => 'table.c',
		change => [ "\tExecResetTupleTable(way->estate->es_tupleTable, false);\n", '' ],
		tests  => 'triggers',
	},
	{
		name   => 'triggers, constraints and columns of others are passed over',
		file   => 'table.c',
		change => [ 'table->needs_long_way = needs_long_way(table);', '(void) needs_long_way; table->needs_long_way = false;' ],
		tests  => 'triggers',
	},
	# ---- projections and guards ----
	{
		name   => 'create_projection does not lock out appenders',
		file   => 'projection_sync.c',
		change => [ 'es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, CurTransactionResourceOwner);', ';' ],
		tests  => 'projection_create',
	},
	{
		name   => 'definitions are those of the snapshot',
		file   => 'definition.c',
		change => [ 'n = es_spi_run_latest(&list_plan, values, NULL);', 'n = es_spi_run(&list_plan, values, NULL, true, 0);' ],
		tests  => 'projection_create projection',
	},
	{
		name   => 'the first event after the head is not applied to a new projection',
		file   => 'projection_sync.c',
		change => [ 'after = es_read_history_to_head(apply_event, &history);', 'after = es_read_history_to_head(apply_event, &history) + 1;' ],
		tests  => 'projection projection_create',
	},
	{
		name   => 'handlers run as the appender',
		file   => 'projection_apply.c',
		change => [ 'es_spi_become(&apply->state, apply->projection->owner, apply->projection->search_path);', 'es_spi_become(&apply->state, GetUserNameFromId(GetUserId(), false), apply->projection->search_path);' ],
		tests  => 'projection',
	},
	{
		name   => 'handlers may change the session',
		file   => 'spi.c',
		change => [ 'roleid != GetUserId() ? SECURITY_RESTRICTED_OPERATION : 0', '0' ],
		tests  => 'projection',
	},
	{
		name   => 'events can be changed by pg_write_all_data',
		file   => 'guard.c',
		change => [ "\tif (!superuser())\n", "\tif (false)\n" ],
		tests  => 'privileges',
	},
	{
		name   => 'DROP EXTENSION is not refused',
		file   => 'guard.c',
		change => [ 'if (!es_guc_allow_drop && holds_rows(relid))', 'if (false && holds_rows(relid))' ],
		tests  => 'privileges',
	},

	# ---- definition_slot.c, guard.c: slots of what is dropped ----
	{
		name   => 'a slot is free before its drop is committed',
		file   => 'definition_slot.c',
		change => [ 'is_alive = lock_of_definition != LOCKACQUIRE_OK || (', 'is_alive = false && (' ],
		tests  => '076_drop',
	},
	{
		name   => 'a store that is dropped keeps its queues in use',
		file   => 'guard.c',
		change => [ "\t\tes_queue_state_forget_store(relid);\n", '' ],
		tests  => '076_drop',
	},
	{
		name   => 'a store that is dropped keeps its subscriptions in use',
		file   => 'guard.c',
		change => [ "\t\tes_lanes_forget_store(relid);\n", '' ],
		tests  => '076_drop',
	},
	{
		name   => 'who drops a store forgets its queues at once',
		file   => 'queue_entry.c',
		change => [ "\t\tes_queue_effect_add(ES_EFFECT_FORGET, es_queue_state_of(&keys[i]), NULL)->key = keys[i];", "\t\tes_state_forget_key(&keys[i]);" ],
		tests  => 'drop',
	},

	# ---- stream_name.c ----
	{
		name   => 'a name is not asked whose it is',
		file   => 'stream_name.c',
		change => [ 'place->stream.id == id ? &place->stream : NULL', 'place->stream.id != 0 ? &place->stream : NULL' ],
		tests  => '046_reads_in_memory',
	},
	{
		name   => 'a neighbour takes the place of the asked name',
		file   => 'stream_name.c',
		change => [
			"\t\tnames->low = names->high = id;\n", "\t\tnames->low = names->high = id;\n\t\tkeep(names->scan.slot);\n",
			"have its place */\n\t\tkeep(names->scan.slot);\n", "have its place */\n"
		],
		tests  => 'stream_names',
	},

	# ---- lane.c, poll.c, subscription_settle.c, failed_event.c, checkpoint.c: subscriptions ----
	{
		name   => 'a poll that is rolled back keeps what it took',
		file   => 'lane_effect.c',
		change => [ "\t\tif (effect_at(i)->kind == EFFECT_PUT)\n", "\t\tif (false)\n" ],
		tests => 'subscription',
	},
	{
		name   => 'the receipt of a hold that is over is good',
		file   => 'lane.c',
		change => [ 'return lane->epoch == epoch && epoch != 0;', 'return epoch != 0;' ],
		tests  => 'subscription',
	},
	{
		name   => 'settling takes no lock of its lane',
		file   => 'subscription_settle.c',
		change => [ "\tes_subscription_lock_lane(id, number);\n", '' ],
		tests  => 'subscription_race',
	},
	{
		name   => 'a later ack settles the earlier events',
		file   => 'checkpoint.c',
		change => [ "\tif (from <= checkpoint->position)\n\t{\n", "\tif (true)\n\t{\n" ],
		tests  => 'subscription',
	},
	{
		name   => 'the later events of a key that failed stay out',
		file   => 'subscription_settle.c',
		change => [ '!es_checkpoint_covers(settlement->checkpoint, position))', 'false)' ],
		tests  => 'subscription',
	},
	{
		name   => 'who stood in front of a key stays there when an older one comes',
		file   => 'failed_event.c',
		change => [ "\tif (!waits)\n", "\tif (false)\n" ],
		tests  => 'subscription',
	},
	{
		name   => 'what failed comes again below the head of all categories only',
		file   => 'failed_read.c',
		change => [
			"#include \"failed_read.h\"\n", "#include \"failed_read.h\"\n#include \"feed.h\"\n",
			"\tes_reader_begin_latest(reader);\n", "\tif (es_reader_begin_feed(reader, ES_FEED_ALL_CATEGORIES) < list->positions[list->n - 1])\n\t\treturn;\n"
		],
		tests  => 'subscription_race',
	},

	{
		name   => 'what failed before and is lost is no attempt',
		file   => 'lane_effect.c',
		change => [ "\tif (handed_out > 0 && again > 0)\n", "\tif (false)\n" ],
		tests  => 'subscription',
	},
	{
		name   => 'what failed before and was lost together comes together again',
		file   => 'poll.c',
		change => [ 'alone = is_suspect || held->lane.again_left > 0;', 'alone = is_suspect;' ],
		tests  => 'subscription',
	},
	{
		name   => 'what was lost is remembered when it is written down',
		file   => 'poll.c',
		change => [ "\t\telse if (held->has_failed && !is_out)\n", "\t\telse if (false)\n" ],
		tests  => 'subscription',
	},
	{
		name   => 'who was lost with his last attempt is handed out once more',
		file   => 'poll.c',
		change => [ '(front->epoch != 0 || front->position == held->lane.again_suspect) &&', '(front->epoch != 0) &&' ],
		tests  => 'subscription',
	},
	{
		name   => 'a poll sets aside whatever it meets',
		file   => 'poll.c',
		change => [ ' && poll->naside < ASIDE_FOR_EACH * poll->max_count', '' ],
		tests  => 'subscription',
	},
	{
		name   => 'a key that waits is not looked up',
		file   => 'failed_read.c',
		change => [ 'reader->any_aside = has_rows(&reader->keys, reader->subscription);', 'reader->any_aside = false;' ],
		tests  => 'subscription',
	},
	{
		name   => 'what is done brings nobody to the front',
		file   => 'failed_event.c',
		change => [ "\tif (fronts[0] != NULL)\n", "\tif (false)\n" ],
		tests  => 'subscription',
	},
	{
		name   => 'one that comes back late waits behind those that failed after it',
		file   => 'failed_event.c',
		change => [ "\t\tlet_stand(subscription, fronts[2 * i], \"retry\", now);\n\t\tif (fronts[2 * i + 1] != 0)", "\t\tif (false)" ],
		tests  => 'subscription',
	},
	{
		name   => 'who is acknowledged need not be handed out again',
		file   => 'failed_event.c',
		change => [ ' AND ($3 IS NULL OR COALESCE(f.epoch, 0) = $3) RETURNING', ' RETURNING' ],
		tests  => 'subscription',
	},
	{
		name   => 'the last one of a key comes after the one that is done',
		file   => 'failed_event.c',
		change => [ 'n.key = u.key AND n.position > u.position ORDER BY n.position LIMIT 1) n', 'n.key = u.key AND n.position > u.position ORDER BY n.position DESC LIMIT 1) n' ],
		tests  => 'subscription',
	},
	{
		name   => 'a new lane begins before the old ones are over',
		file   => 'lane_layout.c',
		change => [ "\t\tif (!is_over[es_lane_place(before->first + i)])\n\t\t\treturn false;", "\t\tif (false)\n\t\t\treturn false;" ],
		tests  => 'subscription_lanes',
	},
	{
		name   => 'a lane ends below what is handed out',
		file   => 'lane_change.c',
		change => [ "\t\tif (lanes != NULL)\n\t\t\t*end = Max(", "\t\tif (false)\n\t\t\t*end = Max(" ],
		tests  => 'subscription_lanes',
	},
	{
		name   => 'a lane is over while an event that failed is out',
		file   => 'poll.c',
		change => [ 'held->checkpoint->position < held->end || is_out || is_over', 'held->checkpoint->position < held->end || is_over' ],
		tests  => 'subscription_lanes',
	},
	{
		name   => 'what closed in a transaction that may be rolled back is said to everybody',
		file   => 'poll.c',
		change => [ 'held->settled == 0 && !held->checkpoint->is_own && !poll->is_own_over', 'true' ],
		tests  => 'subscription_race',
	},
	{
		name   => 'what is opened by what a transaction closed is over for everybody',
		file   => 'poll.c',
		change => [ ' && !poll->is_own_over)', ')' ],
		tests  => 'subscription_lanes',
	},
	{
		name   => 'what failed is handed out by the lane that its key had first',
		file   => 'lane_layout.c',
		change => [ 'if (!is_over[es_lane_place(numbers[i])])', 'if (true)' ],
		tests  => 'subscription_lanes',
	},

	# ---- pattern.c, pattern_*.c: content patterns ----
	{
		name   => 'a pattern matches a field that is missing',
		file   => 'pattern.c',
		change => [
			'Answer		result = node->takes_absence ? ANSWER_ABSENT : ANSWER_NO;',
			'Answer		result = ANSWER_ABSENT;'
		],
		tests  => 'pattern pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s object is matched by two elements together',
		file   => 'pattern.c',
		change => [
			'	return has_object ? result : match_object(node, &(Place) {.object = NULL});',
			'	return Max(result, ANSWER_ABSENT);'
		],
		tests  => 'pattern pattern_eventbridge',
	},
	{
		name   => 'a pattern has anything but the last one',
		file   => 'pattern.c',
		change => [
			'for (int i = 0; i < matcher->nnot; i++)',
			'for (int i = matcher->nnot - 1; i < matcher->nnot; i++)'
		],
		tests  => 'pattern pattern_eventbridge',
	},
	{
		name   => 'the second bound of a number is not looked at by a pattern',
		file   => 'pattern.c',
		change => [
			'for (int i = 0; i < matcher->nbounds; i++)',
			'for (int i = 0; i < 1; i++)'
		],
		tests  => 'pattern pattern_eventbridge',
	},
	{
		name   => 'a pattern takes an absence in one element for one in all',
		file   => 'pattern.c',
		change => [
			'result = answer == ANSWER_YES ? ANSWER_YES : Min(result, answer);
		}
		pfree(element);',
			'result = answer;
		}
		pfree(element);
		if (result == ANSWER_ABSENT)
			return ANSWER_YES;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern finds an absence beside a value',
		file   => 'pattern.c',
		change => [
			'result = answer == ANSWER_YES ? ANSWER_YES : Min(result, answer);
			pfree(element);',
			'result = Max(result, answer);
			pfree(element);'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'objects exist for a pattern',
		file   => 'pattern.c',
		change => [
			'	if (value == NULL || es_pattern_is_object(value))
		return result;',
			'	if (value != NULL && es_pattern_is_object(value))
		return ANSWER_NO;
	if (value == NULL)
		return result;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern stops at the first alternative that only lacks something',
		file   => 'pattern.c',
		change => [
			'i < choice->n && result != ANSWER_YES',
			'i < choice->n && result == ANSWER_NO'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern looks at whole bytes of a network only',
		file   => 'pattern.c',
		change => [
			'(rest == 0 || (address[whole] ^ network->address[whole]) >> (8 - rest) == 0)',
			'(rest >= 0)'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern takes IPv6 for IPv4',
		file   => 'pattern.c',
		change => [
			'if (es_pattern_parse_address(text, len, address) != network->family)',
			'if (es_pattern_parse_address(text, len, address) == 0)'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s wildcard may overlap itself',
		file   => 'pattern_text.c',
		change => [
			'result = len >= first->len + last->len && ',
			'result = len >= Max(first->len, last->len) && '
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s wildcard does not look at its end',
		file   => 'pattern_text.c',
		change => [
			' && memcmp(end, last->text, last->len) == 0;',
			';'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s wildcard begins each piece anew',
		file   => 'pattern_text.c',
		change => [
			'			found = piece->border[found];',
			'		{
			text -= found - 1;
			found = 0;
		}'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s wildcard forgets what it found',
		file   => 'pattern_text.c',
		change => [
			'			found = piece->border[found];',
			'			found = 0;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s wildcard finds pieces in any order',
		file   => 'pattern_text.c',
		change => [
			'		at = find_piece(&wildcard->pieces[i], at, end, &counted);',
			'		at = find_piece(&wildcard->pieces[i], text + first->len, end, &counted);'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s asterisk cannot be escaped',
		file   => 'pattern_text.c',
		change => [
			'(++i == len || (text[i] != \'*\' && text[i] != \'\\\\\'))',
			'(++i == len || text[i] != \'\\\\\')'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern knows the case of ASCII only',
		file   => 'pattern_text.c',
		change => [
			'	else if (GetDatabaseEncoding() == PG_UTF8)
	{',
			'	else if (false)
	{'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern knows the upper case only',
		file   => 'pattern_text.c',
		change => [
			'		other[0][0] = pg_ascii_tolower((unsigned char) *bytes);',
			'		other[0][0] = *bytes;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern without case is a prefix',
		file   => 'pattern_text.c',
		change => [
			'	return skip_beginning(caseless, text, text + len) == text + len;',
			'	return skip_beginning(caseless, text, text + len) != NULL;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'the cases of a character of a pattern are as long as each other',
		file   => 'pattern_text.c',
		change => [
			'		end -= c->len[j];',
			'		end -= c->len[0];'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s prefix without case is a suffix',
		file   => 'pattern_parse.c',
		change => [
			'operator == MATCH_PREFIX ? MATCH_PREFIX_IGNORE_CASE : MATCH_SUFFIX_IGNORE_CASE',
			'MATCH_SUFFIX_IGNORE_CASE'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern takes a network without its last digit',
		file   => 'pattern_parse.c',
		change => [
			'for (int i = 1; i <= digits && digits <= 3',
			'for (int i = 1; i < digits && digits <= 3'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern takes a mask that is too long',
		file   => 'pattern_parse.c',
		change => [
			'network->bits > (network->family == AF_INET ? 32 : 128)',
			'network->bits > 128'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern takes bounds that exclude each other',
		file   => 'pattern_parse.c',
		change => [
			'return order > 0 || (order == 0 && is_strict);',
			'return order > 0;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern looks at the first of a list after anything-but',
		file   => 'pattern_parse.c',
		change => [
			'for (int i = 0; i < n && ok; i++)',
			'for (int i = 0; i < 1 && ok; i++)'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern excludes what begins with nothing',
		file   => 'pattern_parse.c',
		change => [
			'value->type != jbvString || (value->val.string.len == 0 && (operator == MATCH_PREFIX || operator == MATCH_SUFFIX))',
			'value->type != jbvString'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern adds its combinations',
		file   => 'pattern_parse.c',
		change => [
			'	if (a * b > MAX_COMBINATIONS)',
			'	if (a + b > MAX_COMBINATIONS + 2)'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern multiplies nested alternatives',
		file   => 'pattern_parse.c',
		change => [
			'Min(combinations + choice->nodes[choice->n]->combinations, MAX_COMBINATIONS + 1);',
			'Min(Max(combinations, 1) * (choice->nodes[choice->n]->combinations + 1), MAX_COMBINATIONS + 1);'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a field in a $or of a pattern may be called like a matcher',
		file   => 'pattern_parse.c',
		change => [
			'if (compiler->choices > 0 && is_operator)',
			'if (false && is_operator)'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a field outside of a $or of a pattern may not be called like a matcher',
		file   => 'pattern_parse.c',
		change => [
			'if (compiler->choices > 0 && is_operator)',
			'if (is_operator)'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern is matched by other elements beside a $or',
		file   => 'pattern_join.c',
		change => [
			'			if (choice_names(&node->choices[i], &node->fields[j]))
				return i;',
			'			if (false)
				return i;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern is matched by other elements in two $or',
		file   => 'pattern_join.c',
		change => [
			'				if (choice_names_any(&node->choices[i], node->choices[j].nodes[k]))
					return i;',
			'				if (false)
					return i;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s field hides one of its name in a $or',
		file   => 'pattern_join.c',
		change => [
			'			node->fields[i].node = merge(node->fields[i].node, field->node);',
			'			node->fields[i].node = field->node;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'a pattern\'s absences agree on no alternative',
		file   => 'pattern_join.c',
		change => [
			'		if (node->fields[i].node->is_object && absences(node->fields[i].node) > 1)
			return i;',
			'		if (false)
			return i;'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'what is below in a pattern is not joined',
		file   => 'pattern_join.c',
		change => [
			'		join_fields(node);
		if',
			'		if'
		],
		tests  => 'pattern_eventbridge',
	},
	{
		name   => 'alternatives of a pattern are not joined in themselves',
		file   => 'pattern_join.c',
		change => [
			'	join_choices(node);
	node->is_joined = true;',
			'	node->is_joined = true;'
		],
		tests  => 'pattern_eventbridge',
	},

	# ---- cesql: expressions ----
	{
		name   => 'cesql AND and OR look at the right side always',
		file   => 'cesql_eval.c',
		change => [ "else if ((node->kind == CESQL_AND && !left.boolean) || (node->kind == CESQL_OR && left.boolean))", "else if (false)" ],
		tests  => 'cesql',
	},
	{
		name   => 'the left side of cesql says as what is compared',
		file   => 'cesql_eval.c',
		change => [ "if (!cast(&left, right.type))", "if (!cast(&right, left.type))" ],
		tests  => 'cesql',
	},
	{
		name   => 'a percent of cesql takes no more after a mismatch',
		file   => 'cesql_eval.c',
		change => [ "else if (last_percent >= 0)", "else if (false)" ],
		tests  => 'cesql',
	},
	{
		name   => 'equal operators of cesql group from right to left',
		file   => 'cesql_parse.c',
		change => [ "right = parse_expression(parser, level + 1);", "right = parse_expression(parser, level);" ],
		tests  => 'cesql',
	},
	{
		name   => 'cesql chains are as deep as one likes',
		file   => 'cesql_parse.c',
		change => [ "if (node->depth > MAX_DEPTH)", "if (false)" ],
		tests  => 'cesql',
	},
	{
		name   => 'a subscription with a cesql expression does not look for the stream',
		file   => 'subscription_source.c',
		change => [ "|| filter->expression != NULL)\n\t\tstream =", ")\n\t\tstream =" ],
		tests  => 'cesql',
	},

	# ---- asl: what states of sagas do ----
	{
		name   => 'a slice of asl has its end',
		file   => 'asl_path.c',
		change => [ "from < Min(to, size)", "from <= Min(to, size - 1)" ],
		tests  => 'asl',
	},
	{
		name   => 'what asl does not find is equal to all',
		file   => 'asl_path.c',
		change => [ "(has_both && es_asl_value_equal(&a, &b))", "(!has_both || es_asl_value_equal(&a, &b))" ],
		tests  => 'asl',
	},
	{
		name   => 'a filter of asl below all asks the object itself, too',
		file   => 'asl_path.c',
		change => [ "if (state->path->steps[n + 1].kind == ASL_STEP_FILTER)\n\t\twalk_children", "if (false)\n\t\twalk_children" ],
		tests  => 'asl',
	},
	{
		name   => 'asl puts a field beside the one that is there',
		file   => 'asl_path.c',
		change => [ "is_there |= is_it;", "" ],
		tests  => 'asl',
	},
	{
		name   => 'asl makes arrays that are missing',
		file   => 'asl_path.c',
		change => [ "at != NULL && es_asl_value_is_array(at))\n\t\treturn put_item", "true)\n\t\treturn at == NULL ? put(state, token, at, path, n + 1, value, result, fault) : put_item" ],
		tests  => 'asl',
	},
	{
		name   => 'asl functions nest as deep as one likes',
		file   => 'asl_function.c',
		change => [ "if (++parser->depth > MAX_NESTED)", "if (false)" ],
		tests  => 'asl',
	},
	{
		name   => 'asl functions side by side count as nested',
		file   => 'asl_function.c',
		change => [ "\tparser->depth--;\n", "" ],
		tests  => 'asl',
	},
	{
		name   => 'asl looks not how deep a text is nested',
		file   => 'asl_intrinsic.c',
		change => [ "if (depth > MAX_JSON_DEPTH)", "if (false)" ],
		tests  => 'asl',
	},
	{
		name   => 'asl base64 may be of any bytes',
		file   => 'asl_intrinsic.c',
		change => [ "if (!pg_verify_mbstr(PG_UTF8, bytes, len, true))", "if (false)" ],
		tests  => 'asl',
	},
	{
		name   => 'asl random numbers reach the end',
		file   => 'asl_intrinsic.c',
		change => [ "((int64) end - start - 1)", "((int64) end - start)" ],
		tests  => 'asl',
	},
	{
		name   => 'asl takes a field twice',
		file   => 'asl_payload.c',
		change => [ "\tcheck_keys(payload, where, faults);\n", "" ],
		tests  => 'asl',
	},
	{
		name   => 'asl rules look at all that stands behind',
		file   => 'asl_choice.c',
		change => [ "if (rule->kind != KIND_NOT && result == (rule->kind == KIND_OR))", "if (false)" ],
		tests  => 'asl',
	},
	{
		name   => 'an asl star takes no more after a mismatch',
		file   => 'asl_choice.c',
		change => [ "else if (star < 0)", "else if (true)" ],
		tests  => 'asl',
	},
	{
		name   => 'asl ALL matches faults of the definition',
		file   => 'asl_state.c',
		change => [ "if (strcmp(error, ES_ASL_RUNTIME) == 0 || strcmp(error, ES_ASL_DATA_LIMIT) == 0)", "if (false)" ],
		tests  => 'asl',
	},
	{
		name   => 'asl retries once more',
		file   => 'asl_state.c',
		change => [ "used >= retrier->max_attempts", "used > retrier->max_attempts" ],
		tests  => 'asl',
	},
	{
		name   => 'asl retries grow for ever',
		file   => 'asl_state.c',
		change => [ "delay = Min(delay, retrier->max_delay);", "" ],
		tests  => 'asl',
	},
	{
		name   => 'asl selectors see what was selected before',
		file   => 'asl_state.c',
		change => [ "of_result.input = es_asl_payload_make(state->result_selector, &of_result, fault);", "of_result.input = es_asl_payload_make(state->result_selector, scope, fault);" ],
		tests  => 'asl',
	},
	{
		name   => 'asl years have no leap',
		file   => 'asl.c',
		change => [ "day_tab[isleap(year)]", "day_tab[0]" ],
		tests  => 'asl',
	},
	{
		name   => 'asl offsets have no sign',
		file   => 'asl.c',
		change => [ "*seconds = sign * (hour", "*seconds = (hour" ],
		tests  => 'asl',
	},

	# ---- condition.c, search.c: append conditions ----
	{
		name   => 'the condition is not checked',
		file   => 'condition.c',
		change => [ 'if (es_search_next(search, slot))', 'if (false && es_search_next(search, slot))' ],
		tests  => 'append_if append_condition',
	},
	{
		name   => 'the condition is that of the snapshot',
		file   => 'condition.c',
		change => [ 'PG_INT64_MAX, false, SnapshotSelf)', 'PG_INT64_MAX, false, GetTransactionSnapshot())' ],
		tests  => 'append_condition 050_condition_race',
	},
	{
		name   => 'conditions lock no tags',
		file   => 'condition.c',
		change => [ "add_key(list, ES_LOCK_TAG, tag, FORBIDS);", ";" ],
		tests  => 'append_condition 050_condition_race 060_property',
	},
	{
		name   => 'conditions lock no tags with a type',
		file   => 'condition.c',
		change => [ "add_key(list, ES_LOCK_TAG, es_tag_pair_hash(tag, item->types[t], strlen(item->types[t])), FORBIDS);", ";" ],
		tests  => 'append_condition 050_condition_race',
	},
	{
		name   => 'writers lock no tags',
		file   => 'condition.c',
		change => [ "add_key(list, ES_LOCK_TAG, tag, WRITES);", ";" ],
		tests  => 'append_condition 050_condition_race 060_property',
	},
	{
		name   => 'writers exclude each other',
		file   => 'condition.c',
		change => [ '#define WRITES RowExclusiveLock', '#define WRITES ExclusiveLock' ],
		tests  => 'append_condition',
	},
	{
		name   => 'keys are locked in the order of the call',
		file   => 'condition.c',
		change => [ "\tqsort(list->keys, list->n, sizeof(Key), compare_keys);\n", "" ],
		tests  => 'append_condition',
	},
	{
		name   => 'appends in flight are not waited for',
		file   => 'condition_flight.c',
		change => [ 'while (i != es_my_procno() &&', 'while (false && i != es_my_procno() &&' ],
		tests  => 'append_condition 050_condition_race 060_property',
	},
	{
		name   => 'appends look for no condition',
		file   => 'condition_flight.c',
		change => [ 'if (pg_atomic_read_u32(&shared()->conditions_in_flight) == 0)', 'if (true)' ],
		tests  => 'append_condition 050_condition_race',
	},
	{
		name   => 'announcements outlive the transaction',
		file   => 'condition_flight.c',
		change => [ "\t\t\t\tforget_from(1);\n", "\t\t\t\t(void) 0;\n" ],
		tests  => 'append_condition',
	},
	{
		name   => 'announcements outlive their savepoint',
		file   => 'condition_flight.c',
		change => [ "\tif (event == SUBXACT_EVENT_ABORT_SUB)\n\t\tforget_from(level);\n\telse if", "\tif" ],
		tests  => 'append_condition',
	},
	{
		name   => 'an escalated batch locks nothing',
		file   => 'condition.c',
		change => [ 'add_key(list, ES_LOCK_ALL_TAGS, es_tag_tenant_hash(tenant), WRITES);', ';' ],
		tests  => '050_condition_race',
	},
	{
		name   => 'an event is not compared by name',
		file   => 'search.c',
		change => [ 'es_query_matches(search->query, slot', 'true || es_query_matches(search->query, slot' ],
		tests  => 'append_if read_query',
	},
	{
		name   => 'several streams are locked in the order of the call',
		file   => 'stream.c',
		change => [ "\tif (n > 1)\n\t\tqsort(hashes, n, sizeof(uint64), es_hash_compare);\n", '' ],
		tests  => 'append_streams_race',
	},
	{
		name   => 'all streams are locked by nothing',
		file   => 'stream.c',
		change => [ 'es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, TopTransactionResourceOwner);', ';' ],
		tests  => 'append_streams_race',
	},

	# ---- deletion ----
	{
		name   => 'others are not told of a new state',
		file   => 'stream_state.c',
		change => [ 'pg_atomic_fetch_add_u64((pg_atomic_uint64 *) state_area + i, 1);', ';' ],
		tests  => 'deletion_race',
	},
	{
		name   => 'what a rollback to a savepoint took back is remembered',
		file   => 'stream_state.c',
		change => [ "\tif (event == SUBXACT_EVENT_ABORT_SUB && wrote_any)\n\t\tepoch++;\n", '' ],
		tests  => 'deletion',
	},
	{
		name   => 'an own change is not noticed',
		file   => 'stream_state.c',
		change => [ "\tepoch++;\n\tes_spi_begin", "\tes_spi_begin" ],
		tests  => 'deletion',
	},
	{
		name   => 'an append does not undelete',
		file   => 'stream_state.c',
		change => [ "\tes_stream_set_state(stream, state);\n}", "}" ],
		tests  => 'deletion deletion_race',
	},
	{
		name   => 'versions begin anew where the events are gone',
		file   => 'stream.c',
		change => [ 'Max(version, es_stream_state(stream).truncate_before - 1)', 'version' ],
		tests  => 'retention',
	},
	{
		name   => 'a policy takes the last event too',
		file   => 'stream_policy.c',
		change => [ 'Max(Min(start, last), 1)', 'start' ],
		tests  => 'retention',
	},
	{
		name   => 'postings outlive their event',
		file   => 'scavenge.c',
		change => [ "\tes_tag_remove(TextDatumGetCString(event.tenant), &event);\n", '' ],
		tests  => 'retention',
	},
	{
		name   => 'the janitor passes over a deletion in flight',
		file   => 'janitor.c',
		change => [ 'round.state_position, es_feed_begin_read(ES_FEED_ALL_CATEGORIES)', 'round.state_position, es_feed_begin_read(ES_FEED_ALL_CATEGORIES) * 0 + PG_INT64_MAX' ],
		tests  => '011_scavenge',
	},
	{
		name   => 'the janitor waits for the table',
		file   => 'janitor.c',
		change => [ 'es_scavenge_lock(false)', 'es_scavenge_lock(true)' ],
		tests  => '011_scavenge',
	},
	{
		name   => 'locks belong to the portal',
		file   => 'lock.h',
		change => [ "\tCurrentResourceOwner = CurTransactionResourceOwner;\n\tresult = LockAcquire", "\tresult = LockAcquire" ],
		tests  => 'append_cursor',
	},

	# ---- queue_state.c, queue_entry.c, queue_effect.c, queue_walk.c, claim.c, settle.c: queues ----
	{
		name   => 'what a savepoint has taken stays taken when it is rolled back',
		file   => 'effect.c',
		change => [ "\t\t\teffects->finish(first, effects->n, false);\n", '' ],
		tests  => 'subscription',
	},
	{
		name   => 'the receipt of a message that somebody else took is good',
		file   => 'queue_state.c',
		change => [ 'else if (entry->hold.epoch != epoch)', 'else if (false)' ],
		tests  => 'queue_claim',
	},
	{
		name   => 'two transactions settle one message',
		file   => 'queue_state.c',
		change => [ "\t\telse if (TransactionIdIsValid(entry->settler))\n\t\t\tother = entry->settler;\n", '' ],
		tests  => 'queue_claim',
	},
	{
		name   => 'a later message of a key goes out',
		file   => 'claim.c',
		change => [ 'else if (hold->key_hash != 0 && !is_oldest_of_key(claim, hold, snapshot))', 'else if (false)' ],
		tests  => 'queue_key',
	},
	{
		name   => 'who took what he cannot see does not look again',
		file   => 'claim.c',
		change => [ "if (es_queue_fetch(claim->queue.id, hold, snapshot, slot))\n\t\tes_queue_announce", "if (false)\n\t\tes_queue_announce" ],
		tests  => '075_queue_preempted',
	},
	{
		name   => 'who took what he cannot see looks again before he lets it go',
		file   => 'claim.c',
		change => [
			"\tEsReady\t\tready;\n\n\tes_queue_drop(claim->state, hold);\n\tsnapshot = RegisterSnapshot(GetLatestSnapshot());\n\tif (es_queue_fetch(claim->queue.id, hold, snapshot, slot))",
			"\tEsReady\t\tready;\n\tbool\t\tfound;\n\n\tsnapshot = RegisterSnapshot(GetLatestSnapshot());\n\tfound = es_queue_fetch(claim->queue.id, hold, snapshot, slot);\n\tes_queue_drop(claim->state, hold);\n\tif (found)" ],
		tests => '075_queue_preempted',
	},
	{
		name   => 'who took a later message of a key does not look again',
		file   => 'claim.c',
		change => [ "\t\toldest.id == hold->id)\n\t\tes_queue_announce", "\t\tfalse)\n\t\tes_queue_announce" ],
		tests  => '075_queue_preempted',
	},
	{
		name   => 'a settled message frees no key',
		file   => 'queue_state.c',
		change => [ 'if (entry->hold.key_hash != 0)', 'if (false)' ],
		tests  => 'queue_key',
	},
	{
		name   => 'a commit tells nobody what it sent',
		file   => 'enqueue.c',
		change => [ "\t\t\t\tif (event == XACT_EVENT_COMMIT)\n\t\t\t\t\tannounce_sent();\n", '' ],
		tests  => 'queue',
	},

	# ---- poll.c, subscription.c, subscription_source.c, subscription_settle.c, lane.c: the feed's cases for subscriptions ----
	{
		name   => 'a poll goes past what is in flight',
		file   => 'poll.c',
		change => [ 'es_reader_begin_feed(reader, es_subscription_categories(poll->subscription));', 'es_reader_begin_feed(reader, es_subscription_categories(poll->subscription)) * 0 + (INT64CONST(1) << 40);' ],
		tests  => 'subscription_feed',
	},
	{
		name   => 'a poll waits for the appenders of every category',
		file   => 'poll.c',
		change => [ 'es_reader_begin_feed(reader, es_subscription_categories(poll->subscription))', 'es_reader_begin_feed(reader, ES_FEED_ALL_CATEGORIES)' ],
		tests  => 'subscription_feed',
	},
	{
		name   => 'of several categories only the last one is waited for',
		file   => 'subscription_source.c',
		change => [ 'bits |= es_feed_category_bit', 'bits = es_feed_category_bit' ],
		tests  => 'subscription_feed',
	},
	{
		name   => 'the checkpoint of a lane is that of the statement',
		file   => 'poll.c',
		change => [ 'read_checkpoints(poll, es_reader_snapshot(reader));', 'read_checkpoints(poll, GetActiveSnapshot());' ],
		tests  => 'subscription_feed',
	},
	{
		name   => 'settling takes the checkpoint of the snapshot',
		file   => 'subscription_settle.c',
		change => [ 'RegisterSnapshot(GetLatestSnapshot())', 'RegisterSnapshot(GetActiveSnapshot())' ],
		tests  => 'subscription_settle',
	},
	{
		name   => 'the next event fails in place of one that is gone',
		file   => 'subscription_settle.c',
		change => [ "\t\t\tbreak;\t\t\t\t/* scavenged meanwhile: nothing to keep */", "\t\t\t;" ],
		tests  => 'subscription_settle',
	},
	{
		name   => 'a failed event that is gone stays aside',
		file   => 'poll.c',
		change => [ "\t(void) es_failed_event_ack(poll->subscription, &position, 1, failed->epoch);\n", '' ],
		tests  => 'subscription_settle',
	},
	{
		name   => 'a poll keeps the lane of a batch that is out',
		file   => 'poll.c',
		change => [ "\t\telse if (!held->has_settled)\n\t\t\t/* nothing", "\t\telse if (!held->has_settled && !is_out)\n\t\t\t/* nothing" ],
		tests  => 'subscription_settle',
	},
	{
		name   => 'what was passed over is walked again',
		file   => 'poll.c',
		change => [ "\t\t\theld->lane.fetched = Max(held->lane.fetched, Min(passed, held->end));\n", "\t\t\t;\n" ],
		tests  => '045_reads_at_scale',
	},
	{
		name   => 'who polled may prepare',
		file   => 'effect.c',
		change => [ "\tif (effects->n > 0)\n\t\tereport", "\tif (false)\n\t\tereport" ],
		tests  => '072_subscription_cases',
	},
	{
		name   => 'messages behind the mark are not told',
		file   => 'queue_state.c',
		change => [ '!walk->walking && !es_mark_is_before(mark, walk->mark)', '!walk->walking' ],
		tests  => 'queue_senders',
	},
	{
		name   => 'a sender of a known dedup_id does not wait for who sends it',
		file   => 'enqueue.c',
		change => [ "\t\tif (messages[i].dedup_id != (Datum) 0)\n\t\t\thashes[nkeys++]", "\t\tif (false)\n\t\t\thashes[nkeys++]" ],
		tests  => 'queue_dedup',
	},
	{
		name   => 'a dedup_id is known for ever',
		file   => 'enqueue.c',
		change => [ ' AND dedup_id = $3 AND expires_at > $4"', ' AND dedup_id = $3 AND $4 IS NOT NULL"' ],
		tests  => 'queue_messages',
	},
	{
		name   => 'a purge does not read again',
		file   => 'queue_operate.c',
		change => [ "\tes_queue_read_again(state);\n", '' ],
		tests  => 'queue_dedup',
	},
	{
		name   => 'a purge takes from nobody',
		file   => 'queue_operate.c',
		change => [ 'if (!es_queue_fetch(queue_id, &held[i], snapshot, slot) && es_queue_hold_idle', 'if (false && es_queue_hold_idle' ],
		tests  => 'queue_messages',
	},
	{
		name   => 'a purge waits for who settles',
		file   => 'queue_operate.c',
		change => [ ' FOR UPDATE SKIP LOCKED)', ' FOR UPDATE)' ],
		tests  => 'queue_dedup',
	},
	{
		name   => 'what did not go out uses up the rate',
		file   => 'queue_state.c',
		change => [ "\tif (!hold->is_key)\n\t\tes_rate_spend(&state->rate, -1);\n", '' ],
		tests  => 'queue_messages',
	},
	{
		name   => 'the next of a key in another share is left for the next claim',
		file   => 'claim.c',
		change => [ 'claim->again |= next.deliver_at == 0', 'claim->again |= false && next.deliver_at == 0' ],
		tests  => 'queue_messages',
	},
	{
		name   => 'who sleeps looks before he says so',
		file   => 'waiter.c',
		change => [ "\twas_woken = pg_atomic_exchange_u32(&my_slot->idle, 1) == 0;", "\twas_woken = true;" ],
		tests  => '073_wait_for_work',
	},
	{
		name   => 'a send wakes nobody',
		file   => 'enqueue.c',
		change => [ "\t\t\tes_waiter_wake(sent[i].queue.id, i - first + 1);", "\t\t\t;" ],
		tests  => '073_wait_for_work',
	},
	{
		name   => 'a rollback of a receive wakes nobody',
		file   => 'queue_state.c',
		change => [ 'return effect->kind == ES_EFFECT_TAKEN;', 'return false;' ],
		tests  => '073_wait_for_work',
	},
	{
		name   => 'the end of an appender wakes nobody',
		file   => 'feed.c',
		change => [ "\tes_waiter_wake_categories(categories);\n", '' ],
		tests  => '073_wait_for_work',
	},
	{
		name   => 'who waits is woken before caches are told',
		file   => 'waiter.c',
		change => [ "\tRegisterResourceReleaseCallback(release_callback, NULL);\n", '',
			"\tif (is_committed)\n\t\treturn;\n",
			"\tif (is_committed)\n\t\trelease_callback(RESOURCE_RELEASE_AFTER_LOCKS, true, true, NULL);\n" ],
		tests  => '075_queue_preempted',
	},
	{
		name   => 'one message wakes all',
		file   => 'waiter.c',
		change => [ "\t\t\tn--;", "\t\t\t;" ],
		tests  => '073_wait_for_work',
	},
	{
		name   => 'who sleeps keeps his snapshot',
		file   => 'wait.c',
		change => [ "\t\tes_spi_drop_snapshots();\n", '' ],
		tests  => '073_wait_for_work',
	},
	{
		name   => 'notify: nobody tells of sends',
		file   => 'waiter.c',
		change => [ "\tes_watch_tell_look(id);\n", '' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: nobody tells of events',
		file   => 'waiter.c',
		change => [ "\tes_watch_tell(0, categories);\n", '' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: listeners are told again of messages that they were told of',
		file   => 'notifier.c',
		change => [ 'is_told |= news.came != entry->came ||', 'is_told |= true ||' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: listeners are told again of events that they were told of',
		file   => 'notifier.c',
		change => [ 'is_told ? 0 : entry->head', '0' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: the next scheduler takes all for told',
		file   => 'notifier.c',
		change => [ "\tadded->is_new = true;", "\tadded->is_new = false;" ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: a sender notifies by himself',
		file   => 'enqueue.c',
		change => [
			"#include \"waiter.h\"\n", "#include \"waiter.h\"\n#include \"commands/async.h\"\n",
			"\t\tes_wakeup_at_commit(nnew);", "\t\tes_wakeup_at_commit(nnew);\n\tAsync_Notify(\"work\", \"q\");"
		],
		tests => '081_notify',
	},
	{
		name   => 'notify: the scheduler waits for who has the lock of a queue',
		file   => 'notifier.c',
		change => [ 'entry->id, AccessShareLock, true)', 'entry->id, AccessShareLock, false)' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: the lock of NOTIFY is waited for',
		file   => 'notifier.c',
		change => [ '"lock_timeout", LOCK_TIMEOUT', '"lock_timeout", "0"' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: who receives says nothing of what is due next',
		file   => 'claim.c',
		change => [ "\t\tes_watch_tell_look(claim.queue.id);", "\t\t;" ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: whom the rate turned away is not told',
		file   => 'claim.c',
		change => [ "\t\tes_watch_tell(claim.queue.id, 0);", "\t\t;" ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: what is due before it is committed is not told',
		file   => 'queue_state.c',
		change => [ ' || ready->deliver_at <= es_clock_now()', '' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: a pass for each send',
		file   => 'scheduler.c',
		change => [ '#define MIN_PASS_INTERVAL (100 * 1000)', '#define MIN_PASS_INTERVAL 1' ],
		tests  => '081_notify',
	},
	{
		name   => 'notify: a copy notifies',
		file   => 'scheduler.c',
		change => [ 'store->identity == ES_IDENTITY_HERE ? es_notifier_turn(context) : 0', 'es_notifier_turn(context)' ],
		tests  => '081_notify',
	},
	{
		name   => 'any receipt is settled for whoever may call',
		file   => 'settle.c',
		change => [ "\tif (queue != NULL)\n\t\tes_use_require", "\tif (false)\n\t\tes_use_require" ],
		tests  => 'use',
	},
	{
		name   => 'what comes later of a key that was given up is handed out',
		file   => 'failed_read.c',
		change => [ 'reader->any_dead = reader->has_dead && has_rows', 'reader->any_dead = false && has_rows' ],
		tests  => 'dead_key',
	},
	{
		name   => 'what waits behind an event that is given up goes on',
		file   => 'failed_event.c',
		change => [ "\tgive_up_key(subscription, aside->tenant, aside->key, error, now);", "\t(void) give_up_key;" ],
		tests  => 'dead_key',
	},

	# ---- projections, async; message ids; rows that are written together ----
	{
		name   => 'effects of a projection outlive what failed',
		file   => 'subscription_turn.c',
		change => [ "\t\tif (error == NULL)\n\t\t\tcontinue;\n\t\tevent->is_applied = false;\n", "\t\tevent->is_applied = true;\n\t\tcontinue;\n" ],
		tests  => 'projection_async',
	},
	{
		name   => 'later events of a key that failed are applied',
		file   => 'subscription_turn.c',
		change => [ "\t\tif (must_wait(&waiting, event))\n\t\t\tcontinue;\n", '' ],
		tests  => 'rule_async projection_async',
	},
	{
		name   => 'a batch handler gets what others part',
		file   => 'projection_apply.c',
		change => [ "(apply->pending != handler || apply->n == MAX_PENDING ||", "(apply->n == MAX_PENDING ||" ],
		tests  => 'projection_async',
	},
	{
		name   => 'a batch handler that changes its array changes the events',
		file   => 'projection_apply.c',
		change => [ 'return EOHPGetRODatum(&array->hdr);', 'return EOHPGetRWDatum(&array->hdr);' ],
		tests  => 'projection_async',
	},
	{
		name   => 'a batch handler gets events of several tenants',
		file   => 'projection_apply.c',
		change => [ " || strcmp(event->tenant, es_guc_tenant) != 0))\n\t\trun_pending(apply);", "))\n\t\trun_pending(apply);" ],
		tests  => 'projection_async',
	},
	{
		name   => 'a projection has the categories of no tenant',
		file   => 'subscription_source.c',
		change => [ "\tEsQuery    *query = is_for_workers ? NULL : query_of(subscription->filter);\n\tList	   *categories = is_for_workers ? NIL : categories_of(", "\tEsQuery    *query = is_for_workers ? NULL : query_of(subscription->filter);\n\tList	   *categories = categories_of(" ],
		tests  => 'projection_async',
	},
	{
		name   => 'a switch to sync forgets what comes last',
		file   => 'projection.c',
		change => [ "CurTransactionResourceOwner);\n\tes_projection_catch_up(id, false, true);\n\t/* nobody else", "CurTransactionResourceOwner);\n\t/* nobody else" ],
		tests  => '077_projections',
	},
	{
		name   => 'a switch to async begins anew',
		file   => 'projection.c',
		change => [ 'es_subscription_begin(definition->id, es_feed_last_position(), 1);', 'es_subscription_begin(definition->id, 0, 1);' ],
		tests  => 'projection_async',
	},
	{
		name   => 'wait_for waits for no event',
		file   => 'subscription_settled.c',
		change => [ 'covered = es_checkpoint_covers(look->checkpoints[es_lane_place(lane)], position);', '(void) lane, (void) position;' ],
		tests  => 'projection_async',
	},
	{
		name   => 'wait_for is not woken',
		file   => 'subscription_settle.c',
		change => [ "\tes_waiter_wake_at_commit(-id, INT_MAX);\n", '' ],
		tests  => '079_projection_wakeup',
	},
	{
		name   => 'an append wakes no worker of a projection',
		file   => 'worker.c',
		change => [ 'wait_for(worker, all[i].definition.id, es_subscription_categories(&all[i]));', 'wait_for(worker, all[i].definition.id, 0);' ],
		tests  => '079_projection_wakeup',
	},
	{
		name   => 'an older block of ids comes back',
		file   => 'message_id.c',
		change => [ 'if (block->puts == seen)', 'if (true)' ],
		tests  => '075_queue_preempted',
	},
	{
		name   => 'what a handler appends while its history is applied comes twice',
		file   => 'projection_sync.c',
		change => [ "!projection->is_sync || projection->id == catching_up", "!projection->is_sync" ],
		tests  => 'projection_async',
	},
	{
		name   => 'what follows a dead letter is left alone',
		file   => 'subscription_turn.c',
		change => [ "\t\tif (key_waits(event))\n", "\t\tif (event->key != NULL)\n" ],
		tests  => 'projection_async',
	},
	{
		name   => 'a type that is named twice comes twice',
		file   => 'subscription_source.c',
		change => [ 'if (!is_before(subscription->filter->types, lc))', 'if (true)' ],
		tests  => 'projection_async',
	},
	{
		name   => 'a rebuild appends once more',
		file   => 'append_call.c',
		change => [ "\tif (es_cause_is_replay())\n\t\tRETURN_NO_RESULT(fcinfo);\n\tes_append(es_guc_tenant, stream, &event, 1", "\tes_append(es_guc_tenant, stream, &event, 1" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a rebuild sends once more',
		file   => 'send.c',
		change => [ "\tif (es_cause_is_replay())\n\t\tPG_RETURN_NULL();\n\tes_queue_send(get_queue(name), &message, 1);", "\tes_queue_send(get_queue(name), &message, 1);" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a rebuild may write anything',
		file   => 'redirect.c',
		change => [ 'if (is_active && !may_write(table))', 'if (is_active && false && !may_write(table))' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a rebuild inlines functions of the language SQL',
		file   => 'redirect.c',
		change => [ 'return is_active && is_sql;', 'return false && is_sql;' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a rebuild runs utility commands',
		file   => 'redirect.c',
		change => [ 'if (is_active && !is_harmless(statement->utilityStmt))', 'if (is_active && false && !is_harmless(statement->utilityStmt))' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a rebuild ends beside older snapshots',
		file   => 'projection_swap.c',
		change => [ 'if (!rebuild->is_in_place && has_older(older))', 'if (false && has_older(older))' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a rebuild does not look whether a table was altered',
		file   => 'projection_swap.c',
		change => [ "\tes_shadow_check(shadows);\n", '' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'the indexes keep the old rows',
		file   => 'projection_swap.c',
		change => [ "\t\tes_table_swap_index(pairs[i].index, pairs[i].shadow);\n", "\t\t(void) pairs[i];\n" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'the place of a rebuild is not taken',
		file   => 'projection_swap.c',
		change => [ 'es_subscription_take_place(projection->id, mine->id);', 'es_subscription_end(mine->id);' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'the definition stays the old one',
		file   => 'projection_swap.c',
		change => [ 'es_definition_replace(projection, mine->owner, mine->search_path, es_rebuild_spec(mine));', '(void) es_rebuild_spec(mine);' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'an appender with an old snapshot runs sync handlers',
		file   => 'projection_sync.c',
		change => [ 'if (projection->unseen_in == es_my_lxid())', 'if (false)' ],
		tests  => '082_rebuild projection_create',
	},
	{
		name   => 'two projections of one table are rebuilt',
		file   => 'projection_rebuild.c',
		change => [ 'if (list_member_oid(others.tables, lfirst_oid(lc2)))', 'if (false)' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'shadows stay when the extension goes',
		file   => 'shadow.c',
		change => [ "\t\tgo_with_extension(shadow->shadow_oid);\n", '' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'the grant to create shadows stays',
		file   => 'shadow.c',
		change => [ "\tif (!may_create)\n\t\tprivilege(\"REVOKE CREATE", "\tif (false)\n\t\tprivilege(\"REVOKE CREATE" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'the toast table keeps its other name',
		file   => 'projection_swap.c',
		change => [ "\t\tes_table_swap_name_toast(((EsShadow *) lfirst(lc))->table_oid);\n", "\t\t(void) lfirst(lc);\n" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a level rebuild does not say so',
		file   => 'poll.c',
		change => [ 'poll->subscription->is_rebuild ? 1 : PASSED_OVER', 'PASSED_OVER' ],
		tests  => '084_projection_kill',
	},
	{
		name   => 'default privileges give a shadow away',
		file   => 'shadow.c',
		change => [ "\t\trun_as_owner(shadow, privileges(&revokes_plan, shadow->shadow_oid, shadow->shadow));\n", "\t\t(void) privileges(&revokes_plan, shadow->shadow_oid, shadow->shadow);\n" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'fingerprints follow the session',
		file   => 'shadow.c',
		change => [ "\t\t(void) set_config_option(pinned[i].name", "\t\tif (false)\n\t\t\t(void) set_config_option(pinned[i].name" ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a projection may write the tables of a rebuild',
		file   => 'projection.c',
		change => [ "\tes_rebuild_refuse_tables(name, spec, GetUserNameFromId(GetUserId(), false), namespace_search_path);\n", '' ],
		tests  => '082_rebuild',
	},
	{
		name   => 'a worker takes the handlers before the lock',
		file   => 'subscription_turn.c',
		change => [ "\t(void) es_subscription_lock(id, AccessShareLock);\n\tturn.target = user->find(id);\n", "\tturn.target = user->find(id);\n" ],
		tests  => '084_projection_kill',
	},
	{
		name   => 'who begins behind everything after a crash makes no leap',
		file   => 'feed.c',
		change => [ "\tif (pg_atomic_read_u32(&store->needs_leap) != 0)\n\t\tes_feed_leap(store, sequence);\n\treturn es_feed_last_allocated();", "\treturn es_feed_last_allocated();" ],
		tests  => '077_projections',
	},
	{
		name   => 'a rebuild worker that comes late finds a failure',
		file   => 'rebuilder.c',
		change => [ '|| !still_there(turn))', '|| (false && !still_there(turn)))' ],
		tests  => '083_rebuild_load',
	},
	{
		name   => 'appends go on at the end of a rebuild of a sync projection',
		file   => 'projection_swap.c',
		change => [
			"\tif (is_locked)\n\t\tes_lock_relation(", "\tif (false)\n\t\tes_lock_relation(",
			"\t\t\tshadows = es_rebuild_read(mine)->shadows;\n", "\t\t\tpg_usleep(10000);\n\t\t\tshadows = es_rebuild_read(mine)->shadows;\n"
		],
		tests => '083_rebuild_load',
	},
	{
		name     => 'the delay of the one before, with the lock on appends',
		file     => 'projection_swap.c',
		harmless => 1,
		change   => [ "\t\t\tshadows = es_rebuild_read(mine)->shadows;\n", "\t\t\tpg_usleep(10000);\n\t\t\tshadows = es_rebuild_read(mine)->shadows;\n" ],
		tests    => '083_rebuild_load',
	},
	# ---- rules ----
	{
		name   => 'numbers of a template go through double',
		file   => 'template.c',
		change => [ "\tif (!field_of(placeholder, event->data, value))\n\t\t\t\tvalue->type = jbvNull;\n", "\tif (!field_of(placeholder, event->data, value))\n\t\t\t\tvalue->type = jbvNull;\n\t\t\telse if (value->type == jbvNumeric)\n\t\t\t\tvalue->val.numeric = DatumGetNumeric(DirectFunctionCall1(float8_numeric, DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric))));\n" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'an escape is a placeholder',
		file   => 'template.c',
		change => [ "if (end - c >= 3 && memcmp(c, \"\$\${\", 3) == 0)", "if (false)" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'a string of one placeholder is text',
		file   => 'template.c',
		change => [ "\t\ttemplate->kind = KIND_VALUE;\n", "\t\ttemplate->kind = KIND_TEXT;\n" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'a negative index counts from the beginning',
		file   => 'placeholder.c',
		change => [ "index < 0 ? (int64) JsonContainerSize(container) + index : index", "index < 0 ? -index : index" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'the transform of the headers is left out',
		file   => 'rule_apply.c',
		change => [ "\tif (rule->transform.headers == NULL)\n\t\treturn;\n", "\tif (rule->transform.headers != NULL || true)\n\t\treturn;\n" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'two rules to one queue send rule by rule',
		file   => 'rule_sync.c',
		change => [ "\tfor (int p = 0; p < nparts; p++)\n\t\tfor (int i = 0; i < parts[p].n; i++)\n\t\t{\n\t\t\tListCell   *lc;\n\n\t\t\tforeach(lc, rules)\n\t\t\t{\n", "\tListCell   *lc;\n\n\tforeach(lc, rules)\n\t\tfor (int p = 0; p < nparts; p++)\n\t\t{\n\t\t\tfor (int i = 0; i < parts[p].n; i++)\n\t\t\t{\n" ],
		tests  => 'rule',
	},
	{
		name   => 'a function of a rule runs as the appender',
		file   => 'rule_sync.c',
		change => [ "\t\t\t\tes_spi_become(&state, rule->owner, rule->search_path);\n", '', "\tes_spi_unbecome(&state);\n", '' ],
		tests  => 'rule_transform',
	},
	{
		name   => 'functions of rules run before projections',
		file   => 'evtstore.c',
		change => [ "\tes_projection_init();\n\tes_rule_init_functions();\n", "\tes_rule_init_functions();\n\tes_projection_init();\n" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'a rule acts on what is imported',
		file   => 'rule_sync.c',
		change => [ "\t/* what is imported was acted upon where it happened */\n\tif (es_append_is_history())", "\tif (false)" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'who may not run the owner\'s function alters the rule',
		file   => 'rule.c',
		change => [ "if ((rule.kind == ES_RULE_FUNCTION || rule.kind == ES_RULE_SAGA) && !has_privs_of_role(GetUserId(), owner))", "if (false)" ],
		tests  => 'rule_transform',
	},
	{
		name   => 'an async rule begins at the beginning',
		file   => 'rule.c',
		change => [ "es_subscription_begin(id, es_feed_head(ES_FEED_ALL_CATEGORIES), lanes_of(&rule));", "es_subscription_begin(id, 0, lanes_of(&rule));" ],
		tests  => 'rule_async',
	},
	{
		name   => 'a message of an async rule is of no tenant',
		file   => 'rule_work.c',
		change => [ "&((RuleEvent *) events[i])->event, events[i]->tenant);", "&((RuleEvent *) events[i])->event, NULL);" ],
		tests  => 'rule_async',
	},
	{
		name   => 'a function of an async rule runs under no tenant',
		file   => 'rule_work.c',
		change => [ "if (strcmp(events[i]->tenant, es_guc_tenant) != 0)", "if (false)" ],
		tests  => 'rule_async',
	},
	{
		name   => 'messages are not sent with the acknowledgement',
		file   => 'subscription_turn.c',
		change => [ "\tes_turn_acknowledge(&turn);\n\t}\n\telse if", "\tPopActiveSnapshot();\n\t\tCommitTransactionCommand();\n\t\tStartTransactionCommand();\n\t\tPushActiveSnapshot(GetTransactionSnapshot());\n\t\tMemoryContextSwitchTo(turn_context);\n\t\tes_turn_acknowledge(&turn);\n\t}\n\telse if" ],
		tests  => '085_rules 084_projection_kill',
	},
	{
		name   => 'a sync projection does not hide the rule of its name',
		file   => 'subscription.c',
		change => [ "if (subscription == NULL && es_definition_find(\"projection\", name) == NULL)", "if (subscription == NULL)" ],
		tests  => 'rule_async',
	},
	{
		name   => 'an altered rule does not wait for its worker',
		file   => 'rule.c',
		change => [ "\t(void) es_subscription_lock(id, AccessExclusiveLock);\n\tes_lanes_forget(id);\n", "\tes_lanes_forget(id);\n" ],
		tests  => 'rule_async',
	},
	# ---- transport/libs: RabbitMQ ----
	{
		name   => 'amqp: what the broker sends back counts as delivered',
		file   => 'transport/libs/amqp_worker.c',
		change => [ 'flight(job)->returned = event->code;', ';' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: a confirm of several is one of the last',
		file   => 'transport/libs/amqp_worker.c',
		change => [ 'if (about->tag != event->tag && !event->multiple)', 'if (about->tag != event->tag)' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: what was not confirmed counts as delivered',
		file   => 'transport/libs/amqp_worker.c',
		change => [ 'finish(worker, job, ES_OUTCOME_RETRY, 0, text, detail);', 'finish(worker, job, ES_OUTCOME_DELIVERED, 0, text, detail);' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: connection.blocked is not looked at',
		file   => 'transport/libs/amqp_worker.c',
		change => [ 'worker->blocked = true;', ';' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: what was queued when the broker was blocked is sent',
		file   => 'transport/libs/amqp_worker.c',
		change => [ "\t\t\ttake_back(worker);\n", '' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: what was queued when the broker was blocked is sent, and once more',
		file   => 'transport/libs/amqp_encode.c',
		change => [ 'connection->out_last -= Min(connection->queued - from, connection->out_last - connection->out_first);', ';' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: tags count what was taken back',
		file   => 'transport/libs/amqp_worker.c',
		change => [ 'worker->next_tag = flight(unsent.first)->tag;', ';' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: a connection that is blocked is given up',
		file   => 'transport/libs/amqp_worker.c',
		change => [ 'if (!worker->blocked && now >= job->deadline &&', 'if (now >= job->deadline &&' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: no heartbeats',
		file   => 'transport/libs/amqp_wire.c',
		change => [ 'now >= connection->last_sent + connection->heartbeat / 2 &&', 'false &&' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: a silent broker is waited for',
		file   => 'transport/libs/amqp_wire.c',
		change => [ 'if (now >= connection->last_received + 2 * connection->heartbeat)', 'if (false)' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: any address is connected to',
		file   => 'transport/libs/thread.c',
		change => [ 'if (!host->address_allowed(address->ai_addr, allowed_networks, plain_text))', 'if (false)' ],
		tests  => '087_rabbitmq',
	},
	{
		name   => 'amqp: certificates of any name',
		file   => 'transport/libs/tls.c',
		change => [ "\tif (!verify)\n\t\treturn true;\n", "\treturn true;\n" ],
		tests  => '087_rabbitmq',
	},

	# ---- transport/libs/kafka*.c ----
	{
		name   => 'kafka: several requests on their way to a broker',
		file   => 'transport/libs/kafka_settings.c',
		change => [ qq(\t{"max.in.flight", "1"},\n), '' ],
		tests  => '086_kafka',
	},
	{
		name   => 'kafka: the producer is not idempotent',
		file   => 'transport/libs/kafka_settings.c',
		change => [ '{"enable.idempotence", "true"}', '{"enable.idempotence", "false"}' ],
		tests  => '086_kafka',
	},
	{
		name   => 'kafka: what is refused passes for delivered',
		file   => 'transport/libs/kafka_report.c',
		change => [ 'kafka_order_finish(flight, ES_OUTCOME_RETRY, rd_kafka_err2str(code), flight->message->topic);', 'kafka_order_finish(flight, ES_OUTCOME_DELIVERED, "", NULL);' ],
		tests  => '086_kafka',
	},
	{
		name   => 'kafka: what was sent passes for not sent',
		file   => 'transport/libs/kafka_report.c',
		change => [ "\tif (!was_not_sent)\n", "\tif (false)\n" ],
		tests  => '086_kafka',
	},

	# ---- transport/libs/nats*.c ----
	{
		name   => 'nats: messages go out without their id',
		file   => 'transport/libs/nats_wire.c',
		change => [ 'NATS/1.0\r\nNats-Msg-Id: %s\r\n", message->id);', 'NATS/1.0\r\nNats-Msg-No: %s\r\n", message->id);' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: what was sent when the connection ended passes for delivered',
		file   => 'transport/libs/nats.c',
		change => [ 'finish(link, slot, ES_OUTCOME_RETRY, 0, "the connection ended', 'finish(link, slot, ES_OUTCOME_DELIVERED, 0, "the connection ended' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: an answer to an earlier message is taken',
		file   => 'transport/libs/nats_message.c',
		change => [ 'slot->message == NULL || slot->turn != turn ||', 'slot->message == NULL ||' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: whatever is answered is an acknowledgement',
		file   => 'transport/libs/nats_message.c',
		change => [ 'else if (nats_json_get(body, body_len, "stream", &value, &value_len) && nats_json_get(body, body_len, "seq", &value, &value_len))', 'else if (true)' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: events may command the server',
		file   => 'transport/libs/nats_config.c',
		change => [ "if ((subject[0] == '\$' && strncmp(subject, \"\$KV.\", 4) != 0) ||", 'if (' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: subjects may have line breaks',
		file   => 'transport/libs/nats_config.c',
		change => [ "(unsigned char) subject[i] <= ' ' ||", "subject[i] == ' ' ||" ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: whoever has a certificate is who it says',
		file   => 'transport/libs/nats_stream.c',
		change => [ ': SSL_set1_host(ssl, server_name) != 1 ||', ': false ||' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: certificates are not looked at',
		file   => 'transport/libs/nats_config.c',
		change => [ 'config->tls_verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE', 'SSL_VERIFY_NONE' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: what is said before TLS is listened to after it',
		file   => 'transport/libs/nats_stream.c',
		change => [ "\tif (nats_buffer_len(&stream->in) > 0 &&\n\t\tBIO_write", "\tif (false &&\n\t\tBIO_write", "\tnats_buffer_take(&stream->in, nats_buffer_len(&stream->in));\n\treturn decipher", "\treturn decipher" ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: a silent server is waited for',
		file   => 'transport/libs/nats.c',
		change => [ 'if (link->next_deadline >= 0 && now >= link->next_deadline)', 'if (false)' ],
		tests  => '088_nats',
	},
	{
		name   => 'nats: a full stream is the fault of the message',
		file   => 'transport/libs/nats_message.c',
		change => [ "\t\tcase JS_STORE_FAILED:\t/* the stream is full, too */\n", "", "\t\tcase JS_HEADERS_TOO_LARGE:\n", "\t\tcase JS_HEADERS_TOO_LARGE:\n\t\tcase JS_STORE_FAILED:\n" ],
		tests  => '088_nats',
	},
	# ---- endpoints: secrets, envelopes, CloudEvents ----
	{
		name   => 'secret: a url moves it to another host',
		file   => 'endpoint.c',
		change => [ "\tif (superuser() ||\n\t\t!es_endpoint_moves_secrets(", "\tif (superuser() || true ||\n\t\t!es_endpoint_moves_secrets(" ],
		tests  => 'endpoint_secret',
	},
	{
		name   => 'secret: whoever may alter an endpoint sets client and tls',
		file   => 'endpoint.c',
		change => [ "\tif (superuser())\n\t\treturn;\n", "\treturn;\n" ],
		tests  => 'endpoint',
	},
	{
		name   => 'secret: the log has the statement',
		file   => 'endpoint_secret.c',
		change => [ 'edata->hide_stmt = true;', ';' ],
		tests  => '089_formats',
	},
	{
		name   => 'secret: a restored endpoint does not wait for it',
		file   => 'relay_target.c',
		change => [ 'if (endpoint->missing_secret != NULL)', 'if (false)' ],
		tests  => '089_formats',
	},
	{
		name   => 'secret: only the newest signs',
		file   => 'envelope_sign.c',
		change => [ 'for (int i = 0; i < endpoint->nsigning; i++)', 'for (int i = 0; i < Min(endpoint->nsigning, 1); i++)' ],
		tests  => '089_formats',
	},
	{
		name   => 'CloudEvent: the id alone decides the uuid',
		file   => 'cloudevent_call.c',
		change => [ "\t\t\tpg_cryptohash_update(context, (const uint8 *) source, strlen(source) + 1) < 0 ||\n", '' ],
		tests  => 'cloudevent',
	},
	{
		name   => 'CloudEvent: a media type ends its header',
		file   => 'cloudevent.c',
		change => [ "if (*c < ' ' || *c >= 0x7f)\n\t\t\t\treturn;", "if (false)\n\t\t\t\treturn;" ],
		tests  => 'cloudevent',
	},
	{
		name   => 'CloudEvent: percent signs go out as they are',
		file   => 'envelope.c',
		change => [
			"while (*c > ' ' && *c < 0x7f && *c != '\"' && *c != '%')", "while (*c > ' ' && *c < 0x7f && *c != '\"')",
			"if (*c > ' ' && *c < 0x7f && *c != '\"' && *c != '%')",    "if (*c > ' ' && *c < 0x7f && *c != '\"')"
		],
		tests => '089_formats',
	},
	{
		name   => 'CloudEvent: NATS has attributes as they are',
		file   => 'envelope.c',
		change => [ 'letter->binding == ES_BINDING_HTTP || letter->binding == ES_BINDING_NATS', 'letter->binding == ES_BINDING_HTTP' ],
		tests  => '089_formats',
	},
	{
		name   => 'CloudEvent: AMQP has attributes as HTTP has them',
		file   => 'envelope.c',
		change => [ 'letter->binding == ES_BINDING_HTTP || letter->binding == ES_BINDING_NATS', 'letter->binding != ES_BINDING_KAFKA' ],
		tests  => '089_formats',
	},
	{
		name   => 'CloudEvent: AMQP has names of extensions as HTTP has them',
		file   => 'envelope.c',
		change => [ '[ES_BINDING_AMQP] = "cloudEvents:"', '[ES_BINDING_AMQP] = "ce-"' ],
		tests  => '089_formats',
	},

	# ---- another database ----
	{
		name   => 'database: what is behind a message that failed goes on',
		file   => 'transport/libs/postgresql_worker.c',
		change => [ 'if (job->key != NULL && (uint64) (uintptr_t) job->outcome.data < *failure_of(worker, job))', 'if (false)' ],
		tests  => '095_postgresql_endpoint',
	},
	{
		name   => 'database: what was lost together is charged together',
		file   => 'transport/libs/postgresql_worker.c',
		change => [ 'n > 1 ? ES_OUTCOME_UNAVAILABLE : ES_OUTCOME_RETRY', 'ES_OUTCOME_RETRY' ],
		tests  => '095_postgresql_endpoint',
	},
	{
		name   => 'database: what the inbox knows is sent once more',
		file   => 'accept.c',
		change => [ "		if (!incoming[i].is_first)\n			continue;\n		nmessages++;\n", "		nmessages++;\n" ],
		tests  => 'accept_events 095_postgresql_endpoint',
	},
	{
		name   => 'database: the inbox forgets that an event was here',
		file   => 'accept.c',
		change => [ "		/* it was here, and is deleted */\n		if (!incoming[i].is_first)\n			continue;\n", '' ],
		tests  => 'accept_events',
	},
	{
		name   => 'database: the environment says the password',
		file   => 'transport/libs/postgresql.c',
		change => [ "	es_pg_forget_environment();\n", '' ],
		tests  => '095_postgresql_endpoint',
	},

	# ---- delivery to the outside: relay*.c, deliver.c, transport/ ----
	{
		name   => 'an event that fails again is not given back',
		file   => 'deliver.c',
		change => [ "\t\t\tpolled->receipts[i].is_done = false;\n", "" ],
		tests  => '093_outbox_sql',
	},
	{
		name   => 'the breaker never opens',
		file   => 'relay_target.c',
		change => [ "\ttarget->breaker = ES_BREAKER_OPEN;\n\ttarget->not_before", "\ttarget->not_before" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'a half open breaker lets all through',
		file   => 'relay_target.c',
		change => [ "(target->breaker == ES_BREAKER_HALF_OPEN ? 1 : target->endpoint->max_in_flight)", "target->endpoint->max_in_flight" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'probes cost attempts',
		file   => 'relay_target.c',
		change => [ "if (target->breaker == ES_BREAKER_CLOSED || (out->status", "if (true || (out->status" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'an endpoint that is not there costs attempts',
		file   => 'relay_target.c',
		change => [ "if (out->status != 0 && target->successes > parcel->seen", "if (true || target->successes > parcel->seen" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'Retry-After is ignored',
		file   => 'relay_target.c',
		change => [ "if (out->outcome != ES_OUTCOME_DELIVERED && out->retry_after_ms > 0)", "if (false)" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'the rate of an endpoint is ignored',
		file   => 'relay_target.c',
		change => [ "&& es_rate_room(&target->rate, target->endpoint->rate, now) < 1)\n\t\t\tbreak;", "&& false)\n\t\t\tbreak;" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'a restart forgets that an endpoint is gone',
		file   => 'relay.c',
		change => [ "if (!es_definition_try_state(\"endpoint\", name, ES_DEFINITION_PAUSED))", "if (false)" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'the relay waits for who has an endpoint that is gone',
		file   => 'relay.c',
		change => [ "if (!es_definition_try_state(\"endpoint\", name, ES_DEFINITION_PAUSED))",
			"if (es_definition_set_state(\"endpoint\", name, ES_DEFINITION_PAUSED), false)" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'an endpoint that was gone is not tried again when it could not be disabled',
		file   => 'relay.c',
		change => [ "\t\t\tagain = true;\n\t\t\tcontinue;\n\t\t}\n\t\tereport", "\t\t\tcontinue;\n\t\t}\n\t\tereport" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'an answer from before reset_breaker() disables the endpoint after it',
		file   => 'relay_target.c',
		change => [ "\ttarget->is_gone = false;\n", "" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'a request from before reset_breaker() disables the endpoint after it',
		file   => 'relay_target.c',
		change => [ "target->is_gone |= parcel->submitted_at > target->reset_at;", "target->is_gone = true;" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'other networks leave connections open',
		file   => 'relay.c',
		change => [ "if (networks_changed)\n\t{\n\t\tfor (EsTarget *target = es_target_first(); target != NULL; target = target->next)\n\t\t\ttarget->is_leaving = true;", "if (networks_changed)\n\t{" ],
		tests  => '091_ssrf',
	},
	{
		name   => 'a relay that has to go waits for receivers',
		file   => 'relay.c',
		change => [ "#define LEAVE_TIME (2 * USECS_PER_SEC)", "#define LEAVE_TIME (60 * USECS_PER_SEC)" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'events of a key go out at the same time',
		file   => 'relay_claim.c',
		change => [ "(is_first || keeps_order))", "(true || is_first || keeps_order))" ],
		tests  => '090_outbox_http',
	},
	{
		name   => 'what is behind an event that blocks goes on',
		file   => 'relay_route.c',
		change => [ "\t\t\tif (behind->was_taken_back)\n\t\t\t\twithdraw(behind);", "\t\t\t;" ],
		tests  => '092_delivery_policy',
	},
	{
		name   => 'a rule waits for each answer',
		file   => 'relay_away.c',
		change => [ "if (parcel->submitted_at + PATIENCE > now)", "if (true)" ],
		tests  => '096_rule_endpoints',
	},
	{
		name   => 'a long stream keeps its lane of a rule',
		file   => 'relay_away.c',
		change => [ "return parcel->route->is_computed && parcel->batch->claimed_at + MAX_HOLD <= now;", "return false;" ],
		tests  => '096_rule_endpoints',
	},
	{
		name   => 'an answer that comes late is forgotten',
		file   => 'relay_away.c',
		change => [ "parcel->is_void || !es_route_is_to_settle(parcel) ?", "true ?" ],
		tests  => '096_rule_endpoints',
	},
	{
		name   => 'what is out and put off goes out a second time',
		file   => 'relay_away.c',
		change => [ "\t\t\t\tunder_way = away;", "\t\t\t\t;" ],
		tests  => '096_rule_endpoints',
	},
	{
		name   => 'no address is refused',
		file   => 'transport/libs/http_request.c',
		change => [ "!link->core->address_allowed(&address->addr, link->pool->networks, link->plain_text)", "false" ],
		tests  => '091_ssrf',
	},
	{
		name   => 'a proxy of the environment is used',
		file   => 'transport/libs/http_request.c',
		change => [ "SET(CURLOPT_PROXY, link->proxy != NULL ? link->proxy : \"\");", "if (link->proxy != NULL)\n\t\tSET(CURLOPT_PROXY, link->proxy);" ],
		tests  => '091_ssrf',
	},
	{
		name   => 'a certificate may be anybody\'s',
		file   => 'transport/libs/http_request.c',
		change => [ "link->verify ? 2L : 0L", "0L" ],
		tests  => '091_ssrf',
	},
	{
		name   => 'NAT64 goes around the list',
		file   => 'transport/address.c',
		change => [ "(memcmp(address->bytes, mapped, 12) != 0 && memcmp(address->bytes, nat64, 12) != 0)", "memcmp(address->bytes, mapped, 12) != 0" ],
		tests  => '091_ssrf',
	},
	# ---- definitions of sagas: asl_check.c, asl_class.c, asl_text.c, saga_version.c ----
	{
		name   => 'saga definitions: a branch is left by Next',
		file   => 'asl_check.c',
		change => [ "if (definition->by_name[i]->machine == machine)", "if (true)" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: a loop may have no end',
		file   => 'asl_check.c',
		change => [ "	check_ends(definition, is_open, faults);\n}", "	(void) is_open;\n	(void) check_ends;\n}" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: items of a Map one after the other',
		file   => 'asl_class.c',
		change => [ "if (j != i || state->type == ES_ASL_MAP)", "if (j != i)" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: branches know nothing of each other',
		file   => 'asl_class.c',
		change => [ "if (j != i || state->type == ES_ASL_MAP)", "if (state->type == ES_ASL_MAP)" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: a Task that failed is done',
		file   => 'asl_class.c',
		change => [ "unsigned	caught = entered;", "unsigned	caught = left;" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: a Catch knows nothing of what branches did',
		file   => 'asl_class.c',
		change => [ "caught |= effects->inside[state->branches[j]->number];", ";" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: a failure behind the pivot is nobody\'s',
		file   => 'asl_class.c',
		change => [ "has(entered, PIVOT) && !is_caught(state))", "has(entered, PIVOT) && false)" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga definitions: fields there twice are not seen',
		file   => 'asl_text.c',
		change => [ "if (strcmp(lfirst(lc), name) == 0)", "if (false)" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga versions: the same content is another version',
		file   => 'saga_version.c',
		change => [ "if (existing != NULL)\n\t\tversion = run_int(&equal_plan, values);", "if (false)\n\t\tversion = run_int(&equal_plan, values);" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga versions: the hash is not looked at again',
		file   => 'saga_version.c',
		change => [ "entry->hash == NULL || VARSIZE(hash) != VARSIZE(entry->hash) || memcmp(hash, entry->hash, VARSIZE(hash)) != 0", "entry->hash == NULL" ],
		tests  => 'saga_definition saga_define',
	},
	{
		name   => 'saga versions: the name is not locked',
		file   => 'saga_version.c',
		change => [ "\tes_definition_lock(\"saga\", name);\n\tAcceptInvalidationMessages();\n\texisting", "\texisting" ],
		tests  => 'saga_define',
	},
	{
		name   => 'saga versions: anybody defines one of another\'s saga',
		file   => 'saga_version.c',
		change => [ "if (existing != NULL)\n\t\tes_saga_version_require_owner(existing);", ";" ],
		tests  => 'saga_definition',
	},
	{
		name   => 'saga versions: functions are looked at as who calls',
		file   => 'saga_version.c',
		change => [ "existing == NULL ? GetUserId() : get_role_oid(existing->owner, true), &faults", "GetUserId(), &faults" ],
		tests  => 'saga_definition',
	},
	# ---- steps that an endpoint takes ----
	{
		name   => 'endpoint step: what was taken is forgotten',
		file   => 'settle.c',
		change => [ "\t\tend.output = answer_document(status, body);\n\t\t(void) es_queue_tell_command_ended(&command, &end);\n", "\t\tend.output = answer_document(status, body);\n" ],
		tests  => '101_saga_endpoints',
	},
	{
		name   => 'endpoint step: a late answer is nobody\'s',
		file   => 'settle.c',
		change => [ 'if (parsed.is_busy || (parsed.stale != NULL && is_outside))', 'if (parsed.is_busy)' ],
		tests  => '101_saga_endpoints',
	},
	{
		name   => 'endpoint step: a refusal is tried again',
		file   => 'saga_answer.c',
		change => [ 'ending.is_final = !end->is_pushed || end->is_rejected;', 'ending.is_final = !end->is_pushed;' ],
		tests  => '101_saga_endpoints',
	},
	{
		name   => 'endpoint step: each attempt has an id of its own',
		file   => 'envelope.c',
		change => [ 'letter->id = is_command(delivery, source_name) ?', 'letter->id = false ?' ],
		tests  => '101_saga_endpoints',
	},
	{
		name   => 'endpoint step: anybody sends there',
		file   => 'enqueue.c',
		change => [ ' || (queue->is_for_steps && !messages[0].is_command)', '' ],
		tests  => '101_saga_endpoints',
	},
	{
		name   => 'endpoint step: the endpoint goes while steps wait',
		file   => 'endpoint.c',
		change => [ 'if (has_messages(user->id))', 'if (false)' ],
		tests  => '101_saga_endpoints',
	},
	# ---- semantic locks: saga_lock.c ----
	{
		name   => 'semantic lock: two have it',
		file   => 'saga_lock.c',
		change => [ '*is_held = number == 1;', '*is_held = number >= 1;' ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: circles are not looked for',
		file   => 'saga_lock.c',
		change => [ 'if (closes_circle(move, step, number))', 'if (false)' ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: only who has one is waited for',
		file   => 'saga_lock.c',
		change => [ 'l.resource = r.resource AND l.number < r.number LIMIT 1', 'l.resource = r.resource AND l.held_since IS NOT NULL LIMIT 1' ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: waits are not looked at one after the other',
		file   => 'saga_lock.c',
		change => [ 'if (!es_lock_try(ES_LOCK_SEMANTIC_WAITS', 'if (false && !es_lock_try(ES_LOCK_SEMANTIC_WAITS' ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: nobody is told that it is his',
		file   => 'saga_lock.c',
		change => [ "\t\tes_arrival_leave_lock(&place->saga,", "\t\tif (place->seq < 0)\n\t\t\tes_arrival_leave_lock(&place->saga," ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: who waited in vain stays in the queue',
		file   => 'saga_task.c',
		change => [ 'if (ES_WAITS_FOR_LOCK(step) && !step->has_lock)', 'if (false)' ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: it is free while its holder is undone',
		file   => 'saga_lock.c',
		change => [ '(move->has_left_lock || ES_SAGA_HAS_ENDED(move->saga.status)))', '(move->has_left_lock || move->saga.status != ES_SAGA_RUNNING))', "	if (ES_SAGA_HAS_ENDED(move->saga.status))\n\t\treturn true;\n\tif (place->seq", "	if (move->saga.status != ES_SAGA_RUNNING)\n\t\treturn true;\n\tif (place->seq" ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: what could not be given back is left',
		file   => 'saga_lock.c',
		change => [ 'if (!is_complete)', 'if (false)' ],
		tests  => 'saga_lock',
	},
	{
		name   => 'semantic lock: one that several steps wait for begins one of them',
		file   => 'saga_lock.c',
		change => [ 'run(is_first ? &hold_plan : &delete_plan, values);', "if (!is_first)\n\t\t\tbreak;\n\t\trun(&hold_plan, values);" ],
		tests  => 'saga_lock',
	},
	# ---- signs of life: saga_heartbeat.c ----
	{
		name   => 'heartbeat: extend is no sign of life',
		file   => 'queue_state.c',
		change => [ "\t\tentry->alive = now;\n", '' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'heartbeat: to receive is no sign of life',
		file   => 'queue_entry.c',
		change => [ "\tentry->alive = take->now;\n", '' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'heartbeat: the end of a lease is the end of who had it',
		file   => 'queue_state.c',
		change => [ 'entry->state == ENTRY_HELD || entry->hold.epoch != 0)', 'entry->state == ENTRY_HELD)' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'heartbeat: a command that nobody has is silent',
		file   => 'saga_heartbeat.c',
		change => [ 'heard == 0 ? move->now : heard', 'heard' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'heartbeat: a sign of life is for ever',
		file   => 'saga_heartbeat.c',
		change => [ ', step->deadline);', ', DT_NOEND);' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'heartbeat: a look is news',
		file   => 'saga_heartbeat.c',
		change => [ 'es_step_write_later(move, step)', 'es_step_change(move, step)' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'heartbeat: nobody is told to stop',
		file   => 'saga_answer.c',
		change => [ 'return step != NULL && (step->status == ES_STEP_UNKNOWN ||', 'return step != NULL && step->seq < 0 && (step->status == ES_STEP_UNKNOWN ||' ],
		tests  => '101_saga_heartbeat',
	},
	{
		name   => 'sagas past: the first word on a step is the last one',
		file   => 'saga_past.c',
		change => [ '" ORDER BY t.seq, t.version DESC)"', '" ORDER BY t.seq, t.version)"' ],
		tests  => 'saga_see',
	},
	{
		name   => 'sagas past: a change of a step is not told',
		file   => 'saga_task.c',
		change => [ "\tstep->is_told = true;\n\tes_step_write_later", "\tstep->is_told |= step->is_new;\n\tes_step_write_later" ],
		tests  => 'saga_see 103_saga_past',
	},
	{
		name   => 'sagas past: an undo is told as a task',
		file   => 'saga_move.c',
		change => [ "if (step->kind != ES_STEP_TASK)\n", "if (step->kind != ES_STEP_TASK && step->kind != ES_STEP_UNDO)\n" ],
		tests  => 'saga_see',
	},
	{
		name   => 'sagas past: new names of states are not told',
		file   => 'saga_migrate.c',
		change => [ "\t\tstep->is_told = true;\n", "" ],
		tests  => 'saga_see',
	},
	{
		name   => 'sagas past: events that are hidden are folded',
		file   => 'saga_past.c',
		change => [ "Int64GetDatum(state.truncate_before), Int64GetDatum(last)", "Int64GetDatum(1), Int64GetDatum(last)", "!begins_with_start(stream, state.truncate_before)", "!begins_with_start(stream, 1)" ],
		tests  => 'saga_see',
	},
	{
		name   => 'sagas: of a Retry that is spent it is said that it goes on',
		file   => 'saga_why_next.c',
		change => [ "used_tries(step, retrier)) >= 0)\n", "0) >= 0)\n" ],
		tests  => 'saga_see',
	},
	{
		name   => 'sagas: what somebody has is said to be in the queue',
		file   => 'saga_why_message.c',
		change => [ "place->held_until = until[i];", ";" ],
		tests  => 'saga_see',
	},
	{
		name   => 'saga children: the time of one is over at once, though it still undoes',
		file   => 'saga_task.c',
		change => [ "if (es_child_take_back(move, step, NULL, ES_ASL_TIMEOUT, &ending))", "(void) es_child_take_back(move, step, NULL, ES_ASL_TIMEOUT, &ending);" ],
		tests  => 'saga_child',
	},
	{
		name   => 'saga children: what has passed its pivot is taken back',
		file   => 'saga_child.c',
		change => [ "if (request->compensates && saga->has_pivot &&", "if (false &&" ],
		tests  => 'saga_child',
	},
	{
		name   => 'saga children: a busy parent is not told',
		file   => 'saga_child.c',
		change => [ "es_arrival_leave(&child->parent_id, child->tenant, child->parent_parent, child->parent_seq, &ending);", ";" ],
		tests  => 'saga_parent',
	},
	{
		name   => 'saga children: a busy child is not taken back',
		file   => 'saga_child.c',
		change => [ "case ES_SAGA_BUSY:\n\t\t\tes_arrival_leave_take_back(&id, move->saga.tenant, &request);", "case ES_SAGA_BUSY:" ],
		tests  => 'saga_parent',
	},
	{
		name   => 'saga unwinding: a thread passes a Parallel whose branches are not through',
		file   => 'saga_unwind.c',
		change => [ "if (container->open > 0)\n\t\treturn false;", ";" ],
		tests  => 'saga_child',
	},
	{
		name   => 'saga unwinding: branches are undone one after the other',
		file   => 'saga_unwind.c',
		change => [ "es_branches_at_once(move, container));", "1);" ],
		tests  => 'saga_child',
	},
	{
		name   => 'saga unwinding: a scope goes on before it is undone',
		file   => 'saga_branch.c',
		change => [ "&& !es_undo_scope(move, container))", "&& (es_undo_scope(move, container), false))" ],
		tests  => 'saga_child',
	},
	{
		name   => 'saga unwinding: a saga that is stuck in one branch is stuck in all',
		file   => 'saga_move.c',
		change => [ "if (move->saga.status == ES_SAGA_STUCK && es_saga_goes_on(&move->saga))", "if (false)" ],
		tests  => 'saga_child',
	},
	{
		name   => 'saga unwinding: a branch behind the pivot fails what it is in',
		file   => 'saga_task.c',
		change => [ "(!move->saga.has_pivot || es_branch_is_guarded(move, at.branch, ending->error))", "(true || es_branch_is_guarded(move, at.branch, ending->error))" ],
		tests  => 'saga_child',
	},
	{
		name   => 'sagas: a command that was just made is taken for a function whose time has come',
		file   => 'saga_task.c',
		change => [ "else if (step->queue_id == 0 && step->kind == ES_STEP_TASK", "else if (step->message_id == 0 && step->kind == ES_STEP_TASK" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'sagas: a late success of what one is stuck at is only written down',
		file   => 'saga_late.c',
		change => [ "is_open_pivot || stop != NULL ||", "is_open_pivot ||" ],
		tests  => 'saga_stuck',
	},
	{
		name   => 'sagas: what one is stuck at is begun anew, with another key',
		file   => 'saga_task.c',
		change => [ "es_saga_stopped_at(&move->saga, stop);\n\tEsNext\t\tat = {", "NULL;\n\tEsNext\t\tat = {" ],
		tests  => 'saga_stuck',
	},
	{
		name   => 'sagas: an earlier stop is taken for what one is stuck at',
		file   => 'saga_step.c',
		change => [ "kind NOT IN ('start', 'undo', 'stop', 'branch')", "kind NOT IN ('start', 'undo', 'branch')" ],
		tests  => 'saga_stuck',
	},
	{
		name   => 'sagas: a step whose output is of no use is done again',
		file   => 'saga_task.c',
		change => [ "else if (step->status == ES_STEP_DONE || step->status == ES_STEP_SKIPPED)\n\t\t/*", "else if (false)\n\t\t/*" ],
		tests  => 'saga_stuck',
	},
	{
		name   => 'sagas: one that ends again frees the key of another',
		file   => 'saga_row.c',
		change => [ "key = \$4 AND saga_id = \$5", "key = \$4 AND \$5 IS NOT NULL" ],
		tests  => 'saga_stuck',
	},
	{
		name   => 'sagas: undone in the order of ending',
		file   => 'saga_step.c',
		change => [ "status IN ('done', 'unknown')\"\n\t\" ORDER BY ended DESC", "status IN ('done', 'unknown')\"\n\t\" ORDER BY ended" ],
		tests  => '098_saga_kill',
	},
	{
		name   => 'sagas: each attempt is undone',
		file   => 'saga_undo.c',
		change => [ "foreach(lc, es_saga_entry(&move->saga, step))\n\t{\n\t\tEsStep\t   *other = es_move_adopt", "foreach(lc, NIL)\n\t{\n\t\tEsStep\t   *other = es_move_adopt" ],
		tests  => '098_saga_kill',
	},
	{
		name   => 'sagas: what could not be undone is tried with another attempt',
		file   => 'saga_undo.c',
		change => [ "mark_entry(move, step, ES_STEP_FAILED);", "step->status = ES_STEP_FAILED;\n\tes_step_change(move, step);" ],
		tests  => '098_saga_kill',
	},
	{
		name   => 'sagas: another instance is waited for',
		file   => 'saga_move.c',
		change => [ "may_wait && !holds_another(id)", "may_wait" ],
		tests  => 'saga',
	},
	{
		name   => 'answers by event: those of any tenant',
		file   => 'saga_event.c',
		change => [ "AND tenant = \$3\"", "AND \$3 IS NOT NULL\"" ],
		tests  => 'saga_events',
	},
	{
		name   => 'answers by event: a later attempt is not the one that is answered',
		file   => 'saga_event.c',
		change => [ "DO UPDATE SET seq = EXCLUDED.seq", "DO NOTHING" ],
		tests  => 'saga_events',
	},
	{
		name   => 'answers by event: a snapshot that is kept finds less',
		file   => 'saga_event.c',
		change => [ "n = es_spi_run_latest(&find_plan, values, NULL);", "n = es_spi_run(&find_plan, values, NULL, false, 0);" ],
		tests  => 'saga_event',
	},
	{
		name   => 'answers by event: what is done is answered again',
		file   => 'saga_event.c',
		change => [ "else if (step->status == ES_STEP_DONE || step->status == ES_STEP_SKIPPED ||", "else if (step->status == ES_STEP_SKIPPED ||" ],
		tests  => 'saga_events',
	},
	{
		name   => 'answers by event: rows outlive the instance',
		file   => 'saga_event.c',
		change => [ "if (move->version->definition->correlation == NULL)\n\t\treturn;\n\tes_queue_spi_begin", "if (true)\n\t\treturn;\n\tes_queue_spi_begin" ],
		tests  => 'saga_events',
	},
	{
		name   => "answers by event: only the active version's types are known",
		file   => 'saga_event.c',
		change => [ "\" WHERE v.spec->'Saga' ? 'Correlation' AND", "\" WHERE v.version = (SELECT max(version) FROM evtstore_internal.saga_version) AND v.spec->'Saga' ? 'Correlation' AND" ],
		tests  => 'saga_events',
	},
	{
		name   => 'answers by event: every command may be acknowledged',
		file   => 'saga_event.c',
		change => [ "is_answered = es_spi_run_latest(&is_answered_plan, values, NULL) > 0;", "is_answered = true;" ],
		tests  => 'saga',
	},
	{
		name   => 'reactors: an event overtakes one that failed',
		file   => 'saga_react.c',
		change => [ "waits |= ((EsStep *) lfirst(lc))->kind == ES_STEP_EVENT;", "(void) lc;" ],
		tests  => 'reactor',
	},
	{
		name   => 'reactors: those behind one that failed go on',
		file   => 'saga_react.c',
		change => [ "|| step->due != 0 || !run(move, step))\n\t\t\treturn;", "|| step->due != 0 || (!run(move, step) && false))\n\t\t\treturn;" ],
		tests  => 'reactor',
	},
	{
		name   => 'reactors: what waits for one that is done is lost',
		file   => 'saga_react.c',
		change => [ "move->unhandled = lappend(move->unhandled, step);", "(void) step;" ],
		tests  => 'reactor',
	},
	{
		name   => 'reactors: a timer of that name stays',
		file   => 'saga_react.c',
		change => [ "end_timers(move, list_make1(timer->name));", "" ],
		tests  => 'reactor',
	},
	{
		name   => 'reactors: any event starts one',
		file   => 'saga_route.c',
		change => [ "if (strcmp(lfirst(lc), type) == 0)\n\t\t\treturn true;\n\treturn false;", "if (type != NULL)\n\t\t\treturn true;\n\treturn false;" ],
		tests  => 'reactor',
	},
	{
		name   => 'reactors: an instance that somebody has is passed over',
		file   => 'saga_route.c',
		change => [ "if (found == ES_SAGA_BUSY)\n\t\t\trefuse_busy(key);", "if (found == ES_SAGA_BUSY)\n\t\t\treturn;" ],
		tests  => '100_reactors',
	},
	{
		name   => 'reactors: keys of all types are those of the first route',
		file   => 'subscription.c',
		change => [ "if (key->len == VARSIZE_ANY_EXHDR(packed) && memcmp(key->type, VARDATA_ANY(packed), key->len) == 0)", "if (packed != NULL)" ],
		tests  => 'reactor',
	},
	{
		name   => 'reactors: timers come in order of names',
		file   => 'saga_react.c',
		change => [ "step->due < timer->due", "step->seq < timer->seq" ],
		tests  => 'reactor',
	},
	{
		name   => 'saga operators: a paused one is answered as if it were not',
		file   => 'saga_late.c',
		change => [ "move->saga.status == ES_SAGA_PAUSED && !es_step_is_known(step)", "false" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a paused one has its timer armed',
		file   => 'saga_move.c',
		change => [ "step->status != ES_STEP_WAITING || saga->status == ES_SAGA_PAUSED", "step->status != ES_STEP_WAITING" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: the time is looked at before what was answered',
		file   => 'saga_pause.c',
		change => [ "\tsignals = es_signals_untaken(saga);", "\tlook_at_times(move);\n\tsignals = es_signals_untaken(saga);" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a held failure is tried again whatever it said',
		file   => 'saga_pause.c',
		change => [ "held->ending.is_final = DatumGetBool(es_column_next(&reader, &isnull));", "(void) es_column_next(&reader, &isnull);" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: what was held is dropped by a cancellation',
		file   => 'saga_pause.c',
		change => [ "note_taken(saga, lfirst(lc), take_only(move, lfirst(lc)));", "note_taken(saga, lfirst(lc), \"late\");" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a pivot that was answered in a pause is not known',
		file   => 'saga_pause.c',
		change => [ "if (held->ending.is_success && of_pivot)", "if (false)" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: an undo that was answered in a pause is done again',
		file   => 'saga_pause.c',
		change => [ "if (held->ending.is_success && step->kind == ES_STEP_UNDO)", "if (false)" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a signal in a pause is forgotten',
		file   => 'saga_pause.c',
		change => [ "\tfor (; signal != NULL; signal = lnext(signals, signal))\n\t\tes_signal_hand", "\tfor (; false; signal = lnext(signals, signal))\n\t\tes_signal_hand" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a timer that is due is armed beside another',
		file   => 'saga_pause.c',
		change => [ "\tif (saga->timer_id != 0)\n\t\t(void) es_queue_withdraw(es_queue_get(ES_QUEUE_SAGAS)->id, saga->tenant, saga->timer_id, false);\n", "" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a redriven one keeps its key when it ends again',
		file   => 'saga_redrive.c',
		change => [ "saga->status = move->was = ES_SAGA_RUNNING;", "saga->status = ES_SAGA_RUNNING;" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a redriven one takes no key',
		file   => 'saga_redrive.c',
		change => [ "\tif (saga->business_key != NULL)\n\t\tes_saga_take_business_key(saga);\n\tes_move_close_stops", "\tes_move_close_stops" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: branches that are done are begun anew',
		file   => 'saga_redrive.c',
		change => [ "\t\treopen(move, step, frontiers))\n\t\treturn;", "\t\tfalse)\n\t\treturn;" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: what an earlier attempt did is done again',
		file   => 'saga_redrive.c',
		change => [ "if (other != NULL && es_step_is_known(other))", "if (false)" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: what was undone goes on in the same instance',
		file   => 'saga_redrive.c',
		change => [ "if (run_exists(&undoing_plan, saga))", "if (false)" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: what stands is done twice',
		file   => 'saga_redrive.c',
		change => [ "\t\trefuse_standing(move);\n", "" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: one begins anew twice',
		file   => 'saga_redrive.c',
		change => [ "\trefuse_redriven(move);\n\tif", "\tif" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a child is redriven behind its parent',
		file   => 'saga_redrive.c',
		change => [ "if (saga->parent_seq != 0)", "if (false)" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: what may be done late has no place to be undone',
		file   => 'saga_migrate.c',
		change => [ "if (row->kind == ES_STEP_TASK || row->kind == ES_STEP_CHILD)\n\t\t\t\tcheck_done", "if (row->status == ES_STEP_DONE)\n\t\t\t\tcheck_done" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: an Undo may be missing there',
		file   => 'saga_migrate.c',
		change => [ "if (has_undo(here) && !has_pivot && !has_undo(there))", "if (false)" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a branch is taken for another',
		file   => 'saga_migrate.c',
		change => [ "there->machine->place != branch->place", "false" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: where one is stuck is not looked at',
		file   => 'saga_migrate.c',
		change => [ "if (row->status == ES_STEP_FAILED)\n\t\t\t\tcheck_going_on", "if (false)\n\t\t\t\tcheck_going_on" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: rows keep their old names',
		file   => 'saga_migrate.c',
		change => [ "\trun(&rename_plan, values);\n", "" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a condition writes',
		file   => 'saga_where.c',
		change => [ "\tXactReadOnly = true;\n", "" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: a condition is more than one',
		file   => 'saga_where.c',
		change => [ "if (select == NULL || select->op != SETOP_NONE ||", "if (false && select->op != SETOP_NONE ||" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: verbs for many wait',
		file   => 'saga_operate.c',
		change => [ "found = es_move_begin(&move, id, false);", "found = es_move_begin(&move, id, true);" ],
		tests  => 'saga_operators',
	},
	{
		name   => 'saga operators: one that refuses takes the others back',
		file   => 'saga_where.c',
		change => [ "if (error != NULL && !is_refusal(error->sqlerrcode))", "if (error != NULL)" ],
		tests  => 'saga_operators',
	},
];
