/*
 * evtstore.h
 *		Names that every file of evtstore may use.
 *
 * Prefixes: C functions shared between files are es_<module>_<verb>, SQL-callable ones evtstore_<name>, types Es<Name>,
 * macros and enum values ES_<NAME>.  Layer 0: includes nothing of ours.
 */
#ifndef EVTSTORE_H
#define EVTSTORE_H

/* must equal default_version in evtstore.control; catalog.c compares it with the installed SQL version */
#define ES_VERSION "0.1.0"

/* schemas of the public surface and of the tables */
#define ES_SCHEMA "evtstore"
#define ES_SCHEMA_INTERNAL "evtstore_internal"

/* limits of names, in bytes; they keep every index entry well below a third of a page */
#define ES_MAX_STREAM_BYTES 1024
#define ES_MAX_TYPE_BYTES 512
#define ES_MAX_TAG_BYTES 512
#define ES_MAX_KEY_BYTES 1024
#define ES_MAX_NAME_BYTES 255

/* lists of positions that one query may read, in all its items: types times tags.  Each is an index scan, and pins a page */
#define ES_MAX_QUERY_LISTS 5000

typedef struct EsEvent EsEvent; /* stream.h */

#endif
