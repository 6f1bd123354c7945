/*
 * http_pool.h
 *		Connections that links to HTTP share, and the requests that are on them.
 *
 * For the main thread.
 */
#ifndef ES_HTTP_POOL_H
#define ES_HTTP_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include <curl/curl.h>

/* connections that were dialled under the same list of networks */
typedef struct HttpPool
{
	int			place;			/* in pools */
	int			nlinks;
	CURLM	   *multi;
	char	   *networks;
	long long	due;			/* libcurl wants to be called then; -1: no time */
} HttpPool;

/* a request is over, well or not; it is to be removed */
typedef void (*HttpFinished) (CURL *easy, CURLcode code);

/* libcurl, too */
extern bool http_pool_startup(char *fault, size_t size);
/* closes what is open politely; not called after a crash, which closes everything too */
extern void http_pool_shutdown(void);
/* NULL: no memory, or more lists at a time than anybody has */
extern HttpPool *http_pool_join(const char *networks);
extern void http_pool_leave(HttpPool *pool);
/* is there a socket for one more request?  has_little: of a link that has little out */
extern bool http_pool_has_room(bool has_little);
/* false: it cannot be begun */
extern bool http_pool_add(HttpPool *pool, CURL *easy);
extern void http_pool_remove(HttpPool *pool, CURL *easy);
/* as EsTransport's */
extern void http_pool_pump(HttpFinished finished);
extern int	http_pool_wait_fd(void);
extern long http_pool_wait_ms(void);

#endif
