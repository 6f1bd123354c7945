/*
 * pattern.h
 *		Content patterns: what selects events by what is in their data and metadata.
 */
#ifndef ES_PATTERN_H
#define ES_PATTERN_H

#include "utils/jsonb.h"

typedef struct EsPattern EsPattern;

/* checks and compiles; 22023 names the key that is wrong.  what: for the message.  Allocated in the current context */
extern EsPattern *es_pattern_compile(Jsonb *pattern, const char *what);
/* data and metadata are jsonb, toasted or not; what is allocated is freed */
extern bool es_pattern_matches(const EsPattern *pattern, Datum data, Datum metadata);

#endif
