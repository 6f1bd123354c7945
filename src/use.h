/*
 * use.h
 *		Who may use a single queue or subscription, besides the writers, who may use all.
 */
#ifndef ES_USE_H
#define ES_USE_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef enum EsUsePrivilege
{
	ES_USE_SEND,
	ES_USE_CONSUME
} EsUsePrivilege;

#define ES_USE_PRIVILEGES 2

/* names of roles, for each privilege */
typedef struct EsUse
{
	List *roles[ES_USE_PRIVILEGES];
} EsUse;

/* of the grants of a definition; in the current context */
extern EsUse es_use_read(Jsonb *grants);
/* 42501 where the current user is neither a writer nor has it.  kind and name are for the message */
extern void es_use_require(const EsUse *use, EsUsePrivilege privilege, const char *kind, const char *name);

#endif
