/*
 * saga_script.h
 *		Within sagas only: what the script of a simulation answers.
 */
#ifndef ES_SAGA_SCRIPT_H
#define ES_SAGA_SCRIPT_H

#include "saga_move.h"

typedef struct EsScript EsScript;

typedef struct EsScriptAnswer
{
	EsEnding ending; /* of a signal: a success, and its payload */
	double after;	 /* s */
	bool is_never;	 /* nobody answers */
	bool is_unseen;	 /* and nobody has had it */
	struct EsScript *script; /* of a child, which is run by it; NULL: it is not run */
} EsScriptAnswer;

/* of an object {STATE: answer or [answer, ...]}, in the current context; 22023 where it does not fit the definition */
extern EsScript *es_script_make(const EsSagaVersion *version, Jsonb *script);
/* the next answer to that call, which is one of the definition; false: the script says nothing of it.  script may be NULL */
extern bool es_script_answer(EsScript *script, const EsAslCall *call, EsScriptAnswer *answer);
/* null */
extern Jsonb *es_script_null(void);

#endif
