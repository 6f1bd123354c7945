/*
 * scheduler.h
 *		The scheduler: one dynamic background worker per database with the extension.
 */
#ifndef ES_SCHEDULER_H
#define ES_SCHEDULER_H

extern PGDLLEXPORT void es_scheduler_main(Datum arg);

#endif
