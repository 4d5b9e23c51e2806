// SPDX-License-Identifier: GPL-2.0
/* The VM of asynchronous page faults; apf-vm.h says what each function does. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "post-vm.h"

#define PAGES_GPA	0x20000000ull
#define PAGES_GVA	0x20000000ull
#define AREAS_SLOT	2
#define AREAS_GPA	0x18000000ull
#define AREAS_GVA	0x18000000ull
/* SMM has an address space of its own. */
#define SMRAM_SLOT	(BIT(16) | 3)
#define SMRAM_GPA	0x10000000ull
#define SMRAM_PAGES	16	/* per vCPU */
#define SMRAM_COUNT	0x7000	/* from SMBASE, u16: SMIs taken */
#define LAPIC_ISR	0x100	/* SDM volume 3A, "Local APIC Register Address Map" */
#define POLL_MS		20
/* AMD may be QEMU on a busy machine, where time passes without anything moving. */
#define STALL_INTEL_MS	1000
#define STALL_AMD_MS	3000

static __thread struct kvm_run *this_run;

static void on_signal(int sig)
{
	(void)sig;
	if (this_run)
		WRITE_ONCE(this_run->immediate_exit, 1);
}

/* --- the pages ----------------------------------------------------------- */

static void uffd_open(struct apf_vm *a, void *start, u64 size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (u64)start, size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	a->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (a->uffd < 0)
		die("%s: no userfaultfd: %s", a->cfg.name, strerror(errno));
	if (ioctl(a->uffd, UFFDIO_API, &api) || ioctl(a->uffd, UFFDIO_REGISTER, &reg))
		die("%s: userfaultfd: %s", a->cfg.name, strerror(errno));
	a->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (a->wake_fd < 0)
		die("%s: eventfd: %s", a->cfg.name, strerror(errno));
}

static void give(struct apf_vm *a, u64 address)
{
	static __thread u64 buf[PAGE_SIZE / 8] __aligned(PAGE_SIZE);
	u64 size = a->cfg.pages * PAGE_SIZE, at = address - (u64)a->v[0].pages;
	struct apf_host_vcpu *v = &a->v[at / size];
	u64 page = at % size / PAGE_SIZE;
	struct uffdio_copy copy = { .dst = address, .src = (u64)buf, .len = PAGE_SIZE };
	struct uffdio_range range = { address, PAGE_SIZE };

	buf[0] = apf_page_value(page, READ_ONCE(v->round));
	WRITE_ONCE(v->given[page], rdtsc() + a->tsc_offset);
	if (!ioctl(a->uffd, UFFDIO_COPY, &copy))
		a->given++;
	else if (errno != EEXIST || ioctl(a->uffd, UFFDIO_WAKE, &range))
		die("%s: UFFDIO_COPY: %s", a->cfg.name, strerror(errno));
}

void apf_vm_give(struct apf_vm *a, unsigned int i, u64 page)
{
	give(a, (u64)a->v[i].pages + page * PAGE_SIZE);
}

static void take_faults(struct apf_vm *a, u64 *rnd)
{
	struct uffd_msg msg;
	unsigned int i;
	u64 address;

	while (read(a->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		if (msg.event != UFFD_EVENT_PAGEFAULT)
			die("%s: userfaultfd event %u", a->cfg.name, msg.event);
		address = msg.arg.pagefault.address & ~(PAGE_SIZE - 1ull);
		for (i = 0; i < a->nr_pending && a->pending[i].address != address; i++)
			;
		if (i < a->nr_pending)	/* the vCPU waits for it as well */
			continue;
		a->pending[i].address = address;
		a->pending[i].due = rdtsc() + rnd_below(rnd, a->cfg.delay_max + 1);
		WRITE_ONCE(a->nr_pending, i + 1);
	}
}

static void give_due(struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < a->nr_pending; i++) {
		if ((s64)(rdtsc() - a->pending[i].due) < 0 ||
		    __atomic_load_n(&a->hold, __ATOMIC_ACQUIRE))
			continue;
		give(a, a->pending[i].address);
		a->pending[i--] = a->pending[a->nr_pending - 1];
		WRITE_ONCE(a->nr_pending, a->nr_pending - 1);
	}
}

static void *giver_fn(void *data)
{
	struct apf_vm *a = data;
	struct pollfd fds[2] = { { a->uffd, POLLIN, 0 }, { a->wake_fd, POLLIN, 0 } };
	u64 rnd = rnd_stream(a->cfg.seed, 1000);

	pin_self_to_cpu(get_nprocs() - 1);
	while (!__atomic_load_n(&a->giver_stop, __ATOMIC_ACQUIRE)) {
		poll(fds, 2, !a->nr_pending ? -1 : READ_ONCE(a->hold));
		take_faults(a, &rnd);
		give_due(a);
	}
	return NULL;
}

/* --- what the guest asks for -------------------------------------------- */

static void set_areas(struct apf_vm *a, u64 size, u32 flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = AREAS_SLOT,
		.flags = flags,
		.guest_phys_addr = AREAS_GPA,
		.memory_size = size,
		.userspace_addr = (u64)a->areas->host_mem,
	};

	if (__vm_ioctl(a->vm, KVM_SET_USER_MEMORY_REGION, &r))
		die("%s: KVM_SET_USER_MEMORY_REGION: %s", a->cfg.name, strerror(errno));
}

static u64 areas_size(struct apf_vm *a)
{
	return a->cfg.nr_vcpus * PAGE_SIZE;
}

void apf_vm_set_areas(struct apf_vm *a, bool there, u32 flags)
{
	set_areas(a, there ? areas_size(a) : 0, flags);
}

static void protect_areas(struct apf_vm *a, int prot)
{
	if (mprotect(a->areas->host_mem, areas_size(a), prot))
		die("%s: mprotect: %s", a->cfg.name, strerror(errno));
}

/* As userspace does that saves a vCPU's state and goes on with it */
static void msrs_again(struct apf_host_vcpu *v)
{
	const u32 msrs[] = { MSR_KVM_ASYNC_PF_INT, MSR_KVM_ASYNC_PF_EN, v->g->ext_msr };
	struct kvm_vcpu *vcpu = v->vcpu;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(msrs) && msrs[i]; i++)
		vcpu_set_msr(vcpu, msrs[i], vcpu_get_msr(vcpu, msrs[i]));
}

static void msr_off(struct kvm_vcpu *vcpu)
{
	vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EN, 0);
}

static void events_again(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	vcpu_events_set(vcpu, &events);
}

static void save_fresh(struct apf_host_vcpu *v)
{
	v->fresh = vcpu_save_state(v->vcpu);
	vcpu_ioctl(v->vcpu, KVM_GET_LAPIC, &v->lapic);
}

static void reset(struct apf_host_vcpu *v)
{
	vcpu_load_state(v->vcpu, v->fresh);
	vcpu_ioctl(v->vcpu, KVM_SET_LAPIC, &v->lapic);
}

/* KVM takes an INIT at KVM_GET_MP_STATE at the latest; SIPI is left out. */
static void init(struct apf_host_vcpu *v)
{
	struct kvm_msi msi = {
		.address_lo = APIC_DEFAULT_GPA | v->vcpu->id << 12,
		.data = APIC_DM_INIT,
	};
	struct kvm_mp_state state;

	if (__vm_ioctl(v->a->vm, KVM_SIGNAL_MSI, &msi) != 1)
		die("%s: no vCPU took the INIT: %s", v->a->cfg.name, strerror(errno));
	vcpu_mp_state_get(v->vcpu, &state);
	if (vcpu_get_msr(v->vcpu, MSR_KVM_ASYNC_PF_EN))
		die("%s: an INIT has not disabled the mechanism", v->a->cfg.name);
	reset(v);
}

/* All its pages were touched, none is outstanding: they are not there any more. */
static void next_round(struct apf_host_vcpu *v)
{
	WRITE_ONCE(v->round, v->round + 1);
	if (madvise(v->pages, v->a->cfg.pages * PAGE_SIZE, MADV_DONTNEED))
		die("%s: madvise: %s", v->a->cfg.name, strerror(errno));
}

static void asked(struct apf_host_vcpu *v, enum apf_ask what)
{
	struct apf_vm *a = v->a;

	if (a->cfg.asked && a->cfg.asked(v, what))
		return;
	switch (what) {
	case APF_ASK_ROUND:
		return next_round(v);
	case APF_ASK_REMOVE:
		return set_areas(a, 0, 0);
	case APF_ASK_ADD:
	case APF_ASK_UNLOG:
		return set_areas(a, areas_size(a), 0);
	case APF_ASK_LOG:
		return set_areas(a, areas_size(a), KVM_MEM_LOG_DIRTY_PAGES);
	case APF_ASK_PROTECT:
		return protect_areas(a, PROT_READ);
	case APF_ASK_UNPROTECT:
		return protect_areas(a, PROT_READ | PROT_WRITE);
	case APF_ASK_MSRS:
		return msrs_again(v);
	case APF_ASK_OFF:
		return msr_off(v->vcpu);
	case APF_ASK_EVENTS:
		return events_again(v->vcpu);
	case APF_ASK_RESET:
		return reset(v);
	case APF_ASK_INIT:
		return init(v);
	case APF_ASK_SMI:
		vcpu_ioctl(v->vcpu, KVM_SMI, NULL);
		return;
	case APF_ASK_END:
	case APF_ASK_OWN:
		break;
	}
	die("%s: the guest wants %u", a->cfg.name, what);
}

/* --- vCPUs ---------------------------------------------------------------- */

/* true: the vCPU goes on */
static bool exited(struct apf_host_vcpu *v)
{
	struct kvm_run *run = v->vcpu->run;
	struct ucall uc;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == APF_PORT) {
		u32 what = *(u32 *)((char *)run + run->io.data_offset);

		if (what == APF_ASK_END)
			return false;
		asked(v, what);
		return true;
	}
	switch (get_ucall(v->vcpu, &uc)) {
	case UCALL_DONE:
		return false;
	case UCALL_ABORT:
		die("%s: guest assertion on vCPU %u: %s", v->a->cfg.name, v->vcpu->id, uc.buffer);
	default:
		die("%s: vCPU %u left the guest: exit reason %u (%s); see the kernel log",
		    v->a->cfg.name, v->vcpu->id, run->exit_reason,
		    exit_reason_str(run->exit_reason));
	}
}

static void *vcpu_fn(void *data)
{
	struct apf_host_vcpu *v = data;
	int r;

	pin_self_to_cpu(v->vcpu->id);
	this_run = v->vcpu->run;
	for (;;) {
		r = __vcpu_run(v->vcpu);
		if (r && errno != EINTR)
			die("%s: KVM_RUN of vCPU %u failed: %s", v->a->cfg.name, v->vcpu->id,
			    strerror(errno));
		if (!r && !exited(v))
			break;
		if (r && v->a->cfg.interrupted)
			v->a->cfg.interrupted(v);
		if (r && (v->a->stalled || READ_ONCE(v->a->paused)))
			break;
		/* What userspace has done for an exit is completed by one more KVM_RUN. */
		WRITE_ONCE(this_run->immediate_exit, READ_ONCE(v->a->paused));
	}
	__atomic_store_n(&v->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

static void *guest_alloc(struct kvm_vm *vm, u64 size, u64 *gva)
{
	*gva = vm_alloc(vm, size, KVM_UTIL_MIN_VADDR);
	memset(addr_gva2hva(vm, *gva), 0, size);
	return addr_gva2hva(vm, *gva);
}

static u64 smbase_of(unsigned int i)
{
	return SMRAM_GPA + i * SMRAM_PAGES * PAGE_SIZE;
}

static void smram_setup(struct apf_vm *a)
{
	/* incw %cs:SMRAM_COUNT; mov $0x4000, %cx; loop .; rsm */
	static const u8 handler[] = { 0x2e, 0xff, 0x06, SMRAM_COUNT & 0xff, SMRAM_COUNT >> 8,
				      0xb9, 0x00, 0x40, 0xe2, 0xfe, 0x0f, 0xaa };
	unsigned int i;

	vm_userspace_mem_region_add(a->vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA, SMRAM_SLOT,
				    a->cfg.nr_vcpus * SMRAM_PAGES, 0);
	for (i = 0; i < a->cfg.nr_vcpus; i++) {
		memcpy(addr_gpa2hva(a->vm, smbase_of(i) + SMRAM_HANDLER), handler,
		       sizeof(handler));
		vcpu_set_msr(a->v[i].vcpu, MSR_IA32_SMBASE, smbase_of(i));
	}
}

static void vcpu_setup(struct apf_vm *a, unsigned int i, struct apf_vcpu *g)
{
	struct apf_host_vcpu *v = &a->v[i];
	struct apf_setup *c = &a->cfg;

	v->a = a;
	v->g = g;
	v->pages = addr_gpa2hva(a->vm, PAGES_GPA) + i * c->pages * PAGE_SIZE;
	g->seed = rnd_stream(c->seed, i);
	g->pages = PAGES_GVA + i * c->pages * PAGE_SIZE;
	g->nr_pages = c->pages;
	g->rounds = c->rounds;
	g->max_out = c->max_out;
	g->gap_max = c->gap_max;
	g->what = c->what;
	g->every = c->every;
	g->area[0] = AREAS_GVA + i * PAGE_SIZE;
	g->area_gpa[0] = AREAS_GPA + i * PAGE_SIZE;
	g->area[1] = g->area[0] + PAGE_SIZE / 2;
	g->area_gpa[1] = g->area_gpa[0] + PAGE_SIZE / 2;
	g->samples = c->samples;
	v->given = guest_alloc(a->vm, c->pages * sizeof(u64), &g->given);
	if (c->samples) {
		v->access_to_ready = guest_alloc(a->vm, c->samples * sizeof(u32),
						 &g->access_to_ready);
		v->fault_to_ready = guest_alloc(a->vm, c->samples * sizeof(u32),
						&g->fault_to_ready);
		v->given_to_ready = guest_alloc(a->vm, c->samples * sizeof(u32),
						&g->given_to_ready);
	}
	vcpu_args_set(v->vcpu, 1, (u64)i);
	if (c->what & (APF_DO_RESET | APF_DO_INIT))
		save_fresh(v);
}

static u64 guest_tsc_offset(struct kvm_vcpu *vcpu)
{
	u64 offset = 0;

	if (!__vcpu_has_device_attr(vcpu, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET))
		vcpu_device_attr_get(vcpu, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &offset);
	return offset;
}

void apf_vm_create(struct apf_vm *a, const struct apf_setup *cfg)
{
	struct kvm_vcpu *vcpus[APF_MAX_VCPUS];
	struct sigaction sa = { .sa_handler = on_signal };
	u64 n = cfg->nr_vcpus * cfg->pages, room, gva;
	struct apf_vcpu *g;
	unsigned int i;

	memset(a, 0, sizeof(*a));
	a->cfg = *cfg;
	if (!a->cfg.stall_ms)
		a->cfg.stall_ms = host_cpu_is_intel ? STALL_INTEL_MS : STALL_AMD_MS;
	sigaction(POST_SIGNAL, &sa, NULL);
	room = cfg->nr_vcpus * (cfg->pages * 8 + cfg->samples * 12) / PAGE_SIZE + 64;
	a->vm = __vm_create(VM_SHAPE_DEFAULT, cfg->nr_vcpus, room);
	if (cfg->dirty_ring)
		vm_enable_dirty_ring(a->vm, cfg->dirty_ring);
	for (i = 0; i < cfg->nr_vcpus; i++)
		vcpus[i] = vm_vcpu_add(a->vm, i, cfg->guest_main ?: apf_guest_main);
	vm_userspace_mem_region_add(a->vm, VM_MEM_SRC_ANONYMOUS, PAGES_GPA, PAGES_SLOT, n,
				    cfg->pages_flags);
	vm_userspace_mem_region_add(a->vm, cfg->areas_shared ? VM_MEM_SRC_SHMEM :
				    VM_MEM_SRC_ANONYMOUS, AREAS_GPA, AREAS_SLOT,
				    cfg->nr_vcpus, 0);
	a->areas = memslot2region(a->vm, AREAS_SLOT);
	virt_map(a->vm, PAGES_GVA, PAGES_GPA, n);
	virt_map(a->vm, AREAS_GVA, AREAS_GPA, cfg->nr_vcpus);
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_guest_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_guest_ready);
	g = guest_alloc(a->vm, cfg->nr_vcpus * sizeof(*g), &gva);
	write_guest_global(a->vm, apf_guest_vcpus, (struct apf_vcpu *)gva);
	for (i = 0; i < cfg->nr_vcpus; i++)
		a->v[i].vcpu = vcpus[i];
	if (cfg->what & APF_DO_SMI)
		smram_setup(a);
	for (i = 0; i < cfg->nr_vcpus; i++)
		vcpu_setup(a, i, &g[i]);
	a->tsc_offset = guest_tsc_offset(vcpus[0]);
	uffd_open(a, a->v[0].pages, n * PAGE_SIZE);
}

static void thread_begin(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	if (pthread_create(thread, NULL, fn, arg))
		die("no thread left");
}

void apf_vm_start(struct apf_vm *a)
{
	unsigned int i;

	a->giving = true;
	thread_begin(&a->giver, giver_fn, a);
	for (i = 0; i < a->cfg.nr_vcpus; i++)
		thread_begin(&a->v[i].thread, vcpu_fn, &a->v[i]);
}

void *apf_vm_page(struct kvm_vm *vm, u64 *gva, u64 *gpa)
{
	*gva = vm_alloc(vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	*gpa = addr_gva2gpa(vm, *gva);
	return memset(addr_gva2hva(vm, *gva), 0, PAGE_SIZE);
}

/* --- running it ------------------------------------------------------------ */

u64 apf_vm_progress(struct apf_vm *a)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < a->cfg.nr_vcpus; i++)
		sum += READ_ONCE(a->v[i].g->touched) + READ_ONCE(a->v[i].g->announced) +
		       READ_ONCE(a->v[i].g->wakes);
	return sum;
}

static bool all_ended(struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < a->cfg.nr_vcpus; i++)
		if (!__atomic_load_n(&a->v[i].ended, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

void apf_vm_pause(struct apf_vm *a)
{
	unsigned int i;

	WRITE_ONCE(a->paused, 1);
	while (!all_ended(a)) {
		for (i = 0; i < a->cfg.nr_vcpus; i++)
			if (!a->v[i].ended)
				pthread_kill(a->v[i].thread, POST_SIGNAL);
		sleep_ms(1);
	}
	for (i = 0; i < a->cfg.nr_vcpus; i++)
		pthread_join(a->v[i].thread, NULL);
}

static void stop_guest(struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < a->cfg.nr_vcpus; i++)
		WRITE_ONCE(a->v[i].g->stop, 1);
}

static u32 lapic_reg(struct kvm_lapic_state *lapic, unsigned int reg)
{
	return *(u32 *)(lapic->regs + reg);
}

static bool lapic_vector(struct kvm_lapic_state *lapic, unsigned int reg)
{
	return lapic_reg(lapic, reg + APF_VEC / 32 * 16) & BIT(APF_VEC % 32);
}

/* On stderr: where a vCPU stands that does not get on, out of KVM_RUN now. */
static void tell_stalled(struct apf_host_vcpu *v)
{
	struct apf_vcpu *g = v->g;
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state state;
	struct apf_area *area;
	struct kvm_regs regs;
	unsigned int i;

	vcpu_regs_get(v->vcpu, &regs);
	vcpu_mp_state_get(v->vcpu, &state);
	vcpu_events_get(v->vcpu, &events);
	vcpu_ioctl(v->vcpu, KVM_GET_LAPIC, &lapic);
	fprintf(stderr,
		"# vCPU %u: RIP %llx RFLAGS %llx state %u, interrupt %u shadow %u NMI %u SMM %u SMI %u\n",
		v->vcpu->id, regs.rip, regs.rflags, state.mp_state, events.interrupt.injected,
		events.interrupt.shadow, events.nmi.masked, events.smi.smm, events.smi.pending);
	fprintf(stderr, "#   vector in IRR %u ISR %u, SPIV %x TPR %x, EN %lx INT %lx\n",
		lapic_vector(&lapic, APIC_IRR), lapic_vector(&lapic, LAPIC_ISR),
		lapic_reg(&lapic, APIC_SPIV), lapic_reg(&lapic, APIC_TASKPRI),
		vcpu_get_msr(v->vcpu, MSR_KVM_ASYNC_PF_EN),
		vcpu_get_msr(v->vcpu, MSR_KVM_ASYNC_PF_INT));
	for (i = 0; i < 2; i++) {
		area = addr_gpa2hva(v->a->vm, g->area_gpa[i]);
		fprintf(stderr, "#   area %u%s: flags %x token %x, wake due %lu\n", i,
			i == g->now ? ", in use" : "", area->flags, area->token, g->wake_due[i]);
	}
	fprintf(stderr, "#   ready again %lu, next %lu, owes ACK %lu, %u pages not given yet;",
		g->nr_ready, g->next, g->owes_ack, v->a->nr_pending);
	fprintf(stderr, " outstanding:");
	for (i = 0; i < g->nr_out; i++)
		fprintf(stderr, " %x of page %u", g->out[i].token, g->out[i].page);
	fprintf(stderr, "\n");
}

static void *kicker_fn(void *data)
{
	struct apf_vm *a = data;
	u64 rnd = rnd_stream(a->cfg.seed, 7), start, ticks;

	pin_self_to_cpu(1);
	while (!__atomic_load_n(&a->ended, __ATOMIC_ACQUIRE)) {
		start = rdtsc();
		ticks = rnd_below(&rnd, a->cfg.kick_max);
		while (rdtsc() - start < ticks)
			;
		if (!__atomic_load_n(&a->v[0].ended, __ATOMIC_ACQUIRE))
			pthread_kill(a->v[0].thread, POST_SIGNAL);
	}
	return NULL;
}

void apf_vm_run(struct apf_vm *a, bool (*more)(struct apf_vm *a))
{
	u64 was = 0, is, since = now_ms();
	pthread_t kicker;
	unsigned int i;

	a->ended = false;
	if (a->cfg.kick_max)
		thread_begin(&kicker, kicker_fn, a);
	while (!all_ended(a)) {
		sleep_ms(POLL_MS);
		if (!more(a))
			stop_guest(a);
		is = apf_vm_progress(a);
		if (is != was)
			since = now_ms();
		was = is;
		if (now_ms() - since < a->cfg.stall_ms)
			continue;
		WRITE_ONCE(a->stalled, 1);
		for (i = 0; i < a->cfg.nr_vcpus; i++)
			if (!a->v[i].ended)
				pthread_kill(a->v[i].thread, POST_SIGNAL);
	}
	__atomic_store_n(&a->ended, true, __ATOMIC_RELEASE);
	if (a->cfg.kick_max)
		pthread_join(kicker, NULL);
	for (i = 0; i < a->cfg.nr_vcpus; i++) {
		pthread_join(a->v[i].thread, NULL);
		if (a->stalled)
			tell_stalled(&a->v[i]);
	}
}

void apf_vm_count(struct apf_vm *a, struct apf_count *c)
{
	unsigned int i, n;

	memset(c, 0, sizeof(*c));
	for (i = 0; i < a->cfg.nr_vcpus; i++) {
		struct apf_vcpu *g = a->v[i].g;

		c->announced += g->announced;
		c->ready += g->ready;
		c->eaten += g->eaten;
		c->touched += g->touched;
		c->sync += g->sync;
		c->irqs += g->irqs;
		c->empty += g->empty;
		c->enables += g->enables;
		c->wakes += g->wakes;
		c->lost += g->nr_out + g->wake_due[0] + g->wake_due[1];
		c->doubled += g->unknown;
		c->wrong += g->wrong_page + g->again + g->overwritten + g->stray +
			    g->extra_wakes;
		for (n = 0; n < APF_NR_DO; n++)
			c->done[n] += g->done[n];
		if (a->cfg.what & APF_DO_SMI)
			c->smis += *(u16 *)addr_gpa2hva(a->vm, smbase_of(i) + SMRAM_COUNT);
	}
}

void apf_vm_tell_wrong(struct apf_vm *a)
{
	unsigned int i;

	for (i = 0; i < a->cfg.nr_vcpus; i++) {
		struct apf_vcpu *g = a->v[i].g;

		if (!(g->wrong_page || g->again || g->overwritten || g->stray || g->extra_wakes))
			continue;
		fprintf(stderr,
			"# vCPU %u: wrong page %lu, not there again %lu, overwritten %lu, stray %lu, extra wakes %lu\n",
			i, g->wrong_page, g->again, g->overwritten, g->stray, g->extra_wakes);
	}
}

void apf_vm_free(struct apf_vm *a)
{
	unsigned int i;
	u64 one = 1;

	__atomic_store_n(&a->giver_stop, true, __ATOMIC_RELEASE);
	if (write(a->wake_fd, &one, sizeof(one)) != sizeof(one))
		die("eventfd: %s", strerror(errno));
	if (a->giving)
		pthread_join(a->giver, NULL);
	/* Faults that are still waiting end here; the VM waits for their workers. */
	close(a->uffd);
	close(a->wake_fd);
	for (i = 0; i < a->cfg.nr_vcpus; i++)
		if (a->v[i].fresh)
			kvm_x86_state_cleanup(a->v[i].fresh);
	kvm_vm_free(a->vm);
}
