/*
 * json.c
 *		JSON objects for the outside world, made with cJSON.
 *
 * cJSON reads numbers as doubles and cuts strings at \u0000, so it never sees event data: that goes in as text that the
 * server printed (es_json_raw).  cJSON's memory is malloc'd and unknown to memory contexts; therefore nothing here
 * raises an error between es_json_object and es_json_print, a failure is remembered and raised by the latter after the
 * object is freed.
 *
 * Runs in delivery workers; keeps nothing.
 */
#include "postgres.h"

#include <cjson/cJSON.h>

#include "utils/memutils.h"

#include "json.h"

struct EsJson
{
	cJSON	   *root;
	bool		failed; /* out of memory */
};

EsJson *
es_json_object(void)
{
	EsJson	   *object = malloc(sizeof(EsJson));

	if (object == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	object->root = cJSON_CreateObject();
	object->failed = object->root == NULL;
	return object;
}

void
es_json_string(EsJson *object, const char *key, const char *value)
{
	if (!object->failed && cJSON_AddStringToObject(object->root, key, value) == NULL)
		object->failed = true;
}

void
es_json_raw(EsJson *object, const char *key, const char *json)
{
	if (!object->failed && cJSON_AddRawToObject(object->root, key, json) == NULL)
		object->failed = true;
}

char *
es_json_print(EsJson *object)
{
	char	   *printed = object->failed ? NULL : cJSON_PrintUnformatted(object->root);
	char	   *result = NULL;

	es_json_free(object);
	if (printed != NULL && AllocSizeIsValid(strlen(printed) + 1))
	{
		size_t		size = strlen(printed) + 1;

		result = palloc_extended(size, MCXT_ALLOC_NO_OOM);
		if (result != NULL)
			memcpy(result, printed, size);
	}
	cJSON_free(printed);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed to print a JSON object.")));
	return result;
}

void
es_json_free(EsJson *object)
{
	cJSON_Delete(object->root);
	free(object);
}
