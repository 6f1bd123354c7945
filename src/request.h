/*
 * request.h
 *		What sessions ask of the workers: look again, or go away for a while.
 */
#ifndef ES_REQUEST_H
#define ES_REQUEST_H

/*
 * At the commit of this transaction: look at this database again (InvalidOid: at each that has the extension).  For
 * CREATE EXTENSION, DROP EXTENSION, ALTER DATABASE SET.  Workers that run there end and come back.
 */
extern void es_request_look(Oid database);
/* at the commit of this transaction: pg_database changed */
extern void es_request_rescan(void);
/*
 * No worker in this database from now until es_request_allow, the end of the transaction or of the session: stops those
 * that run and waits until they are gone.  For commands that fail, or wait, while anybody is connected.
 */
extern void es_request_forbid(Oid database);
extern void es_request_allow(Oid database);

extern void es_request_init(void);

#endif
