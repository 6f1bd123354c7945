/*
 * tls.h
 *		TLS as a client, on a connected socket that does not block.
 *
 * For client libraries whose own TLS connects to a host by itself: here the socket is one whose address was checked.  Compiled into
 * each library that needs it; each connection belongs to one thread.
 */
#ifndef ES_TLS_H
#define ES_TLS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct EsTls EsTls;

/* false and why not when the files or texts are not usable; ca_file and pem (certificate, chain and key) may be NULL */
extern bool es_tls_check(const char *ca_file, const char *pem, char *fault, size_t size);
/* server_name: whose certificate it must be, unless verify is false.  The socket stays the caller's */
extern EsTls *es_tls_new(int fd, const char *server_name, const char *ca_file, const char *pem, bool verify, char *fault, size_t size);
/* bytes; 0: not now; -1: the connection is over, and why */
extern long es_tls_read(EsTls *tls, void *buffer, size_t room, char *fault, size_t size);
/* the same; what was asked for and not written may be partly on its way: the next call must begin with the same bytes */
extern long es_tls_write(EsTls *tls, const void *bytes, size_t len, char *fault, size_t size);
/* 1: done; 0: not now; -1: failed, and why.  wants_write: what it waits for is room */
extern int	es_tls_handshake(EsTls *tls, bool *wants_write, char *fault, size_t size);
/* says goodbye where that needs no wait */
extern void es_tls_free(EsTls *tls);

#endif
