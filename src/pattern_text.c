/*
 * pattern_text.c
 *		Comparing texts for content patterns: with wildcards, and without regard to case.
 *
 * Runs wherever filters do.  What can be computed from the pattern is computed when it is read; comparing allocates nothing and
 * keeps nothing.
 *
 * A text with wildcards is what stands before the first "*", what stands behind the last one, and pieces between.  Each piece is taken
 * where it is first found behind the one before: a later place would leave less for the rest, so there is nothing to come
 * back to.  Pieces are found by Knuth, Morris and Pratt, whose cost is linear whatever repeats itself in text and pattern.
 *
 * Without regard to case a character of the pattern is itself, its lower or its upper case, as Unicode has them and one for one, whatever
 * the locale of the database: a filter must not select other events in a copy of the database.  In other encodings than UTF8
 * that holds for the letters of ASCII.  Bytes are compared: in UTF8 no character begins within another.
 */
#include "postgres.h"

#include <locale.h>
#include <wctype.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "compat.h"
#include "pattern_text.h"

typedef struct Piece
{
	char	   *text;
	int			len;
	int		   *border;			/* of each beginning: how long the longest end of it is that is a beginning too */
} Piece;

struct EsWildcard
{
	bool		has_star;		/* or the first piece is all there is */
	int			n;				/* pieces: the first and the last may be empty, and are the same where there is no star */
	Piece	   *pieces;
};

typedef struct CaselessChar
{
	int			n;
	int			len[3];
	char		bytes[3][MAX_MULTIBYTE_CHAR_LEN];
} CaselessChar;

struct EsCaselessText
{
	int			n;
	CaselessChar chars[FLEXIBLE_ARRAY_MEMBER];
};

PG_FUNCTION_INFO_V1(evtstore_wildcard_steps);

static void finish_piece(Piece *piece);
static const char *find_piece(const Piece *piece, const char *text, const char *end, uint64 *steps);
static void add_case(CaselessChar *c, const char *bytes, int len);
static void add_other_cases(CaselessChar *c, const char *bytes, int len);
static locale_t case_locale(void);
static const char *skip_beginning(const EsCaselessText *caseless, const char *text, const char *end);

EsWildcard *
es_wildcard_compile(const char *text, int len, const char **problem)
{
	EsWildcard *wildcard = palloc0(sizeof(EsWildcard));
	Piece	   *piece;

	/* each star begins another piece */
	wildcard->pieces = palloc0((len + 1) * sizeof(Piece));
	piece = &wildcard->pieces[0];
	piece->text = palloc(len + 1);
	for (int i = 0; i < len; i++)
	{
		if (text[i] == '*')
		{
			if (i + 1 < len && text[i + 1] == '*')
			{
				*problem = "in which two \"*\" stand side by side";
				return NULL;
			}
			wildcard->has_star = true;
			finish_piece(piece);
			piece[1].text = piece->text + piece->len;
			piece++;
			continue;
		}
		if (text[i] == '\\' && (++i == len || (text[i] != '*' && text[i] != '\\')))
		{
			*problem = "in which a backslash stands before neither \"*\" nor a backslash";
			return NULL;
		}
		piece->text[piece->len++] = text[i];
	}
	finish_piece(piece);
	wildcard->n = piece - wildcard->pieces + 1;
	return wildcard;
}

bool
es_wildcard_matches(const EsWildcard *wildcard, const char *text, int len, uint64 *steps)
{
	const Piece *first = &wildcard->pieces[0];
	const Piece *last = &wildcard->pieces[wildcard->n - 1];
	const char *at = text + first->len;
	const char *end = text + len - last->len;
	uint64		counted = 0;
	bool		result;

	if (!wildcard->has_star)
		return len == first->len && memcmp(text, first->text, len) == 0;
	/* what is before the first star and what is behind the last must not overlap */
	result = len >= first->len + last->len && memcmp(text, first->text, first->len) == 0 && memcmp(end, last->text, last->len) == 0;
	for (int i = 1; i < wildcard->n - 1 && result; i++)
	{
		at = find_piece(&wildcard->pieces[i], at, end, &counted);
		result = at != NULL;
	}
	if (steps != NULL)
		*steps += counted;
	return result;
}

/* For tests, which count what a comparison costs; no SQL of ours declares it.  NULL: no match */
Datum
evtstore_wildcard_steps(PG_FUNCTION_ARGS)
{
	text	   *pattern = PG_GETARG_TEXT_PP(0);
	text	   *value = PG_GETARG_TEXT_PP(1);
	const char *problem;
	EsWildcard *wildcard = es_wildcard_compile(VARDATA_ANY(pattern), VARSIZE_ANY_EXHDR(pattern), &problem);
	uint64		steps = 0;

	if (wildcard == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a pattern %s", problem)));
	es_wildcard_matches(wildcard, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &steps);
	PG_RETURN_INT64(steps);
}

static void
finish_piece(Piece *piece)
{
	int			border = 0;

	piece->border = palloc0((piece->len + 1) * sizeof(int));
	for (int i = 1; i < piece->len; i++)
	{
		while (border > 0 && piece->text[i] != piece->text[border])
			border = piece->border[border];
		if (piece->text[i] == piece->text[border])
			border++;
		piece->border[i + 1] = border;
	}
}

/* behind where it is first found; NULL: nowhere.  Each comparison either goes on in the text or gives up a byte of what was found */
static const char *
find_piece(const Piece *piece, const char *text, const char *end, uint64 *steps)
{
	int			found = 0;

	while (text < end)
	{
		(*steps)++;
		if (*text == piece->text[found])
		{
			text++;
			if (++found == piece->len)
				return text;
		}
		else if (found > 0)
			found = piece->border[found];
		else
			text++;
	}
	return NULL;
}

EsCaselessText *
es_caseless_compile(const char *text, int len)
{
	EsCaselessText *caseless = palloc0(offsetof(EsCaselessText, chars) + len * sizeof(CaselessChar));

	while (len > 0)
	{
		CaselessChar *c = &caseless->chars[caseless->n++];
		int			bytes = Min(pg_mblen(text), len);

		add_case(c, text, bytes);
		add_other_cases(c, text, bytes);
		text += bytes;
		len -= bytes;
	}
	return caseless;
}

bool
es_caseless_equal(const EsCaselessText *caseless, const char *text, int len)
{
	return skip_beginning(caseless, text, text + len) == text + len;
}

bool
es_caseless_begins(const EsCaselessText *caseless, const char *text, int len)
{
	return skip_beginning(caseless, text, text + len) != NULL;
}

bool
es_caseless_ends(const EsCaselessText *caseless, const char *text, int len)
{
	const char *end = text + len;

	/* from the end: characters may be longer in the other case */
	for (int i = caseless->n - 1; i >= 0; i--)
	{
		const CaselessChar *c = &caseless->chars[i];
		int			j = 0;

		while (j < c->n && (end - text < c->len[j] || memcmp(end - c->len[j], c->bytes[j], c->len[j]) != 0))
			j++;
		if (j == c->n)
			return false;
		end -= c->len[j];
	}
	return true;
}

/* behind the beginning; NULL: it begins otherwise */
static const char *
skip_beginning(const EsCaselessText *caseless, const char *text, const char *end)
{
	for (int i = 0; i < caseless->n; i++)
	{
		const CaselessChar *c = &caseless->chars[i];
		int			j = 0;

		while (j < c->n && (end - text < c->len[j] || memcmp(text, c->bytes[j], c->len[j]) != 0))
			j++;
		if (j == c->n)
			return NULL;
		text += c->len[j];
	}
	return text;
}

static void
add_case(CaselessChar *c, const char *bytes, int len)
{
	for (int i = 0; i < c->n; i++)
		if (c->len[i] == len && memcmp(c->bytes[i], bytes, len) == 0)
			return;
	memcpy(c->bytes[c->n], bytes, len);
	c->len[c->n++] = len;
}

static void
add_other_cases(CaselessChar *c, const char *bytes, int len)
{
	unsigned char other[2][MAX_MULTIBYTE_CHAR_LEN + 1] = {0};

	if (len == 1 && !IS_HIGHBIT_SET(*bytes))
	{
		other[0][0] = pg_ascii_tolower((unsigned char) *bytes);
		other[1][0] = pg_ascii_toupper((unsigned char) *bytes);
	}
	else if (GetDatabaseEncoding() == PG_UTF8)
	{
		pg_wchar	wide = utf8_to_unicode((const unsigned char *) bytes);

		unicode_to_utf8(towlower_l(wide, case_locale()), other[0]);
		unicode_to_utf8(towupper_l(wide, case_locale()), other[1]);
	}
	for (int i = 0; i < 2 && other[i][0] != '\0'; i++)
		add_case(c, (const char *) other[i], GetDatabaseEncoding() == PG_UTF8 ? pg_utf_mblen(other[i]) : 1);
}

/* the cases of Unicode in no language's way; made once, kept for the life of the process */
static locale_t
case_locale(void)
{
	static locale_t locale = (locale_t) 0;

	if (locale == (locale_t) 0)
		locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t) 0);
	if (locale == (locale_t) 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the case of letters beyond ASCII is not known: the system has no locale \"C.UTF-8\""),
				 errhint("Install that locale, or write a pattern without \"equals-ignore-case\" for such letters.")));
	return locale;
}
