/*
 * tag.h
 *		The postings of tags: which positions have a tag, alone and with a type.
 */
#ifndef ES_TAG_H
#define ES_TAG_H

#include "stream.h"

/* the numbers under which a tag, and a tag together with a type, are kept and locked; stable over servers and machines */
extern uint64 es_tag_hash(const char *tenant, const char *tag, int len);
extern uint64 es_tag_pair_hash(uint64 tag_hash, const char *type, int len);
/* every event of a tenant has this one besides its own, so that a tenant's reads need not pass by the events of others */
extern uint64 es_tag_tenant_hash(const char *tenant);

/* the distinct hashes of an event's tags, without the tenant's, into event->tag_hashes and event->ntags */
extern void es_tag_prepare(EsEvent *event, const char *tenant);
/* writes the postings of the events, prepared, with their positions */
extern void es_tag_insert(const char *tenant, const EsEvent *events, int n);
/* removes those of an event that is taken out of the store (scavenging) */
extern void es_tag_remove(const char *tenant, const EsEvent *event);

#endif
