/*
 * receiver.c
 *		An HTTP receiver for benchmarks: notes when each event arrives, and whether those of a key are in order.
 *
 *		receiver
 *
 * Listens on loopback and answers 204: at once; after a millisecond where the path begins with /away; never where it begins with /hang.
 * Prints "port N" and then does what it reads, a command a line, and answers each with "ok":
 *
 *		down			closes its connections and its port; whoever connects is refused
 *		up				listens again, on the same port
 *		count			"count DISTINCT REPEATS GAPS FIRST LAST": events, those that came again, those that came before one that is
 *						earlier in their stream, and when the first and the last one came, in ns of CLOCK_MONOTONIC
 *		times			"ID NS" of each event that came for the first time
 *		forget			all of that
 *
 * An event is known by ce-subject and ce-streamversion: the versions of a stream have to come as 1, 2, 3 ..., or further from where
 * they were when "forget" was said.  Ends at the end of input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 4096
#define BUFFER 65536
#define NKEYS (1 << 17)
/* answers that are late; a connection has one request at a time */
#define MAX_LATE 8192
#define LATE_NS 1000000
#define NAME 64

typedef struct Connection
{
	long		number;				/* a descriptor may be another connection by the time that an answer is due */
	int			used;
	char		buffer[BUFFER];
} Connection;

typedef struct Key
{
	char		name[NAME];
	long		last;
} Key;

typedef struct Late
{
	int			fd;
	long		number;
	long long	due;
} Late;

typedef struct Arrival
{
	char		id[37];
	long long	at;
} Arrival;

static Connection *connections[MAX_CONNECTIONS];	/* by descriptor */
static Key *keys;
static Arrival *arrivals;
static long narrivals, capacity, repeats, gaps;
static long long last_at;
static Late late[MAX_LATE];		/* a ring: all are late by the same time, so the first one is due first */
static unsigned first_late, end_late;
static int	epoll, timer, listener = -1;
static struct sockaddr_in address;
static const char answer[] = "HTTP/1.1 204 No Content\r\n\r\n";

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static long long
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void
watch(int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		die("epoll_ctl");
}

static void
up(void)
{
	socklen_t	size = sizeof(address);
	int			on = 1;

	if (listener >= 0)
		return;
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *) &address, size) != 0 || listen(listener, 1024) != 0 ||
		getsockname(listener, (struct sockaddr *) &address, &size) != 0)
		die("listen");
	watch(listener);
}

static void
hang_up(int fd)
{
	close(fd);
	free(connections[fd]);
	connections[fd] = NULL;
}

static void
down(void)
{
	for (int fd = 0; fd < MAX_CONNECTIONS; fd++)
		if (connections[fd] != NULL)
			hang_up(fd);
	if (listener >= 0)
		close(listener);
	listener = -1;
}

static void
take_connection(void)
{
	static long number = 0;
	int			on = 1;
	int			fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (fd >= MAX_CONNECTIONS)
	{
		fprintf(stderr, "too many connections\n");
		exit(1);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	connections[fd] = calloc(1, sizeof(Connection));
	if (connections[fd] == NULL)
		die("calloc");
	connections[fd]->number = ++number;
	watch(fd);
}

static Key *
find_key(const char *name)
{
	unsigned	hash = 2166136261u;

	for (const char *c = name; *c; c++)
		hash = (hash ^ (unsigned char) *c) * 16777619u;
	for (unsigned i = 0; i < NKEYS; i++)
	{
		Key		   *key = &keys[(hash + i) % NKEYS];

		if (key->name[0] == '\0')
			snprintf(key->name, NAME, "%s", name);
		if (strcmp(key->name, name) == 0)
			return key;
	}
	fprintf(stderr, "too many keys\n");
	exit(1);
}

/* value of a header between start and end; empty where there is none */
static void
header(const char *start, const char *end, const char *name, char *value, size_t size)
{
	size_t		length = strlen(name);

	value[0] = '\0';
	for (const char *line = start; line != NULL && line < end; line = strstr(line, "\r\n"))
	{
		if (line != start)
			line += 2;
		if (strncasecmp(line, name, length) == 0 && line[length] == ':')
		{
			const char *from = line + length + 1 + strspn(line + length + 1, " ");
			size_t		n = strcspn(from, "\r");

			snprintf(value, size, "%.*s", (int) (n < size ? n : size - 1), from);
			return;
		}
	}
}

/* one event, at once when its headers are there */
static void
note(const char *start, const char *end)
{
	char		stream[NAME - 8], version[24], id[37], name[NAME];
	Key		   *key;
	long		n;

	header(start, end, "ce-subject", stream, sizeof(stream));
	header(start, end, "ce-streamversion", version, sizeof(version));
	header(start, end, "ce-id", id, sizeof(id));
	snprintf(name, NAME, "%s", stream);
	key = find_key(name);
	n = atol(version);
	last_at = now();
	if (key->last != 0 && n <= key->last)
	{
		repeats++;
		return;
	}
	if (key->last != 0 && n > key->last + 1)
		gaps++;
	/* what was forgotten goes on anywhere */
	key->last = n;
	if (narrivals == capacity)
	{
		capacity = capacity ? 2 * capacity : 65536;
		arrivals = realloc(arrivals, capacity * sizeof(Arrival));
		if (arrivals == NULL)
			die("realloc");
	}
	memcpy(arrivals[narrivals].id, id, sizeof(id));
	arrivals[narrivals++].at = last_at;
}

static bool
reply(int fd)
{
	return write(fd, answer, sizeof(answer) - 1) == sizeof(answer) - 1;
}

static void
set_timer(void)
{
	struct itimerspec at = {0};

	if (first_late != end_late)
	{
		at.it_value.tv_sec = late[first_late % MAX_LATE].due / 1000000000LL;
		at.it_value.tv_nsec = late[first_late % MAX_LATE].due % 1000000000LL;
	}
	timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void
reply_later(int fd)
{
	Late	   *l = &late[end_late % MAX_LATE];

	if (end_late - first_late == MAX_LATE)
	{
		fprintf(stderr, "too many requests\n");
		exit(1);
	}
	l->fd = fd;
	l->number = connections[fd]->number;
	l->due = now() + LATE_NS;
	if (end_late++ == first_late)
		set_timer();
}

static void
reply_late(void)
{
	for (; first_late != end_late && late[first_late % MAX_LATE].due <= now(); first_late++)
	{
		Late	   *l = &late[first_late % MAX_LATE];

		if (connections[l->fd] != NULL && connections[l->fd]->number == l->number && !reply(l->fd))
			hang_up(l->fd);
	}
	set_timer();
}

/* false: it has closed */
static bool
serve(int fd)
{
	Connection *c = connections[fd];
	ssize_t		n = read(fd, c->buffer + c->used, BUFFER - 1 - c->used);
	char	   *end;

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	c->used += n;
	c->buffer[c->used] = '\0';
	while ((end = strstr(c->buffer, "\r\n\r\n")) != NULL)
	{
		char		length[24];
		size_t		size;

		header(c->buffer, end, "content-length", length, sizeof(length));
		size = end + 4 - c->buffer + atol(length);
		if (size > (size_t) c->used)
			break;
		if (strncmp(c->buffer, "POST /hang", 10) != 0)
		{
			note(c->buffer, end);
			if (strncmp(c->buffer, "POST /away", 10) == 0)
				reply_later(fd);
			else if (!reply(fd))
				return false;
		}
		memmove(c->buffer, c->buffer + size, c->used - size + 1);
		c->used -= size;
	}
	return c->used < BUFFER - 1;
}

static void
forget(void)
{
	memset(keys, 0, NKEYS * sizeof(Key));
	narrivals = repeats = gaps = 0;
}

static void
obey(char *line)
{
	if (strncmp(line, "down", 4) == 0)
		down();
	else if (strncmp(line, "up", 2) == 0)
		up();
	else if (strncmp(line, "forget", 6) == 0)
		forget();
	else if (strncmp(line, "times", 5) == 0)
		for (long i = 0; i < narrivals; i++)
			printf("%s %lld\n", arrivals[i].id, arrivals[i].at);
	else
		printf("count %ld %ld %ld %lld %lld\n", narrivals, repeats, gaps, narrivals ? arrivals[0].at : 0, last_at);
	printf("ok\n");
	fflush(stdout);
}

int
main(void)
{
	struct epoll_event events[64];
	char		line[64];

	keys = calloc(NKEYS, sizeof(Key));
	epoll = epoll_create1(0);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	if (keys == NULL || epoll < 0 || timer < 0)
		die("start");
	address.sin_family = AF_INET;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	up();
	watch(0);
	watch(timer);
	printf("port %d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;)
	{
		int			n = epoll_wait(epoll, events, 64, -1);

		for (int i = 0; i < n; i++)
		{
			int			fd = events[i].data.fd;

			if (fd == 0)
			{
				/* the other side waits for the answer: there is one line */
				ssize_t		got = read(0, line, sizeof(line) - 1);

				if (got <= 0)
					return 0;
				line[got] = '\0';
				obey(line);
				break;
			}
			if (fd == timer)
				reply_late();
			else if (fd == listener)
				take_connection();
			else if (connections[fd] != NULL && !serve(fd))
				hang_up(fd);
		}
	}
}
