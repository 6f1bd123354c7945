/*
 * nats_json.c
 *		Looks into the JSON of a NATS server.
 *
 * What is there is flat, small, and of the other side: nothing is copied or kept, and what does not end where it should is not found.
 * Runs in relay workers, in the main thread.
 */
#include "postgres.h"

#include "nats_json.h"

static const char *skip_space(const char *at, const char *end);
static const char *skip_value(const char *at, const char *end);
static const char *skip_string(const char *at, const char *end);

bool
nats_json_get(const char *json, size_t len, const char *key, const char **value, size_t *value_len)
{
	const char *end = json + len;
	const char *at = skip_space(json, end);

	if (at == end || *at != '{')
		return false;
	at = skip_space(at + 1, end);
	while (at != end && *at == '"')
	{
		const char *name = at + 1;
		const char *behind = skip_string(at, end);

		if (behind == NULL)
			return false;
		at = skip_space(behind, end);
		if (at == end || *at != ':')
			return false;
		*value = skip_space(at + 1, end);
		at = skip_value(*value, end);
		if (at == NULL)
			return false;
		*value_len = at - *value;
		if (behind - 1 - name == (ptrdiff_t) strlen(key) && memcmp(name, key, strlen(key)) == 0)
			return true;
		at = skip_space(at, end);
		if (at != end && *at == ',')
			at = skip_space(at + 1, end);
	}
	return false;
}

int
nats_json_int(const char *json, size_t len, const char *key)
{
	const char *value;
	size_t		value_len;
	int			n = 0;

	if (!nats_json_get(json, len, key, &value, &value_len) || value_len > 9)
		return 0;
	for (size_t i = 0; i < value_len && value[i] >= '0' && value[i] <= '9'; i++)
		n = n * 10 + (value[i] - '0');
	return n;
}

static const char *
skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
		at++;
	return at;
}

/* NULL: it does not end */
static const char *
skip_value(const char *at, const char *end)
{
	int			depth = 0;

	while (at < end)
	{
		if (*at == '"')
		{
			at = skip_string(at, end);
			if (at == NULL)
				return NULL;
			if (depth == 0)
				return at;
			continue;
		}
		if (*at == '{' || *at == '[')
			depth++;
		else if (*at == '}' || *at == ']')
		{
			/* that of the object around it ends a number or a word */
			if (depth == 0)
				return at;
			if (--depth == 0)
				return at + 1;
		}
		else if (depth == 0 && (*at == ',' || *at == ' ' || *at == '\r' || *at == '\n'))
			return at;
		at++;
	}
	return NULL;
}

static const char *
skip_string(const char *at, const char *end)
{
	for (at++; at < end; at++)
	{
		if (*at == '\\')
			at++;
		else if (*at == '"')
			return at + 1;
	}
	return NULL;
}
