/*
 * net_shim.c
 *		What a test server is preloaded with (LD_PRELOAD) to have a name service and an internet of its own.
 *
 * getaddrinfo: names below .example are looked up in the file of EVTSTORE_NAMES: lines "NAME ANSWER ANSWER ...", an answer being addresses
 * with commas; the n-th lookup of a name gets the n-th answer, and the last one for ever.  Lookups of all processes count, by the size of
 * EVTSTORE_NAMES.NAME.  Other names are the system's.
 *
 * connect: each IPv4 or IPv6 address becomes a line in the file of EVTSTORE_DIALLED; what is not loopback is refused, so that nothing
 * leaves the machine.
 *
 * Runs in any process and thread of the server; keeps nothing in memory.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LINE 1024

typedef int (*Getaddrinfo) (const char *, const char *, const struct addrinfo *, struct addrinfo **);
typedef int (*Connect) (int, const struct sockaddr *, socklen_t);

static void *
real(const char *name)
{
	void	   *function = dlsym(RTLD_NEXT, name);

	if (function == NULL)
		abort();
	return function;
}

/* one more byte in the file: how many there were */
static long
count_lookup(const char *names, const char *name)
{
	char		path[MAX_LINE];
	struct stat before;
	int			fd;

	snprintf(path, sizeof(path), "%s.%s", names, name);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &before) != 0 || write(fd, "x", 1) != 1)
		abort();
	close(fd);
	return (long) before.st_size;
}

/* the answer to this lookup; false: there is no such name */
static bool
find_answer(const char *name, char *answer)
{
	const char *names = getenv("EVTSTORE_NAMES");
	FILE	   *file = names == NULL ? NULL : fopen(names, "re");
	char		line[MAX_LINE];
	bool		found = false;

	if (file == NULL)
		abort();
	while (!found && fgets(line, sizeof(line), file) != NULL)
	{
		char	   *save;
		char	   *word = strtok_r(line, " \n", &save);
		long		n;

		if (word == NULL || strcmp(word, name) != 0)
			continue;
		found = true;
		n = count_lookup(names, name);
		for (word = strtok_r(NULL, " \n", &save); word != NULL && n >= 0; word = strtok_r(NULL, " \n", &save), n--)
			snprintf(answer, MAX_LINE, "%s", word);
	}
	fclose(file);
	return found;
}

/* the system's own lookups of addresses, put one behind the other */
int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	Getaddrinfo system_getaddrinfo = (Getaddrinfo) real("getaddrinfo");
	struct addrinfo numeric = {0};
	struct addrinfo **end = result;
	char		answer[MAX_LINE];
	char	   *save;

	if (name == NULL || strlen(name) < 8 || strcmp(name + strlen(name) - 8, ".example") != 0)
		return system_getaddrinfo(name, service, hints, result);
	if (!find_answer(name, answer))
		return EAI_NONAME;
	if (hints != NULL)
		numeric = *hints;
	numeric.ai_flags = AI_NUMERICHOST;
	numeric.ai_family = AF_UNSPEC;
	*result = NULL;
	for (char *word = strtok_r(answer, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save))
	{
		if (system_getaddrinfo(word, service, &numeric, end) != 0)
			abort();
		while (*end != NULL)
			end = &(*end)->ai_next;
	}
	return 0;
}

int
connect(int fd, const struct sockaddr *address, socklen_t len)
{
	const char *path = getenv("EVTSTORE_DIALLED");
	char		text[INET6_ADDRSTRLEN + 2] = "";
	bool		is_loopback;
	int			file;

	if (path == NULL || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
		return ((Connect) real("connect")) (fd, address, len);
	if (address->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, text, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *) address)->sin6_addr, text, INET6_ADDRSTRLEN);
	is_loopback = strncmp(text, "127.", 4) == 0 || strcmp(text, "::1") == 0 || strncmp(text, "::ffff:127.", 11) == 0;
	strcat(text, "\n");
	file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0 || write(file, text, strlen(text)) != (ssize_t) strlen(text))
		abort();
	close(file);
	if (is_loopback)
		return ((Connect) real("connect")) (fd, address, len);
	errno = ECONNREFUSED;
	return -1;
}
