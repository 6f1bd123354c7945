/*
 * use.c
 *		Who may use a single queue or subscription: grant_use and revoke_use, and the check.
 *
 * Runs in backends.  Members of evtstore_writer may use all of them.  Others need two things, and grant_use gives both: EXECUTE on
 * the functions, as for any function, and their name among the grants of the definition, by the privilege.  Names, not oids, for
 * dumps; whoever drops a role and creates another of that name revokes first.  The grants are read with the definition, so a
 * change takes effect for everybody at its commit (definition_cache.c).
 *
 * Locks: the definition's name.  Rows and ACLs are transactional; a crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "evtstore.h"
#include "spi.h"
#include "use.h"

#define WRITER "evtstore_writer"
#define ALL_ARGS InvalidOid

static const char *const privilege_names[ES_USE_PRIVILEGES] = {
	[ES_USE_SEND] = "send",
	[ES_USE_CONSUME] = "consume",
};

/* what each privilege needs; argument: of the overloaded ones the type of their only one */
static const struct
{
	EsUsePrivilege privilege;
	const char *name;
	Oid			argument;
}			functions[] = {
	{ES_USE_SEND, "send", ALL_ARGS},
	{ES_USE_SEND, "send_batch", ALL_ARGS},
	{ES_USE_SEND, "send_messages", ALL_ARGS},
	{ES_USE_CONSUME, "receive", ALL_ARGS},
	{ES_USE_CONSUME, "poll", ALL_ARGS},
	{ES_USE_CONSUME, "leave", ALL_ARGS},
	{ES_USE_CONSUME, "ack", TEXTOID},
	{ES_USE_CONSUME, "ack", TEXTARRAYOID},
	{ES_USE_CONSUME, "nack", ALL_ARGS},
	{ES_USE_CONSUME, "reject", ALL_ARGS},
	{ES_USE_CONSUME, "release", ALL_ARGS},
	{ES_USE_CONSUME, "extend", ALL_ARGS},
	{ES_USE_CONSUME, "settle", ALL_ARGS},
	{ES_USE_CONSUME, "wait_for_work", ALL_ARGS},
};

/* the grants with one more, or without it */
static EsPlan with_plan = {
	.sql = "SELECT $1 || jsonb_build_object($2, (SELECT jsonb_agg(p ORDER BY p)"
	" FROM (SELECT jsonb_array_elements_text(COALESCE($1->$2, '[]')) UNION SELECT $3) all_of_them (p)))",
	.nargs = 3,
	.args = {JSONBOID, TEXTOID, TEXTOID},
};

static EsPlan without_plan = {
	.sql = "SELECT CASE WHEN rest IS NULL THEN $1 - $2 ELSE $1 || jsonb_build_object($2, rest) END"
	" FROM (SELECT jsonb_agg(p ORDER BY p) AS rest FROM jsonb_array_elements_text(COALESCE($1->$2, '[]')) p WHERE p <> $3) r",
	.nargs = 3,
	.args = {JSONBOID, TEXTOID, TEXTOID},
};

/* has the role that privilege on anything still? */
static EsPlan is_left_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.definition WHERE grants->$1 ? $2",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static void change_use(FunctionCallInfo fcinfo, bool is_grant);
static EsUsePrivilege get_privilege(FunctionCallInfo fcinfo, int n, const char *kind);
static void change_acl(EsUsePrivilege privilege, const char *role, bool is_grant);
static void change_acl_of(ObjectType type, List *objects, const char *privilege, const char *role, bool is_grant);

PG_FUNCTION_INFO_V1(evtstore_grant_use);
PG_FUNCTION_INFO_V1(evtstore_revoke_use);

/* grant_use(kind text, name text, grantee name, privilege text) -> void; evtstore_admin */
Datum
evtstore_grant_use(PG_FUNCTION_ARGS)
{
	es_catalog_require_writable("grant_use");
	change_use(fcinfo, true);
	PG_RETURN_VOID();
}

/* revoke_use(kind text, name text, grantee name, privilege text) -> void; evtstore_admin.  What is not there is no error */
Datum
evtstore_revoke_use(PG_FUNCTION_ARGS)
{
	es_catalog_require_writable("revoke_use");
	change_use(fcinfo, false);
	PG_RETURN_VOID();
}

EsUse
es_use_read(Jsonb *grants)
{
	EsUse		use = {0};
	JsonbIterator *it = JsonbIteratorInit(&grants->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	char	   *role = NULL;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			role = pnstrdup(v.val.string.val, v.val.string.len);
		for (int p = 0; token == WJB_ELEM && p < ES_USE_PRIVILEGES; p++)
			if (v.val.string.len == strlen(privilege_names[p]) && memcmp(v.val.string.val, privilege_names[p], v.val.string.len) == 0)
				use.roles[p] = lappend(use.roles[p], role);
	}
	return use;
}

void
es_use_require(const EsUse *use, EsUsePrivilege privilege, const char *kind, const char *name)
{
	Oid			user = GetUserId();
	Oid			writer = get_role_oid(WRITER, true);
	ListCell   *lc;

	if (OidIsValid(writer) && has_privs_of_role(user, writer))
		return;
	foreach(lc, use->roles[privilege])
	{
		Oid			role = get_role_oid(lfirst(lc), true);

		if (OidIsValid(role) && has_privs_of_role(user, role))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for %s \"%s\"", kind, name),
			 errhint("An administrator can say: SELECT evtstore.grant_use('%s', '%s', '%s', '%s').", kind, name,
					 GetUserNameFromId(user, false), privilege_names[privilege])));
}

static void
change_use(FunctionCallInfo fcinfo, bool is_grant)
{
	char	   *kind = es_arg_name(fcinfo, 0, "kind", 64);
	char	   *name = es_arg_name(fcinfo, 1, "name", ES_MAX_NAME_BYTES);
	char	   *role;
	EsUsePrivilege privilege;
	EsDefinition *definition;
	EsSpiState	state;
	Datum		values[3];
	Jsonb	   *grants;
	bool		isnull;
	MemoryContext caller = CurrentMemoryContext;

	if (strcmp(kind, "queue") != 0 && strcmp(kind, "subscription") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown kind \"%s\"", es_arg_shown(kind, strlen(kind))),
				 errhint("It is 'queue' or 'subscription'.")));
	es_arg_required(fcinfo, 2, "grantee");
	role = NameStr(*PG_GETARG_NAME(2));
	privilege = get_privilege(fcinfo, 3, kind);
	if (is_grant)
		(void) get_role_oid(role, false);

	es_definition_lock(kind, name);
	definition = es_definition_get(kind, name);
	values[0] = JsonbPGetDatum(definition->grants);
	values[1] = CStringGetTextDatum(role);
	values[2] = CStringGetTextDatum(privilege_names[privilege]);
	es_spi_begin(&state);
	es_spi_run(is_grant ? &with_plan : &without_plan, values, NULL, true, 1);
	{
		Datum		changed = es_spi_value(0, 0, &isnull);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		grants = DatumGetJsonbPCopy(changed);
		MemoryContextSwitchTo(spi);
	}
	es_spi_end(&state);
	es_definition_set_grants(definition, grants);

	es_spi_begin(&state);
	if (is_grant || (es_spi_run(&is_left_plan, &values[1], NULL, false, 1) == 0 && OidIsValid(get_role_oid(role, true))))
		change_acl(privilege, role, is_grant);
	es_spi_end(&state);
}

static EsUsePrivilege
get_privilege(FunctionCallInfo fcinfo, int n, const char *kind)
{
	char	   *text = es_arg_name(fcinfo, n, "privilege", 64);
	bool		is_queue = strcmp(kind, "queue") == 0;

	if (strcmp(text, privilege_names[ES_USE_CONSUME]) == 0)
		return ES_USE_CONSUME;
	if (is_queue && strcmp(text, privilege_names[ES_USE_SEND]) == 0)
		return ES_USE_SEND;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown privilege \"%s\" of a %s", es_arg_shown(text, strlen(text)), kind),
			 is_queue ? errhint("It is 'send' or 'consume'.") : errhint("It is 'consume'.")));
}

/* as the owner of the functions: inside es_spi_begin */
static void
change_acl(EsUsePrivilege privilege, const char *role, bool is_grant)
{
	List	   *routines = NIL;

	for (int i = 0; i < lengthof(functions); i++)
	{
		ObjectWithArgs *routine = makeNode(ObjectWithArgs);

		if (functions[i].privilege != privilege)
			continue;
		routine->objname = list_make2(makeString(ES_SCHEMA), makeString(pstrdup(functions[i].name)));
		routine->args_unspecified = functions[i].argument == ALL_ARGS;
		if (!routine->args_unspecified)
			routine->objargs = list_make1(makeTypeNameFromOid(functions[i].argument, -1));
		routines = lappend(routines, routine);
	}
	/* the schema stays open to who had it: another privilege may need it */
	if (is_grant)
		change_acl_of(OBJECT_SCHEMA, list_make1(makeString(ES_SCHEMA)), "usage", role, true);
	change_acl_of(OBJECT_ROUTINE, routines, "execute", role, is_grant);
	CommandCounterIncrement();
}

static void
change_acl_of(ObjectType type, List *objects, const char *privilege, const char *role, bool is_grant)
{
	GrantStmt  *grant = makeNode(GrantStmt);
	AccessPriv *access = makeNode(AccessPriv);
	RoleSpec   *grantee = makeNode(RoleSpec);

	access->priv_name = pstrdup(privilege);
	grantee->roletype = ROLESPEC_CSTRING;
	grantee->rolename = pstrdup(role);
	grantee->location = -1;
	grant->is_grant = is_grant;
	grant->targtype = ACL_TARGET_OBJECT;
	grant->objtype = type;
	grant->objects = objects;
	grant->privileges = list_make1(access);
	grant->grantees = list_make1(grantee);
	grant->behavior = DROP_RESTRICT;
	ExecuteGrantStmt(grant);
}
