/*
 * nats_key.c
 *		Who we are, by a key (NKEY) or by a credentials file (JWT and key).
 *
 * A seed is Ed25519's, with two bytes before it that say what it is and two behind it that are a checksum, in base32.  Runs in relay
 * workers, and in backends that define endpoints; keeps nothing.
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "nats_key.h"

#define SEED_TEXT 58
#define SEED_RAW 36
#define PREFIX_SEED (18 << 3)	/* S */
#define PREFIX_USER (20 << 3)	/* U */

#define JWT_BEGIN "-----BEGIN NATS USER JWT-----"
#define SEED_BEGIN "-----BEGIN USER NKEY SEED-----"

static bool parse_seed(const char *text, unsigned char *seed);
static const char *block(const char *text, const char *begin, size_t *len);
static EVP_PKEY *key_of(const unsigned char *seed);
static uint16 checksum(const unsigned char *bytes, size_t len);

static const char base32[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

bool
nats_key_parse(const char *secret, unsigned char *seed, char **jwt)
{
	size_t		len;
	const char *text = block(secret, JWT_BEGIN, &len);
	char		copy[SEED_TEXT + 1];
	const char *seed_text = secret;
	size_t		seed_len = strlen(secret);

	*jwt = NULL;
	if (text != NULL)
	{
		seed_text = block(secret, SEED_BEGIN, &seed_len);
		if (len == 0 || seed_text == NULL)
			return false;
	}
	if (seed_len != SEED_TEXT)
		return false;
	memcpy(copy, seed_text, SEED_TEXT);
	copy[SEED_TEXT] = '\0';
	if (!parse_seed(copy, seed))
		return false;
	return text == NULL || (*jwt = strndup(text, len)) != NULL;
}

/* the line behind the one that begins it; NULL: there is none */
static const char *
block(const char *text, const char *begin, size_t *len)
{
	const char *at = strstr(text, begin);

	if (at == NULL)
		return NULL;
	at += strlen(begin);
	at += strspn(at, "-\r\n \t");
	*len = strcspn(at, "\r\n \t");
	return at;
}

static bool
parse_seed(const char *text, unsigned char *seed)
{
	unsigned char raw[SEED_RAW + 1];
	size_t		n = 0;
	uint32		bits = 0;
	int			nbits = 0;

	for (; *text != '\0'; text++)
	{
		const char *digit = strchr(base32, *text);

		if (digit == NULL)
			return false;
		bits = (bits << 5) | (uint32) (digit - base32);
		nbits += 5;
		if (nbits >= 8)
		{
			nbits -= 8;
			if (n == SEED_RAW)
				return false;
			raw[n++] = (unsigned char) (bits >> nbits);
		}
	}
	/* the prefix of a seed has five bits, that of what it is for the next eight, and three are unused */
	if (n != SEED_RAW || (raw[0] & 0xf8) != PREFIX_SEED || (((raw[0] & 7) << 5) | (raw[1] >> 3)) != PREFIX_USER ||
		checksum(raw, SEED_RAW - 2) != (raw[SEED_RAW - 2] | raw[SEED_RAW - 1] << 8))
		return false;
	memcpy(seed, raw + 2, NATS_SEED_BYTES);
	OPENSSL_cleanse(raw, sizeof(raw));
	return true;
}

bool
nats_key_public(const unsigned char *seed, char *text)
{
	EVP_PKEY   *key = key_of(seed);
	unsigned char raw[35] = {PREFIX_USER};
	size_t		len = 32;
	bool		ok = key != NULL && EVP_PKEY_get_raw_public_key(key, raw + 1, &len) == 1 && len == 32;
	uint16		sum = checksum(raw, 33);

	raw[33] = (unsigned char) (sum & 0xff);
	raw[34] = (unsigned char) (sum >> 8);
	for (int i = 0; i < NATS_PUBLIC_TEXT - 1; i++)
	{
		uint32		two = (uint32) raw[i * 5 / 8] << 8 | (i * 5 / 8 + 1 < 35 ? raw[i * 5 / 8 + 1] : 0);

		text[i] = base32[(two >> (11 - i * 5 % 8)) & 31];
	}
	text[NATS_PUBLIC_TEXT - 1] = '\0';
	EVP_PKEY_free(key);
	return ok;
}

bool
nats_key_sign(const unsigned char *seed, const char *nonce, size_t len, char *text)
{
	EVP_PKEY   *key = key_of(seed);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned char signature[64 + 2] = {0};
	size_t		signature_len = 64;
	bool		ok = key != NULL && context != NULL && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
		EVP_DigestSign(context, signature, &signature_len, (const unsigned char *) nonce, len) == 1 && signature_len == 64;

	for (int i = 0; i < NATS_SIGNATURE_TEXT - 1; i++)
	{
		const unsigned char *three = signature + i / 4 * 3;
		uint32		bits = (uint32) three[0] << 16 | (uint32) three[1] << 8 | three[2];

		text[i] = base64[(bits >> (18 - i % 4 * 6)) & 63];
	}
	text[NATS_SIGNATURE_TEXT - 1] = '\0';
	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	return ok;
}

static EVP_PKEY *
key_of(const unsigned char *seed)
{
	return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, NATS_SEED_BYTES);
}

/* CRC-16, XMODEM's */
static uint16
checksum(const unsigned char *bytes, size_t len)
{
	uint16		sum = 0;

	for (size_t i = 0; i < len; i++)
	{
		sum ^= (uint16) (bytes[i] << 8);
		for (int bit = 0; bit < 8; bit++)
			sum = (uint16) (sum & 0x8000 ? sum << 1 ^ 0x1021 : sum << 1);
	}
	return sum;
}
