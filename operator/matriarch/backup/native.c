/*
 * The two inner loops of backups: the sums over rows (rowsum.py) and the checksums of pages (physical/pages.py). Those
 * files say what the numbers mean, and do the same by numpy where this was not compiled, 4 to 7 times slower.
 *
 *     cc -O2 -shared -fPIC -o PREFIX/lib/matriarch/native-SHA.so native.c
 *
 * SHA: the first 12 hex digits of this file's SHA-256, so that what was made from other sources is never loaded.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read in the order in which the machine has them"
#endif

#define P UINT64_C(0x9E3779B97F4A7C15)
#define Q UINT64_C(0xC2B2AE3D27D4EB4F)
#define R UINT64_C(0x165667B19E3779F9)
#define LONG 1024

static uint64_t
mix(uint64_t h)
{
	h = (h ^ h >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	h = (h ^ h >> 27) * UINT64_C(0x94D049BB133111EB);
	return h ^ h >> 31;
}

static uint64_t
word(uint64_t h, const unsigned char *at, size_t size)
{
	uint64_t	w = 0;

	memcpy(&w, at, size);
	h = (h ^ w) * P;
	return (h ^ h >> 32) * Q;
}

/*
 * All lines of `text` that end before `end`. `sums` (rows, low, high, lines that begin as a COPY command does) is added
 * to. Where lines longer than LONG begin and end is written to `longs`, which has room for end / LONG of them, and how
 * many there are to `*count`: they are not in the first three sums. Returns where the first line begins that does not end.
 */
size_t
matriarch_rowsum(const unsigned char *text, size_t end, uint64_t *sums, uint64_t *longs, size_t *count)
{
	uint64_t	rows = 0,
				low = 0,
				high = 0,
				heads = 0;
	size_t		start = 0;
	const unsigned char *newline;

	*count = 0;
	while (start < end && (newline = memchr(text + start, '\n', end - start)) != NULL)
	{
		size_t		size = newline - (text + start);

		heads += size >= 5 && memcmp(text + start, "COPY ", 5) == 0;
		if (size > LONG)
		{
			longs[2 * *count] = start;
			longs[2 * *count + 1] = start + size;
			++*count;
		}
		else
		{
			uint64_t	h = (size + 1) * P;
			size_t		at = 0;

			for (; at + 8 <= size; at += 8)
				h = word(h, text + start + at, 8);
			if (at < size)
				h = word(h, text + start + at, size - at);
			low += mix(h);
			high += mix(h ^ R);
			++rows;
		}
		start += size + 1;
	}
	sums[0] += rows;
	sums[1] += low;
	sums[2] += high;
	sums[3] += heads;
	return start;
}

#define PAGE 8192
#define LANES 32
#define PRIME 16777619u

static const uint32_t offsets[LANES] = {
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
};

static void
round_of(uint32_t *sums, const uint32_t *words)
{
	for (int lane = 0; lane < LANES; lane++)
	{
		uint32_t	t = sums[lane] ^ words[lane];

		sums[lane] = t * PRIME ^ t >> 17;
	}
}

/* The checksum that each of `count` whole pages should carry; `blocks` are their numbers within their relations. */
void
matriarch_checksums(const unsigned char *pages, size_t count, const uint32_t *blocks, uint16_t *found)
{
	for (size_t page = 0; page < count; page++, pages += PAGE)
	{
		uint32_t	sums[LANES],
					words[LANES],
					folded = blocks[page];

		memcpy(sums, offsets, sizeof sums);
		for (size_t row = 0; row < PAGE / sizeof words; row++)
		{
			memcpy(words, pages + row * sizeof words, sizeof words);
			if (row == 0)
				words[2] &= 0xFFFF0000;	/* the field itself counts as zero */
			round_of(sums, words);
		}
		memset(words, 0, sizeof words);
		round_of(sums, words);
		round_of(sums, words);
		for (int lane = 0; lane < LANES; lane++)
			folded ^= sums[lane];
		found[page] = (uint16_t) (folded % 65535 + 1);
	}
}
