/*
 * asl_tree.h
 *		Reading of definitions of sagas: for asl_parse.c, asl_field.c and asl_saga.c.
 */
#ifndef ES_ASL_TREE_H
#define ES_ASL_TREE_H

#include <float.h>

#include "asl_value.h"

/* what a reading knows */
typedef struct EsAslParser
{
	EsAslDefinition *definition;
	EsAslMachine *machine; /* at hand */
	List *states;		   /* of the whole definition */
	List *machines;
	StringInfo faults;
	bool is_partial; /* something of the graph could not be read, so what follows from the rest says nothing */
} EsAslParser;

typedef struct EsAslField EsAslField;

/* reads a field's value; to: the object's struct at the field's offset */
typedef void (*EsAslReader) (EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to);

/* what an object may have; a list ends with a NULL name */
struct EsAslField
{
	const char *name;
	unsigned types; /* of states that have it, ES_ASL_OF(); 0: all */
	EsAslReader read;
	size_t offset;
	bool is_required;
	const char *excludes; /* not beside this one */
	double min, max;	  /* of numbers */
	bool is_whole;
	const char *note; /* why it is refused */
};

/* of seconds */
#define ES_ASL_ABOVE_0 DBL_MIN
#define ES_ASL_MAX_SECONDS 99999999

#define ES_ASL_OF(type) (1u << (type))
/* without a kind of states: an object that is none */
#define ES_ASL_NO_STATE (-1)

/* each of its fields by the list; false: it is no object.  type: of the state, or ES_ASL_NO_STATE */
extern bool es_asl_read_object(EsAslParser *parser, const JsonbValue *value, const char *where, const EsAslField *fields, int type, void *to);
/* NULL: it has no such field */
extern JsonbValue *es_asl_get(const JsonbValue *object, const char *key, JsonbValue *value);
extern bool es_asl_is_string(const JsonbValue *value, const char *string);
/* the elements of an array, or NULL and a fault */
extern JsonbValue *es_asl_elements(EsAslParser *parser, const char *where, const JsonbValue *value, int *n);

/* ---- readers; what they fill stands behind each ---- */

extern void es_asl_read_comment(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* nothing */
extern void es_asl_read_nothing(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* nothing; it was read before */
extern void es_asl_read_refused(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* nothing */
extern void es_asl_read_language(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* nothing */
extern void es_asl_read_string(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* char * */
extern void es_asl_read_strings(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* List * of char * */
extern void es_asl_read_bool(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);		 /* bool */
extern void es_asl_read_double(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* double */
extern void es_asl_read_number(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* EsAslNumber */
extern void es_asl_read_number_path(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *); /* EsAslNumber */
extern void es_asl_read_text(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);		 /* EsAslText */
extern void es_asl_read_text_path(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* EsAslText */
extern void es_asl_read_time(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);		 /* EsAslText */
extern void es_asl_read_time_path(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* EsAslText */
extern void es_asl_read_select(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* EsAslSelect */
extern void es_asl_read_items(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);		 /* EsAslSelect */
extern void es_asl_read_expression(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *); /* EsAslExpression * */
extern void es_asl_read_payload(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);	 /* EsAslPayload * */
extern void es_asl_read_json(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);		 /* Jsonb * */
extern void es_asl_read_call(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);		 /* EsAslCall */
/* of a state, whole */
extern void es_asl_read_result_path(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
extern void es_asl_read_retry(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
extern void es_asl_read_catch(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
extern void es_asl_read_undo_retry(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);

/* ---- in asl_saga.c: the key "Saga" ---- */

extern void es_asl_read_saga(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);			/* EsAslDefinition, whole */
extern void es_asl_read_state_saga(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *); /* EsAslState, whole */
/* what can be said when all is read */
extern void es_asl_finish_saga(EsAslParser *parser, EsAslState *state);

#endif
