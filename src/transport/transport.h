/*
 * transport.h
 *		What a transport is: messages in, outcomes back, and never a wait.
 *
 * Each transport is a library of its own (evtstore_http.so, ...), loaded when an endpoint of one of its schemes is defined or
 * delivered to, so that the core depends on none of the client libraries.  This header is all that the two know of each
 * other: a transport calls no function of the server, knows no tables and no shared memory, and raises no errors; a program without
 * a server can load it (test/transport/driver.c).
 *
 * Runs in relay workers, in the main thread, between transactions.  A transport may have threads of its own; these run with all
 * signals blocked and touch nothing of the server: no palloc, no ereport, no setting.
 */
#ifndef ES_TRANSPORT_H
#define ES_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

struct sockaddr;

/* raised when anything here changes: a library of another build is refused */
#define ES_TRANSPORT_VERSION 2

/* longest URL that check_url accepts, in bytes */
#define ES_TRANSPORT_MAX_URL 2048

/* how attributes of CloudEvents become headers */
typedef enum EsBinding
{
	ES_BINDING_HTTP,   /* ce-NAME, percent-encoded */
	ES_BINDING_KAFKA,  /* ce_NAME, UTF-8 */
	ES_BINDING_AMQP,   /* cloudEvents:NAME, UTF-8 */
	ES_BINDING_NATS,   /* ce-NAME, percent-encoded */
	ES_BINDING_EVTSTORE /* the event itself: body is the JSON that evtstore.append_events takes for one event, with "stream" */
} EsBinding;

typedef enum EsOutcome
{
	ES_OUTCOME_DELIVERED,	/* the other side has it, for good */
	ES_OUTCOME_RETRY,		/* this message failed, or nobody knows whether it arrived: again by the retry policy */
	ES_OUTCOME_REJECT,		/* the other side will never take this message */
	ES_OUTCOME_UNAVAILABLE, /* no fault of the message: no connection, not now, too much; it spends no attempt */
	ES_OUTCOME_GONE			/* the other side wants nothing any more, ever (410): the endpoint is disabled; the message waits */
} EsOutcome;

typedef struct EsHeader
{
	const char *name;
	const char *value;
} EsHeader;

/*
 * One message on its way.  What is above the line belongs to who submits it and stays as it is until the message is done or its
 * link closed.
 */
typedef struct EsOutgoing
{
	const char *id;		/* the event's id, or the message's: for the other side to know it again; printable ASCII */
	const char *topic;	/* what the endpoint's "topic" came to: topic, routing key, subject; NULL: none was given */
	const char *key;	/* of order: the other side's partition; NULL: none */
	const EsHeader *headers; /* Content-Type is among them, under that name, for every binding */
	int nheaders;
	const char *body;
	size_t body_len;
	long timeout_ms; /* from submit to the outcome */
	/* out, when it is done */
	EsOutcome outcome;
	int status;			 /* the protocol's own code, 0: none */
	long retry_after_ms; /* asked for by the other side; -1: not */
	char error[256];	 /* '' when delivered; printable ASCII, es_transport_say() makes it so */
	/* for the transport, from submit to next_done; then for who submitted it */
	struct EsLink *link;
	void *data;
	struct EsOutgoing *next;
} EsOutgoing;

/* a setting of the client library, or a secret: name is its kind (signing, basic, bearer, sasl, tls) */
typedef struct EsSetting
{
	const char *name;
	const char *value;
} EsSetting;

/* what a link is made from: valid during the call only */
typedef struct EsLinkConfig
{
	const char *endpoint; /* its name */
	const char *url;
	long timeout_ms;
	int max_in_flight;
	const char *allowed_networks; /* see address.c */
	bool tls_verify;			  /* false: by a superuser's will only */
	const char *tls_ca_file;	  /* NULL: the system's */
	const char *tls_server_name;  /* NULL: the host's */
	const EsSetting *client;	  /* passed through to the client library; a superuser's */
	int nclient;
	const EsSetting *secrets; /* the present ones */
	int nsecrets;
} EsLinkConfig;

/* a connection, or what will be one, to one endpoint; each transport has a struct of its own that begins with it (libs/links.h) */
typedef struct EsLink EsLink;

typedef struct EsTransport
{
	int version; /* ES_TRANSPORT_VERSION */
	const char *name;
	const char *const *schemes; /* lower case, ended by NULL */
	EsBinding binding;
	/*
	 * Messages of one key are accepted by the other side in the order in which they were submitted, and when one of them is not
	 * DELIVERED, none that was submitted after it on that link before it was done is.  Where this is false the next message of a
	 * key is submitted when the one before is done.
	 */
	bool keeps_order;
	/* NULL when the URL (its scheme is one of ours) is acceptable, else why not: a constant; opens no connection */
	const char *(*check_url) (const char *url);
	/* false and why not when the client settings or secrets are not acceptable; opens no connection.  May be NULL: any are */
	bool (*check) (const EsLinkConfig *config, char *fault, size_t size);
	/* before anything below, once per process; false and why not */
	bool (*startup) (char *fault, size_t size);
	/* opens a link: may begin to connect, does not wait.  NULL and why not: the config is not acceptable, or no memory */
	EsLink *(*open) (const EsLinkConfig *config, char *fault, size_t size);
	/*
	 * Takes a message.  false: no room, again after a message of this link is done.  The outcome comes from pump and next_done,
	 * also where it cannot even be begun, and at the latest some seconds after timeout_ms.
	 */
	bool (*submit) (EsLink *link, EsOutgoing *message);
	/* does everything that can be done without waiting, for all links */
	void (*pump) (void);
	/* a message that is done, of any link; NULL: no more.  Never one of a link that was closed */
	EsOutgoing *(*next_done) (void);
	/* a descriptor that is readable when pump or next_done have something to do; the same for the life of the process */
	int (*wait_fd) (void);
	/* ms after which pump has something to do without the descriptor; -1: none */
	long (*wait_ms) (void);
	/*
	 * Gives up what is not done; closes, politely where that needs no wait.  On return nobody looks at the link's messages any
	 * more: a thread that cannot be stopped without a wait works on copies.
	 */
	void (*close) (EsLink *link);
	/* at the end of the process, all links closed; waits a second or two for threads */
	void (*shutdown) (void);
} EsTransport;

/* what the core offers to a transport */
typedef struct EsTransportHost
{
	int version; /* ES_TRANSPORT_VERSION */
	/* in address.c.  May be called by any thread */
	bool (*address_allowed) (const struct sockaddr *address, const char *allowed_networks, bool plain_text);
} EsTransportHost;

/* what each library exports under this name; NULL: its version is another */
#define ES_TRANSPORT_ENTRY "evtstore_transport"
typedef const EsTransport *(*EsTransportEntry) (const EsTransportHost *host);

/*
 * The rest is the core's
 */

/* loads the library where need be; NULL when no transport takes the URL's scheme; 58P01 when its library is not installed */
extern const EsTransport *es_transport_for_url(const char *url);
/* NULL when the URL is acceptable, else why not: for create_endpoint, which must not open connections */
extern const char *es_transport_check_url(const char *url);
/* of those that were loaded in this process; n-th, NULL: no more */
extern const EsTransport *es_transport_loaded(int n);

/*
 * address.c: may a worker connect to this address?  Loopback, private, link-local, multicast, documentation and other
 * special ranges only where allowed_networks (a list of CIDR blocks) has them; plain_text asks for a listed one always.
 */
extern bool es_transport_address_allowed(const struct sockaddr *address, const char *allowed_networks, bool plain_text);
/* false and the offending item when the list does not parse */
extern bool es_transport_parse_networks(const char *list, char *bad, size_t bad_size);

#endif
