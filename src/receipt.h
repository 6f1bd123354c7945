/*
 * receipt.h
 *		What consumers say of what they were handed.
 */
#ifndef ES_RECEIPT_H
#define ES_RECEIPT_H

#include "compat.h"

/* 22023: it is nobody's */
extern void es_receipt_refuse(const char *text) es_noreturn;

#endif
