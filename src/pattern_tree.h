/*
 * pattern_tree.h
 *		A compiled content pattern: for pattern_parse.c and pattern_join.c, which make it, and pattern.c, which walks it.
 */
#ifndef ES_PATTERN_TREE_H
#define ES_PATTERN_TREE_H

#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "pattern.h"
#include "pattern_text.h"

typedef enum PatternOperator
{
	MATCH_EXACT,
	MATCH_PREFIX,
	MATCH_SUFFIX,
	MATCH_IGNORE_CASE,
	MATCH_PREFIX_IGNORE_CASE,
	MATCH_SUFFIX_IGNORE_CASE,
	MATCH_WILDCARD,
	MATCH_NUMERIC,
	MATCH_CIDR,
	MATCH_PRESENT,
	MATCH_ABSENT,
	MATCH_ANYTHING_BUT
} PatternOperator;

typedef enum PatternComparison
{
	COMPARE_EQUAL,
	COMPARE_LESS,
	COMPARE_LESS_EQUAL,
	COMPARE_GREATER,
	COMPARE_GREATER_EQUAL
} PatternComparison;

typedef struct PatternBound
{
	PatternComparison comparison;
	Numeric		number;
} PatternBound;

/* addresses whose first bits are these */
typedef struct PatternNetwork
{
	int			family;
	int			bits;
	unsigned char address[16];
} PatternNetwork;

typedef struct PatternMatcher
{
	PatternOperator operator;
	JsonbValue	value;			/* EXACT; a string for PREFIX and SUFFIX */
	EsCaselessText *caseless;	/* the three that ignore case */
	EsWildcard *wildcard;		/* WILDCARD */
	PatternNetwork network;		/* CIDR */
	int			nbounds;		/* NUMERIC */
	PatternBound bounds[2];
	int			nnot;			/* ANYTHING_BUT: none of these */
	struct PatternMatcher *not;
} PatternMatcher;

typedef struct PatternNode PatternNode;

typedef struct PatternField
{
	char	   *key;
	int			len;
	PatternNode *node;
} PatternField;

/* alternatives of a "$or": objects, one of which must match */
typedef struct PatternChoice
{
	int			n;
	PatternNode **nodes;
} PatternChoice;

/* an object, all of whose fields and choices must match; or the matchers of a field, any of which must */
struct PatternNode
{
	bool		is_object;
	int			nfields;
	PatternField *fields;
	int			nchoices;
	PatternChoice *choices;
	int			nmatchers;
	PatternMatcher *matchers;
	bool		takes_absence;	/* one of the matchers is {"exists": false} */
	int			combinations;	/* how many patterns without "$or" it comes to */
	bool		is_joined;		/* for pattern_join.c: it and what is below are as they have to be */
	int			absences;		/* the same: 1 + what it once counted; 0: nothing yet */
};

struct EsPattern
{
	PatternNode *root;			/* its fields are data and metadata */
};

static inline bool
es_pattern_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static inline bool
es_pattern_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

/* an equal tree in which no field is named twice, neither beside a "$or" nor in two of them, where an array has to be consistent */
extern PatternNode *es_pattern_join(PatternNode *node);
/* the bytes of an address, v4 or v6; 0: it is none, else its family */
extern int	es_pattern_parse_address(const char *text, int len, unsigned char *address);

#endif
