/*
 * worker.h
 *		The delivery worker.
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

extern PGDLLEXPORT void es_worker_main(Datum arg);

#endif
