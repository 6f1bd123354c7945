/*
 * pattern_text.h
 *		Comparing texts for content patterns: with wildcards, and without regard to case.
 */
#ifndef ES_PATTERN_TEXT_H
#define ES_PATTERN_TEXT_H

typedef struct EsWildcard EsWildcard;
typedef struct EsCaselessText EsCaselessText;

/* NULL: problem says what is wrong, to be read after the text.  Allocated in the current context */
extern EsWildcard *es_wildcard_compile(const char *text, int len, const char **problem);
/* allocates nothing.  steps: NULL, or how many comparisons of bytes it took is added to it */
extern bool es_wildcard_matches(const EsWildcard *wildcard, const char *text, int len, uint64 *steps);

extern EsCaselessText *es_caseless_compile(const char *text, int len);
extern bool es_caseless_equal(const EsCaselessText *caseless, const char *text, int len);
extern bool es_caseless_begins(const EsCaselessText *caseless, const char *text, int len);
extern bool es_caseless_ends(const EsCaselessText *caseless, const char *text, int len);

#endif
