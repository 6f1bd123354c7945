/*
 * http_answer.h
 *		What came of a request.
 *
 * For the main thread.
 */
#ifndef ES_HTTP_ANSWER_H
#define ES_HTTP_ANSWER_H

#include "http_request.h"

/* libcurl's callbacks for what arrives; arg is the transfer */
extern size_t http_answer_take_header(char *bytes, size_t size, size_t count, void *arg);
extern size_t http_answer_take_body(char *bytes, size_t size, size_t count, void *arg);
/* the transfer is over: its message's outcome */
extern void http_answer_judge(HttpTransfer *transfer, CURLcode code);

#endif
