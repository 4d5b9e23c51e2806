// SPDX-License-Identifier: GPL-2.0
/*
 * `exit --window`: for each VM-Exit that the guest timed, when a sender of
 * posted interrupts on another CPU saw the vCPU leave the guest and come back.
 * kvm-mode-probe.ko watches the states from this thread's CPU, the guest's and
 * the host's TSC are laid over each other afterwards.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm-mode-probe.h"
#include "bench.h"
#include "latency.h"

#define QUIET_MS	2	/* an emulated millisecond is long */
#define PER_EXIT	8	/* changes that an exit makes at most */

static struct kvm_mode_change *changes;
static u64 nr_changes, max_changes, turns;

static void watch_once(int probe_fd, struct post_vm *p)
{
	u64 left = max_changes - nr_changes;
	struct kvm_mode_watch w = {
		.vcpu_fd = p->t[0].vcpu->fd,
		.quiet_ms = QUIET_MS,
		.nr = left < PROBE_WATCH_MAX ? left : PROBE_WATCH_MAX,
		.changes = (u64)(changes + nr_changes),
	};

	if (ioctl(probe_fd, PROBE_WATCH, &w))
		die("exit --window: " PROBE_PATH ": %s", strerror(errno));
	nr_changes += w.nr;
	turns += w.turns;
}

void window_watch(int probe_fd, struct post_vm *p, struct lat_shared *l)
{
	u64 start = now_ms(), said = start;

	max_changes = PER_EXIT * (l->warmup + l->samples) + 1024;
	changes = calloc(max_changes, sizeof(*changes));
	if (!changes)
		die("exit --window: no memory for %lu changes", max_changes);

	while (!__atomic_load_n(&l->done, __ATOMIC_ACQUIRE) && nr_changes + 4 <= max_changes) {
		watch_once(probe_fd, p);
		if (now_ms() - said > 1000) {
			said = now_ms();
			fprintf(stderr, "window: %lu of %lu, %.1f s elapsed\n",
				READ_ONCE(l->taken), l->samples, (said - start) / 1e3);
		}
		if (now_ms() - start > 600 * 1000)
			die("exit --window: only %lu of %lu after 600 s", l->taken, l->samples);
	}
	/* Other changes, of exits that nothing timed, may have filled the list. */
	while (!__atomic_load_n(&l->done, __ATOMIC_ACQUIRE))
		sleep_ms(1);
}

/* Would a sender that finds these states notify? */
static bool is_seen_in_guest(const struct kvm_mode_change *c)
{
	if (c->flag != PROBE_NO_FLAG && host.precise_notify == 'Y')
		return c->flag != PROBE_IN_HOST;
	return c->mode == PROBE_IN_RUN_LOOP;
}

/* The first change at or behind @tsc */
static u64 find(u64 tsc)
{
	u64 low = 0, high = nr_changes;

	while (low < high) {
		u64 mid = (low + high) / 2;

		if (changes[mid].tsc < tsc)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Did the watcher look all the time? */
static bool is_watched(u64 start, u64 end)
{
	u64 i = find(start);

	if (!i || changes[i - 1].mode == PROBE_AWAY)
		return false;
	for (; i < nr_changes && changes[i].tsc < end; i++)
		if (changes[i].mode == PROBE_AWAY)
			return false;
	return i < nr_changes;
}

/* What the watcher's turns took together */
static u64 watched_ticks(void)
{
	u64 i, sum = 0;

	for (i = 1; i < nr_changes; i++)
		if (changes[i - 1].mode != PROBE_AWAY)
			sum += changes[i].tsc - changes[i - 1].tsc;
	return sum;
}

/* One round trip: false if no change of what a sender does was seen in it */
static bool measure(u64 start, u32 ticks, u32 *after, u32 *before)
{
	u64 i = find(start), end = start + ticks;
	bool left = false, back = false;

	*after = ticks;
	*before = 0;
	for (; i < nr_changes && changes[i].tsc < end; i++) {
		if (!is_seen_in_guest(&changes[i])) {
			if (!left)
				*after = changes[i].tsc - start;
			left = true;
			back = false;
		} else if (left && !back) {
			*before = end - changes[i].tsc;
			back = true;
		}
	}
	return left;
}

static void draw(u64 start, u32 ticks, struct window_result *w)
{
	u64 i;

	w->ticks = ticks;
	for (i = find(start); i < nr_changes && changes[i].tsc < start + ticks; i++) {
		if (w->nr == WINDOW_CHANGES)
			break;
		w->change[w->nr++] = (struct window_change) {
			changes[i].tsc - start, changes[i].mode, changes[i].flag };
	}
}

void window_find(struct post_vm *p, struct lat_shared *l, const u32 *ticks,
		 struct window_result *w)
{
	const u64 *starts = addr_gva2hva(p->vm, l->starts);
	u32 *after = calloc(l->taken + 1, sizeof(*after));
	u32 *before = calloc(l->taken + 1, sizeof(*before));
	u64 i, n = 0, offset = p->s->host_tsc_offset;

	if (!after || !before)
		die("exit --window: no memory");
	for (i = 0; i < l->taken; i++) {
		u64 start = starts[i] - offset;

		if (!is_watched(start, start + ticks[i]))
			continue;
		w->unseen += !measure(start, ticks[i], &after[n], &before[n]);
		/* The one that is drawn is as it was, whatever the median is. */
		if (!n++)
			draw(start, ticks[i], w);
	}
	w->turn_ticks = watched_ticks() / (turns ?: 1);
	w->after = distribution_of(after, n);
	w->before = distribution_of(before, n);
	free(after);
	free(before);
	free(changes);
}
