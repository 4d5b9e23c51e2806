// SPDX-License-Identifier: GPL-2.0
/* Exact percentiles of samples that are all kept. */
#include <math.h>
#include <stdlib.h>

#include "bench.h"

static int compare_u32(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return (x > y) - (x < y);
}

/* Nearest rank: the smallest sample that at least that part is not above */
static u64 rank(const u32 *sorted, u64 n, double part)
{
	u64 i = ceil(part * n);

	return sorted[(i ?: 1) - 1];
}

struct distribution distribution_of(u32 *samples, u64 n)
{
	struct distribution d = { .count = n };
	double spread = 1.96 * sqrt(n) / 2, sum = 0;
	u64 i;

	if (!n)
		return d;
	qsort(samples, n, sizeof(*samples), compare_u32);
	for (i = 0; i < n; i++)
		sum += samples[i];
	d.mean = sum / n;
	d.min = samples[0];
	d.max = samples[n - 1];
	d.p50 = rank(samples, n, 0.5);
	d.p90 = rank(samples, n, 0.9);
	d.p99 = rank(samples, n, 0.99);
	d.p999 = rank(samples, n, 0.999);
	/* The median lies between these ranks with 95% confidence. */
	d.p50_low = rank(samples, n, fmax(0.5 - spread / n, 0));
	d.p50_high = rank(samples, n, fmin(0.5 + (spread + 1) / n, 1));
	for (i = 0; i <= 100; i++)
		d.grid[i] = rank(samples, n, i / 100.);
	return d;
}
