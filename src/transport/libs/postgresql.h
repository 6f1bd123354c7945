/*
 * postgresql.h
 *		Between postgresql.c, whose links have threads, postgresql_worker.c, the life of such a thread, and postgresql_connect.c, which
 *		reads URLs and connects.
 */
#ifndef ES_POSTGRESQL_H
#define ES_POSTGRESQL_H

#include <libpq-fe.h>

#include "thread.h"

/* what a URL says; what it does not say is empty */
typedef struct EsPgUrl
{
	char host[256]; /* without brackets */
	char port[6];
	char user[256];
	char database[256];
	char sslmode[16];
	char application_name[128];
	char target_session_attrs[16];
	char connect_timeout[8];
} EsPgUrl;

/* what a connection is made from; of malloc */
typedef struct EsPgTarget
{
	const EsTransportHost *core;
	EsPgUrl url;
	char *endpoint;
	char *password; /* NULL: none */
	char *networks;
	char *server_name; /* NULL: the host's */
	char *ca_file;	   /* NULL: the system's */
	char *pem;		   /* certificate and key; NULL: none */
	bool verify;
	bool plain_text;
	long connect_ms;
	EsSetting *client;
	int nclient;
} EsPgTarget;

/* NULL, or why it is not acceptable: a constant */
extern const char *es_pg_parse_url(const char *text, EsPgUrl *url);
/* false and why not; opens no connection */
extern bool es_pg_check(const EsLinkConfig *config, char *fault, size_t size);
extern bool es_pg_make_target(EsPgTarget *target, const EsTransportHost *core, const EsLinkConfig *config, char *fault, size_t size);
/* once per process, before there are threads: what libpq would look for in it */
extern void es_pg_forget_environment(void);
/* what is behind it */
extern void es_pg_free_target(EsPgTarget *target);

/* what the thread of a link has */
typedef struct EsPgWorker EsPgWorker;

/* NULL and why not */
extern EsPgWorker *es_pg_make_worker(const EsTransportHost *core, const EsLinkConfig *config, char *fault, size_t size);
/* NULL: nothing */
extern void es_pg_end_worker(void *worker);

/*
 * The thread's
 */

/* its life; ends the worker */
extern void es_pg_run(EsThread *thread, void *worker);
/* a connection that is not blocking; NULL and why not.  The resolver cannot be interrupted */
extern PGconn *es_pg_connect(EsThread *thread, const EsPgTarget *target, long long deadline, char *fault, size_t size);
/* waits for the socket; false: the time is up, or the thread is to end */
extern bool es_pg_wait(EsThread *thread, int fd, short events, long long deadline);

#endif
