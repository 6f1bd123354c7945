/*
 * asl_intrinsic.h
 *		The intrinsic functions of States Language: what asl_function.c calls when an expression is evaluated.
 */
#ifndef ES_ASL_INTRINSIC_H
#define ES_ASL_INTRINSIC_H

#include "asl_value.h"

typedef struct AslIntrinsic AslIntrinsic;

/* false: it failed.  The value may point into the arguments */
typedef bool (*AslIntrinsicRun) (const AslIntrinsic *intrinsic, const JsonbValue *args, int nargs, JsonbValue *value, EsAslFault *fault);

struct AslIntrinsic
{
	const char *name;
	int min; /* arguments */
	int max; /* -1: any number */
	AslIntrinsicRun run;
	bool of_numbers; /* all arguments */
};

/* NULL: there is none of that name */
extern const AslIntrinsic *es_asl_intrinsic_find(const char *name, int len);
/* is it States.Format?  Its first argument is a template */
extern bool es_asl_intrinsic_is_format(const AslIntrinsic *intrinsic);
/*
 * The number of places, {}, in a template; with escapes a backslash takes their meaning from { and }, as in a text that stands in the
 * definition, and without one it is a character like others.
 */
extern int es_asl_intrinsic_count_places(const char *template, int len, bool has_escapes);
/* States.Format with such a template */
extern bool es_asl_intrinsic_format(const AslIntrinsic *intrinsic, const char *template, int len, bool has_escapes,
									const JsonbValue *args, int nargs, JsonbValue *value, EsAslFault *fault);

#endif
