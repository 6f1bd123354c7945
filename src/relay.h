/*
 * relay.h
 *		The relay worker.
 */
#ifndef ES_RELAY_H
#define ES_RELAY_H

extern PGDLLEXPORT void es_relay_main(Datum arg);

#endif
