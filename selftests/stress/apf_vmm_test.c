// SPDX-License-Identifier: GPL-2.0
/*
 * Asynchronous page faults, and what VMMs do around page-ready events: they are
 * killed, pause vCPUs, save and restore them, take the area's memory away and give
 * it back, log what is dirty.  The guest is apf_vmm_guest.c.
 *
 * Cases move by steps; see apf_step.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_vmm.h"
#include "stress.h"

#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | \
			 KVM_ASYNC_PF_DELIVERY_AS_INT)

static struct apf_vmm *of(struct step *s)
{
	return s->shared;
}

static void nmi(struct step *s)
{
	struct kvm_msi msi = {
		.address_lo = APIC_DEFAULT_GPA | s->a.v[0].vcpu->id << 12,
		.data = APIC_DM_NMI,
	};

	if (__vm_ioctl(s->a.vm, KVM_SIGNAL_MSI, &msi) < 0)
		die("no vCPU took the NMI: %s", strerror(errno));
}

/* For guests of other VMs than step_begin()'s */
static struct apf_vmm *shared_with_guest(struct apf_vm *a)
{
	gva_t gva = vm_alloc(a->vm, sizeof(struct apf_vmm), KVM_UTIL_MIN_VADDR);

	memset(addr_gva2hva(a->vm, gva), 0, sizeof(struct apf_vmm));
	write_guest_global(a->vm, apf_vmm, (struct apf_vmm *)gva);
	return addr_gva2hva(a->vm, gva);
}

static void step_begin(struct step *s, enum vmm_script script, struct apf_setup more)
{
	struct apf_vm *a = &s->a;

	more.name = "apf_vmm";
	more.guest_main = apf_vmm_main;
	step_create(s, more);
	s->shared = shared_with_guest(a);
	of(s)->script = script;
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_vmm_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_vmm_ready);
	vm_install_exception_handler(a->vm, NMI_VECTOR, apf_vmm_nmi);
}

/* --- looking at it -------------------------------------------------------------- */

static struct apf_area *area(struct step *s, unsigned int i)
{
	return s->a.areas->host_mem + i * PAGE_SIZE / 2;
}

static u32 token(struct step *s)
{
	return READ_ONCE(area(s, 0)->token);
}

/* Through the second mapping, with shared areas */
static u32 token_in_memfd(struct step *s)
{
	struct apf_area *a = s->a.areas->host_alias;

	return READ_ONCE(a->token);
}

static bool interrupt_pending(struct step *s)
{
	struct kvm_lapic_state lapic;

	vcpu_ioctl(s->a.v[0].vcpu, KVM_GET_LAPIC, &lapic);
	return *(u32 *)&lapic.regs[APIC_IRR + APF_VEC / 32 * 16] & BIT(APF_VEC % 32);
}

/* In the next @ms nothing is written to the place of the token. */
static bool stays_clear(u32 *place, unsigned int ms)
{
	u64 end = now_ms() + ms;

	while (now_ms() < end) {
		if (READ_ONCE(*place))
			return false;
		sleep_ms(1);
	}
	return true;
}

static bool comes(u64 *count, u64 n, unsigned int ms)
{
	u64 end = now_ms() + ms;

	while (READ_ONCE(*count) < n && now_ms() < end)
		sleep_ms(1);
	return READ_ONCE(*count) >= n;
}

/* KVM_GET_STATS_FD waits for KVM_RUN to return; reading the file does not. */
static struct {
	int fd;
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
} stats;

static void stats_open(struct step *s)
{
	stats.fd = vcpu_get_stats_fd(s->a.v[0].vcpu);
	read_stats_header(stats.fd, &stats.header);
	stats.desc = read_stats_descriptors(stats.fd, &stats.header);
}

static u64 stat_read(const char *name)
{
	struct kvm_stats_desc *desc;
	unsigned int i;
	u64 data = 0;

	for (i = 0; i < stats.header.num_desc; i++) {
		desc = get_stats_descriptor(stats.desc, i, &stats.header);
		if (!strcmp(desc->name, name))
			read_stat_data(stats.fd, &stats.header, desc, &data, 1);
	}
	return data;
}

static void stats_close(void)
{
	free(stats.desc);
	close(stats.fd);
}

static u64 cpu_time_us(struct step *s)
{
	struct timespec ts;

	clock_gettime(s->clock, &ts);
	return ts.tv_sec * 1000000ull + ts.tv_nsec / 1000;
}

/* --- a vCPU that is not in KVM_RUN -------------------------------------------- */

static struct step step, other;

static void paused(void)
{
	u64 n, tokens = 0, irqs = 0, lost = 0, doubled = 0;
	struct step *s = &step;
	bool ok = true;

	for (n = 0; ok && again(n); n++) {
		step_begin(s, VMM_EVENT, (struct apf_setup){});
		ok = goes_to(s, VMM_ANNOUNCED);
		apf_vm_give(&s->a, 0, 0);
		sleep_ms(host_cpu_is_intel ? 50 : 500);
		tokens += !!token(s);
		irqs += interrupt_pending(s);
		ok = ok && goes_to(s, VMM_DONE) && !of(s)->step.failed;
		lost += of(s)->ready < 1;
		doubled += of(s)->irqs > 2 || of(s)->unknown || of(s)->empty;
		step_free(s);
	}
	tell(ok && !tokens && !irqs && !lost && !doubled,
	     "pauses %lu tokens %lu interrupts %lu lost %lu doubled %lu", n, tokens, irqs, lost,
	     doubled);
}

static void paused_msrs(void)
{
	struct step *s = &step;
	bool ok, sent, irq;

	step_begin(s, VMM_ENABLED_BY_HOST, (struct apf_setup){});
	ok = goes_to(s, VMM_READY);
	vcpu_set_msr(s->a.v[0].vcpu, MSR_KVM_ASYNC_PF_EN, s->a.v[0].g->area_gpa[0] | ENABLE);
	sleep_ms(quiet_ms(false));
	sent = token(s);
	irq = interrupt_pending(s);
	ok = ok && goes_to(s, VMM_DONE);
	ok &= !sent && !irq && of(s)->wakes == 1 && of(s)->irqs == 1 && !of(s)->step.failed;
	tell(ok, "tokens %u interrupts %u wakes %lu failed_line %lu", sent, irq, of(s)->wakes,
	     of(s)->step.failed);
	step_free(s);
}

/* An event is queued, the area is named twice: one wake-all, where it was named last. */
static void named_twice(void)
{
	struct step *s = &step;
	bool ok, sent;

	step_begin(s, VMM_TWICE, (struct apf_setup){});
	ok = goes_to(s, VMM_ANNOUNCED);
	apf_vm_give(&s->a, 0, 0);
	sleep_ms(quiet_ms(false));
	vcpu_set_msr(s->a.v[0].vcpu, MSR_KVM_ASYNC_PF_EN, s->a.v[0].g->area_gpa[0] | ENABLE);
	vcpu_set_msr(s->a.v[0].vcpu, MSR_KVM_ASYNC_PF_EN, s->a.v[0].g->area_gpa[1] | ENABLE);
	sent = READ_ONCE(area(s, 0)->token) || READ_ONCE(area(s, 1)->token);
	ok = ok && goes_to(s, VMM_DONE);
	ok &= !sent && of(s)->wakes == 2 && !of(s)->step.failed;
	tell(ok, "tokens %u wakes %lu ready %lu empty %lu unknown %lu failed_line %lu", sent,
	     of(s)->wakes, of(s)->ready, of(s)->empty, of(s)->unknown, of(s)->step.failed);
	step_free(s);
}

/* --- HLT ------------------------------------------------------------------------ */

#define MOST_RETURNS	3

/* How many events wait when the guest comes to HLT; one more comes later. */
static const unsigned int hlt_before[VMM_NR_HLT] = {
	[VMM_HLT_TOKEN_LEFT] = 2,
	[VMM_HLT_NO_VECTOR] = 1,
	[VMM_HLT_LAPIC_OFF] = 1,
};

static u64 hlt_returns(struct step *s)
{
	u64 before = READ_ONCE(of(s)->hlts);

	sleep_ms(host_cpu_is_intel ? 10 : 750);
	return READ_ONCE(of(s)->hlts) - before;
}

static void hlt_blocked(enum vmm_hlt how)
{
	struct step *s = &step;
	u64 returns, later;
	unsigned int i;
	bool ok;

	step_begin(s, VMM_HLT, (struct apf_setup){});
	of(s)->how = how;
	ok = goes_to(s, VMM_ANNOUNCED);
	for (i = 0; i < hlt_before[how]; i++)
		apf_vm_give(&s->a, 0, i);
	sleep_ms(quiet_ms(false) / 3);
	go(s);
	sleep_ms(quiet_ms(false) / 3);
	returns = hlt_returns(s);
	apf_vm_give(&s->a, 0, i++);
	later = hlt_returns(s);
	for (; i < 3; i++)
		apf_vm_give(&s->a, 0, i);
	WRITE_ONCE(of(s)->step.stop, 1);
	nmi(s);
	/* The guest takes back the stop when it has seen it. */
	ok &= hears(s, VMM_DONE) && of(s)->nmis && !of(s)->step.failed;
	tell(ok && returns + later <= (how == VMM_HLT_CLI ? 0 : MOST_RETURNS),
	     "returns %lu returns_later %lu ready %lu wakes %lu nmis %lu failed_line %lu", returns,
	     later, of(s)->ready, of(s)->wakes, of(s)->nmis, of(s)->step.failed);
	step_free(s);
}

static void hlt_token_left(void)
{
	hlt_blocked(VMM_HLT_TOKEN_LEFT);
}

static void hlt_no_vector(void)
{
	hlt_blocked(VMM_HLT_NO_VECTOR);
}

static void hlt_lapic_off(void)
{
	hlt_blocked(VMM_HLT_LAPIC_OFF);
}

static void hlt_cli(void)
{
	hlt_blocked(VMM_HLT_CLI);
}

static void hlt_tpr(void)
{
	hlt_blocked(VMM_HLT_TPR);
}

/* KVM halts the vCPU until the page is there, and the guest has not executed HLT. */
static void halted_for_page(void)
{
	struct step *s = &step;
	u64 exits, cpu, start;
	bool ok;

	step_begin(s, VMM_HALTED, (struct apf_setup){});
	stats_open(s);
	ok = goes_to(s, VMM_READY);
	go(s);
	sleep_ms(quiet_ms(false));
	exits = stat_read("exits");
	cpu = cpu_time_us(s);
	start = now_us();
	sleep_ms(quiet_ms(false));
	exits = stat_read("exits") - exits;
	cpu = (cpu_time_us(s) - cpu) * 100 / (now_us() - start);
	apf_vm_give(&s->a, 0, 0);
	ok = ok && hears(s, VMM_DONE);
	tell(ok && exits <= MOST_RETURNS && cpu < 20 && !of(s)->step.failed,
	     "exits %lu cpu_percent %lu wakes %lu failed_line %lu", exits, cpu, of(s)->wakes,
	     of(s)->step.failed);
	stats_close();
	step_free(s);
}

/* --- saved and restored ---------------------------------------------------------- */

struct image {
	struct kvm_x86_state *state;
	struct kvm_lapic_state lapic;
	void *memory, *areas;
};

struct restore {
	const char *order;	/* of LAPIC, MSRs, memory */
	bool other;		/* into another VM */
	bool late_slot;		/* the areas' memslot comes after the MSRs */
	bool token;		/* the image has a token and no interrupt */
	bool held;		/* the page was given when the memory had been saved */
};

static struct {
	u64 runs, dead, refused, torn;
	char how[80];
} saved;

static struct userspace_mem_region *memory_of(struct step *s)
{
	return memslot2region(s->a.vm, 0);
}

static void save(struct step *s, struct image *image, bool held)
{
	struct userspace_mem_region *r = memory_of(s);

	image->state = vcpu_save_state(s->a.v[0].vcpu);
	vcpu_ioctl(s->a.v[0].vcpu, KVM_GET_LAPIC, &image->lapic);
	if (!held)
		apf_vm_give(&s->a, 0, 0);
	sleep_ms(quiet_ms(false) / 3);
	image->memory = malloc(r->region.memory_size);
	image->areas = malloc(PAGE_SIZE);
	memcpy(image->memory, r->host_mem, r->region.memory_size);
	memcpy(image->areas, s->a.areas->host_mem, PAGE_SIZE);
	if (held)
		apf_vm_give(&s->a, 0, 0);
}

static void image_free(struct image *image)
{
	kvm_x86_state_cleanup(image->state);
	free(image->memory);
	free(image->areas);
}

/* The announced token, as if it had been sent; what the guest may find itself is 0. */
static void image_token(struct step *s, struct image *image, bool wanted)
{
	struct apf_area *a = image->areas;

	saved.torn += !!a->token;
	if (wanted)
		a->token = of(s)->token;
}

static void load_memory(struct step *s, struct image *image)
{
	struct userspace_mem_region *r = memory_of(s);

	memcpy(r->host_mem, image->memory, r->region.memory_size);
	memcpy(s->a.areas->host_mem, image->areas, PAGE_SIZE);
}

/* One after the other, so that one which is refused does not end it */
static void load_msrs(struct step *s, struct image *image)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1 };
	unsigned int i;

	for (i = 0; i < image->state->msrs.nmsrs; i++) {
		one.entry = image->state->msrs.entries[i];
		if (__vcpu_ioctl(s->a.v[0].vcpu, KVM_SET_MSRS, &one.head) == 1)
			continue;
		fprintf(stderr, "# MSR 0x%x was refused\n", one.entry.index);
		saved.refused++;
	}
}

static void load(struct step *s, struct image *image, const struct restore *how)
{
	struct kvm_vcpu *vcpu = s->a.v[0].vcpu;
	const char *c;

	vcpu_sregs_set(vcpu, &image->state->sregs);
	if (how->late_slot)
		apf_vm_set_areas(&s->a, false, 0);
	for (c = how->order; *c; c++) {
		if (*c == 'L')
			vcpu_ioctl(vcpu, KVM_SET_LAPIC, &image->lapic);
		else if (*c == 'M')
			load_msrs(s, image);
		else
			load_memory(s, image);
		sleep_ms(1);
	}
	if (how->late_slot)
		apf_vm_set_areas(&s->a, true, 0);
	if (kvm_has_cap(KVM_CAP_XCRS))
		vcpu_xcrs_set(vcpu, &image->state->xcrs);
	vcpu_xsave_set(vcpu, image->state->xsave);
	vcpu_events_set(vcpu, &image->state->events);
	vcpu_mp_state_set(vcpu, &image->state->mp_state);
	vcpu_debugregs_set(vcpu, &image->state->debugregs);
	vcpu_regs_set(vcpu, &image->state->regs);
}

/* From the image on: the wake-all, the token that was found, a page and its event */
static bool goes_on(struct step *s, u64 page, const struct restore *how)
{
	u64 ready = how->token;

	of(s)->page = page;
	of(s)->want_wakes = 2;
	of(s)->want_ready = ready;
	if (!goes_to(s, VMM_ANNOUNCED))
		return false;
	of(s)->want_ready = ready + 1;
	apf_vm_give(&s->a, 0, page);
	return goes_to(s, VMM_DONE) && !of(s)->step.failed && of(s)->ready == ready + 1 &&
	       of(s)->wakes == 2 && !of(s)->unknown;
}

static void how_it_went(struct step *s)
{
	snprintf(saved.how, sizeof(saved.how), "irqs %lu wakes %lu ready %lu token 0x%x line %lu",
		 of(s)->irqs, of(s)->wakes, of(s)->ready, token(s), of(s)->step.failed);
}

/* The VM that was saved goes on for a while. */
static bool original(struct step *s)
{
	of(s)->page = 1;
	of(s)->want_wakes = 1;
	of(s)->want_ready = 1;
	if (!goes_to(s, VMM_ANNOUNCED))
		return false;
	of(s)->want_ready = 2;
	apf_vm_give(&s->a, 0, 1);
	return goes_to(s, VMM_DONE) && !of(s)->step.failed;
}

static bool restore_same(struct image *image, const struct restore *how)
{
	struct step *s = &step;
	bool ok = original(s);

	if (!ok)
		fprintf(stderr, "# it did not even go on\n");
	load(s, image, how);
	ok &= goes_on(s, 2, how);
	how_it_went(s);
	step_free(s);
	return ok;
}

static bool restore_other(struct image *image, const struct restore *how)
{
	struct step *s = &other;
	bool ok;

	step_free(&step);
	step_begin(s, VMM_RESTORED, (struct apf_setup){});
	load(s, image, how);
	apf_vm_give(&s->a, 0, 0);
	ok = goes_on(s, 2, how);
	how_it_went(s);
	step_free(s);
	return ok;
}

static void restore_one(const struct restore *how)
{
	struct image image;
	bool ok;

	step_begin(&step, VMM_RESTORED, (struct apf_setup){});
	if (!goes_to(&step, VMM_READY))
		return step_free(&step);
	save(&step, &image, how->held);
	image_token(&step, &image, how->token);
	ok = how->other ? restore_other(&image, how) : restore_same(&image, how);
	image_free(&image);
	saved.runs++;
	saved.dead += !ok;
	if (!ok)
		stress_note("%s, %s VM%s%s%s: does not go on, %s", how->order,
			    how->other ? "second" : "same", how->token ? ", token" : "",
			    how->held ? ", page held" : "",
			    how->late_slot ? ", memslot later" : "", saved.how);
}

static void restore_all(bool with_token, bool held)
{
	static const char * const orders[] = { "RLM", "RML", "RLML", "MLR", "LMR" };
	struct restore how = { .token = with_token, .held = held };
	unsigned int i, n = 0;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		for (n = 0; n < 3; n++) {
			how.order = orders[i];
			how.other = n;
			how.late_slot = n == 2;
			restore_one(&how);
		}
	}
	tell(saved.runs == 15 && !saved.dead && !saved.refused && !saved.torn,
	     "restores %lu dead %lu refused %lu torn_images %lu", saved.runs, saved.dead,
	     saved.refused, saved.torn);
}

static void restored(void)
{
	restore_all(false, false);
}

static void restored_held(void)
{
	restore_all(false, true);
}

static void restored_token(void)
{
	restore_all(true, false);
}

/* --- the area goes and comes ------------------------------------------------------ */

enum away {
	AWAY_MEMSLOT,
	AWAY_MPROTECT,
	AWAY_MUNMAP,
	AWAY_REMAP,	/* mapped anew in one go */
};

static void areas_map(struct step *s)
{
	if (mmap(s->a.areas->host_mem, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 s->a.areas->fd, 0) == MAP_FAILED)
		die("mmap: %s", strerror(errno));
}

static void area_goes(struct step *s, enum away how)
{
	switch (how) {
	case AWAY_MEMSLOT:
		return apf_vm_set_areas(&s->a, false, 0);
	case AWAY_MPROTECT:
		if (mprotect(s->a.areas->host_mem, PAGE_SIZE, PROT_READ))
			die("mprotect: %s", strerror(errno));
		return;
	case AWAY_REMAP:
	case AWAY_MUNMAP:
		if (munmap(s->a.areas->host_mem, PAGE_SIZE))
			die("munmap: %s", strerror(errno));
		if (how == AWAY_REMAP)
			areas_map(s);
	}
}

static void area_comes(struct step *s, enum away how)
{
	switch (how) {
	case AWAY_MEMSLOT:
		return apf_vm_set_areas(&s->a, true, 0);
	case AWAY_MPROTECT:
		if (mprotect(s->a.areas->host_mem, PAGE_SIZE, PROT_READ | PROT_WRITE))
			die("mprotect: %s", strerror(errno));
		return;
	case AWAY_REMAP:
	case AWAY_MUNMAP:
		return areas_map(s);
	}
}

/* In HLT, or computing; the second mapping shows whether a token comes early. */
static void away(enum away how, bool halted)
{
	u64 wall, cpu, exits, hlts;
	struct step *s = &step;
	bool ok, back;
	u32 early;

	step_begin(s, halted ? VMM_HLT_EVENT : VMM_EVENT,
		   (struct apf_setup){ .areas_shared = true });
	ok = goes_to(s, VMM_ANNOUNCED);
	stats_open(s);
	area_goes(s, how);
	go(s);
	sleep_ms(quiet_ms(!halted) / 3);
	apf_vm_give(&s->a, 0, 0);
	sleep_ms(1);
	wall = now_us();
	cpu = cpu_time_us(s);
	exits = stat_read("exits");
	hlts = READ_ONCE(of(s)->hlts);
	sleep_ms(quiet_ms(!halted));
	exits = stat_read("exits") - exits;
	hlts = READ_ONCE(of(s)->hlts) - hlts;
	cpu = (cpu_time_us(s) - cpu) * 100 / (now_us() - wall);
	early = how == AWAY_REMAP ? 0 : token_in_memfd(s);
	area_comes(s, how);
	back = comes(&of(s)->ready, 1, patience_ms());
	if (!back) {
		WRITE_ONCE(of(s)->step.stop, 1);
		nmi(s);
	}
	ok &= hears(s, VMM_DONE) && back && !early && !of(s)->step.failed;
	if (halted)
		ok &= cpu < 20 && hlts <= MOST_RETURNS && exits < 100;
	tell(ok, "ready %lu early %u exits %lu returns %lu cpu_percent %lu failed_line %lu",
	     of(s)->ready, !!early, exits, hlts, cpu, of(s)->step.failed);
	stats_close();
	step_free(s);
}

static void away_memslot(void)
{
	away(AWAY_MEMSLOT, false);
}

static void away_memslot_hlt(void)
{
	away(AWAY_MEMSLOT, true);
}

static void away_mprotect(void)
{
	away(AWAY_MPROTECT, false);
}

static void away_mprotect_hlt(void)
{
	away(AWAY_MPROTECT, true);
}

static void away_munmap(void)
{
	away(AWAY_MUNMAP, false);
}

static void away_munmap_hlt(void)
{
	away(AWAY_MUNMAP, true);
}

static void away_remap(void)
{
	away(AWAY_REMAP, false);
}

/* --- the VMM goes --------------------------------------------------------------- */

/* What the one that is killed hands over */
struct held {
	int uffd, memfd;
	u64 address;		/* of the page, in its memory */
};

/* By pidfd_getfd(2), which needs no sockets: some kernels have none. */
static void take_fds(pid_t child, struct held *h)
{
	int pidfd = syscall(__NR_pidfd_open, child, 0);

	h->uffd = syscall(__NR_pidfd_getfd, pidfd, h->uffd, 0);
	h->memfd = syscall(__NR_pidfd_getfd, pidfd, h->memfd, 0);
	if (pidfd < 0 || h->uffd < 0 || h->memfd < 0)
		die("pidfd_getfd: %s", strerror(errno));
	close(pidfd);
}

/* One event is outstanding; its guest computes, or is out of KVM_RUN. */
static void __noreturn be_killed(int out, bool computing)
{
	struct step *s = &step;
	struct held h;

	step_begin(s, VMM_EVENT, (struct apf_setup){ .areas_shared = true });
	if (!goes_to(s, VMM_ANNOUNCED))
		die("nothing was announced");
	if (computing)
		go(s);
	h.uffd = s->a.uffd;
	h.memfd = s->a.areas->fd;
	h.address = (u64)s->a.v[0].pages;
	if (write(out, &h, sizeof(h)) != sizeof(h))
		die("write: %s", strerror(errno));
	for (;;)
		pause();
}

/* false: the page could not be given to what is left of the process. */
static bool give_to_dead(struct held *h)
{
	static u64 buf[PAGE_SIZE / 8] __aligned(PAGE_SIZE);
	struct uffdio_copy copy = { .dst = h->address, .src = (u64)buf, .len = PAGE_SIZE };

	return !ioctl(h->uffd, UFFDIO_COPY, &copy);
}

static bool killed_once(bool computing, bool *given)
{
	struct apf_area *a;
	struct held h;
	int fds[2], status;
	pid_t child;
	bool clear;

	if (pipe(fds))
		die("pipe: %s", strerror(errno));
	child = fork();
	if (!child)
		be_killed(fds[1], computing);
	close(fds[1]);
	if (read(fds[0], &h, sizeof(h)) != sizeof(h))
		die("the child has not come so far");
	take_fds(child, &h);
	sleep_ms(5);
	/* It has ended when all its threads have. */
	if (kill(child, SIGKILL) || waitpid(child, &status, 0) != child)
		die("a child cannot be killed");
	a = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, h.memfd, 0);
	if (a == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	*given = give_to_dead(&h);
	clear = stays_clear(&a->token, host_cpu_is_intel ? 50 : 200);
	munmap(a, PAGE_SIZE);
	close(h.uffd);
	close(h.memfd);
	close(fds[0]);
	return clear;
}

static void kill_vmm(void)
{
	u64 n, written = 0, too_late = 0;
	bool given;

	for (n = 0; n < 2 || again(n); n++) {
		written += !killed_once(n & 1, &given);
		too_late += !given;
	}
	tell(!written && !too_late, "VMs %lu written %lu not_given %lu", n, written, too_late);
}

#define FOREIGN		0x5a

static void *close_fn(void *data)
{
	int *fds = data;

	close(fds[0]);
	close(fds[1]);
	return NULL;
}

/*
 * The last one to close them is this process, or another one, for which KVM leaves
 * alone the memslots that are its own.  It blocks until the page's worker has ended.
 */
struct closer {
	int fds[2];
	pthread_t thread;
	pid_t child;
};

static void close_begin(struct step *s, struct closer *c, bool other_process)
{
	struct kvm_vcpu *vcpu = s->a.v[0].vcpu;

	step_quit(s);
	c->fds[0] = vcpu->fd;
	c->fds[1] = s->a.vm->fd;
	munmap(vcpu->run, __kvm_ioctl(s->a.vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL));
	if (!other_process) {
		c->child = 0;
		thread_start(&c->thread, -1, close_fn, c->fds);
		return;
	}
	c->child = fork();
	if (!c->child) {
		sleep_ms(20);
		close_fn(c->fds);
		_exit(0);
	}
	close_fn(c->fds);
}

static bool close_ended(struct closer *c, unsigned int ms)
{
	u64 end = now_ms() + ms;
	bool ended;

	do {
		ended = c->child ? waitpid(c->child, NULL, WNOHANG) :
				   !pthread_tryjoin_np(c->thread, NULL);
		if (!ended)
			sleep_ms(1);
	} while (!ended && now_ms() < end);
	return ended;
}

static bool still_foreign(const char *page)
{
	unsigned int i;

	for (i = 0; i < PAGE_SIZE; i++)
		if (page[i] != FOREIGN)
			return false;
	return true;
}

static void put_foreign_page(char *page)
{
	munmap(page, PAGE_SIZE);
	if (mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page)
		die("mmap: %s", strerror(errno));
	memset(page, FOREIGN, PAGE_SIZE);
}

static void closed_by(bool other_process)
{
	bool ok, clear, foreign, early, ended;
	struct step *s = &step;
	struct apf_area *alias;
	struct closer closer;

	step_begin(s, VMM_EVENT, (struct apf_setup){ .areas_shared = true });
	/* A worker that has not begun is cancelled, and not waited for. */
	ok = goes_to(s, VMM_ANNOUNCED) && awaited(s, patience_ms());
	alias = s->a.areas->host_alias;
	close_begin(s, &closer, other_process);
	early = close_ended(&closer, 100);
	put_foreign_page(s->a.areas->host_mem);
	apf_vm_give(&s->a, 0, 0);
	clear = stays_clear(&alias->token, host_cpu_is_intel ? 50 : 200);
	foreign = still_foreign(s->a.areas->host_mem);
	ended = early || close_ended(&closer, 5000);
	tell(ok && clear && foreign && !early && ended,
	     "written %u foreign_written %u closed_early %u closed %u", !clear, !foreign, early,
	     ended);
}

static void closed(void)
{
	closed_by(false);
}

static void closed_elsewhere(void)
{
	closed_by(true);
}

/* --- INIT, vectors ---------------------------------------------------------------- */

/* As apf-vm.c has it, but of the mechanism's MSRs none is written. */
static void init_vcpu(struct step *s, struct image *fresh)
{
	struct kvm_msi msi = {
		.address_lo = APIC_DEFAULT_GPA | s->a.v[0].vcpu->id << 12,
		.data = APIC_DM_INIT,
	};
	struct kvm_msrs *msrs = &fresh->state->msrs;
	struct kvm_mp_state state;
	unsigned int i, n = 0;

	if (__vm_ioctl(s->a.vm, KVM_SIGNAL_MSI, &msi) != 1)
		die("no vCPU took the INIT: %s", strerror(errno));
	vcpu_mp_state_get(s->a.v[0].vcpu, &state);
	for (i = 0; i < msrs->nmsrs; i++)
		if (msrs->entries[i].index < MSR_KVM_ASYNC_PF_EN ||
		    msrs->entries[i].index > MSR_KVM_ASYNC_PF_ACK)
			msrs->entries[n++] = msrs->entries[i];
	msrs->nmsrs = n;
	vcpu_load_state(s->a.v[0].vcpu, fresh->state);
	vcpu_ioctl(s->a.v[0].vcpu, KVM_SET_LAPIC, &fresh->lapic);
}

static void after_init(void)
{
	struct step *s = &step;
	struct image fresh;
	u64 vector = ~0ull;
	bool ok;

	step_begin(s, VMM_INIT, (struct apf_setup){});
	fresh.state = vcpu_save_state(s->a.v[0].vcpu);
	vcpu_ioctl(s->a.v[0].vcpu, KVM_GET_LAPIC, &fresh.lapic);
	ok = goes_to(s, VMM_READY);
	init_vcpu(s, &fresh);
	vector = vcpu_get_msr(s->a.v[0].vcpu, MSR_KVM_ASYNC_PF_INT);
	ok = ok && goes_to(s, VMM_DONE) && !vector && !of(s)->vector && !of(s)->step.failed;
	tell(ok, "vector %lu irqs %lu wakes %lu failed_line %lu", vector, of(s)->irqs, of(s)->wakes,
	     of(s)->step.failed);
	step_free(s);
}

static void early_vectors(void)
{
	static const u8 vectors[] = { 5, 20 };
	struct step *s = &step;
	bool ok = true;
	unsigned int i;

	step_begin(s, VMM_VECTORS, (struct apf_setup){});
	for (i = 0; i < ARRAY_SIZE(vectors); i++)
		vm_install_exception_handler(s->a.vm, vectors[i], apf_vmm_early);
	for (i = 0; ok && i < 3; i++) {
		ok = goes_to(s, VMM_ANNOUNCED);
		apf_vm_give(&s->a, 0, i);
		sleep_ms(quiet_ms(false) / 3);
	}
	ok = ok && goes_to(s, VMM_DONE);
	ok &= !of(s)->vectors_refused && !of(s)->early && of(s)->wakes == 1 && of(s)->ready == 1 &&
	      !of(s)->step.failed;
	tell(ok, "refused %lu early %lu wakes %lu ready %lu failed_line %lu",
	     of(s)->vectors_refused, of(s)->early, of(s)->wakes, of(s)->ready, of(s)->step.failed);
	step_free(s);
}

/* --- dirty pages -------------------------------------------------------------------- */

static bool page_is_mapped(void *page)
{
	u64 entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &entry, 8, (u64)page / PAGE_SIZE * 8) != 8)
		die("pagemap: %s", strerror(errno));
	close(fd);
	return entry >> 63;
}

static bool page_is_cached(void *page)
{
	unsigned char vec = 0;

	if (mincore(page, PAGE_SIZE, &vec))
		die("mincore: %s", strerror(errno));
	return vec & 1;
}

static void page_out(void *page)
{
	unsigned int i;

	/* Until it is off this CPU's list of new pages */
	for (i = 0; i < 50 && page_is_mapped(page); i++) {
		if (madvise(page, PAGE_SIZE, MADV_PAGEOUT))
			die("MADV_PAGEOUT: %s", strerror(errno));
		sleep_ms(1);
	}
}

/* A page that is clean is dropped: this kernel reclaims such pages. */
static bool clean_is_dropped(void)
{
	int fd = kvm_memfd_alloc(PAGE_SIZE, false);
	char *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bool dropped;

	if (page == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	(void)READ_ONCE(*page);
	page_out(page);
	dropped = !page_is_cached(page);
	munmap(page, PAGE_SIZE);
	close(fd);
	return dropped;
}

static void reclaimed(void)
{
	struct step *s = &step;
	bool ok, control = clean_is_dropped(), tried, dropped;
	u32 there;

	step_begin(s, VMM_KEEP, (struct apf_setup){ .areas_shared = true });
	/* This CPU's and the vCPU's lists of pages are one, which MADV_PAGEOUT empties. */
	pin_self_to_cpu(0);
	/* There, clean, and mapped so that it could be written: KVM takes it as it is. */
	(void)READ_ONCE(area(s, 0)->token);
	ok = goes_to(s, VMM_READY);
	page_out(area(s, 0));
	tried = !page_is_mapped(area(s, 0));
	dropped = !page_is_cached(area(s, 0));
	there = token(s);
	ok = ok && goes_to(s, VMM_DONE);
	tell(ok && control && tried && there == APF_WAKE_ALL && !of(s)->step.failed,
	     "tried %u dropped %u token 0x%x control_dropped %u", tried, dropped, there, control);
	step_free(s);
}

struct log {
	struct step *s;
	struct kvm_dirty_gfn *ring;	/* NULL: bitmap */
	u32 next;
};

#define RING_ENTRIES	1024

/* Is the area's page among what was written since the last time? */
static bool log_take(struct log *l)
{
	unsigned long bitmap[1] = { };
	u64 slot = l->s->a.areas->region.slot;
	struct kvm_dirty_gfn *e;
	bool found = false;

	if (!l->ring) {
		kvm_vm_get_dirty_log(l->s->a.vm, slot, bitmap);
		return bitmap[0] & 1;
	}
	for (;; l->next++) {
		e = &l->ring[l->next % RING_ENTRIES];
		if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		found |= e->slot == slot && e->offset == 0;
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	kvm_vm_reset_dirty_ring(l->s->a.vm);
	return found;
}

static void logged(bool ring)
{
	bool ok, clean, flags, quiet, came, tok;
	struct step *s = &step;
	struct log l = { .s = s };

	step_begin(s, VMM_DIRTY, (struct apf_setup){
		.dirty_ring = ring ? RING_ENTRIES * sizeof(struct kvm_dirty_gfn) : 0 });
	if (ring)
		l.ring = vcpu_map_dirty_ring(s->a.v[0].vcpu);
	ok = goes_to(s, VMM_READY);
	apf_vm_set_areas(&s->a, true, KVM_MEM_LOG_DIRTY_PAGES);
	log_take(&l);
	clean = !log_take(&l);
	ok = ok && goes_to(s, VMM_ANNOUNCED);
	flags = log_take(&l);
	go(s);
	sleep_ms(quiet_ms(true));
	quiet = !log_take(&l);
	apf_vm_give(&s->a, 0, 0);
	came = hears(s, VMM_READY);
	tok = log_take(&l);
	ok = ok && came && goes_to(s, VMM_DONE) && !of(s)->step.failed;
	tell(ok && clean && flags && quiet && tok,
	     "flags_logged %u token_logged %u others %u ready %lu failed_line %lu", flags, tok,
	     !clean + !quiet, of(s)->ready, of(s)->step.failed);
	step_free(s);
}

static void dirty_bitmap(void)
{
	logged(false);
}

static void dirty_ring(void)
{
	logged(true);
}

/* --- the ACK, and NMIs ---------------------------------------------------------------- */

static void filter_acks(struct kvm_vm *vm)
{
	u8 none = 0;
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_WRITE,
			.base = MSR_KVM_ASYNC_PF_ACK,
			.nmsrs = 1,
			.bitmap = &none,
		},
	};

	vm_enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER);
	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
}

static void filtered(void)
{
	struct step *s = &step;
	bool ok = true;
	u64 i, n = 16;

	step_begin(s, VMM_ACKS, (struct apf_setup){});
	of(s)->page = n;
	filter_acks(s->a.vm);
	go(s);
	for (i = 0; ok && i < n; i++) {
		ok = hears(s, VMM_ANNOUNCED);
		if (i & 1)
			apf_vm_give(&s->a, 0, i);
		go(s);
		sleep_ms(1);
		if (!(i & 1))
			apf_vm_give(&s->a, 0, i);
	}
	ok = ok && hears(s, VMM_DONE);
	tell(ok && s->wrmsrs == of(s)->acks && of(s)->ready == n && !of(s)->step.failed,
	     "acks %lu exits %lu ready %lu failed_line %lu", of(s)->acks, s->wrmsrs, of(s)->ready,
	     of(s)->step.failed);
	step_free(s);
}

/* Two events are ready when the vCPU runs; the second one waits for the first one's ACK. */
static void acked_by_host(void)
{
	struct step *s = &step;
	bool ok;

	step_begin(s, VMM_BOTH, (struct apf_setup){});
	filter_acks(s->a.vm);
	ok = goes_to(s, VMM_ANNOUNCED);
	apf_vm_give(&s->a, 0, 0);
	apf_vm_give(&s->a, 0, 1);
	sleep_ms(quiet_ms(false));
	ok = ok && goes_to(s, VMM_DONE);
	tell(ok && s->wrmsrs == of(s)->acks && of(s)->ready == 2 && !of(s)->step.failed,
	     "acks %lu exits %lu ready %lu failed_line %lu", of(s)->acks, s->wrmsrs, of(s)->ready,
	     of(s)->step.failed);
	step_free(s);
}

static struct {
	bool stop;
	u64 events;
} storm;

static void *storm_fn(void *data)
{
	struct step *s = data;
	u64 rnd = rnd_stream(stress.seed, 5), done, seen = ~0ull;

	while (!__atomic_load_n(&storm.stop, __ATOMIC_ACQUIRE)) {
		/*
		 * The #PF's IRET lets the next NMI in: not more than one, for the stack.
		 * And none before the vCPU has run: that one may be lost.
		 */
		done = READ_ONCE(of(s)->nmis_done);
		if (done != seen && READ_ONCE(s->a.v[0].g->announced)) {
			seen = done;
			nmi(s);
		}
		sleep_us(rnd_below(&rnd, 200));
	}
	return NULL;
}

static bool storm_more(struct apf_vm *a)
{
	u64 n = READ_ONCE(a->v[0].g->announced);

	/* Some of them even if earlier cases have used up the time */
	return n < 64 || (stress_time_left() && n < storm.events);
}

static void faulting_nmis(void)
{
	const struct apf_setup setup = {
		.name = "NMIs",
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = 64,
		.max_out = 8,
		.gap_max = 500,
		.delay_max = 20000,
		.what = APF_DO_MASK | APF_DO_HALT,
		.every = 16,
	};
	struct step *s = &step;
	struct apf_count c;
	pthread_t thread;

	storm.events = stress.count ? stress.count * 100 : ~0ull;
	apf_vm_create(&s->a, &setup);
	s->shared = shared_with_guest(&s->a);
	vm_install_exception_handler(s->a.vm, PF_VECTOR, apf_vmm_storm_fault);
	vm_install_exception_handler(s->a.vm, NMI_VECTOR, apf_vmm_storm_nmi);
	apf_vm_start(&s->a);
	thread_start(&thread, -1, storm_fn, s);
	apf_vm_run(&s->a, storm_more);
	__atomic_store_n(&storm.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	apf_vm_count(&s->a, &c);
	tell(c.announced && of(s)->nmis && !c.lost && !c.doubled && !c.wrong && !s->a.stalled &&
	     !of(s)->misread && of(s)->nested == of(s)->nmis && c.announced == c.ready,
	     "announced %lu ready %lu nmis %lu nested %lu misread %lu between %lu lost %lu doubled %lu wrong %lu stalled %lu",
	     c.announced, c.ready, of(s)->nmis, of(s)->nested, of(s)->misread, of(s)->between,
	     c.lost, c.doubled, c.wrong, s->a.stalled);
	apf_vm_free(&s->a);
}

/* --- what is there -------------------------------------------------------------- */

static const struct step_case cases[] = {
	{ "paused", paused },
	{ "MSRs set while paused", paused_msrs },
	{ "HLT, token left uncleared", hlt_token_left },
	{ "HLT, no vector", hlt_no_vector },
	{ "HLT, local APIC off", hlt_lapic_off },
	{ "HLT, interrupts off", hlt_cli },
	{ "HLT, task priority above", hlt_tpr },
	{ "halted for a page", halted_for_page },
	{ "restored", restored },
	{ "restored, page held meanwhile", restored_held },
	{ "restored, a token in the area", restored_token },
	{ "area comes back, memslot", away_memslot },
	{ "area comes back, memslot, HLT", away_memslot_hlt },
	{ "area comes back, mprotect", away_mprotect },
	{ "area comes back, mprotect, HLT", away_mprotect_hlt },
	{ "area comes back, munmap", away_munmap },
	{ "area comes back, munmap, HLT", away_munmap_hlt },
	{ "area comes back, mapped anew", away_remap },
	{ "area named twice", named_twice },
	{ "killed while a page is held", kill_vmm },
	{ "all fds closed, memory alive", closed },
	{ "all fds closed by another process", closed_elsewhere },
	{ "vector after INIT", after_init },
	{ "vectors below 32", early_vectors },
	{ "page of the area reclaimed", reclaimed },
	{ "dirty bitmap", dirty_bitmap },
	{ "dirty ring", dirty_ring },
	{ "MSR filter on the ACK", filtered },
	{ "ACK by userspace", acked_by_host },
	{ "NMIs whose handler faults", faulting_nmis },
};

static const char help_text[] =
"Asynchronous page faults, and what VMMs do around page-ready events.  COUNT is\n"
"how often those cases repeat themselves that do.";

int main(int argc, char **argv)
{
	return step_main(argc, argv, help_text, cases, ARRAY_SIZE(cases));
}
