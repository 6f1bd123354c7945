/*
 * nats_stream.c
 *		A connected socket to a NATS server, with TLS or without.
 *
 * TLS is OpenSSL's, between two buffers of memory, so that every read and write of the socket is ours, and none of them waits.
 *
 * Runs in relay workers, in the main thread.  A crash leaves a closed socket.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nats_stream.h"

static bool encipher(NatsStream *stream, char *fault, size_t size);
static bool decipher(NatsStream *stream, char *fault, size_t size);
static bool handshake(NatsStream *stream, char *fault, size_t size);
static void say_tls(NatsStream *stream, const char *what, char *fault, size_t size);

bool
nats_stream_open(NatsStream *stream, int fd)
{
	int			yes = 1;

	stream->fd = fd;
	/* what is sent together is written together already */
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}

void
nats_stream_close(NatsStream *stream)
{
	SSL_free(stream->ssl);
	close(stream->fd);
	free(stream->in.bytes);
	free(stream->out.bytes);
	free(stream->cipher.bytes);
}

bool
nats_stream_read(NatsStream *stream, size_t *n, char *fault, size_t size)
{
	static char bytes[NATS_READ_BYTES];
	ssize_t		got;

	*n = 0;
	do
		got = recv(stream->fd, bytes, sizeof(bytes), 0);
	while (got < 0 && errno == EINTR);
	if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return true;
	if (got <= 0)
	{
		if (got == 0)
			snprintf(fault, size, "the server closed the connection");
		else
			snprintf(fault, size, "the connection broke: errno %d", errno);
		return false;
	}
	*n = got;
	if (stream->ssl != NULL ? BIO_write(SSL_get_rbio(stream->ssl), bytes, (int) got) != got : !nats_buffer_add(&stream->in, bytes, got))
	{
		snprintf(fault, size, "there is no memory to read it");
		return false;
	}
	return decipher(stream, fault, size);
}

bool
nats_stream_write(NatsStream *stream, char *fault, size_t size)
{
	NatsBuffer *buffer = stream->ssl != NULL ? &stream->cipher : &stream->out;

	stream->is_full = false;
	if (!encipher(stream, fault, size))
		return false;
	while (nats_buffer_len(buffer) > 0)
	{
		ssize_t		n = send(stream->fd, buffer->bytes + buffer->begin, nats_buffer_len(buffer), MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			stream->is_full = true;
			return true;
		}
		if (n < 0)
		{
			snprintf(fault, size, "the connection broke: errno %d", errno);
			return false;
		}
		if (stream->ssl == NULL)
			stream->sent += n;
		nats_buffer_take(buffer, n);
	}
	return true;
}

bool
nats_stream_begin_tls(NatsStream *stream, SSL_CTX *context, const char *server_name, char *fault, size_t size)
{
	SSL		   *ssl = SSL_new(context);
	BIO		   *in = BIO_new(BIO_s_mem());
	BIO		   *out = BIO_new(BIO_s_mem());
	struct in6_addr address;
	bool		is_address = inet_pton(AF_INET, server_name, &address) == 1 ||
		inet_pton(AF_INET6, server_name, &address) == 1;

	if (ssl == NULL || in == NULL || out == NULL)
	{
		SSL_free(ssl);
		BIO_free(in);
		BIO_free(out);
		snprintf(fault, size, "there is no memory for TLS");
		return false;
	}
	SSL_set_bio(ssl, in, out);
	SSL_set_connect_state(ssl);
	stream->ssl = ssl;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (is_address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), server_name) != 1
		: SSL_set1_host(ssl, server_name) != 1 || SSL_set_tlsext_host_name(ssl, server_name) != 1)
	{
		snprintf(fault, size, "could not set the server's name for TLS");
		return false;
	}
	if (nats_buffer_len(&stream->in) > 0 &&
		BIO_write(in, stream->in.bytes + stream->in.begin, (int) nats_buffer_len(&stream->in)) != (int) nats_buffer_len(&stream->in))
	{
		snprintf(fault, size, "there is no memory for TLS");
		return false;
	}
	nats_buffer_take(&stream->in, nats_buffer_len(&stream->in));
	return decipher(stream, fault, size);
}

/* out becomes cipher */
static bool
encipher(NatsStream *stream, char *fault, size_t size)
{
	char	   *bytes;
	long		n;

	if (stream->ssl == NULL)
		return true;
	if (stream->is_secure)
		while (nats_buffer_len(&stream->out) > 0)
		{
			int			written = SSL_write(stream->ssl, stream->out.bytes + stream->out.begin, (int) Min(nats_buffer_len(&stream->out), 1024 * 1024));

			if (written <= 0)
			{
				say_tls(stream, "TLS failed", fault, size);
				return false;
			}
			/* what is enciphered counts as sent: nobody can tell where in it the connection broke */
			stream->sent += written;
			nats_buffer_take(&stream->out, written);
		}
	n = BIO_get_mem_data(SSL_get_wbio(stream->ssl), &bytes);
	if (n > 0 && !nats_buffer_add(&stream->cipher, bytes, n))
	{
		snprintf(fault, size, "there is no memory to write it");
		return false;
	}
	(void) BIO_reset(SSL_get_wbio(stream->ssl));
	return true;
}

/* what OpenSSL was given becomes in, and the handshake goes on */
static bool
decipher(NatsStream *stream, char *fault, size_t size)
{
	if (stream->ssl == NULL)
		return true;
	if (!stream->is_secure && !handshake(stream, fault, size))
		return false;
	while (stream->is_secure)
	{
		char	   *room = nats_buffer_make_room(&stream->in, 16 * 1024);
		int			n;

		if (room == NULL)
		{
			snprintf(fault, size, "there is no memory to read it");
			return false;
		}
		ERR_clear_error();
		n = SSL_read(stream->ssl, room, 16 * 1024);
		if (n > 0)
			stream->in.end += n;
		else if (SSL_get_error(stream->ssl, n) == SSL_ERROR_WANT_READ)
			break;
		else if (SSL_get_error(stream->ssl, n) == SSL_ERROR_ZERO_RETURN)
		{
			stream->is_ended = true;
			break;
		}
		else
		{
			say_tls(stream, "TLS failed", fault, size);
			return false;
		}
	}
	return true;
}

static bool
handshake(NatsStream *stream, char *fault, size_t size)
{
	int			rc;

	ERR_clear_error();
	rc = SSL_do_handshake(stream->ssl);
	stream->is_secure = rc == 1;
	if (rc == 1 || SSL_get_error(stream->ssl, rc) == SSL_ERROR_WANT_READ)
		return true;
	say_tls(stream, "the handshake of TLS failed", fault, size);
	return false;
}

static void
say_tls(NatsStream *stream, const char *what, char *fault, size_t size)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
	long		verified = SSL_get_verify_result(stream->ssl);

	if (verified != X509_V_OK && SSL_get_verify_mode(stream->ssl) != SSL_VERIFY_NONE)
		reason = X509_verify_cert_error_string(verified);
	snprintf(fault, size, "%s: %s", what, reason != NULL ? reason : "no reason given");
	ERR_clear_error();
}
