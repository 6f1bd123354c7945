/*
 * tls.c
 *		TLS as a client, by OpenSSL.
 *
 * Each connection has a context of its own: they are few, and secrets do not outlive them.  Names are checked by OpenSSL as part
 * of the chain, before anything is sent; versions below 1.2, compression and renegotiation are off.
 *
 * Runs in threads of transports, and es_tls_check() in any process; nothing is shared but what OpenSSL itself locks.  OpenSSL keeps
 * errors per thread: they are cleared before each call and after each failure, because the server's own connections look there too.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include "tls.h"

struct EsTls
{
	SSL_CTX    *context;
	SSL		   *ssl;
};

static SSL_CTX *make_context(const char *ca_file, const char *pem, char *fault, size_t size);
static bool use_pem(SSL_CTX *context, const char *pem);
static bool use_certificates(SSL_CTX *context, BIO *bio);
static int	no_password(char *buffer, int size, int rwflag, void *arg);
static bool is_address(const char *name);
static bool name_server(SSL *ssl, const char *server_name, bool verify);
static void say(const char *what, char *fault, size_t size);
static long judge(EsTls *tls, int rc, char *fault, size_t size);

bool
es_tls_check(const char *ca_file, const char *pem, char *fault, size_t size)
{
	SSL_CTX    *context = make_context(ca_file, pem, fault, size);

	SSL_CTX_free(context);
	return context != NULL;
}

EsTls *
es_tls_new(int fd, const char *server_name, const char *ca_file, const char *pem, bool verify, char *fault, size_t size)
{
	EsTls	   *tls = calloc(1, sizeof(EsTls));

	if (tls == NULL)
	{
		snprintf(fault, size, "there is no memory for TLS");
		return NULL;
	}
	tls->context = make_context(ca_file, pem, fault, size);
	if (tls->context == NULL)
	{
		free(tls);
		return NULL;
	}
	SSL_CTX_set_verify(tls->context, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	tls->ssl = SSL_new(tls->context);
	if (tls->ssl == NULL || !name_server(tls->ssl, server_name, verify) || SSL_set_fd(tls->ssl, fd) != 1)
	{
		say("could not set up TLS", fault, size);
		es_tls_free(tls);
		return NULL;
	}
	SSL_set_connect_state(tls->ssl);
	return tls;
}

long
es_tls_read(EsTls *tls, void *buffer, size_t room, char *fault, size_t size)
{
	int			rc;

	ERR_clear_error();
	rc = SSL_read(tls->ssl, buffer, (int) Min(room, 1 << 30));
	return rc > 0 ? rc : judge(tls, rc, fault, size);
}

long
es_tls_write(EsTls *tls, const void *bytes, size_t len, char *fault, size_t size)
{
	int			rc;

	ERR_clear_error();
	rc = SSL_write(tls->ssl, bytes, (int) Min(len, 1 << 30));
	return rc > 0 ? rc : judge(tls, rc, fault, size);
}

int
es_tls_handshake(EsTls *tls, bool *wants_write, char *fault, size_t size)
{
	int			rc;
	long		verified;

	ERR_clear_error();
	rc = SSL_do_handshake(tls->ssl);
	*wants_write = rc != 1 && SSL_get_error(tls->ssl, rc) == SSL_ERROR_WANT_WRITE;
	if (rc == 1)
		return 1;
	verified = SSL_get_verify_result(tls->ssl);
	if (judge(tls, rc, fault, size) == 0)
		return 0;
	if (verified != X509_V_OK)
		snprintf(fault, size, "the certificate is not accepted: %s", X509_verify_cert_error_string(verified));
	return -1;
}

void
es_tls_free(EsTls *tls)
{
	if (tls == NULL)
		return;
	ERR_clear_error();
	if (tls->ssl != NULL && SSL_is_init_finished(tls->ssl))
		(void) SSL_shutdown(tls->ssl);
	SSL_free(tls->ssl);
	SSL_CTX_free(tls->context);
	ERR_clear_error();
	free(tls);
}

static SSL_CTX *
make_context(const char *ca_file, const char *pem, char *fault, size_t size)
{
	SSL_CTX    *context;
	const char *bad = NULL;

	ERR_clear_error();
	context = SSL_CTX_new(TLS_client_method());
	if (context == NULL)
		bad = "could not set up TLS";
	else if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1)
		bad = "could not ask for TLS 1.2";
	else if (ca_file != NULL ? SSL_CTX_load_verify_locations(context, ca_file, NULL) != 1 : SSL_CTX_set_default_verify_paths(context) != 1)
		bad = ca_file != NULL ? "could not read the file of trusted certificates" : "could not find the system's trusted certificates";
	else if (pem != NULL && !use_pem(context, pem))
		bad = "the secret \"tls\" is not a certificate and its key without a passphrase, in PEM";
	if (bad == NULL)
	{
		SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
		/* the buffer that is written from moves, and the rest may wait */
		SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
		return context;
	}
	say(bad, fault, size);
	SSL_CTX_free(context);
	return NULL;
}

/* certificate, chain and key, in any order */
static bool
use_pem(SSL_CTX *context, const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *key = NULL;
	bool		ok = bio != NULL && use_certificates(context, bio);

	BIO_free(bio);
	if (!ok)
		return false;
	ERR_clear_error();
	bio = BIO_new_mem_buf(pem, -1);
	if (bio != NULL)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
	ok = key != NULL && SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1;
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok;
}

/* the first one is ours, the others lead to the root */
static bool
use_certificates(SSL_CTX *context, BIO *bio)
{
	X509	   *certificate;
	bool		ok = true;
	int			n = 0;

	while (ok && (certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL)
	{
		ok = n++ == 0 ? SSL_CTX_use_certificate(context, certificate) == 1 : SSL_CTX_add1_chain_cert(context, certificate) == 1;
		X509_free(certificate);
	}
	return ok && n > 0;
}

/* or OpenSSL would ask the terminal */
static int
no_password(char *buffer, int size, int rwflag, void *arg)
{
	return -1;
}

static bool
is_address(const char *name)
{
	unsigned char bytes[16];

	return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

static bool
name_server(SSL *ssl, const char *server_name, bool verify)
{
	/* addresses are not sent: RFC 6066, section 3 */
	if (!is_address(server_name) && SSL_set_tlsext_host_name(ssl, server_name) != 1)
		return false;
	if (!verify)
		return true;
	if (is_address(server_name))
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), server_name) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, server_name) == 1;
}

static void
say(const char *what, char *fault, size_t size)
{
	unsigned long error = ERR_peek_error();
	const char *reason = error != 0 ? ERR_reason_error_string(error) : NULL;

	snprintf(fault, size, "%s%s%s", what, reason != NULL ? ": " : "", reason != NULL ? reason : "");
	ERR_clear_error();
}

static long
judge(EsTls *tls, int rc, char *fault, size_t size)
{
	int			saved_errno = errno;
	int			error = SSL_get_error(tls->ssl, rc);

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return 0;
	if (error == SSL_ERROR_ZERO_RETURN)
		snprintf(fault, size, "the other side closed it");
	else if (error == SSL_ERROR_SYSCALL && ERR_peek_error() == 0)
		snprintf(fault, size, "the other side is gone: errno %d", saved_errno);
	else
		say("TLS failed", fault, size);
	ERR_clear_error();
	return -1;
}
