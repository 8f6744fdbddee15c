/*
 * The inner loop of rowsum.py, which says what the numbers mean and does the same without this, ten times slower.
 *
 *     cc -O2 -shared -fPIC -o PREFIX/lib/matriarch/rowsum-SHA.so rowsum.c
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
 * All lines of `text` that end before `end`. `sums` (rows, low, high) is added to. Where lines longer than LONG begin and
 * end is written to `longs`, which has room for end / LONG of them, and how many there are to `*count`: they are not in
 * the sums. Returns where the first line begins that does not end.
 */
size_t
matriarch_rowsum(const unsigned char *text, size_t end, uint64_t *sums, uint64_t *longs, size_t *count)
{
	uint64_t	rows = 0,
				low = 0,
				high = 0;
	size_t		start = 0;
	const unsigned char *newline;

	*count = 0;
	while (start < end && (newline = memchr(text + start, '\n', end - start)) != NULL)
	{
		size_t		size = newline - (text + start);

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
	return start;
}
