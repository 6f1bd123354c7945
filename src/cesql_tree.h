/*
 * cesql_tree.h
 *		A parsed expression: for cesql_parse.c, which makes it, and cesql_eval.c, which walks it.
 */
#ifndef ES_CESQL_TREE_H
#define ES_CESQL_TREE_H

#include "mb/pg_wchar.h"

#include "cesql.h"

typedef enum CesqlKind
{
	CESQL_LITERAL,
	CESQL_ATTRIBUTE,
	CESQL_EXISTS,
	CESQL_NOT,
	CESQL_MINUS,
	CESQL_AND,
	CESQL_OR,
	CESQL_XOR,
	CESQL_EQUAL,
	CESQL_NOT_EQUAL,
	CESQL_LESS,
	CESQL_LESS_EQUAL,
	CESQL_GREATER,
	CESQL_GREATER_EQUAL,
	CESQL_ADD,
	CESQL_SUBTRACT,
	CESQL_MULTIPLY,
	CESQL_DIVIDE,
	CESQL_MODULO,
	CESQL_LIKE,
	CESQL_IN,
	CESQL_FUNCTION
} CesqlKind;

typedef enum CesqlFunction
{
	CESQL_UNKNOWN_FUNCTION,
	CESQL_ABS,
	CESQL_LENGTH,
	CESQL_CONCAT,
	CESQL_CONCAT_WS,
	CESQL_LOWER,
	CESQL_UPPER,
	CESQL_TRIM,
	CESQL_LEFT,
	CESQL_RIGHT,
	CESQL_SUBSTRING,
	CESQL_INT,
	CESQL_BOOL,
	CESQL_STRING,
	CESQL_IS_INT,
	CESQL_IS_BOOL
} CesqlFunction;

/* an element of a LIKE pattern */
typedef struct CesqlLikeItem
{
	char		kind;			/* '%', '_', or 'c': the character */
	uint8		len;
	char		character[MAX_MULTIBYTE_CHAR_LEN];
} CesqlLikeItem;

typedef struct CesqlNode
{
	CesqlKind	kind;
	EsCesqlType type;			/* of its result; an attribute's is known by the event only, and BOOLEAN here, as the specification says */
	int			depth;			/* of the tree below, itself included */
	bool		negated;		/* NOT LIKE, NOT IN */
	CesqlFunction function;
	EsCesqlValue value;			/* of a literal */
	char	   *name;			/* of an attribute */
	int			nargs;			/* operands, arguments; IN: the left side, then the set */
	struct CesqlNode **args;
	int			nitems;			/* LIKE */
	CesqlLikeItem *items;
} CesqlNode;

struct EsCesql
{
	CesqlNode  *root;
};

/* bytes of the character at s, never beyond the end */
static inline int
cesql_char_len(const char *s, const char *end)
{
	return Min(pg_encoding_mblen(GetDatabaseEncoding(), s), (int) (end - s));
}

#endif
