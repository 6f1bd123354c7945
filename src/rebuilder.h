/*
 * rebuilder.h
 *		The rebuild worker.
 */
#ifndef ES_REBUILDER_H
#define ES_REBUILDER_H

extern PGDLLEXPORT void es_rebuilder_main(Datum arg);

#endif
