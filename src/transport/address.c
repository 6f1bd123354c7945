/*
 * address.c
 *		May a worker connect to this address?
 *
 * Whoever can define an endpoint could otherwise make the database server talk to services that trust its network
 * position: metadata services of clouds, admin ports on loopback, the database itself.  The check is made on the
 * address that is really dialled, so that names which resolve differently the second time do not get around it.
 *
 * Runs in delivery workers, inside callbacks of libraries: no palloc, no ereport, nothing kept.  The list of networks
 * is parsed at each check; it is short, and a connection costs far more.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include "transport.h"

typedef struct Network
{
	int			family; /* AF_INET or AF_INET6 */
	int			bits;
	uint8		address[16];
} Network;

typedef enum ItemResult
{
	ITEM_END,
	ITEM_OK,
	ITEM_BAD
} ItemResult;

/* an address as bytes */
typedef struct Address
{
	int			family;
	uint8		bytes[16];
} Address;

/* longest item: an IPv6 address with an IPv4 tail, a slash and the length */
#define MAX_ITEM 64

/*
 * What is not the public internet (RFC 6890 and its successors).  IPv6 forms that carry an IPv4 address are either
 * unwrapped (mapped, NAT64) or refused as a whole (compatible, 6to4, Teredo).
 */
static const char special_networks[] =
	"0.0.0.0/8,"			/* this network */
	"10.0.0.0/8,"			/* private */
	"100.64.0.0/10,"		/* shared address space of carriers */
	"127.0.0.0/8,"			/* loopback */
	"169.254.0.0/16,"		/* link-local, metadata services */
	"172.16.0.0/12,"		/* private */
	"192.0.0.0/24,"			/* protocol assignments */
	"192.0.2.0/24,"			/* documentation */
	"192.88.99.0/24,"		/* 6to4 relays */
	"192.168.0.0/16,"		/* private */
	"198.18.0.0/15,"		/* benchmarks */
	"198.51.100.0/24,"		/* documentation */
	"203.0.113.0/24,"		/* documentation */
	"224.0.0.0/4,"			/* multicast */
	"240.0.0.0/4,"			/* class E, broadcast */
	"::/96,"				/* unspecified, loopback, IPv4-compatible */
	"64:ff9b:1::/48,"		/* local NAT64 */
	"100::/64,"				/* discard */
	"2001::/23,"			/* protocol assignments, Teredo */
	"2001:db8::/32,"		/* documentation */
	"2002::/16,"			/* 6to4 */
	"3fff::/20,"			/* documentation */
	"5f00::/16,"			/* segment routing */
	"fc00::/7,"				/* unique local */
	"fe80::/10,"			/* link-local */
	"fec0::/10,"			/* site-local */
	"ff00::/8";				/* multicast */

static bool get_address(const struct sockaddr *sockaddr, Address *address);
static bool unwrap(const Address *address, Address *inner);
static bool listed(const Address *address, const char *list);
static bool contains(const Network *network, const Address *address);
static ItemResult next_item(const char **cursor, Network *network, char *bad, size_t bad_size);
static bool parse_network(const char *item, Network *network);

bool
es_transport_address_allowed(const struct sockaddr *sockaddr, const char *allowed_networks, bool plain_text)
{
	Address		address;
	Address		inner;
	bool		wrapped;

	if (!get_address(sockaddr, &address))
		return false;
	wrapped = unwrap(&address, &inner);
	if (listed(&address, allowed_networks) || (wrapped && listed(&inner, allowed_networks)))
		return true;
	if (plain_text)
		return false;
	return !listed(wrapped ? &inner : &address, special_networks);
}

bool
es_transport_parse_networks(const char *list, char *bad, size_t bad_size)
{
	Network		network;
	ItemResult	result;

	while ((result = next_item(&list, &network, bad, bad_size)) == ITEM_OK)
		;
	return result == ITEM_END;
}

/* false for what is neither IPv4 nor IPv6: unix sockets are never dialled */
static bool
get_address(const struct sockaddr *sockaddr, Address *address)
{
	memset(address, 0, sizeof(*address));
	address->family = sockaddr->sa_family;
	if (sockaddr->sa_family == AF_INET)
		memcpy(address->bytes, &((const struct sockaddr_in *) sockaddr)->sin_addr, 4);
	else if (sockaddr->sa_family == AF_INET6)
		memcpy(address->bytes, &((const struct sockaddr_in6 *) sockaddr)->sin6_addr, 16);
	else
		return false;
	return true;
}

/* the IPv4 address that an IPv4-mapped (::ffff:0:0/96) or NAT64 (64:ff9b::/96) address stands for */
static bool
unwrap(const Address *address, Address *inner)
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8 nat64[12] = {0x00, 0x64, 0xff, 0x9b};

	if (address->family != AF_INET6 ||
		(memcmp(address->bytes, mapped, 12) != 0 && memcmp(address->bytes, nat64, 12) != 0))
		return false;
	memset(inner, 0, sizeof(*inner));
	inner->family = AF_INET;
	memcpy(inner->bytes, address->bytes + 12, 4);
	return true;
}

static bool
listed(const Address *address, const char *list)
{
	Network		network;

	if (list == NULL)
		return false;
	while (next_item(&list, &network, NULL, 0) == ITEM_OK)
		if (contains(&network, address))
			return true;
	return false;
}

static bool
contains(const Network *network, const Address *address)
{
	int			whole = network->bits / 8;
	int			rest = network->bits % 8;

	if (network->family != address->family || memcmp(network->address, address->bytes, whole) != 0)
		return false;
	return rest == 0 || ((network->address[whole] ^ address->bytes[whole]) >> (8 - rest)) == 0;
}

/* takes the next item of a comma separated list and moves the cursor behind it; an empty list has no items */
static ItemResult
next_item(const char **cursor, Network *network, char *bad, size_t bad_size)
{
	const char *start = *cursor + strspn(*cursor, " \t");
	size_t		len = strcspn(start, ",");
	const char *end = start + len;
	char		item[MAX_ITEM];

	if (*start == '\0')
		return ITEM_END;
	*cursor = *end == ',' ? end + 1 : end;
	while (len > 0 && (start[len - 1] == ' ' || start[len - 1] == '\t'))
		len--;
	if (bad != NULL)
		snprintf(bad, bad_size, "%.*s", (int) Min(len, MAX_ITEM), start);
	if (len >= sizeof(item))
		return ITEM_BAD;
	memcpy(item, start, len);
	item[len] = '\0';
	return parse_network(item, network) ? ITEM_OK : ITEM_BAD;
}

/* ADDRESS or ADDRESS/BITS; bits of the address behind the length are ignored, as in pg_hba.conf */
static bool
parse_network(const char *item, Network *network)
{
	char		address[MAX_ITEM];
	const char *slash = strchr(item, '/');
	size_t		len = slash ? slash - item : strlen(item);
	int			max_bits;

	memset(network, 0, sizeof(*network));
	memcpy(address, item, len);
	address[len] = '\0';
	network->family = strchr(address, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(network->family, address, network->address) != 1)
		return false;
	max_bits = network->family == AF_INET6 ? 128 : 32;
	network->bits = max_bits;
	if (slash == NULL)
		return true;
	len = strspn(slash + 1, "0123456789");
	if (len == 0 || len > 3 || slash[1 + len] != '\0')
		return false;
	network->bits = atoi(slash + 1);
	return network->bits <= max_bits;
}
