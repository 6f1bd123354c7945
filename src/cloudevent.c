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

/* those of the largest bigint */
#define SEQUENCE_DIGITS 19

const EsCloudeventExtension es_cloudevent_extensions[ES_CLOUDEVENT_EXTENSIONS] = {
	{"correlation_id", "correlationid"},
	{"causation_id", "causationid"},
	{"traceparent", "traceparent"},
	{"tracestate", "tracestate"},
};

static void put_digits(char *to, int64 value, int digits);

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
	char	   *text = palloc(SEQUENCE_DIGITS + 1);

	put_digits(text, position, SEQUENCE_DIGITS);
	text[SEQUENCE_DIGITS] = '\0';
	return text;
}

char *
es_cloudevent_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char	   *text;

	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0 || tm.tm_year < 1 ||
		tm.tm_year > 9999)
		return NULL;
	text = pstrdup("0000-00-00T00:00:00.000000Z");
	put_digits(text, tm.tm_year, 4);
	put_digits(text + 5, tm.tm_mon, 2);
	put_digits(text + 8, tm.tm_mday, 2);
	put_digits(text + 11, tm.tm_hour, 2);
	put_digits(text + 14, tm.tm_min, 2);
	put_digits(text + 17, tm.tm_sec, 2);
	put_digits(text + 20, fsec, 6);
	return text;
}

/* two of these are made for each message, where printf would be most of the work */
static void
put_digits(char *to, int64 value, int digits)
{
	while (digits-- > 0)
	{
		to[digits] = '0' + value % 10;
		value /= 10;
	}
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
