/*
 * error.h
 *		The SQLSTATEs of class ST.  docs/reference/errors.md explains each; test/lint checks that the two agree.
 */
#ifndef ES_ERROR_H
#define ES_ERROR_H

#include "utils/elog.h"

#define ES_ERRCODE_WRONG_EXPECTED_VERSION MAKE_SQLSTATE('S', 'T', '0', '0', '1')
#define ES_ERRCODE_STREAM_DELETED MAKE_SQLSTATE('S', 'T', '0', '0', '2')
#define ES_ERRCODE_APPEND_CONDITION_FAILED MAKE_SQLSTATE('S', 'T', '0', '0', '3')
#define ES_ERRCODE_ID_CONFLICT MAKE_SQLSTATE('S', 'T', '0', '0', '4')
#define ES_ERRCODE_STALE_RECEIPT MAKE_SQLSTATE('S', 'T', '0', '0', '7')
#define ES_ERRCODE_NOT_FOUND MAKE_SQLSTATE('S', 'T', '0', '0', '8')
#define ES_ERRCODE_INVALID_DEFINITION MAKE_SQLSTATE('S', 'T', '0', '0', '9')
#define ES_ERRCODE_NOT_PRELOADED MAKE_SQLSTATE('S', 'T', '0', '1', '0')
#define ES_ERRCODE_WAIT_TIMEOUT MAKE_SQLSTATE('S', 'T', '0', '1', '1')
#define ES_ERRCODE_HISTORY_GONE MAKE_SQLSTATE('S', 'T', '0', '1', '2')

#endif
