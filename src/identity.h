/*
 * identity.h
 *		Is this the place that delivers, or a copy of it?
 */
#ifndef ES_IDENTITY_H
#define ES_IDENTITY_H

typedef enum EsIdentity
{
	ES_IDENTITY_NONE,	/* no definition was ever made here: nothing to deliver */
	ES_IDENTITY_HERE,	/* this is the place */
	ES_IDENTITY_ELSEWHERE /* a copy: delivers to nobody until resume_delivery() */
} EsIdentity;

/* compares the identity row with here; needs a transaction.  detail (may be NULL) says what differs */
extern EsIdentity es_identity_check(char **detail);
/* writes the row if there is none: called by every definition */
extern void es_identity_establish(void);
/* scheduler at start, after a promotion: the same system moved, the row follows */
extern void es_identity_follow_promotion(void);

#endif
