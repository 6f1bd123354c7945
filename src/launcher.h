/*
 * launcher.h
 *		The launcher: one static background worker per cluster.
 */
#ifndef ES_LAUNCHER_H
#define ES_LAUNCHER_H

/* from _PG_init, while shared_preload_libraries is processed; nothing under pg_upgrade */
extern void es_launcher_register(void);

extern PGDLLEXPORT void es_launcher_main(Datum arg);

#endif
