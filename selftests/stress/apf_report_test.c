// SPDX-License-Identifier: GPL-2.0
/*
 * A guest is told of pages that will not come, where it accesses them, if it has asked for
 * that and the memslot allows it; else, and where it cannot be told, KVM_RUN fails.  The
 * guest is apf_report_guest.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "apf_report.h"
#include "stress.h"
#include "user-mode.h"

#define MARK_FAIL	(KVM_ASYNC_PF_EXT_MARK | KVM_ASYNC_PF_EXT_FAIL)
#define PARAMETER	"/sys/module/kvm/parameters/async_pf_fail"
#define FREE_GPA	0x100000000ull	/* no memory there */
#define TSS_RSP0	4
#define PRESENT_ALL	7ull		/* present, writable, user */
#define ADDRESS		0x000ffffffffff000ull

/* What there is to an access */
struct report_case {
	enum report_access access;
	enum report_where where;
	u64 ext;
	u32 flags;		/* of the memslot */
	bool smm;		/* there is SMRAM */
};

static const struct report_case usual = {
	.access = REPORT_READ,
	.where = REPORT_USER,
	.ext = MARK_FAIL,
	.flags = KVM_MEM_ASYNC_PF_FAIL,
};

static struct step step;

static struct apf_report *of(struct step *s)
{
	return s->shared;
}

static struct kvm_vcpu *vcpu_of(struct step *s)
{
	return s->a.v[0].vcpu;
}

static struct apf_report *setup_guest(struct apf_vm *a, const struct report_case *c)
{
	struct apf_report *r;
	gva_t gva;

	gva = vm_alloc(a->vm, sizeof(struct apf_report), KVM_UTIL_MIN_VADDR);
	r = addr_gva2hva(a->vm, gva);
	memset(r, 0, sizeof(*r));
	write_guest_global(a->vm, apf_report, (struct apf_report *)gva);
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_report_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_report_ready);
	r->access = c->access;
	r->where = c->where;
	r->ext = c->ext;
	r->addresses = host_cpu_is_intel;	/* with nested paging */
	user_mode_allow(a->v[0].vcpu);
	return r;
}

/* A file instead of the page; with @pages 0 it ends ahead of it. */
static int map_file(struct apf_vm *a, u64 pages)
{
	char *at = a->v[0].pages;
	int fd = memfd_create("page", 0);

	if (fd < 0 || ftruncate(fd, pages * PAGE_SIZE) ||
	    mmap(at, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != at)
		die("no memory file: %s", strerror(errno));
	return fd;
}

static void resize(struct apf_report *r, int fd, u64 pages)
{
	if (ftruncate(fd, pages * PAGE_SIZE))
		die("ftruncate: %s", strerror(errno));
	WRITE_ONCE(r->gone, !pages);
}

/* A VM with a guest that is to access its page, which is that of a file */
static void create(struct step *s, const struct report_case *c, u64 pages, int *fd)
{
	struct apf_setup setup = {
		.name = "apf_report",
		.guest_main = apf_report_main,
		.pages_flags = c->flags,
		.what = c->smm ? APF_DO_SMI : 0,
	};

	step_create(s, setup);
	s->shared = setup_guest(&s->a, c);
	*fd = map_file(&s->a, pages);
	of(s)->gone = !pages;
}

/* The guest is about to access it; false: it did not come so far. */
static bool begin(struct step *s, const struct report_case *c, u64 pages, int *fd)
{
	create(s, c, pages, fd);
	return goes_to(s, REPORT_BEGUN);
}

static void end(struct step *s)
{
	if (s->running)
		pause_vcpu(s);
	step_quit(s);
	apf_vm_free(&s->a);
}

static bool sound(const struct apf_report *r)
{
	return !r->elsewhere && !r->wrong_address && !r->wrong_mode && !r->wrong_page &&
	       !r->stale && !r->t.unknown && !r->step.failed;
}

static void tell_access(struct step *s, bool ok)
{
	struct apf_report *r = of(s);

	tell(ok && sound(r),
	     "told %lu there %lu announced %lu ready %lu elsewhere %lu wrong_address %lu wrong_mode %lu wrong_page %lu stale %lu unknown %lu",
	     r->failed[0], r->there, r->t.announced, r->t.ready, r->elsewhere, r->wrong_address,
	     r->wrong_mode, r->wrong_page, r->stale, r->t.unknown);
	end(s);
}

/* Told of each access; then the file is longer again, and the next one finds the page. */
static void told(const struct report_case *c)
{
	struct step *s = &step;
	bool ok;
	int fd;

	ok = begin(s, c, 0, &fd);
	ok = ok && goes_to(s, REPORT_DONE) && of(s)->failed[0] == 1;
	ok = ok && goes_to(s, REPORT_DONE) && of(s)->failed[0] == 2;
	resize(of(s), fd, 1);
	if (c->access != REPORT_FETCH)
		ok = ok && goes_to(s, REPORT_DONE) && of(s)->there == 1;
	tell_access(s, ok && of(s)->failed[0] == 2 && of(s)->t.announced == of(s)->t.ready);
}

static void told_where(enum report_access access, enum report_where where)
{
	struct report_case c = usual;

	c.access = access;
	c.where = where;
	told(&c);
}

static void user_read(void)
{
	told_where(REPORT_READ, REPORT_USER);
}

static void user_write(void)
{
	told_where(REPORT_WRITE, REPORT_USER);
}

static void user_fetch(void)
{
	told_where(REPORT_FETCH, REPORT_USER);
}

static void kernel_read(void)
{
	told_where(REPORT_READ, REPORT_KERNEL);
}

static void kernel_fetch(void)
{
	told_where(REPORT_FETCH, REPORT_KERNEL);
}

static void kernel_write(void)
{
	told_where(REPORT_WRITE, REPORT_KERNEL);
}

static void masked_read(void)
{
	told_where(REPORT_READ, REPORT_MASKED);
}

static void masked_write(void)
{
	told_where(REPORT_WRITE, REPORT_MASKED);
}

/* The page is announced, and taken away while the guest waits. */
static void truncated_meanwhile(void)
{
	struct step *s = &step;
	bool ok;
	int fd;

	ok = begin(s, &usual, 1, &fd);
	watch_pages(s);
	go(s);
	ok = ok && awaited(s, patience_ms()) && counts_to(&of(s)->t.announced, 1);
	resize(of(s), fd, 0);
	wake_waiters(s);
	ok = ok && hears(s, REPORT_DONE) && of(s)->failed[0] == 1;
	tell_access(s, ok && !of(s)->there && of(s)->t.announced == 1 && of(s)->t.ready == 1);
}

/* It was there, and the guest has used it. */
static void truncated_later(void)
{
	struct step *s = &step;
	bool ok;
	int fd;

	ok = begin(s, &usual, 1, &fd);
	ok = ok && goes_to(s, REPORT_DONE) && of(s)->there == 1;
	resize(of(s), fd, 0);
	ok = ok && goes_to(s, REPORT_DONE) && of(s)->failed[0] == 1;
	tell_access(s, ok && of(s)->there == 1);
}

static void set_parameter(char value)
{
	int fd = open(PARAMETER, O_WRONLY);

	if (fd < 0 || write(fd, &value, 1) != 1)
		die("%s: %s", PARAMETER, strerror(errno));
	close(fd);
}

static char parameter(void)
{
	char value = 'N';
	int fd = open(PARAMETER, O_RDONLY);

	if (fd >= 0 && read(fd, &value, 1) != 1)
		die("%s: %s", PARAMETER, strerror(errno));
	close(fd);
	return value;
}

static void by_parameter(void)
{
	struct report_case c = usual;

	c.flags = 0;
	set_parameter('Y');
	told(&c);
}

/* --- the guest is not told -------------------------------------------------------- */

static bool memory_fault(struct step *s)
{
	struct kvm_run *run = vcpu_of(s)->run;

	return run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
	       run->memory_fault.gpa == addr_hva2gpa(s->a.vm, s->a.v[0].pages) &&
	       run->memory_fault.size == PAGE_SIZE;
}

/* KVM_RUN fails, and says where if the memslot has the flag. */
static void faults(struct step *s, bool ok, bool said)
{
	u32 heard;

	go(s);
	heard = hear(s, patience_ms());
	ok = ok && heard == STEP_FAULTED && !of(s)->failed[0] && memory_fault(s) == said;
	if (!ok)
		fprintf(stderr, "# heard %u, exit reason %u, memory fault %u\n", heard,
			vcpu_of(s)->run->exit_reason, memory_fault(s));
	tell_access(s, ok);
}

static void not_told(const struct report_case *c)
{
	struct step *s = &step;
	int fd;
	bool ok = begin(s, c, 0, &fd);

	faults(s, ok, c->flags & KVM_MEM_ASYNC_PF_FAIL);
}

static void memslot_without(void)
{
	struct report_case c = usual;

	c.flags = 0;
	if (parameter() == 'Y')
		set_parameter('N');
	not_told(&c);
}

static void not_asked_for(void)
{
	struct report_case c = usual;

	c.ext = KVM_ASYNC_PF_EXT_MARK;
	not_told(&c);
}

static u64 *top_table(struct step *s)
{
	struct kvm_sregs sregs;
	u64 *table;

	vcpu_sregs_get(vcpu_of(s), &sregs);
	table = addr_gpa2hva(s->a.vm, sregs.cr3 & ADDRESS);
	return sregs.cr4 & X86_CR4_LA57 ? addr_gpa2hva(s->a.vm, table[0] & ADDRESS) : table;
}

static void page_tables(void)
{
	struct report_case c = usual;
	struct step *s = &step;
	u64 page;
	bool ok;
	int fd;

	c.access = REPORT_TABLES;
	c.where = REPORT_MASKED;
	ok = begin(s, &c, 0, &fd);
	page = addr_hva2gpa(s->a.vm, s->a.v[0].pages);
	top_table(s)[REPORT_TABLES_GVA >> 39] = page | PRESENT_ALL;
	faults(s, ok, true);
}

/* Exceptions of user mode put their frame into the page. */
static void delivery(void)
{
	struct report_case c = usual;
	struct step *s = &step;
	struct kvm_sregs sregs;
	bool ok;
	int fd;

	c.access = REPORT_DELIVERY;
	ok = begin(s, &c, 0, &fd);
	vcpu_sregs_get(vcpu_of(s), &sregs);
	*(u64 *)((char *)addr_gva2hva(s->a.vm, sregs.tr.base) + TSS_RSP0) =
		s->a.v[0].g->pages + PAGE_SIZE;
	faults(s, ok, true);
}

static void in_l2(void)
{
	struct report_case c = usual;
	struct step *s = &step;
	gva_t nested;
	bool ok;
	int fd;

	c.access = REPORT_L2;
	c.where = REPORT_MASKED;
	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM)) {
		skip("KVM has no nested virtualization here: load it with nested=1");
		return;
	}
	create(s, &c, 0, &fd);
	if (host_cpu_is_intel)
		vcpu_alloc_vmx(s->a.vm, &nested);
	else
		vcpu_alloc_svm(s->a.vm, &nested);
	of(s)->nested = nested;
	ok = goes_to(s, REPORT_BEGUN);
	faults(s, ok, true);
}

/* mov PAGE, %eax; rsm: 16-bit code, with an address of 32 bits */
static void smm_reads(struct step *s)
{
	u8 code[] = { 0x67, 0x66, 0xa1, 0, 0, 0, 0, 0x0f, 0xaa };
	struct kvm_userspace_memory_region2 *r = &memslot2region(s->a.vm, PAGES_SLOT)->region;
	u32 gpa = r->guest_phys_addr;

	memcpy(code + 3, &gpa, sizeof(gpa));
	memcpy(addr_gpa2hva(s->a.vm, vcpu_get_msr(vcpu_of(s), MSR_IA32_SMBASE) + SMRAM_HANDLER),
	       code, sizeof(code));
	/* SMM has an address space of its own. */
	if (__vm_set_user_memory_region2(s->a.vm, BIT(16) | PAGES_SLOT, KVM_MEM_ASYNC_PF_FAIL,
					 gpa, PAGE_SIZE, s->a.v[0].pages, 0, 0))
		die("no memslot of SMM's: %s", strerror(errno));
}

static void in_smm(void)
{
	struct report_case c = usual;
	struct step *s = &step;
	bool ok;
	int fd;

	c.access = REPORT_SMM;
	c.where = REPORT_MASKED;
	c.smm = true;
	ok = begin(s, &c, 0, &fd);
	smm_reads(s);
	vcpu_ioctl(vcpu_of(s), KVM_SMI, NULL);
	faults(s, ok, true);
}

/* The guest has read it, and got what userspace gave; then there is memory, without a page. */
static void mmio_before(void)
{
	struct step *s = &step;
	struct kvm_userspace_memory_region2 *r;
	bool ok, mmio;
	int fd;

	ok = begin(s, &usual, 0, &fd);
	of(s)->gone = 0;
	if (get_kvm_param_bool("mmio_caching"))
		of(s)->addresses = 0;
	r = &memslot2region(s->a.vm, PAGES_SLOT)->region;
	if (__vm_set_user_memory_region2(s->a.vm, PAGES_SLOT, r->flags, r->guest_phys_addr, 0,
					 NULL, 0, 0))
		die("the memslot stays: %s", strerror(errno));
	go(s);
	mmio = hear(s, patience_ms()) == STEP_LEFT &&
	       vcpu_of(s)->run->exit_reason == KVM_EXIT_MMIO;
	memset(vcpu_of(s)->run->mmio.data, 0, sizeof(vcpu_of(s)->run->mmio.data));
	ok = ok && mmio && goes_to(s, REPORT_DONE) && of(s)->there == 1;
	if (__vm_set_user_memory_region2(s->a.vm, PAGES_SLOT, r->flags, r->guest_phys_addr,
					 r->memory_size, (void *)r->userspace_addr, 0, 0))
		die("no memslot: %s", strerror(errno));
	of(s)->gone = 1;
	ok = ok && goes_to(s, REPORT_DONE) && of(s)->failed[0] == 1;
	tell_access(s, ok);
}

/* Reads are told of, writes are userspace's, as they always are. */
static void read_only_slot(void)
{
	struct report_case c = usual;
	struct step *s = &step;
	bool ok, told;
	u32 said;
	int fd;

	c.flags |= KVM_MEM_READONLY;
	ok = begin(s, &c, 0, &fd);
	told = ok && goes_to(s, REPORT_DONE) && of(s)->failed[0] == 1;
	of(s)->access = REPORT_WRITE;
	go(s);
	said = hear(s, patience_ms());
	ok = told && said == STEP_LEFT && vcpu_of(s)->run->exit_reason == KVM_EXIT_MMIO;
	tell_access(s, ok && of(s)->failed[0] == 1);
}

/* 0, or why the pages' memslot cannot have @flags from now on */
static int changes(struct step *s, u32 flags)
{
	struct kvm_userspace_memory_region2 *r = &memslot2region(s->a.vm, PAGES_SLOT)->region;

	errno = 0;
	__vm_set_user_memory_region2(s->a.vm, PAGES_SLOT, flags, r->guest_phys_addr,
				     r->memory_size, (void *)r->userspace_addr, 0, 0);
	return errno;
}

/* A memslot has the flag from its start, or has it not. */
static void memslot_flag(void)
{
	struct report_case c = usual;
	struct step *s = &step;
	bool ok, kept, logs, given, old;
	int fd;

	ok = begin(s, &usual, 1, &fd);
	kept = changes(s, 0) == EINVAL;
	logs = !changes(s, KVM_MEM_ASYNC_PF_FAIL | KVM_MEM_LOG_DIRTY_PAGES) &&
	       !changes(s, KVM_MEM_ASYNC_PF_FAIL);
	old = __vm_set_user_memory_region(s->a.vm, PAGES_SLOT + 10, KVM_MEM_ASYNC_PF_FAIL,
					  FREE_GPA, PAGE_SIZE, s->a.v[0].pages) &&
	      errno == EINVAL;
	ok = ok && goes_to(s, REPORT_DONE) && of(s)->there == 1;
	end(s);

	c.flags = 0;
	ok = begin(s, &c, 1, &fd) && ok;
	given = changes(s, KVM_MEM_ASYNC_PF_FAIL) == EINVAL;
	tell(ok && kept && logs && given && old,
	     "cannot_be_taken_away %u cannot_be_given_later %u dirty_log %u not_of_the_old_ioctl %u",
	     kept, given, logs, old);
	end(s);
}

/* --- errors of the host's memory --------------------------------------------------- */

static struct {
	int sig_code;
	void *address;
	pthread_t thread;
} poisoned;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	poisoned.address = info->si_addr;
	poisoned.thread = pthread_self();
	__atomic_store_n(&poisoned.sig_code, info->si_code, __ATOMIC_RELEASE);
}

static void poison(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct step *s = &step;
	char *page;
	u64 limit;
	bool ok;
	int fd;

	ok = begin(s, &usual, 1, &fd);
	sigaction(SIGBUS, &sa, NULL);
	page = s->a.v[0].pages;
	if (mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) != page)
		die("mmap: %s", strerror(errno));
	*page = 1;
	if (madvise(page, PAGE_SIZE, MADV_HWPOISON))
		die("MADV_HWPOISON: %s", strerror(errno));
	memset(&poisoned, 0, sizeof(poisoned));		/* so much for who poisons it */
	go(s);
	limit = now_ms() + patience_ms();
	while (!__atomic_load_n(&poisoned.sig_code, __ATOMIC_ACQUIRE) && now_ms() < limit)
		sleep_ms(1);
	ok = pause_vcpu(s) && ok;
	tell(ok && poisoned.sig_code == BUS_MCEERR_AR && poisoned.address == page &&
	     poisoned.thread == s->thread && !of(s)->failed[0],
	     "si_code %d at_the_page %u told %lu", poisoned.sig_code, poisoned.address == page,
	     of(s)->failed[0]);
	end(s);
}

/* --- the MSR ------------------------------------------------------------------------ */

static void abi_as(bool hidden)
{
	struct step *s = &step;
	bool ok, loads, refused;

	step_create(s, (struct apf_setup){ .name = "apf_report", .guest_main = apf_report_main });
	s->shared = setup_guest(&s->a, &usual);
	of(s)->abi = 1;
	hide_features(vcpu_of(s), BIT(KVM_FEATURE_ASYNC_PF_PRED) | BIT(KVM_FEATURE_ASYNC_PF_AGAIN));
	if (hidden) {
		hide_features(vcpu_of(s), BIT(KVM_FEATURE_ASYNC_PF_FAIL));
		of(s)->ext = KVM_ASYNC_PF_EXT_MARK;
	}
	ok = goes_to(s, REPORT_DONE);
	loads = _vcpu_set_msr(vcpu_of(s), MSR_KVM_ASYNC_PF_EXT, MARK_FAIL) == 1;
	refused = _vcpu_set_msr(vcpu_of(s), MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_FAIL) != 1;
	tell(ok && loads == !hidden && refused && !of(s)->step.failed,
	     "checks %lu loads %u alone_refused %u failed_line %lu", of(s)->checks, loads, refused,
	     of(s)->step.failed);
	step_free(s);
}

static void abi(void)
{
	abi_as(false);
}

static void abi_hidden(void)
{
	abi_as(true);
}

/* --- many ---------------------------------------------------------------------------- */

static struct apf_vm vm;
static struct apf_report *report;

static struct {
	int fd;
	u64 most, rnd, brought_back, reinjected, exposed;
} now;

static bool more(struct apf_vm *a)
{
	u64 touched = a->v[0].g->touched;

	stress_progress("accesses %lu", touched);
	return stress_time_left() && (!now.most || touched < now.most || !report->there);
}

static bool asked(struct apf_host_vcpu *v, u32 what)
{
	(void)v;
	if (what != REPORT_TRUNCATE)
		return false;
	resize(report, now.fd, 0);
	return true;
}

/* At the access, of which the guest has not been told: the page is there again. */
static void interrupted(struct apf_host_vcpu *v)
{
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	vcpu_events_get(v->vcpu, &events);
	now.exposed += events.exception.pending && events.exception.nr == PF_VECTOR;
	now.reinjected += events.exception.injected && events.exception.nr == PF_VECTOR;
	vcpu_events_set(v->vcpu, &events);
	if (events.exception.injected || !report->gone)
		return;
	vcpu_regs_get(v->vcpu, &regs);
	if (regs.r11 - regs.rip - 1 >= TOUCH_BYTES || !rnd_below(&now.rnd, 4))
		return;
	resize(report, now.fd, 1);
	now.brought_back++;
}

static void storm_in(enum report_where where)
{
	const struct apf_setup setup = {
		.name = "apf_report",
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = 1,
		.max_out = 1,
		.guest_main = apf_report_main,
		.pages_flags = KVM_MEM_ASYNC_PF_FAIL,
		.asked = asked,
		.interrupted = interrupted,
		.kick_max = host_cpu_is_intel ? 60000 : 4000000,
	};
	struct report_case c = usual;
	u64 told;

	c.where = where;
	now.rnd = rnd_stream(stress.seed, 11);
	now.most = stress.count;
	apf_vm_create(&vm, &setup);
	report = setup_guest(&vm, &c);
	report->storm = 1;
	now.fd = map_file(&vm, 1);
	apf_vm_start(&vm);
	apf_vm_run(&vm, more);
	told = report->failed[0];
	tell(sound(report) && !vm.stalled && told && report->there && now.brought_back &&
	     !now.exposed,
	     "accesses %lu told %lu there %lu announced %lu brought_back %lu reinjected %lu exposed %lu elsewhere %lu wrong_address %lu wrong_mode %lu wrong_page %lu stale %lu unknown %lu stalled %lu",
	     vm.v[0].g->touched, told, report->there, report->t.announced, now.brought_back,
	     now.reinjected, now.exposed, report->elsewhere, report->wrong_address,
	     report->wrong_mode, report->wrong_page, report->stale, report->t.unknown,
	     vm.stalled);
	apf_vm_free(&vm);
}

static void storm_user(void)
{
	storm_in(REPORT_USER);
}

static void storm_kernel(void)
{
	storm_in(REPORT_KERNEL);
}

static bool go_on(struct apf_vm *a)
{
	(void)a;
	return true;
}

static void two_vcpus(void)
{
	const struct apf_setup setup = {
		.name = "apf_report",
		.nr_vcpus = 2,
		.seed = stress.seed,
		.pages = 1,
		.max_out = 1,
		.guest_main = apf_report_main,
		.pages_flags = KVM_MEM_ASYNC_PF_FAIL,
	};
	struct report_case c = usual;

	c.where = REPORT_KERNEL;
	apf_vm_create(&vm, &setup);
	report = setup_guest(&vm, &c);
	report->vcpus = 2;
	report->gone = 1;
	map_file(&vm, 0);
	apf_vm_start(&vm);
	apf_vm_run(&vm, go_on);
	tell(sound(report) && !vm.stalled && report->failed[0] == REPORT_TOGETHER &&
	     report->failed[1] == REPORT_TOGETHER, "told %lu %lu there %lu stalled %lu",
	     report->failed[0], report->failed[1], report->there, vm.stalled);
	apf_vm_free(&vm);
}

static const char help_text[] =
"Accesses to pages that will not come: guests that have asked for it are told where they\n"
"access one.  KVM has to have nested paging.  COUNT is the number of accesses in each of the\n"
"cases with many.";

static const struct step_case cases[] = {
	{ "MSR", abi },
	{ "MSR, FAIL hidden", abi_hidden },
	{ "memslot's flag", memslot_flag },
	{ "user mode, read", user_read },
	{ "user mode, write", user_write },
	{ "user mode, instruction fetch", user_fetch },
	{ "kernel mode, read", kernel_read },
	{ "kernel mode, write", kernel_write },
	{ "kernel mode, instruction fetch", kernel_fetch },
	{ "interrupts disabled, read", masked_read },
	{ "interrupts disabled, write", masked_write },
	{ "truncated while the guest waits", truncated_meanwhile },
	{ "truncated when it was there", truncated_later },
	{ "all memslots, by the parameter", by_parameter },
	{ "memslot without the flag", memslot_without },
	{ "guest that has not asked", not_asked_for },
	{ "page of page tables", page_tables },
	{ "delivery of an exception", delivery },
	{ "L2", in_l2 },
	{ "SMM", in_smm },
	{ "memory that was MMIO before", mmio_before },
	{ "memslot that may only be read", read_only_slot },
	{ "memory error of the host", poison },
	{ "two vCPUs at one page", two_vcpus },
	{ "many, brought back when it can be, user mode", storm_user },
	{ "many, brought back when it can be, kernel mode", storm_kernel },
};

int main(int argc, char **argv)
{
	char was = parameter();
	int status = step_main(argc, argv, help_text, cases, ARRAY_SIZE(cases));

	if (parameter() != was)
		set_parameter(was);
	return status;
}
