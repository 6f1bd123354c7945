/*
 * condition_name.h
 *		Names of SQLSTATEs.
 */
#ifndef ES_CONDITION_NAME_H
#define ES_CONDITION_NAME_H

/* unique_violation; NULL: it has none.  Of an error code as errcode() takes it */
extern const char *es_condition_name(int code);

#endif
