/*
 * receiver.c
 *		An HTTP receiver for tests of delivery: fast, keeps connections, and misbehaves when it is told to.
 *
 *	receiver --record FILE --port-file FILE [--port N] [--control-port N] [--cert FILE --key FILE]
 *
 * A process of its own, one thread, epoll; HTTP/1.1, over TLS with --cert.  Listens on 127.0.0.1; the ports that it got are in the port
 * file, as "PORT CONTROL-PORT", once it listens.
 *
 * Each request becomes a line in the record when it has arrived, before it is answered, so that what its sender takes for delivered is
 * there, also when this process is killed a moment later.  Separated by tabs:
 *
 *	path, status of the answer (0: none will come), ce-id, ce-partitionkey, ce-sequence, n of the body, evtstore-attempt, evtstore-replay,
 *	number of the connection, requests to that path under way with it
 *
 * The control port takes one line for each connection and answers with one:
 *
 *	set PATH NAME=VALUE ...		a rule; the newest one that fits is applied.  PATH * is any path.  When it fits: n=NUMBER (of the body), key=KEY,
 *								first=COUNT (of requests, then no more), every=COUNT (of requests).  What it does: status=CODE, delay_ms=MS,
 *								retry_after=SECONDS, location=URL, hang=1 (never answers), close=1 (closes instead of answering)
 *	clear PATH					its rules are gone, and what is not answered there is, with 204; a second line in the record says so
 *	stats PATH					"REQUESTS IN-FLIGHT MOST-IN-FLIGHT CONNECTIONS"; connections: open ones of any path
 *	reset PATH					what stats says begins at zero
 *	exit						ends at once, without a word to anybody
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define MAX_CONNECTIONS 4096 /* by descriptor */
#define MAX_REQUEST (16 * 1024 * 1024)
#define MAX_RULES 256
#define MAX_PATHS 1024
#define MAX_WORD 256
#define NEVER -1

typedef struct Path
{
	char		name[MAX_WORD];
	long		requests;
	int			in_flight;
	int			most;
} Path;

typedef struct Rule
{
	char		path[MAX_WORD];
	char		key[MAX_WORD];
	char		location[MAX_WORD];
	long		n;				/* -1: any */
	long		first;			/* left; -1: no end */
	long		every;
	long		seen;
	int			status;
	long		delay_ms;
	long		retry_after;
	bool		hang;
	bool		close;
} Rule;

typedef struct Connection
{
	int			fd;
	int			number;
	bool		is_control;
	bool		wants_write;
	SSL		   *ssl;			/* NULL: plain */
	char	   *in;
	size_t		in_len;
	size_t		in_size;
	char		out[1024];
	size_t		out_len;
	Path	   *path;			/* a request is under way; the rest is of it */
	long long	due;			/* NEVER: it hangs */
	Rule		answer;
	char		said[4 * MAX_WORD]; /* id, key, sequence, n, attempt, replay */
} Connection;

static Connection *connections[MAX_CONNECTIONS];
static int	nconnections = 0;
static int	next_number = 0;
static Path paths[MAX_PATHS];
static int	npaths = 0;
static Rule rules[MAX_RULES];
static int	nrules = 0;
static int	epoll = -1;
static int	record = -1;
static SSL_CTX *tls = NULL;

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static long long
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static Path *
get_path(const char *name)
{
	for (int i = 0; i < npaths; i++)
		if (strcmp(paths[i].name, name) == 0)
			return &paths[i];
	if (npaths == MAX_PATHS)
		die("too many paths");
	snprintf(paths[npaths].name, MAX_WORD, "%s", name);
	return &paths[npaths++];
}

static void
end_request(Connection *connection)
{
	if (connection->path != NULL)
		connection->path->in_flight--;
	connection->path = NULL;
	connection->due = NEVER;
}

static void
drop(Connection *connection)
{
	end_request(connection);
	if (connection->ssl != NULL)
		SSL_free(connection->ssl);
	connections[connection->fd] = NULL;
	if (!connection->is_control)
		nconnections--;
	close(connection->fd);
	free(connection->in);
	free(connection);
}

static void
want(Connection *connection, bool write)
{
	struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.fd = connection->fd};

	if (connection->wants_write == write)
		return;
	connection->wants_write = write;
	epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

/* false: it is closed */
static bool
flush_out(Connection *connection)
{
	while (connection->out_len > 0)
	{
		long		n;

		if (connection->ssl != NULL)
		{
			n = SSL_write(connection->ssl, connection->out, connection->out_len);
			if (n <= 0 && (SSL_get_error(connection->ssl, n) == SSL_ERROR_WANT_READ || SSL_get_error(connection->ssl, n) == SSL_ERROR_WANT_WRITE))
				break;
		}
		else
		{
			n = send(connection->fd, connection->out, connection->out_len, MSG_NOSIGNAL);
			if (n < 0 && (errno == EAGAIN || errno == EINTR))
				break;
		}
		if (n <= 0)
		{
			drop(connection);
			return false;
		}
		memmove(connection->out, connection->out + n, connection->out_len - n);
		connection->out_len -= n;
	}
	want(connection, connection->out_len > 0);
	return true;
}

static bool
put_out(Connection *connection, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	connection->out_len += vsnprintf(connection->out + connection->out_len, sizeof(connection->out) - connection->out_len, format, args);
	va_end(args);
	if (connection->out_len >= sizeof(connection->out))
		die("answer too long");
	return flush_out(connection);
}

/* false: it is closed */
static bool
answer(Connection *connection)
{
	Rule		rule = connection->answer;
	char		extra[2 * MAX_WORD] = "";
	size_t		len = 0;

	if (rule.close)
	{
		drop(connection);
		return false;
	}
	end_request(connection);
	if (rule.retry_after > 0)
		len += snprintf(extra + len, sizeof(extra) - len, "Retry-After: %ld\r\n", rule.retry_after);
	if (rule.location[0] != '\0')
		snprintf(extra + len, sizeof(extra) - len, "Location: %s\r\n", rule.location);
	/* 204 has no body, and no length of one */
	return put_out(connection, "HTTP/1.1 %d Status\r\n%s%s\r\n", rule.status, rule.status == 204 ? "" : "Content-Length: 0\r\n", extra);
}

/* the value of a header in the request's head, or "" */
static const char *
header(const char *head, const char *name, char *value)
{
	size_t		len = strlen(name);

	value[0] = '\0';
	for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n"))
	{
		line += 2;
		if (strncasecmp(line, name, len) == 0 && line[len] == ':')
		{
			const char *start = line + len + 1 + strspn(line + len + 1, " ");

			snprintf(value, MAX_WORD, "%.*s", (int) strcspn(start, "\r\n"), start);
			break;
		}
	}
	return value;
}

static long
body_number(const char *body)
{
	const char *at = strstr(body, "\"n\":");

	return at == NULL ? -1 : atol(at + 4 + strspn(at + 4, " "));
}

static Rule
find_rule(const char *path, const char *key, long n)
{
	for (int i = nrules - 1; i >= 0; i--)
	{
		Rule	   *rule = &rules[i];

		if ((strcmp(rule->path, "*") != 0 && strcmp(rule->path, path) != 0) || (rule->n >= 0 && rule->n != n) ||
			(rule->key[0] != '\0' && strcmp(rule->key, key) != 0) || rule->first == 0)
			continue;
		if (rule->every > 1 && ++rule->seen % rule->every != 0)
			continue;
		if (rule->first > 0)
			rule->first--;
		return *rule;
	}
	return (Rule) {.status = 204};
}

static void
write_record(const Connection *connection, int status)
{
	char		line[8 * MAX_WORD];
	int			len = snprintf(line, sizeof(line), "%s\t%d\t%s\t%d\t%d\n", connection->path->name, status, connection->said,
							   connection->number, connection->path->in_flight);

	if (write(record, line, len) != len)
		die("record");
}

static bool
take_request(Connection *connection, char *head, const char *body)
{
	char		method[MAX_WORD];
	char		path[MAX_WORD];
	char		key[MAX_WORD];
	char		id[MAX_WORD];
	char		sequence[MAX_WORD];
	char		attempt[MAX_WORD];
	char		replay[MAX_WORD];
	long		n = body_number(body);
	Rule	   *rule = &connection->answer;

	if (sscanf(head, "%255s %255s", method, path) != 2)
	{
		drop(connection);
		return false;
	}
	path[strcspn(path, "?")] = '\0';
	header(head, "ce-partitionkey", key);
	*rule = find_rule(path, key, n);
	connection->path = get_path(path);
	connection->path->requests++;
	if (++connection->path->in_flight > connection->path->most)
		connection->path->most = connection->path->in_flight;
	snprintf(connection->said, sizeof(connection->said), "%.200s\t%.200s\t%.40s\t%ld\t%.20s\t%.200s", header(head, "ce-id", id), key,
			 header(head, "ce-sequence", sequence), n, header(head, "evtstore-attempt", attempt), header(head, "evtstore-replay", replay));
	write_record(connection, rule->hang || rule->close ? 0 : rule->status);
	if (rule->hang)
		connection->due = NEVER;
	else if (rule->delay_ms > 0)
		connection->due = now_ms() + rule->delay_ms;
	else
		return answer(connection);
	return true;
}

/* a whole request at the beginning of what came; false: there is none, or the connection is closed */
static bool
take_next(Connection *connection)
{
	char	   *end;
	char		value[MAX_WORD];
	size_t		head_len;
	size_t		body_len;
	char		after;
	char	   *body;
	bool		open;
	int			fd = connection->fd;

	if (connection->path != NULL || connection->in_len == 0)
		return false;
	connection->in[connection->in_len] = '\0';
	end = strstr(connection->in, "\r\n\r\n");
	if (end == NULL)
		return false;
	head_len = end + 4 - connection->in;
	end[2] = '\0';
	body_len = atol(header(connection->in, "content-length", value));
	if (connection->in_len < head_len + body_len)
	{
		end[2] = '\r';
		return false;
	}
	body = connection->in + head_len;
	after = body[body_len];
	body[body_len] = '\0';
	open = take_request(connection, connection->in, body);
	if (!open || connections[fd] != connection)
		return false;
	body[body_len] = after;
	connection->in_len -= head_len + body_len;
	memmove(connection->in, body + body_len, connection->in_len);
	return true;
}

static bool
set_value(Rule *rule, const char *name, const char *value)
{
	if (strcmp(name, "key") == 0)
		snprintf(rule->key, MAX_WORD, "%s", value);
	else if (strcmp(name, "location") == 0)
		snprintf(rule->location, MAX_WORD, "%s", value);
	else if (strcmp(name, "n") == 0)
		rule->n = atol(value);
	else if (strcmp(name, "first") == 0)
		rule->first = atol(value);
	else if (strcmp(name, "every") == 0)
		rule->every = atol(value);
	else if (strcmp(name, "status") == 0)
		rule->status = atoi(value);
	else if (strcmp(name, "delay_ms") == 0)
		rule->delay_ms = atol(value);
	else if (strcmp(name, "retry_after") == 0)
		rule->retry_after = atol(value);
	else if (strcmp(name, "hang") == 0)
		rule->hang = atoi(value) != 0;
	else if (strcmp(name, "close") == 0)
		rule->close = atoi(value) != 0;
	else
		return false;
	return true;
}

static bool
set_rule(const char *path, char *words)
{
	Rule	   *rule = &rules[nrules];
	char	   *save = NULL;

	if (nrules == MAX_RULES)
		return false;
	memset(rule, 0, sizeof(Rule));
	snprintf(rule->path, MAX_WORD, "%s", path);
	rule->n = rule->first = -1;
	rule->status = 204;
	for (char *word = strtok_r(words, " \n", &save); word != NULL; word = strtok_r(NULL, " \n", &save))
	{
		char	   *value = strchr(word, '=');

		if (value == NULL)
			return false;
		*value++ = '\0';
		if (!set_value(rule, word, value))
			return false;
	}
	nrules++;
	return true;
}

static void
clear_path(const char *path)
{
	int			kept = 0;

	for (int i = 0; i < nrules; i++)
		if (strcmp(rules[i].path, path) != 0)
			rules[kept++] = rules[i];
	nrules = kept;
	for (int i = 0; i < MAX_CONNECTIONS; i++)
	{
		Connection *connection = connections[i];

		if (connection == NULL || connection->path == NULL || (strcmp(path, "*") != 0 && strcmp(connection->path->name, path) != 0))
			continue;
		connection->answer = (Rule) {.status = 204};
		write_record(connection, 204);
		if (answer(connection))
			while (take_next(connection))
				;
	}
}

static void
control(Connection *connection)
{
	char		verb[MAX_WORD] = "";
	char		name[MAX_WORD] = "";
	int			used = 0;
	Path	   *path;

	connection->in[connection->in_len] = '\0';
	if (strchr(connection->in, '\n') == NULL)
		return;
	(void) sscanf(connection->in, "%255s %255s%n", verb, name, &used);
	connection->in_len = 0;
	if (strcmp(verb, "exit") == 0)
		_exit(0);
	path = get_path(name);
	if (strcmp(verb, "stats") == 0)
		put_out(connection, "%ld %d %d %d\n", path->requests, path->in_flight, path->most, nconnections);
	else if (strcmp(verb, "reset") == 0)
	{
		path->requests = 0;
		path->most = path->in_flight;
		put_out(connection, "ok\n");
	}
	else if (strcmp(verb, "clear") == 0)
	{
		clear_path(name);
		put_out(connection, "ok\n");
	}
	else if (strcmp(verb, "set") == 0 && set_rule(name, connection->in + used))
		put_out(connection, "ok\n");
	else
		put_out(connection, "not understood\n");
}

static void
readable(Connection *connection)
{
	int			fd = connection->fd;

	for (;;)
	{
		long		n;

		if (connection->in_size - connection->in_len < 65536)
		{
			connection->in_size = 2 * connection->in_size + 131072;
			connection->in = realloc(connection->in, connection->in_size);
			if (connection->in == NULL || connection->in_size > 4 * MAX_REQUEST)
				die("memory");
		}
		/* room for the zero at the end */
		if (connection->ssl != NULL)
			n = SSL_read(connection->ssl, connection->in + connection->in_len, connection->in_size - connection->in_len - 1);
		else
			n = recv(connection->fd, connection->in + connection->in_len, connection->in_size - connection->in_len - 1, 0);
		if (n > 0)
		{
			connection->in_len += n;
			continue;
		}
		if (connection->ssl != NULL ? SSL_get_error(connection->ssl, n) == SSL_ERROR_WANT_READ || SSL_get_error(connection->ssl, n) == SSL_ERROR_WANT_WRITE
			: n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		drop(connection);
		return;
	}
	if (connection->is_control)
	{
		if (connection->in_len > 0)
			control(connection);
		return;
	}
	while (connections[fd] == connection && take_next(connection))
		;
}

static void
accept_one(int listener, bool is_control)
{
	int			fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	int			on = 1;
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	Connection *connection;

	if (fd < 0)
		return;
	if (fd >= MAX_CONNECTIONS)
	{
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	connection = calloc(1, sizeof(Connection));
	if (connection == NULL)
		die("memory");
	connection->fd = fd;
	connection->is_control = is_control;
	connection->due = NEVER;
	if (!is_control)
	{
		connection->number = ++next_number;
		nconnections++;
	}
	if (tls != NULL && !is_control)
	{
		connection->ssl = SSL_new(tls);
		SSL_set_fd(connection->ssl, fd);
		SSL_set_accept_state(connection->ssl);
	}
	connections[fd] = connection;
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int
listen_on(int *port)
{
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int			on = 1;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	len = sizeof(address);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(fd, 1024) != 0)
		die("listen");
	getsockname(fd, (struct sockaddr *) &address, &len);
	*port = ntohs(address.sin_port);
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	return fd;
}

/* what is due is answered; ms until the next one, -1: there is none */
static int
answer_due(void)
{
	long long	now = now_ms();
	long long	next = -1;

	for (int i = 0; i < MAX_CONNECTIONS; i++)
	{
		Connection *connection = connections[i];

		if (connection == NULL || connection->path == NULL || connection->due == NEVER)
			continue;
		if (connection->due > now)
			next = next < 0 || connection->due - now < next ? connection->due - now : next;
		else if (answer(connection))
			while (connections[i] == connection && take_next(connection))
				;
	}
	return (int) next;
}

static void
start_tls(const char *cert, const char *key)
{
	tls = SSL_CTX_new(TLS_server_method());
	if (tls == NULL || SSL_CTX_use_certificate_chain_file(tls, cert) != 1 || SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
	{
		ERR_print_errors_fp(stderr);
		exit(1);
	}
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static void
serve(int port, int control_port, const char *port_file)
{
	int			listener = listen_on(&port);
	int			controller = listen_on(&control_port);
	FILE	   *file = fopen(port_file, "w");
	struct epoll_event events[256];

	if (file == NULL || fprintf(file, "%d %d\n", port, control_port) < 0 || fclose(file) != 0)
		die(port_file);
	for (;;)
	{
		int			n = epoll_wait(epoll, events, 256, answer_due());

		for (int i = 0; i < n; i++)
		{
			int			fd = events[i].data.fd;
			Connection *connection = connections[fd];

			if (fd == listener || fd == controller)
				accept_one(fd, fd == controller);
			else if (connection != NULL && (!(events[i].events & EPOLLOUT) || flush_out(connection)))
				readable(connection);
		}
	}
}

int
main(int argc, char **argv)
{
	const char *record_file = NULL;
	const char *port_file = NULL;
	const char *cert = NULL;
	const char *key = NULL;
	int			port = 0;
	int			control_port = 0;

	for (int i = 1; i + 1 < argc; i += 2)
	{
		if (strcmp(argv[i], "--record") == 0)
			record_file = argv[i + 1];
		else if (strcmp(argv[i], "--port-file") == 0)
			port_file = argv[i + 1];
		else if (strcmp(argv[i], "--port") == 0)
			port = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--control-port") == 0)
			control_port = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--cert") == 0)
			cert = argv[i + 1];
		else if (strcmp(argv[i], "--key") == 0)
			key = argv[i + 1];
	}
	if (record_file == NULL || port_file == NULL || (cert == NULL) != (key == NULL))
	{
		fprintf(stderr, "usage: see the head of receiver.c\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	record = open(record_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (record < 0 || epoll < 0)
		die(record_file);
	if (cert != NULL)
		start_tls(cert, key);
	serve(port, control_port, port_file);
	return 0;
}
