/*
 * shadow.h
 *		Tables made like others, empty, that take their place later.
 */
#ifndef ES_SHADOW_H
#define ES_SHADOW_H

#include "nodes/pg_list.h"

#define ES_SHADOW_SCHEMA "evtstore_rebuild"

typedef struct EsShadow
{
	char *table;	   /* qualified and quoted names */
	char *shadow;
	char *fingerprint; /* of all in the table's definition that the shadow has, too */
	Oid table_oid;	   /* see es_shadow_resolve */
	Oid shadow_oid;
} EsShadow;

/* an index of a table, and that of its shadow that was made like it */
typedef struct EsIndexPair
{
	Oid index;
	Oid shadow;
} EsIndexPair;

/*
 * Makes shadows of these tables (Oids), whose names begin with prefix; list of EsShadow.  Foreign keys between them are between the
 * shadows.  Errors: 0A000 a table that cannot have one.  Locks: each table, AccessShare
 */
extern List *es_shadow_make(List *tables, const char *prefix);
/* ST009 where a table or a shadow is gone */
extern void es_shadow_resolve(List *shadows);
/* ST009 where a table or its shadow is not any more what they were when that was made; 0A000.  Locks: each of both */
extern void es_shadow_check(List *shadows);
/* the valid indexes of a table and of its shadow: as many EsIndexPairs as *n.  all: ST009 where one is without the other */
extern EsIndexPair *es_shadow_indexes(const EsShadow *shadow, bool all, int *n);
/*
 * ST009 where a plan for the one does not fit the other: it would read behind the end of the shadow's columns.  Locks: any of
 * both, held
 */
extern void es_shadow_check_columns(Oid table, Oid shadow);
/* those that are still there */
extern void es_shadow_drop(List *shadows);
/* the name as the functions above take and give it */
extern char *es_shadow_table_name(Oid table);

#endif
