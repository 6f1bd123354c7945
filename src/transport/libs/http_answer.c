/*
 * http_answer.c
 *		What a receiver answered: taken in, as far as it is looked at, and judged.
 *
 * Runs in relay workers, in the main thread, between transactions; the http_answer_take functions in libcurl's callbacks, where they only
 * copy bytes into the transfer.  A crash leaves nothing.
 */
#include "postgres.h"

#include "http_answer.h"
#include "outcome.h"

/* what a reply may have, headers and body together; nothing of it is used but the beginning, for error texts */
#define MAX_RESPONSE_BYTES (64 * 1024)
/* a receiver may not put a message off for longer than this */
#define MAX_RETRY_AFTER_S (24 * 60 * 60)

static bool was_sent(HttpTransfer *transfer, CURLcode code);
static void judge_status(HttpTransfer *transfer, long status);

size_t
http_answer_take_header(char *bytes, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;

	transfer->received += size * count;
	if (transfer->received > MAX_RESPONSE_BYTES)
	{
		transfer->too_large = true;
		return 0;
	}
	return size * count;
}

size_t
http_answer_take_body(char *bytes, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	size_t		room = HTTP_RESPONSE_HEAD - transfer->head_len;
	size_t		len = size * count < room ? size * count : room;

	memcpy(transfer->head + transfer->head_len, bytes, len);
	transfer->head_len += (int) len;
	return http_answer_take_header(bytes, size, count, arg);
}

void
http_answer_judge(HttpTransfer *transfer, CURLcode code)
{
	EsOutgoing *message = transfer->message;
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	message->status = (int) status;
	if (transfer->too_large)
		es_outcome_say(message, ES_OUTCOME_RETRY, "the response is larger than 65536 bytes", NULL);
	else if (transfer->address_refused && code == CURLE_COULDNT_CONNECT)
		es_outcome_say(message, ES_OUTCOME_UNAVAILABLE, transfer->link->plain_text
					   ? "http:// goes only to addresses of evtstore.allowed_networks, and the host has none of them"
					   : "the host has a loopback, private or special address that evtstore.allowed_networks does not have", NULL);
	else if (code != CURLE_OK)
		es_outcome_say(message, was_sent(transfer, code) ? ES_OUTCOME_RETRY : ES_OUTCOME_UNAVAILABLE, "no answer",
					   transfer->detail[0] ? transfer->detail : curl_easy_strerror(code));
	else
		judge_status(transfer, status);
}

/* was anything sent?  If not, the message is not to blame.  Times of phases that were never reached differ between libcurls */
static bool
was_sent(HttpTransfer *transfer, CURLcode code)
{
	long		bytes = 0;

	switch (code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_RESOLVE_PROXY:
		case CURLE_COULDNT_CONNECT:
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
			return false;
		default:
			return curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &bytes) == CURLE_OK && bytes > 0;
	}
}

/*
 * What is wrong with this message (400, 413, 415, 422) is wrong the next time, too.  What is wrong with the endpoint (a redirect, 401,
 * 404, ...) a person puts right, and the message is as good as before.
 */
static void
judge_status(HttpTransfer *transfer, long status)
{
	EsOutgoing *message = transfer->message;
	char		text[64];
	curl_off_t	retry_after = 0;

	transfer->head[transfer->head_len] = '\0';
	for (int i = 0; i < transfer->head_len; i++)
		if (transfer->head[i] == '\0')
			transfer->head[i] = '?';
	snprintf(text, sizeof(text), "HTTP %ld", status);
	if (status >= 200 && status <= 299)
		es_outcome_say(message, ES_OUTCOME_DELIVERED, "", NULL);
	else if (status >= 300 && status <= 399)
		es_outcome_say(message, ES_OUTCOME_RETRY, text, "redirects are not followed");
	else if (status == 410)
		es_outcome_say(message, ES_OUTCOME_GONE, text, transfer->head);
	else if (status == 400 || status == 413 || status == 415 || status == 422)
		es_outcome_say(message, ES_OUTCOME_REJECT, text, transfer->head);
	else if (status == 429 || status == 502 || status == 503)
		es_outcome_say(message, ES_OUTCOME_UNAVAILABLE, text, transfer->head);
	else
		es_outcome_say(message, ES_OUTCOME_RETRY, text, transfer->head);

	if ((status == 429 || status == 503) &&
		curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK && retry_after > 0)
		message->retry_after_ms = (long) (retry_after < MAX_RETRY_AFTER_S ? retry_after : MAX_RETRY_AFTER_S) * 1000;
}
