-- Privileges are data: everything is taken from PUBLIC, then each role gets its functions and views.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA evtstore FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA evtstore FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA evtstore_internal FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    evtstore.read_stream, evtstore.read_category, evtstore.read_all, evtstore.read_query, evtstore.get_event,
    evtstore.stream_version,
    evtstore.head_position, evtstore.why_behind, evtstore.hot_keys, evtstore.health, evtstore.position_at, evtstore.state_of, evtstore.load_snapshot,
    evtstore.merge_data, evtstore.merge_patch, evtstore.message_status, evtstore.to_cloudevent,
    evtstore.check_saga, evtstore.explain_definition, evtstore.test_state, evtstore.why_saga, evtstore.explain_saga, evtstore.saga_at, evtstore.sagas_at
TO evtstore_reader;
GRANT EXECUTE ON PROCEDURE evtstore.wait_for_head, evtstore.wait_for TO evtstore_reader;
-- called by views: EXECUTE is checked against whoever reads the view; the first two tell nothing, and pg_read_all_data reads
GRANT EXECUTE ON FUNCTION evtstore_internal.clock, evtstore_internal.tenant TO PUBLIC;
GRANT EXECUTE ON FUNCTION evtstore_internal.worker_slots, evtstore_internal.lane_status, evtstore_internal.unsettled, evtstore_internal.consumer_status,
    evtstore_internal.in_flight, evtstore_internal.endpoint_figures, evtstore_internal.endpoint_tries TO evtstore_reader;
GRANT SELECT ON evtstore.events, evtstore.streams, evtstore.projection_status, evtstore.rule_status, evtstore.queue_status, evtstore.dead_letters,
    evtstore.workers, evtstore.policies, evtstore.subscription_status, evtstore.consumers, evtstore.blocked_keys, evtstore.stuck,
    evtstore.endpoint_status, evtstore.endpoint_attempts, evtstore.sagas, evtstore.saga_steps, evtstore.stuck_sagas,
    evtstore.saga_locks,
    evtstore.saga_stats, evtstore.saga_state_stats
TO evtstore_reader;

GRANT EXECUTE ON FUNCTION
    evtstore.append, evtstore.append_events, evtstore.append_streams, evtstore.append_if, evtstore.append_cloudevent,
    evtstore.begin_command, evtstore.finish_command, evtstore.stream_version, evtstore.head_position,
    evtstore.send, evtstore.send_batch, evtstore.send_messages, evtstore.receive, evtstore.ack(text), evtstore.ack(text[]), evtstore.nack,
    evtstore.reject, evtstore.release, evtstore.extend, evtstore.settle, evtstore.poll, evtstore.leave,
    evtstore.start_saga, evtstore.reply, evtstore.fail, evtstore.signal_saga, evtstore.signal_saga_by_key,
    evtstore.once(text, text), evtstore.once(text, uuid), evtstore.guard_step, evtstore.guard_output, evtstore.accept_events, evtstore.save_snapshot
TO evtstore_writer;

GRANT EXECUTE ON FUNCTION
    evtstore.delete_stream, evtstore.truncate_stream, evtstore.set_stream_policy, evtstore.set_category_policy,
    evtstore.scavenge,
    evtstore.create_projection, evtstore.alter_projection, evtstore.switch_projection, evtstore.pause_projection, evtstore.resume_projection,
    evtstore.drop_projection, evtstore.rebuild_projection, evtstore.cancel_rebuild,
    evtstore.create_reducer, evtstore.alter_reducer, evtstore.drop_reducer,
    evtstore.create_queue, evtstore.alter_queue, evtstore.drop_queue, evtstore.purge_queue,
    evtstore.create_subscription, evtstore.alter_subscription, evtstore.drop_subscription, evtstore.seek,
    evtstore.pause, evtstore.resume, evtstore.redrive, evtstore.discard, evtstore.unblock_key, evtstore.skip_event, evtstore.evict_consumer,
    evtstore.grant_use, evtstore.revoke_use,
    evtstore.run_pending,
    evtstore.define_saga, evtstore.drop_saga, evtstore.define_reactor, evtstore.drop_reactor, evtstore.cancel_saga, evtstore.retry_saga, evtstore.skip_step, evtstore.resolve_step, evtstore.mark_undone,
    evtstore.simulate_saga,
    evtstore.pause_saga, evtstore.resume_saga, evtstore.redrive_saga, evtstore.migrate_saga,
    evtstore.cancel_saga_where, evtstore.pause_saga_where, evtstore.resume_saga_where, evtstore.retry_saga_where, evtstore.redrive_saga_where,
    evtstore.skip_step_where, evtstore.resolve_step_where, evtstore.migrate_saga_where,
    evtstore.create_rule, evtstore.alter_rule, evtstore.drop_rule, evtstore.test_rule,
    evtstore.create_endpoint, evtstore.alter_endpoint, evtstore.drop_endpoint, evtstore.reset_breaker, evtstore.test_endpoint, evtstore.replay,
    evtstore.set_endpoint_secret, evtstore.resume_delivery
TO evtstore_admin;
GRANT EXECUTE ON PROCEDURE evtstore.wait_for_work TO evtstore_writer;
GRANT EXECUTE ON PROCEDURE evtstore.import_events TO evtstore_admin;
GRANT SELECT ON evtstore.import_status TO evtstore_reader;
