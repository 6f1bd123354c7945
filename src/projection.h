/*
 * projection.h
 *		Read models kept by SQL handlers.
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

extern void es_projection_init(void);

#endif
