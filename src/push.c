/*
 * push.c
 *		What has an endpoint, so that workers deliver it: subscriptions, queues and rules.
 *
 * Runs in schedulers and workers, in a transaction, when definitions changed; keeps nothing.
 */
#include "postgres.h"

#include "compat.h"
#include "endpoint.h"
#include "push.h"
#include "queue.h"
#include "subscription.h"
#include "subscription_source.h"

static bool is_wanted(const char *endpoint, EsPushKind kind);
static int	compare_ids(const ListCell *a, const ListCell *b);

List *
es_push_list(EsPushKind kind)
{
	List	   *list = NIL;
	int			n;
	const EsSubscription *subscriptions;
	ListCell   *lc;

	foreach(lc, es_queue_list_pushed())
	{
		const EsQueue *queue = lfirst(lc);
		EsPush	   *push;

		if (queue->is_for_sagas ? kind != ES_PUSH_INSIDE : !is_wanted(queue->endpoint, kind))
			continue;
		push = palloc0(sizeof(EsPush));
		push->id = queue->id;
		push->is_for_sagas = queue->is_for_sagas;
		push->is_queue = true;
		push->name = pstrdup(queue->name);
		push->endpoint = pstrdup(queue->endpoint);
		list = lappend(list, push);
	}
	subscriptions = es_subscription_all(&n);
	for (int i = 0; i < n; i++)
	{
		EsPush	   *push;

		if (!subscriptions[i].has_endpoint || subscriptions[i].is_paused)
			continue;
		/* where the events of a rule go is known when they are looked at: outside */
		if (subscriptions[i].is_rule ? kind != ES_PUSH_OUTSIDE : !is_wanted(subscriptions[i].endpoint, kind))
			continue;
		push = palloc0(sizeof(EsPush));
		push->id = subscriptions[i].definition.id;
		push->name = pstrdup(subscriptions[i].definition.name);
		push->is_rule = subscriptions[i].is_rule;
		push->endpoint = push->is_rule ? NULL : pstrdup(subscriptions[i].endpoint);
		push->replay_to = subscriptions[i].replay_to;
		push->categories = es_subscription_categories(&subscriptions[i]);
		list = lappend(list, push);
	}
	list_sort(list, compare_ids);
	return list;
}

bool
es_push_has(EsPushKind kind)
{
	return es_push_list(kind) != NIL;
}

static bool
is_wanted(const char *endpoint, EsPushKind kind)
{
	EsEndpoint *found = es_endpoint_find(endpoint);

	return found != NULL && !found->is_disabled && found->is_sql == (kind == ES_PUSH_INSIDE);
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int32		x = ((const EsPush *) lfirst(a))->id;
	int32		y = ((const EsPush *) lfirst(b))->id;

	return x < y ? -1 : x > y;
}
