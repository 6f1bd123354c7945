/*
 * cloudevent.c
 *		What of an event becomes which attribute of a CloudEvent.
 *
 * Runs in delivery workers and wherever filters with an expression do; keeps nothing.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/timestamp.h"

#include "cloudevent.h"

const EsCloudeventExtension es_cloudevent_extensions[ES_CLOUDEVENT_EXTENSIONS] = {
	{"correlation_id", "correlationid"},
	{"causation_id", "causationid"},
	{"traceparent", "traceparent"},
	{"tracestate", "tracestate"},
};

char *
es_cloudevent_default_source(void)
{
	char	   *database = get_database_name(MyDatabaseId);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "/evtstore/");
	es_cloudevent_append_segment(&buf, pg_server_to_any(database, strlen(database), PG_UTF8));
	return buf.data;
}

char *
es_cloudevent_sequence(int64 position)
{
	return psprintf("%019lld", (long long) position);
}

char *
es_cloudevent_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0 || tm.tm_year < 1 ||
		tm.tm_year > 9999)
		return NULL;
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
					tm.tm_sec, (int) fsec);
}

char *
es_cloudevent_string(Jsonb *object, const char *key)
{
	JsonbValue	v;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, key, strlen(key), &v) == NULL || v.type != jbvString)
		return NULL;
	return pnstrdup(v.val.string.val, v.val.string.len);
}

void
es_cloudevent_append_segment(StringInfo buf, const char *utf8)
{
	for (const char *c = utf8; *c != '\0'; c++)
	{
		if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
			strchr("-._~", *c) != NULL)
			appendStringInfoChar(buf, *c);
		else
			es_cloudevent_append_encoded(buf, *c);
	}
}

void
es_cloudevent_append_encoded(StringInfo buf, char c)
{
	appendStringInfo(buf, "%%%02X", (unsigned char) c);
}
