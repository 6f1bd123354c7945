/*
 * http_request.h
 *		Requests of a link to HTTP.
 *
 * For the main thread.
 */
#ifndef ES_HTTP_REQUEST_H
#define ES_HTTP_REQUEST_H

#include "http_pool.h"
#include "links.h"

/* the beginning of a reply's body that error texts are made from */
#define HTTP_RESPONSE_HEAD 200

typedef struct HttpLink HttpLink;

/* one request under way; reused from message to message */
typedef struct HttpTransfer
{
	HttpLink   *link;
	CURL	   *easy;
	EsOutgoing *message;		/* NULL: idle */
	struct curl_slist *headers;
	bool		address_refused;
	bool		too_large;
	size_t		received;
	int			head_len;
	char		head[HTTP_RESPONSE_HEAD + 1];	/* beginning of the body, raw */
	char		detail[CURL_ERROR_SIZE];	/* libcurl's error text */
	struct HttpTransfer *next;	/* of the link */
	struct HttpTransfer *next_idle;
} HttpTransfer;

struct HttpLink
{
	EsLink		base;
	const EsTransportHost *core;
	HttpPool   *pool;
	char	   *url;
	char	   *proxy;			/* NULL: none */
	char	   *basic;
	char	   *bearer;
	char	   *pem;			/* certificate and key; NULL: none */
	char	   *ca_file;
	bool		verify;
	bool		plain_text;		/* http: only to listed networks */
	bool		only_http1;
	HttpTransfer *transfers;	/* all, idle ones too */
	HttpTransfer *idle;
};

/* false: it could not be set up */
extern bool http_request_begin(HttpLink *link, EsOutgoing *message);
/* it is over, or given up; the transfer is idle again */
extern void http_request_end(HttpTransfer *transfer);
/* those that are under way, too */
extern void http_request_free_all(HttpLink *link);

#endif
