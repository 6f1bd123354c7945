/*
 * endpoint_secret.c
 *		What endpoints sign and log in with.
 *
 * Runs in backends (set_endpoint_secret, create, alter, drop of endpoints), in relay workers (reading) and in the scheduler (trimming).
 * A secret is a row that no role but the owner of the extension and superusers can read.  Messages are signed with every signing secret
 * that holds: the newest, and those before it until keep_old has passed.  Of the other kinds the newest is the only one.
 *
 * No error, log line or view shows a secret.  The statement that sets one is the client's; of errors in it the server's log says
 * everything but the statement.
 *
 * Locks: the endpoint's name, to the end of the transaction.  A crash leaves what was committed.  A dump has which kinds there are, and
 * no secret: until it is set again, a restored endpoint does not deliver.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/base64.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "endpoint.h"
#include "evtstore.h"
#include "identity.h"
#include "options.h"
#include "spi.h"

#define SIGNING "signing"
#define SIGNING_PREFIX "whsec_"
#define MIN_SIGNING_BYTES 24
#define MAX_SIGNING_BYTES 64
/* signatures of one message */
#define MAX_SIGNING 10
#define MAX_LINE_BYTES 4096
/* a certificate, its chain and its key */
#define MAX_TLS_BYTES 65536
#define MAX_KEEP_OLD (366 * USECS_PER_DAY)

/* a row of the secrets of one endpoint; the columns of read_plan */
enum
{
	ROW_KIND,
	ROW_SECRET,
	ROW_UNTIL
};

static EsPlan read_plan = {
	.sql = "SELECT k.kind, s.secret, s.until FROM evtstore_internal.endpoint_secret_kind k LEFT JOIN evtstore_internal.endpoint_secret s"
	" ON s.endpoint_id = k.endpoint_id AND s.kind = k.kind AND (s.until IS NULL OR s.until > $2)"
	" WHERE k.endpoint_id = $1 ORDER BY k.kind, s.number DESC",
	.nargs = 2,
	.args = {INT4OID, TIMESTAMPTZOID},
};

static EsPlan forget_plan = {
	.sql = "DELETE FROM evtstore_internal.endpoint_secret WHERE endpoint_id = $1 AND kind = $2",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

static EsPlan forget_kind_plan = {
	.sql = "DELETE FROM evtstore_internal.endpoint_secret_kind WHERE endpoint_id = $1 AND kind = $2",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

/* those that hold no longer, and the same secret, which is the newest again now */
static EsPlan forget_old_plan = {
	.sql = "DELETE FROM evtstore_internal.endpoint_secret WHERE endpoint_id = $1 AND kind = $2 AND (until <= $3 OR secret = $4)",
	.nargs = 4,
	.args = {INT4OID, TEXTOID, TIMESTAMPTZOID, TEXTOID},
};

static EsPlan end_old_plan = {
	.sql = "UPDATE evtstore_internal.endpoint_secret SET until = LEAST(until, $3) WHERE endpoint_id = $1 AND kind = $2",
	.nargs = 3,
	.args = {INT4OID, TEXTOID, TIMESTAMPTZOID},
};

static EsPlan count_plan = {
	.sql = "SELECT count(*), COALESCE(max(number), 0) FROM evtstore_internal.endpoint_secret WHERE endpoint_id = $1 AND kind = $2",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.endpoint_secret (endpoint_id, kind, number, secret, since) VALUES ($1, $2, $3, $4, $5)",
	.nargs = 5,
	.args = {INT4OID, TEXTOID, INT4OID, TEXTOID, TIMESTAMPTZOID},
};

static EsPlan insert_kind_plan = {
	.sql = "INSERT INTO evtstore_internal.endpoint_secret_kind (endpoint_id, kind) VALUES ($1, $2) ON CONFLICT DO NOTHING",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

static EsPlan drop_plan = {
	.sql = "DELETE FROM evtstore_internal.endpoint_secret WHERE endpoint_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan drop_kinds_plan = {
	.sql = "DELETE FROM evtstore_internal.endpoint_secret_kind WHERE endpoint_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan trim_plan = {
	.sql = "DELETE FROM evtstore_internal.endpoint_secret WHERE (endpoint_id, kind, number) IN"
	" (SELECT endpoint_id, kind, number FROM evtstore_internal.endpoint_secret WHERE until <= $1 LIMIT $2)",
	.nargs = 2,
	.args = {TIMESTAMPTZOID, INT8OID},
};

/* the kinds; what they may be for is up to the transports, but for these two */
typedef struct SecretKind
{
	const char *name;
	bool		http;			/* may an http endpoint have it? */
	bool		others;
} SecretKind;

static const SecretKind kinds[] = {
	{SIGNING, true, false},
	{"basic", true, true},
	{"bearer", true, true},
	{"sasl", false, true},
	{"tls", true, true},
};

PG_FUNCTION_INFO_V1(evtstore_set_endpoint_secret);

static void set_secret(FunctionCallInfo fcinfo);
static void check_kind(const EsEndpoint *endpoint, const char *kind);
static void check_secret(const char *kind, const char *secret);
static void refuse(const char *kind, const char *why) es_noreturn;
static EsSigningKey *parse_signing(const char *secret);
static void put(const EsEndpoint *endpoint, const char *kind, const char *secret, int64 keep_old);
static void forget(const EsEndpoint *endpoint, const char *kind);
static void add_row(EsEndpoint *endpoint, uint64 row);
static int	authority_length(const char *url);

/*
 * evtstore.set_endpoint_secret(name text, secret text, kind text DEFAULT 'signing', keep_old interval DEFAULT '24h') RETURNS void;
 * evtstore_admin
 */
Datum
evtstore_set_endpoint_secret(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		set_secret(fcinfo);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* the log would have the statement, and the secret in it */
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		edata->hide_stmt = true;
		ReThrowError(edata);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

static void
set_secret(FunctionCallInfo fcinfo)
{
	char	   *name;
	char	   *kind;
	char	   *secret = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	int64		keep_old;
	EsEndpoint *endpoint;

	es_catalog_require_writable("set_endpoint_secret");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	kind = es_arg_name(fcinfo, 2, "kind", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 3, "keep_old");
	keep_old = es_arg_interval(fcinfo, 3, "keep_old");
	if (keep_old > MAX_KEEP_OLD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep_old is longer than a year"),
				 errhint("Old secrets go on signing for so long: a day is usual.")));

	es_definition_lock("endpoint", name);
	(void) es_definition_get("endpoint", name);
	endpoint = es_endpoint_find(name);
	check_kind(endpoint, kind);
	es_identity_establish();
	if (secret == NULL)
		forget(endpoint, kind);
	else
	{
		check_secret(kind, secret);
		put(endpoint, kind, secret, keep_old);
	}
	es_catalog_definitions_changed();
	endpoint = es_endpoint_find(name);
	es_endpoint_check_transport(endpoint);
}

void
es_endpoint_read_secrets(EsEndpoint *endpoint)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	Datum		values[2] = {Int32GetDatum(endpoint->id), TimestampTzGetDatum(es_clock_now())};
	EsSpiState	state;
	uint64		n;

	if (endpoint->id == 0)
		return;
	es_spi_begin(&state);
	n = es_spi_run_latest(&read_plan, values, NULL);
	old = MemoryContextSwitchTo(context);
	endpoint->secrets = palloc0(sizeof(EsSetting) * (n + 1));
	endpoint->signing = palloc0(sizeof(EsSigningKey) * (n + 1));
	for (uint64 i = 0; i < n; i++)
		add_row(endpoint, i);
	MemoryContextSwitchTo(old);
	es_spi_end(&state);
}

void
es_endpoint_drop_secrets(int32 id)
{
	Datum		values[1] = {Int32GetDatum(id)};
	EsSpiState	state;

	es_spi_begin(&state);
	es_spi_run(&drop_plan, values, NULL, false, 0);
	es_spi_run(&drop_kinds_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

/*
 * A signature is no secret.  The others go to whom the url names: of http the authority; others may name hosts in their path and
 * parameters, too.
 */
bool
es_endpoint_moves_secrets(int32 id, const char *old_url, const char *new_url)
{
	EsEndpoint	endpoint = {.id = id};
	int			len = authority_length(old_url);

	if (es_endpoint_is_http(old_url) && es_endpoint_is_http(new_url) && authority_length(new_url) == len &&
		pg_strncasecmp(old_url, new_url, len) == 0)
		return false;
	if (strcmp(old_url, new_url) == 0)
		return false;
	es_endpoint_read_secrets(&endpoint);
	return endpoint.nsecrets > 0;
}

int64
es_endpoint_trim_secrets(int limit)
{
	Datum		values[2] = {TimestampTzGetDatum(es_clock_now()), Int64GetDatum(limit)};
	EsSpiState	state;
	int64		rows;

	es_spi_begin(&state);
	rows = (int64) es_spi_run(&trim_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return rows;
}

static void
check_kind(const EsEndpoint *endpoint, const char *kind)
{
	int			n = 0;

	while (n < lengthof(kinds) && strcmp(kinds[n].name, kind) != 0)
		n++;
	if (n == lengthof(kinds))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown kind \"%s\"", es_arg_shown(kind, strlen(kind))),
				 errhint("Kinds are \"signing\", \"basic\", \"bearer\", \"sasl\" and \"tls\".")));
	if (endpoint->is_sql || !(es_endpoint_is_http(endpoint->url) ? kinds[n].http : kinds[n].others))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("endpoint \"%s\" has no use for a secret of kind \"%s\"", endpoint->name, kind),
				 errhint("\"signing\" is for HTTP, \"sasl\" for all others; a sql: endpoint has none.")));
}

static void
check_secret(const char *kind, const char *secret)
{
	bool		is_tls = strcmp(kind, "tls") == 0;
	int			max = is_tls ? MAX_TLS_BYTES : MAX_LINE_BYTES;

	if (secret[0] == '\0')
		refuse(kind, "it is empty");
	if (strlen(secret) > max)
		refuse(kind, "it is too long");
	for (const char *c = secret; *c != '\0'; c++)
		if (*c == 0x7f || (*c > 0 && *c < ' ' && !(is_tls && (*c == '\n' || *c == '\r' || *c == '\t'))))
			refuse(kind, "it has control characters");
	if (strcmp(kind, SIGNING) == 0 && parse_signing(secret) == NULL)
		refuse(kind, "it is not \"whsec_\" and the base64 of 24 to 64 bytes");
	if (strcmp(kind, "basic") == 0 && strchr(secret, ':') == NULL)
		refuse(kind, "it is not USER:PASSWORD");
	if (is_tls && strstr(secret, "-----BEGIN ") == NULL)
		refuse(kind, "it is not a certificate and a key in PEM");
}

/* what it is not said here, because the log has this */
static void
refuse(const char *kind, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the secret of kind \"%s\" is not acceptable: %s", kind, why),
			 strcmp(kind, SIGNING) == 0 ?
			 errhint("Make one in a shell: printf 'whsec_%%s\\n' \"$(head -c 32 /dev/urandom | base64)\".") : 0));
}

/* palloc'd; NULL where it is malformed */
static EsSigningKey *
parse_signing(const char *secret)
{
	const char *text = secret + strlen(SIGNING_PREFIX);
	EsSigningKey *key = palloc0(sizeof(EsSigningKey));
	unsigned char *bytes;
	int			max;

	if (strncmp(secret, SIGNING_PREFIX, strlen(SIGNING_PREFIX)) != 0)
		return NULL;
	max = pg_b64_dec_len(strlen(text));
	bytes = palloc(max + 1);
	key->len = pg_b64_decode(text, strlen(text), (void *) bytes, max);
	key->bytes = bytes;
	return key->len < MIN_SIGNING_BYTES || key->len > MAX_SIGNING_BYTES ? NULL : key;
}

/* Locks: the endpoint's name, held */
static void
put(const EsEndpoint *endpoint, const char *kind, const char *secret, int64 keep_old)
{
	TimestampTz now = es_clock_now();
	bool		is_signing = strcmp(kind, SIGNING) == 0;
	Datum		values[5] = {Int32GetDatum(endpoint->id), CStringGetTextDatum(kind)};
	EsSpiState	state;
	int			number;

	es_spi_begin(&state);
	values[2] = TimestampTzGetDatum(now);
	values[3] = CStringGetTextDatum(secret);
	es_spi_run(&forget_old_plan, values, NULL, false, 0);
	if (is_signing && keep_old > 0)
	{
		values[2] = TimestampTzGetDatum(now + keep_old);
		es_spi_run(&end_old_plan, values, NULL, false, 0);
	}
	else
		es_spi_run(&forget_plan, values, NULL, false, 0);
	es_spi_run_latest(&count_plan, values, NULL);
	if (es_spi_int64(0, 0) >= MAX_SIGNING)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("endpoint \"%s\" has %d signing secrets that hold", endpoint->name, MAX_SIGNING),
				 errhint("Give a shorter keep_old, '0' to end the others now.")));
	number = es_spi_int32(0, 1) + 1;
	values[2] = Int32GetDatum(number);
	values[4] = TimestampTzGetDatum(now);
	es_spi_run(&insert_plan, values, NULL, false, 0);
	es_spi_run(&insert_kind_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

/* Locks: the endpoint's name, held */
static void
forget(const EsEndpoint *endpoint, const char *kind)
{
	Datum		values[2] = {Int32GetDatum(endpoint->id), CStringGetTextDatum(kind)};
	EsSpiState	state;

	es_spi_begin(&state);
	es_spi_run(&forget_plan, values, NULL, false, 0);
	es_spi_run(&forget_kind_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

/* in the context of the endpoint; of a kind the newest comes first */
static void
add_row(EsEndpoint *endpoint, uint64 row)
{
	char	   *kind = es_spi_text(row, ROW_KIND);
	char	   *secret = es_spi_text(row, ROW_SECRET);
	bool		isnull;
	Datum		until = es_spi_value(row, ROW_UNTIL, &isnull);

	if (secret == NULL)
		endpoint->missing_secret = pstrdup(kind);
	else if (strcmp(kind, SIGNING) == 0)
	{
		EsSigningKey *key = parse_signing(secret);

		if (key == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the signing secret of endpoint \"%s\" is malformed", endpoint->name)));
		key->until = isnull ? 0 : DatumGetTimestampTz(until);
		endpoint->signing[endpoint->nsigning++] = *key;
	}
	else
	{
		endpoint->secrets[endpoint->nsecrets].name = pstrdup(kind);
		endpoint->secrets[endpoint->nsecrets].value = pstrdup(pg_server_to_any(secret, strlen(secret), PG_UTF8));
		endpoint->nsecrets++;
	}
}

/* of a url, up to its path; with the scheme */
static int
authority_length(const char *url)
{
	int			scheme = strcspn(url, ":");

	return scheme + 3 + strcspn(url + Min(scheme + 3, strlen(url)), "/?#");
}
