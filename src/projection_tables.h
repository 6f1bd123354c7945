/*
 * projection_tables.h
 *		Within projections only: which tables one keeps.
 */
#ifndef ES_PROJECTION_TABLES_H
#define ES_PROJECTION_TABLES_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* JSON of an array of names (text[]): qualified, as they are found now; 42P01, 42809 */
extern char *es_projection_tables_json(Datum names);
/* the tables (Oids) that a definition declares, and those that its SQL statements write; owner, search_path: whose statements they are */
extern List *es_projection_tables(Jsonb *spec, const char *owner, const char *search_path);

#endif
