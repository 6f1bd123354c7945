/*
 * transport.h
 *		What a transport is: bytes, headers, a deadline in; an outcome back.  A transport knows no SPI, no tables and no
 *		shared memory, and raises no errors for what the other side does.
 */
#ifndef ES_TRANSPORT_H
#define ES_TRANSPORT_H

typedef enum EsOutcome
{
	ES_OUTCOME_DELIVERED,
	ES_OUTCOME_RETRY, /* again by the retry policy */
	ES_OUTCOME_REJECT /* never again: dead letter */
} EsOutcome;

typedef struct EsHeader
{
	const char *name;
	const char *value;
} EsHeader;

/* one request; palloc'd by the caller, who owns everything in it */
typedef struct EsRequest
{
	/* in */
	const char *url;
	const EsHeader *headers;
	int nheaders;
	const char *body;
	size_t body_len;
	long timeout_ms;
	/* out */
	EsOutcome outcome;
	bool unfinished;	 /* stopped before an answer came: outcome is RETRY, but the other side did not fail */
	int status;			 /* protocol's own code, 0: none */
	long retry_after_ms; /* asked for by the other side; -1: not */
	char error[256];	 /* '' when delivered; never the body's bytes unsanitised */
} EsRequest;

typedef struct EsTransport
{
	const char *name;
	const char *const *schemes; /* ended by NULL */
	/* NULL when the URL (its scheme is one of ours) is acceptable, else why not: a constant; opens no connection */
	const char *(*check_url)(const char *url);
	/* before each perform; does its work once per process */
	void (*startup)(void);
	/*
	 * Performs n requests at once, no more than max_in_flight at a time, and fills the outcomes.  Returns early, with
	 * ES_OUTCOME_RETRY for what was not finished, when *stop becomes true.  No transaction is open.
	 */
	void (*perform)(EsRequest *requests, int n, int max_in_flight, volatile sig_atomic_t *stop);
	/* at the end of the process; does nothing where startup was never called */
	void (*shutdown)(void);
} EsTransport;

/* longest URL that check_url accepts, in bytes */
#define ES_TRANSPORT_MAX_URL 2048

extern const EsTransport es_transport_http;

/* NULL when no transport takes the URL's scheme */
extern const EsTransport *es_transport_for_url(const char *url);
/* NULL when the URL is acceptable, else why not: for create_endpoint, which must not open connections */
extern const char *es_transport_check_url(const char *url);

/*
 * address.c: may a worker connect to this address?  Loopback, private, link-local, multicast, documentation and other
 * special ranges only where allowed_networks (a list of CIDR blocks) has them; plain_text asks for a listed one always.
 */
struct sockaddr;
extern bool es_transport_address_allowed(const struct sockaddr *address, const char *allowed_networks, bool plain_text);
/* false and the offending item when the list does not parse */
extern bool es_transport_parse_networks(const char *list, char *bad, size_t bad_size);

#endif
