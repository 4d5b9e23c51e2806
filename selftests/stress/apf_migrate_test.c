// SPDX-License-Identifier: GPL-2.0
/*
 * Asynchronous page faults while a VM moves: from one VM to the next on this machine,
 * again and again, as VMMs do it live.  The memory is copied while the guest runs, then
 * what the dirty log has of it, and at last, with the vCPUs paused, their state and what
 * is dirty by then; pages are given all the time.  Each token is accounted for, across
 * all moves: it comes, or the token that wakes all covers it.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <asm/kvm_para.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "stress.h"

#define NR_REGIONS	2	/* those that are copied: the guest's own, the areas */
#define COPY_ROUNDS	2	/* by the dirty log, with the guest running */
#define BLACKOUT_US	1000	/* and more, between the vCPUs' state and the last copy */

enum move {
	MOVE_LOGGED,		/* live, with dirty bitmaps */
	MOVE_SNAPSHOT,		/* paused, then all of the memory */
};

struct image {
	void *memory[NR_REGIONS];
	struct kvm_x86_state *state[APF_MAX_VCPUS];
	struct kvm_lapic_state lapic[APF_MAX_VCPUS];
};

static const struct {
	const char *name;
	enum move how;
	unsigned int vcpus;
	u64 max_out;
	u64 what;
} cases[] = {
	{ "live, one vCPU", MOVE_LOGGED, 1, 16, APF_DO_HALT | APF_DO_MASK },
	{ "live, several vCPUs", MOVE_LOGGED, 3, 16, APF_DO_HALT | APF_DO_MASK | APF_DO_EXITS },
	{ "live, the areas move as well", MOVE_LOGGED, 2, 8, APF_DO_HALT | APF_DO_MOVE |
	  APF_DO_TOGGLE },
	/*
	 * No late ACKs: pages that are announced before the ACK of the event that lay in
	 * the place are not covered by the token that wakes all, which comes after it.
	 */
	{ "snapshot", MOVE_SNAPSHOT, 2, 64, APF_DO_HALT | APF_DO_ACK_FIRST },
};

static struct {
	struct apf_vm vm[2];
	struct apf_count sum;	/* of the last VM: what the guest counts goes with it */
	u64 moves, most, stalled, copied;
	u64 rnd;
} run;

/* In the vmx lab a guest that computes makes emulated time dear. */
static void sleep_up_to(u64 us)
{
	sleep_us(rnd_below(&run.rnd, host_cpu_is_intel ? us / 40 : us));
}

static struct userspace_mem_region *region(struct apf_vm *a, unsigned int i)
{
	return i ? a->areas : memslot2region(a->vm, 0);
}

static u64 region_pages(struct apf_vm *a, unsigned int i)
{
	return region(a, i)->region.memory_size / PAGE_SIZE;
}

static void log_dirty(struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < NR_REGIONS; i++)
		vm_mem_region_set_flags(a->vm, region(a, i)->region.slot,
					KVM_MEM_LOG_DIRTY_PAGES);
}

/* So that the guest does not run through the grace periods of changing a memslot */
static bool log_from_start(void)
{
	return host_cpu_is_intel;
}

/* By words: the library's memcpy() goes by bytes. */
static void copy_pages(void *to, const void *from, u64 n)
{
	const u64 *f = from;
	u64 *t = to, i;

	for (i = 0; i < n * PAGE_SIZE / sizeof(u64); i++)
		WRITE_ONCE(t[i], READ_ONCE(f[i]));
}

static void image_new(struct image *image, struct apf_vm *a)
{
	unsigned int i;

	memset(image, 0, sizeof(*image));
	for (i = 0; i < NR_REGIONS; i++) {
		image->memory[i] = malloc(region_pages(a, i) * PAGE_SIZE);
		if (!image->memory[i])
			die("no memory");
	}
}

static void copy_all(struct image *image, struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < NR_REGIONS; i++)
		copy_pages(image->memory[i], region(a, i)->host_mem, region_pages(a, i));
}

/* Only what the log has; a page that is missing there is stale in the image. */
static void copy_dirty(struct image *image, struct apf_vm *a)
{
	unsigned int i;
	u64 page, pages;

	for (i = 0; i < NR_REGIONS; i++) {
		unsigned long *log;

		pages = region_pages(a, i);
		log = calloc((pages + 63) / 64, sizeof(*log));
		kvm_vm_get_dirty_log(a->vm, region(a, i)->region.slot, log);
		for (page = 0; page < pages; page++) {
			if (!(log[page / 64] & BIT_ULL(page % 64)))
				continue;
			copy_pages(image->memory[i] + page * PAGE_SIZE,
				   region(a, i)->host_mem + page * PAGE_SIZE, 1);
			run.copied++;
		}
		free(log);
	}
}

static void save_vcpus(struct image *image, struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < a->cfg.nr_vcpus; i++) {
		image->state[i] = vcpu_save_state(a->v[i].vcpu);
		vcpu_ioctl(a->v[i].vcpu, KVM_GET_LAPIC, &image->lapic[i]);
	}
}

static void save(struct image *image, struct apf_vm *a, enum move how)
{
	u64 n;

	image_new(image, a);
	if (how == MOVE_LOGGED) {
		if (!log_from_start())
			log_dirty(a);
		copy_all(image, a);
		for (n = 0; n < COPY_ROUNDS; n++) {
			sleep_up_to(2000);
			copy_dirty(image, a);
		}
	}
	apf_vm_pause(a);
	save_vcpus(image, a);
	/* The giver goes on. */
	sleep_us(BLACKOUT_US);
	sleep_up_to(3000);
	if (how == MOVE_LOGGED)
		copy_dirty(image, a);
	else
		copy_all(image, a);
}

/*
 * What the guest cannot know: which tokens will not come any more.  It may have been
 * stopped on either side of a WRMSR: the MSR says which area is in use.
 */
static void tell_guest(struct apf_vm *a)
{
	unsigned int i, n;

	for (i = 0; i < a->cfg.nr_vcpus; i++) {
		u64 enabled = vcpu_get_msr(a->v[i].vcpu, MSR_KVM_ASYNC_PF_EN);
		struct apf_vcpu *g = a->v[i].g;
		struct apf_area *area;

		g->moves++;
		if (!(enabled & KVM_ASYNC_PF_ENABLED))
			continue;
		n = (enabled & ~63ull) == g->area_gpa[1];
		area = addr_gva2hva(a->vm, g->area[n]);
		g->moved = 1;
		g->wake_seen[n] = (g->wake_due[n] || g->wake_seen[n]) &&
				  area->token == APF_WAKE_ALL;
		g->wake_due[n] = 1;
	}
}

/* LAPIC and MSRs in either order, or the LAPIC twice */
static void load_vcpu(struct kvm_vcpu *vcpu, struct image *image, unsigned int i)
{
	u64 order = rnd_below(&run.rnd, 3);

	vcpu_sregs_set(vcpu, &image->state[i]->sregs);
	if (order != 1)
		vcpu_ioctl(vcpu, KVM_SET_LAPIC, &image->lapic[i]);
	vcpu_load_state(vcpu, image->state[i]);
	if (order)
		vcpu_ioctl(vcpu, KVM_SET_LAPIC, &image->lapic[i]);
}

static void load_memory(struct image *image, struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < NR_REGIONS; i++)
		copy_pages(region(a, i)->host_mem, image->memory[i], region_pages(a, i));
}

static void load(struct image *image, struct apf_vm *a)
{
	bool memory_first = rnd_below(&run.rnd, 2);
	unsigned int i;

	if (memory_first)
		load_memory(image, a);
	for (i = 0; i < a->cfg.nr_vcpus; i++)
		load_vcpu(a->v[i].vcpu, image, i);
	if (!memory_first)
		load_memory(image, a);
	tell_guest(a);
}

static void image_free(struct image *image)
{
	unsigned int i;

	for (i = 0; i < NR_REGIONS; i++)
		free(image->memory[i]);
	for (i = 0; i < APF_MAX_VCPUS; i++)
		if (image->state[i])
			kvm_x86_state_cleanup(image->state[i]);
}

static struct apf_vm *move(struct apf_vm *a, enum move how)
{
	struct apf_vm *to = a == &run.vm[0] ? &run.vm[1] : &run.vm[0];
	struct apf_setup cfg = a->cfg;
	struct image image;
	unsigned int i;

	save(&image, a, how);
	apf_vm_create(to, &cfg);
	for (i = 0; i < cfg.nr_vcpus; i++)
		to->v[i].round = a->v[i].round;
	apf_vm_free(a);
	if (how == MOVE_LOGGED && log_from_start())
		log_dirty(to);
	load(&image, to);
	image_free(&image);
	apf_vm_start(to);
	run.moves++;
	return to;
}

/* The guest does something between two moves, or is stuck. */
static bool goes_on(struct apf_vm *a)
{
	u64 was = apf_vm_progress(a), end = now_ms() + a->cfg.stall_ms;

	while (apf_vm_progress(a) == was && now_ms() < end)
		sleep_us(200);
	return apf_vm_progress(a) != was;
}

static bool more(struct apf_vm *a)
{
	(void)a;
	return false;
}

static bool enough(struct apf_vm *a)
{
	struct apf_count c;

	apf_vm_count(a, &c);
	stress_progress("announced %lu ready %lu eaten %lu, %lu moves", c.announced, c.ready,
			c.eaten, run.moves);
	return !stress_time_left() || (run.most && run.moves >= run.most);
}

static void run_case(unsigned int i, u64 seed)
{
	const struct apf_setup setup = {
		.name = cases[i].name,
		.nr_vcpus = cases[i].vcpus,
		.seed = seed,
		.pages = 256,
		.max_out = cases[i].max_out,
		.gap_max = 500,
		.delay_max = 40000,
		.what = cases[i].what,
		.every = 32,
	};
	struct apf_vm *a = &run.vm[0];
	struct apf_count *c = &run.sum;

	run.moves = 0;
	run.stalled = 0;
	run.copied = 0;
	run.rnd = seed;
	apf_vm_create(a, &setup);
	if (cases[i].how == MOVE_LOGGED && log_from_start())
		log_dirty(a);
	apf_vm_start(a);
	do {
		if (!goes_on(a)) {
			run.stalled++;
			break;
		}
		sleep_up_to(20000);
		a = move(a, cases[i].how);
	} while (!enough(a));
	apf_vm_run(a, more);
	run.stalled += a->stalled;
	apf_vm_count(a, c);
	apf_vm_tell_wrong(a);
	apf_vm_free(a);
	stress_case(c->announced && run.moves && !c->lost && !c->doubled && !c->wrong &&
		    !run.stalled && c->announced == c->ready + c->eaten,
		    "announced %lu ready %lu eaten %lu lost %lu doubled %lu wrong %lu stalled %lu moves %lu wakes %lu copied %lu",
		    c->announced, c->ready, c->eaten, c->lost, c->doubled, c->wrong, run.stalled,
		    run.moves, c->wakes, run.copied);
}

static const char help_text[] =
"Asynchronous page faults while the VM is migrated, or saved and restored: each token\n"
"comes back once, or is covered by the one that wakes all.  COUNT is the number of\n"
"moves, over all cases.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 20, .seed = 1 };
	unsigned int i;

	stress_init(argc, argv, help_text, &defaults);
	stress_plan(ARRAY_SIZE(cases));
	run.most = (stress.count + ARRAY_SIZE(cases) - 1) / ARRAY_SIZE(cases);
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		if (stress_case_begin(cases[i].name))
			run_case(i, rnd_stream(stress.seed, i));
	return stress_end();
}
