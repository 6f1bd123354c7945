/*
 * condition_name.c
 *		Names of SQLSTATEs, as PL/pgSQL knows them.
 *
 * Runs anywhere; a table that is made from the server's list (errcodes.txt) when the library is built.
 */
#include "postgres.h"

#include "condition_name.h"

static const struct
{
	const char *state;
	const char *name;
}			conditions[] = {
#include "condition_names.inc"
};

const char *
es_condition_name(int code)
{
	const char *state = unpack_sql_state(code);

	for (int i = 0; i < lengthof(conditions); i++)
		if (strcmp(conditions[i].state, state) == 0)
			return conditions[i].name;
	return NULL;
}
