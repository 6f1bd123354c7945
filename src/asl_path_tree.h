/*
 * asl_path_tree.h
 *		What a path of States Language is compiled to: between asl_path_parse.c and asl_path.c.
 */
#ifndef ES_ASL_PATH_TREE_H
#define ES_ASL_PATH_TREE_H

#include "asl_value.h"

typedef enum AslStepKind
{
	ASL_STEP_FIELDS, /* .a ['a'] ['a','b'] */
	ASL_STEP_ITEMS,	 /* [0] [-1] [0,2] */
	ASL_STEP_SLICE,	 /* [1:3] */
	ASL_STEP_ALL,	 /* * */
	ASL_STEP_DEEP,	 /* what it is at and all that is in it, for the step that follows */
	ASL_STEP_FILTER
} AslStepKind;

typedef enum AslFilterKind
{
	ASL_FILTER_OR,
	ASL_FILTER_AND,
	ASL_FILTER_NOT,
	ASL_FILTER_EXISTS,
	ASL_FILTER_EQUAL,
	ASL_FILTER_NOT_EQUAL,
	ASL_FILTER_LESS,
	ASL_FILTER_LESS_EQUAL,
	ASL_FILTER_GREATER,
	ASL_FILTER_GREATER_EQUAL
} AslFilterKind;

typedef struct AslOperand
{
	EsAslPath *path; /* NULL: a constant */
	JsonbValue constant;
} AslOperand;

typedef struct AslFilter
{
	AslFilterKind kind;
	struct AslFilter *left;
	struct AslFilter *right;
	AslOperand a;
	AslOperand b;
} AslFilter;

typedef struct AslStep
{
	AslStepKind kind;
	char **names;
	int32 *places;
	int n;		/* of names or places */
	int32 from; /* of a slice */
	int32 to;
	bool has_to;
	AslFilter *filter;
} AslStep;

typedef enum AslRoot
{
	ASL_ROOT_INPUT,
	ASL_ROOT_CONTEXT,
	ASL_ROOT_NODE /* @ */
} AslRoot;

struct EsAslPath
{
	char *text;
	AslRoot root;
	bool is_definite; /* one node at most */
	AslStep *steps;
	int nsteps;
};

#endif
