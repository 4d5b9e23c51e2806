// SPDX-License-Identifier: GPL-2.0
/*
 * No kick is lost: a vCPU that was kicked leaves the guest soon.
 *
 * The target (post-guest.c) computes for long stretches without an exit, and
 * leaves by itself now and then, so that kicks meet it everywhere between the
 * guest and userspace.  A kick has done its work when the run-loop mode is not
 * EXITING any more, a request when it is taken back, an NMI when its handler
 * ran.  It is late if the target computed for longer than a bound before that,
 * counted by the target itself, and lost if that never happens.  A wait-kick
 * must not return while the target is in the run loop that it was kicked from.
 *
 * The memory cases look at what kicks are for: nothing missing from the dirty
 * log, no read through a translation that the host has taken away.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm_util.h"
#include "processor.h"

#include "lost_kick.h"
#include "stress.h"

#define ROUND_KICKS	10000
#define MIN_KICKS	100	/* of each kicker, also when the time is up */
#define MAX_KICKERS	3
#define LOST_US		5000000
#define MEMORY_GPA	0x40000000ull
#define MEMORY_SLOT	7
#define MSI_NMI		(4 << 8)

enum kick_kind { KICK, REQUEST, WAIT, NMI };

static const struct kick_case {
	const char *name;
	enum kick_kind kind;
	unsigned int kickers;
	bool switched;
} kick_cases[] = {
	{ "kick without request", KICK, 1, false },
	{ "kick without request, several kickers", KICK, MAX_KICKERS, false },
	{ "kick without request, parameters switched", KICK, 1, true },
	{ "kick with request", REQUEST, 1, false },
	{ "kick with request, several kickers", REQUEST, MAX_KICKERS, false },
	{ "wait-kick", WAIT, 1, false },
	{ "NMI", NMI, 1, false },
};

struct count {
	u64 kicks, met, late, lost, max_wait, unfinished;
	u64 sent, elided;
};

struct kicker {
	pthread_t thread;
	struct post_vm *vm;
	const struct kick_case *c;
	u64 rnd, kicks;
	bool talks;
	struct count n;
};

/*
 * Kicks begun and kicks done, by all kickers.  One that has moved the mode to
 * EXITING and is held up before its IPI holds up the others, which see EXITING
 * and send none: the emulator's threads are, for milliseconds.
 */
static u64 kicks_begun, kicks_done;
static struct memory_shared memory_layout;	/* for its size only */
static unsigned int nr_cpus;

static u64 computed(struct post_vm *vm)
{
	return READ_ONCE(vm->s->target.compute);
}

static struct kvm_vcpu *target(struct post_vm *vm)
{
	return vm->t[0].vcpu;
}

static void send_nmi(struct post_vm *vm)
{
	struct kvm_msi msi = {
		.address_lo = 0xfee00000u | target(vm)->id << 12,
		.data = MSI_NMI,
	};

	if (__vm_ioctl(vm->vm, KVM_SIGNAL_MSI, &msi) < 0)
		stress_die("KVM_SIGNAL_MSI of an NMI failed");
}

/* What there is to compare with, before the kick */
static u64 before(struct kicker *k)
{
	return k->c->kind == NMI ? READ_ONCE(k->vm->s->target.nmis) : 0;
}

static void kick(struct kicker *k, struct kvm_mode_probe *p)
{
	switch (k->c->kind) {
	case KICK:
		probe(PROBE_KICK, target(k->vm), p);
		break;
	case REQUEST:
		probe(PROBE_REQUEST, target(k->vm), p);
		break;
	case WAIT:
		probe(PROBE_WAIT, target(k->vm), p);
		break;
	case NMI:
		send_nmi(k->vm);
		break;
	}
}

/* @p: the sample taken right after the kick, and one of now */
static bool has_worked(struct kicker *k, const struct kvm_mode_probe *p,
		       const struct kvm_mode_probe *now, u64 nmis)
{
	switch (k->c->kind) {
	case KICK:
		return now->mode != PROBE_EXITING_RUN_LOOP || now->exits != p->exits;
	case REQUEST:
		/* Of several, another one's may be what is pending after an exit. */
		return !(now->requests & BIT(PROBE_REQUEST_BIT)) ||
			(k->c->kickers > 1 && now->exits != p->exits);
	case NMI:
		return __atomic_load_n(&k->vm->s->target.nmis, __ATOMIC_ACQUIRE) != nmis;
	default:
		return true;
	}
}

/* Kicks other than the caller's since the last call, or going on now */
static bool others_kicked(u64 *begun)
{
	u64 done = __atomic_load_n(&kicks_done, __ATOMIC_SEQ_CST);
	u64 now = __atomic_load_n(&kicks_begun, __ATOMIC_SEQ_CST);
	bool changed = now != *begun || now != done;

	*begun = now;
	return changed;
}

/*
 * How long the target computed, at least, before the kick worked.  Its clock is
 * read after the kick returned, and then ahead of each look that still finds
 * the kick pending: what delays the kicker is not counted.  It starts anew when
 * another kicker has kicked since the last look, or is about to: what is seen
 * pending may be that one's, with its IPI on the way.  All kickers wait for
 * their last kick, so that one which is lost is noticed all the same.
 */
static void follow(struct kicker *k, const struct kvm_mode_probe *p, u64 nmis)
{
	u64 c = 0, start = now_us(), waited = 0, begun = 0, at;
	struct kvm_mode_probe now = *p;
	bool waits = !has_worked(k, p, p, nmis);

	k->n.met += waits;
	while (waits) {
		if (now_us() - start > LOST_US) {
			k->n.lost++;
			return;
		}
		at = computed(k->vm);
		if (k->c->kind != NMI)
			probe(PROBE_READ, target(k->vm), &now);
		waits = !has_worked(k, p, &now, nmis);
		if (others_kicked(&begun))
			c = computed(k->vm);
		else if (waits && at - c > waited)
			waited = at - c;
	}
	if (waited > k->n.max_wait)
		k->n.max_wait = waited;
	k->n.late += waited > k->vm->s->late_bound;
}

static void pause_ticks(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		;
}

static void *kicker_fn(void *data)
{
	struct kicker *k = data;
	u64 i;

	for (i = 0; i < k->kicks && !k->n.lost; i++) {
		struct kvm_mode_probe p = {};
		u64 nmis = before(k);

		if (i >= MIN_KICKS && !stress_time_left())
			break;
		if (k->c->switched && !rnd_below(&k->rnd, 8)) {
			u64 which = rnd_below(&k->rnd, STRESS_NR_SWITCHES);

			param_write(stress_switches[which], rnd_below(&k->rnd, 2) ? "Y" : "N");
		}
		__atomic_add_fetch(&kicks_begun, 1, __ATOMIC_SEQ_CST);
		kick(k, &p);
		__atomic_add_fetch(&kicks_done, 1, __ATOMIC_SEQ_CST);
		k->n.kicks++;
		if (k->c->kind == WAIT)
			k->n.unfinished += p.mode == PROBE_EXITING_RUN_LOOP;
		else
			follow(k, &p, nmis);
		pause_ticks(rnd_below(&k->rnd, 1 << rnd_below(&k->rnd, 14)));
		if (k->talks)
			stress_progress("kick %lu of a round of %lu, %lu late", i,
					k->kicks, k->n.late);
	}
	return NULL;
}

static void vm_start(struct post_vm *vm, const char *name,
		     enum post_workload workload, u64 seed)
{
	struct post_setup cfg = {
		.name		= name,
		.workload	= workload,
		.seed		= seed,
		.exit_gap_max	= 2000,
		.long_every	= 2,
		.stall_ms	= 5000,
		.timeout_s	= 300,
		.fastpath_ops	= POST_FP_ICR,
		.no_samples	= true,
	};

	post_vm_create(vm, &cfg, 0);
	vm->s->nr_senders = 1;		/* this program, which is never done */
	post_vm_start(vm);
	post_vm_go(vm);
}

static void add(struct count *sum, const struct count *n)
{
	sum->kicks += n->kicks;
	sum->met += n->met;
	sum->late += n->late;
	sum->lost += n->lost;
	sum->unfinished += n->unfinished;
	if (n->max_wait > sum->max_wait)
		sum->max_wait = n->max_wait;
}

static void kick_round(const struct kick_case *c, u64 seed, u64 kicks,
		       struct count *sum)
{
	static const enum post_workload workloads[] = {
		POST_COMPUTE, POST_EXITS, POST_FASTPATH, POST_USERSPACE,
	};
	struct kicker k[MAX_KICKERS] = {};
	long long sent = count_read("kick_ipi_sent");
	long long elided = count_read("kick_ipi_elided");
	unsigned int i, n = c->kickers;
	struct post_vm vm;

	if (n > nr_cpus - 1)
		n = nr_cpus - 1;
	vm_start(&vm, c->name, workloads[seed % ARRAY_SIZE(workloads)], seed | 1);
	for (i = 0; i < n; i++) {
		k[i].vm = &vm;
		k[i].c = c;
		k[i].rnd = rnd_stream(seed, 10 + i);
		k[i].kicks = kicks / n;
		k[i].talks = !i;
		thread_start(&k[i].thread, 1 + i, kicker_fn, &k[i]);
	}
	for (i = 0; i < n; i++) {
		pthread_join(k[i].thread, NULL);
		add(sum, &k[i].n);
	}
	post_vm_stop(&vm);
	sum->sent += count_read("kick_ipi_sent") - sent;
	sum->elided += count_read("kick_ipi_elided") - elided;
	post_vm_free(&vm);
}

static bool clean(const struct count *n)
{
	return !n->lost && !n->late && !n->unfinished;
}

static void kick_case(const struct kick_case *c, u64 seed, u64 kicks)
{
	bool counted = param_read("kvm/elide_kicks");
	struct count n = {};
	char counts[64];
	u64 round = 0;

	if (c->kind != NMI && !probe_present()) {
		stress_skip("kvm-mode-probe.ko is not loaded");
		return;
	}
	if (c->switched && !counted) {
		stress_skip("this KVM has nothing to switch");
		return;
	}
	do {
		u64 some = kicks && kicks < ROUND_KICKS ? kicks : ROUND_KICKS;

		kick_round(c, rnd_stream(seed, round++), some, &n);
		stress_progress("%lu kicks in %lu rounds, %lu lost, %lu late",
				n.kicks, round, n.lost, n.late);
	} while (clean(&n) && stress_time_left() && (!kicks || n.kicks < kicks));

	snprintf(counts, sizeof(counts), " ipis %lu elided %lu", n.sent, n.elided);
	stress_note("longest_wait %lu ticks", n.max_wait);
	stress_case(clean(&n) && n.kicks,
		    "kicks %lu met %lu lost %lu late %lu unfinished %lu%s",
		    n.kicks, n.met, n.lost, n.late, n.unfinished,
		    count_read("kick_ipi_sent") >= 0 ? counts : "");
}

/* --- memory ----------------------------------------------------------------- */

struct memory {
	struct post_vm vm;
	struct memory_shared *m;
	u64 *page[2];		/* JOB_READ: two pages, mapped by turns */
	void *hva;
	int fd;
};

static void slot_set(struct memory *t, void *hva, u64 pages, u32 flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = MEMORY_SLOT,
		.flags = flags,
		.guest_phys_addr = MEMORY_GPA,
		.memory_size = pages * getpagesize(),
		.userspace_addr = (u64)hva,
	};

	vm_ioctl(t->vm.vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* A read of a slot that is not there: never stale */
static bool memory_exited(struct post_vm *vm, unsigned int vcpu)
{
	struct kvm_run *run = vm->t[vcpu].vcpu->run;

	if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.is_write)
		return false;
	memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
	return true;
}

static void memory_start(struct memory *t, const char *name,
			 enum memory_job job, unsigned int vcpus, u32 flags)
{
	struct post_setup cfg = {
		.name		= name,
		.senders	= vcpus - 1,
		.seed		= stress.seed,
		.long_every	= 1,
		.stall_ms	= 5000,
		.timeout_s	= 300,
		.no_samples	= true,
		.guest_main	= memory_guest_main,
		.exited		= memory_exited,
	};
	u64 gva;

	memset(t, 0, sizeof(*t));
	t->fd = memfd_create("lost_kick", MFD_CLOEXEC);
	if (t->fd < 0 || ftruncate(t->fd, MEMORY_PAGES * getpagesize()))
		stress_die("no memory for the guest");
	t->hva = mmap(NULL, MEMORY_PAGES * getpagesize(), PROT_READ | PROT_WRITE,
		      MAP_SHARED, t->fd, 0);
	post_vm_create(&t->vm, &cfg, sizeof(memory_layout) / getpagesize() + 2);
	gva = vm_alloc(t->vm.vm, sizeof(*t->m), KVM_UTIL_MIN_VADDR);
	t->m = addr_gva2hva(t->vm.vm, gva);
	memset(t->m, 0, sizeof(*t->m));
	t->m->job = job;
	write_guest_global(t->vm.vm, memory_shared, (struct memory_shared *)gva);
	slot_set(t, t->hva, MEMORY_PAGES, flags);
	virt_map(t->vm.vm, MEMORY_GVA, MEMORY_GPA, MEMORY_PAGES);
	post_vm_start(&t->vm);
	post_vm_go(&t->vm);
}

static void memory_stop(struct memory *t)
{
	post_vm_stop(&t->vm);
	post_vm_free(&t->vm);
	munmap(t->hva, MEMORY_PAGES * getpagesize());
	close(t->fd);
}

static void get_dirty(struct memory *t, unsigned long *bits)
{
	unsigned long now[MEMORY_PAGES / 64] = {};
	struct kvm_dirty_log log = { .slot = MEMORY_SLOT, .dirty_bitmap = now };
	unsigned int i;

	vm_ioctl(t->vm.vm, KVM_GET_DIRTY_LOG, &log);
	for (i = 0; i < ARRAY_SIZE(now); i++)
		bits[i] |= now[i];
}

/* The target has computed for the bound: a kick has arrived, or is late. */
static void let_compute(struct post_vm *vm)
{
	u64 c = computed(vm), start = now_us();

	while (computed(vm) - c <= vm->s->late_bound)
		if (now_us() - start > LOST_US)
			stress_die("the target does not compute");
}

struct dirty_count {
	u64 phases, writes, missing, never;
};

static u64 count_missing(const struct memory_shared *m, const unsigned long *bits)
{
	u64 i, n = 0;

	for (i = 0; i < m->nr_writes; i++)
		n += !(bits[m->written[i] / 64] >> m->written[i] % 64 & 1);
	return n;
}

/*
 * One phase: the pages are written and the target computes.  The first look at
 * the log kicks it, without a request, to flush what it has logged; the second
 * one must find everything.  If it does not, a third one tells late from lost.
 */
static void dirty_phase(struct memory *t, u64 phase, struct dirty_count *n)
{
	unsigned long bits[MEMORY_PAGES / 64] = {};
	u64 start = now_us(), missing;

	__atomic_store_n(&t->m->phase, phase, __ATOMIC_RELEASE);
	while (__atomic_load_n(&t->m->done, __ATOMIC_ACQUIRE) != phase)
		if (now_us() - start > LOST_US)
			stress_die("the target does not write");
	get_dirty(t, bits);
	let_compute(&t->vm);
	get_dirty(t, bits);
	n->phases++;
	n->writes += t->m->nr_writes;
	missing = count_missing(t->m, bits);
	if (!missing)
		return;
	n->missing += missing;
	sleep_us(100000);
	get_dirty(t, bits);
	n->never += count_missing(t->m, bits);
}

static void dirty_case(u64 phases)
{
	char pml = param_read("kvm_intel/pml");
	struct dirty_count n = {};
	struct memory t;

	memory_start(&t, "dirty log", JOB_WRITE, 1, KVM_MEM_LOG_DIRTY_PAGES);
	do {
		dirty_phase(&t, n.phases + 1, &n);
		stress_progress("%lu phases, %lu writes", n.phases, n.writes);
	} while (stress_time_left() && !n.missing && (!phases || n.phases < phases));
	memory_stop(&t);
	stress_case(!n.missing,
		    "phases %lu writes %lu missing %lu never %lu (%s)",
		    n.phases, n.writes, n.missing, n.never,
		    pml == 'Y' ? "page-modification logging" : "write protection");
}

/* The host takes the page away and gives another one with a newer epoch. */
static void remap(struct memory *t, u64 epoch)
{
	void *r;

	*t->page[epoch % 2] = epoch;
	r = mmap(t->hva, getpagesize(), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, t->fd, (1 + epoch % 2) * getpagesize());
	if (r == MAP_FAILED)
		stress_die("cannot map a page anew");
}

static void new_slot(struct memory *t, u64 epoch)
{
	*t->page[epoch % 2] = epoch;
	slot_set(t, NULL, 0, 0);
	slot_set(t, t->page[epoch % 2], 1, 0);
}

static void read_case(const char *name, void (*change)(struct memory *, u64),
		      u64 changes)
{
	u64 epoch = 0, reads, stale, worst, rnd = rnd_stream(stress.seed, 99);
	struct memory t;

	memory_start(&t, name, JOB_READ, 2, 0);
	t.page[0] = mmap(NULL, 2 * getpagesize(), PROT_READ | PROT_WRITE,
			 MAP_SHARED, t.fd, getpagesize());
	t.page[1] = t.page[0] + getpagesize() / sizeof(u64);
	slot_set(&t, NULL, 0, 0);	/* one page now, not the whole */
	slot_set(&t, t.hva, 1, 0);

	do {
		change(&t, ++epoch);
		__atomic_store_n(&t.m->epoch, epoch, __ATOMIC_RELEASE);
		pause_ticks(rnd_below(&rnd, 20000));
		reads = READ_ONCE(t.m->reader[0].reads) + READ_ONCE(t.m->reader[1].reads);
		stale = READ_ONCE(t.m->reader[0].stale) + READ_ONCE(t.m->reader[1].stale);
		stress_progress("%lu changes, %lu reads, %lu stale", epoch, reads, stale);
	} while (!stale && stress_time_left() && (!changes || epoch < changes));

	worst = t.m->reader[0].worst | t.m->reader[1].worst;
	memory_stop(&t);
	munmap(t.page[0], 2 * getpagesize());
	stress_case(reads && !stale, "changes %lu reads %lu stale %lu worst %lu", epoch,
		    reads, stale, worst);
}

static const char help_text[] =
"Kicks a vCPU, with a request, without and waiting, and watches that it leaves\n"
"the guest.  COUNT is the number of kicks, over all cases.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 20, .seed = 1 };
	unsigned int i, n = ARRAY_SIZE(kick_cases) + 3;
	u64 each;

	stress_init(argc, argv, help_text, &defaults);
	nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (nr_cpus < 2)
		stress_skip_all("needs two CPUs");
	switches_save();

	stress_plan(n);
	each = (stress.count + n - 1) / n;
	for (i = 0; i < ARRAY_SIZE(kick_cases); i++) {
		if (stress_case_begin(kick_cases[i].name))
			kick_case(&kick_cases[i], rnd_stream(stress.seed, i), each);
		if (kick_cases[i].switched)
			switches_restore();
	}
	if (stress_case_begin("dirty log"))
		dirty_case(each);
	if (stress_case_begin("stale translation, pages remapped"))
		read_case("remap", remap, (each + 15) / 16);
	if (stress_case_begin("stale translation, memslots replaced"))
		read_case("memslots", new_slot, (each + 15) / 16);
	return stress_end();
}
