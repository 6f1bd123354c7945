/*
 * subscription_delivery.h
 *		What a poll hands out as a delivery, for workers.
 */
#ifndef ES_SUBSCRIPTION_DELIVERY_H
#define ES_SUBSCRIPTION_DELIVERY_H

#include "queue.h"
#include "subscription_poll.h"

/* of the reader's present row, all in the current context; the receipt is left out (NULL) */
extern EsDelivery *es_subscription_delivery(EsReader *reader, const EsPolled *event);

#endif
