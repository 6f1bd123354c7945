CREATE OR REPLACE FUNCTION evtstore.create_projection(
    name text, handlers jsonb, mode text DEFAULT 'async', filter jsonb DEFAULT '{}', tables text[] DEFAULT '{}', options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_projection';
COMMENT ON FUNCTION evtstore.create_projection IS
'Defines a read model. handlers: {"Type": "one SQL statement with $1 of type evtstore.event" | {"fn": "schema.function"} of one event |
{"batch": "schema.function"} of evtstore.event[]}, "*" for every other type; they run as the caller, under the present search_path. mode ''async'':
workers apply, each event exactly once, in one transaction with the projection''s place. mode ''sync'': in the append''s transaction, able to refuse
it. Events that exist are applied first. One that exists with other handlers or another filter is rebuilt with the new ones, and goes on with the old
ones until that is done. tables: what functions write, for rebuilds. options, of async ones: {"lanes": how many workers at once, 1; "key": whose events stay in order, ${stream};
"on_failure": ''block'', ''dead_letter'' or ''dead_letter_key''; "retry"}. With more than one lane only the order within a key is kept.
Errors: ST009 invalid handler, 42710 another definition of that name, 42P01 unknown table, 22023.';

CREATE OR REPLACE FUNCTION evtstore.rebuild_projection(name text, options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_rebuild_projection';
COMMENT ON FUNCTION evtstore.rebuild_projection IS
'Begins to build the tables of a projection anew, from all events, with the handlers that it has, in shadow tables that workers fill while it goes on
with the old ones; when they are level, they take the place of the old rows at once, and indexes, constraints, grants, comments and views stay.
What handlers append or send is left out meanwhile. Tables: those declared, and those that its SQL statements write; its owner must own them. options:
{"in_place": true}: the tables are truncated now and filled again, where there is no room for twice the data. Errors: ST008; 55000 a
rebuild is under way, no tables are known, another projection writes one of them, or in place for a sync or paused one; 42501; 0A000 a table that cannot
have a shadow, as one with foreign keys to or from others; 25001.';

CREATE OR REPLACE FUNCTION evtstore.cancel_rebuild(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_cancel_rebuild';
COMMENT ON FUNCTION evtstore.cancel_rebuild IS
'Ends a rebuild; the projection goes on as if there had been none. Waits for the worker that is at it. Errors: ST008; 55000 there is none, or
it is one in place, which has truncated the tables.';

CREATE OR REPLACE FUNCTION evtstore.alter_projection(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_projection';
COMMENT ON FUNCTION evtstore.alter_projection IS
'Changes options of an async projection: "lanes", "on_failure", "retry"; null: the default. Errors: ST008, 22023, 55000 a sync one, or being rebuilt.';

CREATE OR REPLACE FUNCTION evtstore.switch_projection(name text, mode text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_switch_projection';
COMMENT ON FUNCTION evtstore.switch_projection IS
'Makes a projection ''sync'' or ''async'', with no event missed or applied twice, while others append. To ''sync'': what the workers have not applied
is applied here first; then appends wait while the last of it is. Its options are forgotten. Errors: ST008; 22023; 55000 paused, or with events that
failed, being rebuilt, or after an append in the same transaction; 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.pause_projection(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_pause_projection';
COMMENT ON FUNCTION evtstore.pause_projection IS
'Workers leave an async projection alone from the commit on, until it is resumed. Errors: ST008, 55000 a sync one.';

CREATE OR REPLACE FUNCTION evtstore.resume_projection(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resume_projection';
COMMENT ON FUNCTION evtstore.resume_projection IS 'Ends a pause. Errors: ST008, 55000 a sync one, or rebuilt in place.';

CREATE OR REPLACE FUNCTION evtstore.drop_projection(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_projection';
COMMENT ON FUNCTION evtstore.drop_projection IS
'Forgets a projection, its place and what failed; its tables stay. Waits for the worker that is at it. Errors: ST008.';
