// SPDX-License-Identifier: GPL-2.0
/*
 * MSR_KVM_ASYNC_PF_EXT, and page faults that mark themselves: in user mode only, with nothing
 * written; not lost and not invented if an NMI's handler faults in the midst of it; announced right
 * ahead of the entry, or not at all.  The guest is apf_mark_guest.c.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_mark.h"
#include "stress.h"
#include "user-mode.h"

#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define KERNEL_CS	0x8
#define KERNEL_DS	0x10

static struct step step;

static struct apf_mark *of(struct step *s)
{
	return s->shared;
}

static struct apf_mark *setup_guest(struct apf_vm *a, enum mark_guest guest)
{
	struct apf_mark *m;
	gva_t gva;

	gva = vm_alloc(a->vm, sizeof(struct apf_mark), KVM_UTIL_MIN_VADDR);
	m = addr_gva2hva(a->vm, gva);
	memset(m, 0, sizeof(*m));
	write_guest_global(a->vm, apf_mark, (struct apf_mark *)gva);
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_mark_fault);
	vm_install_exception_handler(a->vm, NMI_VECTOR, apf_mark_nmi);
	vm_install_exception_handler(a->vm, APF_VEC, apf_mark_ready);
	m->guest = guest;
	user_mode_allow(a->v[0].vcpu);
	return m;
}

static struct kvm_vcpu *vcpu_of(struct step *s)
{
	return s->a.v[0].vcpu;
}

static void begin(struct step *s, enum mark_guest guest)
{
	step_create(s, (struct apf_setup){ .name = "apf_mark", .guest_main = apf_mark_main });
	s->shared = setup_guest(&s->a, guest);
}

/* --- the MSR -------------------------------------------------------------------- */

static bool loads(struct kvm_vcpu *vcpu, u32 msr, u64 value)
{
	return _vcpu_set_msr(vcpu, msr, value) == 1 && vcpu_get_msr(vcpu, msr) == value;
}

static bool listed(void)
{
	const struct kvm_msr_list *list = kvm_get_msr_index_list();
	unsigned int i;

	for (i = 0; i < list->nmsrs && list->indices[i] != MSR_KVM_ASYNC_PF_EXT; i++)
		;
	return i < list->nmsrs;
}

/* The guest's CHECKs, then the host's: any order, but no reserved bit; an INIT. */
static void msr(void)
{
	struct step *s = &step;
	struct kvm_vcpu *vcpu;
	struct kvm_msi init = { .address_lo = APIC_DEFAULT_GPA, .data = APIC_DM_INIT };
	struct kvm_mp_state state;
	bool ok, orders, reserved, cleared;
	unsigned int bit;
	u64 en;

	begin(s, MARK_ABI);
	vcpu = vcpu_of(s);
	/* apf_report_test and apf_pred_test have their bits. */
	hide_features(vcpu, BIT(KVM_FEATURE_ASYNC_PF_FAIL) | BIT(KVM_FEATURE_ASYNC_PF_PRED) |
		      BIT(KVM_FEATURE_ASYNC_PF_AGAIN));
	ok = goes_to(s, MARK_DONE) && listed();
	en = vcpu_get_msr(vcpu, MSR_KVM_ASYNC_PF_EN);
	orders = loads(vcpu, MSR_KVM_ASYNC_PF_EN, en | KVM_ASYNC_PF_SEND_ALWAYS) &&
		 loads(vcpu, MSR_KVM_ASYNC_PF_EXT, 0) &&
		 loads(vcpu, MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK) &&
		 loads(vcpu, MSR_KVM_ASYNC_PF_EN, en);
	reserved = true;
	for (bit = 1; bit < 64; bit++)
		reserved &= _vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EXT, BIT_ULL(bit)) != 1;
	if (__vm_ioctl(s->a.vm, KVM_SIGNAL_MSI, &init) != 1)
		die("no vCPU took the INIT: %s", strerror(errno));
	vcpu_mp_state_get(vcpu, &state);	/* takes it */
	cleared = !vcpu_get_msr(vcpu, MSR_KVM_ASYNC_PF_EXT) &&
		  !vcpu_get_msr(vcpu, MSR_KVM_ASYNC_PF_EN);
	tell(ok && orders && reserved && cleared && !of(s)->step.failed,
	     "checks %lu any_order %u reserved %u cleared_by_INIT %u failed_line %lu",
	     of(s)->checks, orders, reserved, cleared, of(s)->step.failed);
	step_free(s);
}

static void msr_hidden(void)
{
	struct step *s = &step;
	bool ok, refused;

	begin(s, MARK_HIDDEN);
	hide_features(vcpu_of(s), BIT(KVM_FEATURE_ASYNC_PF_MARK));
	ok = goes_to(s, MARK_DONE);
	/* But VMMs that save and load all there is need not know. */
	refused = _vcpu_set_msr(vcpu_of(s), MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK) != 1 &&
		  loads(vcpu_of(s), MSR_KVM_ASYNC_PF_EXT, 0);
	tell(ok && refused && !of(s)->step.failed, "checks %lu refused %u failed_line %lu",
	     of(s)->checks, refused, of(s)->step.failed);
	step_free(s);
}

static u32 flags_of(struct apf_vm *a)
{
	return ((struct apf_area *)a->areas->host_mem)->flags;
}

/* --- one page -------------------------------------------------------------------- */

/* The guest touches a page, which is not there for a while: what is it told? */
static void one_page(enum mark_guest guest, u64 events)
{
	struct step *s = &step;
	u64 announced, limit;
	bool ok = true;
	u32 flags;

	begin(s, guest);
	if (guest == MARK_LOADED) {
		struct kvm_vcpu *vcpu = vcpu_of(s);

		ok = goes_to(s, MARK_LOAD);
		vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EN,
			     s->a.v[0].g->area_gpa[0] | ENABLE | KVM_ASYNC_PF_SEND_ALWAYS);
		vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK);
		vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_INT, APF_VEC);
	}
	ok = ok && goes_to(s, MARK_READY);
	go(s);
	limit = now_ms() + patience_ms();
	while (READ_ONCE(of(s)->t.announced) < events && now_ms() < limit)
		sleep_ms(1);
	ok = ok && hear(s, quiet_ms(events)) == STEP_NOTHING;
	announced = READ_ONCE(of(s)->t.announced);
	apf_vm_give(&s->a, 0, 0);
	ok = hears(s, MARK_DONE) && ok;
	flags = flags_of(&s->a);
	tell(ok && announced == events && of(s)->t.announced == events &&
	     of(s)->t.ready == events && !of(s)->t.unknown && !of(s)->forbidden &&
	     !of(s)->missed && flags == MARK_PATTERN && !of(s)->wrong_page && !of(s)->step.failed,
	     "announced %lu ready %lu forbidden %lu missed %lu flags %x failed_line %lu",
	     of(s)->t.announced, of(s)->t.ready, of(s)->forbidden, of(s)->missed, flags,
	     of(s)->step.failed);
	step_free(s);
}

static void user_mode(void)
{
	one_page(MARK_USER, 1);
}

static void user_mode_masked(void)
{
	one_page(MARK_MASKED, 0);
}

static void kernel_mode(void)
{
	one_page(MARK_KERNEL, 0);
}

static void always_loaded(void)
{
	one_page(MARK_LOADED, 0);
}

/* --- storms ----------------------------------------------------------------------- */

static struct apf_vm storm_vm;
static struct apf_mark *mark;

/* What userspace does to a vCPU in user mode that it has interrupted */
static struct {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	bool sends_nmis;
	bool away;		/* on a detour */
	u64 rnd, exposed, reinjected;
	u64 at_access;		/* detours from where a page is accessed */
	u64 most;		/* pages touched */
} now;

static bool more(struct apf_vm *a)
{
	u64 touched = a->v[0].g->touched;

	stress_progress("touched %lu", touched);
	return stress_time_left() && (!now.most || touched < now.most);
}

static void kernel_segment(struct kvm_segment *s, u16 selector)
{
	s->selector = selector;
	s->dpl = 0;
}

/* To where the guest cannot sleep, or can: nobody has accessed anything there. */
static void detour(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &now.regs);
	now.at_access += now.regs.r11 - now.regs.rip <= TOUCH_BYTES;
	regs = now.regs;
	sregs = now.sregs;
	if (rnd_below(&now.rnd, 2)) {
		kernel_segment(&sregs.cs, KERNEL_CS);
		kernel_segment(&sregs.ss, KERNEL_DS);
		regs.rflags = X86_EFLAGS_FIXED;
	}
	regs.rip = (u64)apf_mark_detour;
	/* As behind a call */
	regs.rsp = (u64)(apf_mark_detour_stack + MARK_DETOUR_STACK - 1);
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_set(vcpu, &regs);
	now.away = true;
}

static bool asked(struct apf_host_vcpu *v, u32 what)
{
	if (what != MARK_BACK)
		return false;
	vcpu_sregs_set(v->vcpu, &now.sregs);
	vcpu_regs_set(v->vcpu, &now.regs);
	now.away = false;
	return true;
}

static void interrupted(struct apf_host_vcpu *v)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(v->vcpu, &events);
	now.exposed += events.exception.pending && events.exception.nr == PF_VECTOR;
	now.reinjected += events.exception.injected && events.exception.nr == PF_VECTOR;
	vcpu_events_set(v->vcpu, &events);
	if (now.away || events.exception.pending || events.exception.injected ||
	    events.interrupt.injected || events.nmi.injected)
		return;
	/* The library's handlers have a red zone: no NMI while they run. */
	vcpu_sregs_get(v->vcpu, &now.sregs);
	if ((now.sregs.cs.selector & 3) != 3)
		return;
	if (now.sends_nmis && rnd_below(&now.rnd, 2))
		vcpu_ioctl(v->vcpu, KVM_NMI, NULL);
	else if (rnd_below(&now.rnd, 2))
		detour(v->vcpu);
}

static void storm(bool legacy, bool nmis, bool meddles)
{
	const struct apf_setup setup = {
		.name = "apf_mark",
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = 64,
		.max_out = 1,
		.delay_max = 40000,
		.guest_main = apf_mark_main,
		.asked = asked,
		.interrupted = meddles ? interrupted : NULL,
		.kick_max = !meddles ? 0 : host_cpu_is_intel ? 60000 : 4000000,
	};

	now.rnd = rnd_stream(stress.seed, 9);
	now.most = stress.count;
	apf_vm_create(&storm_vm, &setup);
	mark = setup_guest(&storm_vm, MARK_STORM);
	mark->legacy = legacy;
	mark->nmis = nmis;
	apf_vm_start(&storm_vm);
	apf_vm_run(&storm_vm, more);
}

static bool sound(void)
{
	return mark->t.announced && mark->t.announced == mark->t.ready && !mark->t.unknown &&
	       !mark->forbidden && !mark->invented && !mark->missed && !mark->elsewhere &&
	       (mark->legacy || flags_of(&storm_vm) == MARK_PATTERN);
}

static void tell_storm(bool ok)
{
	tell(ok && !mark->wrong_page && !storm_vm.stalled,
	     "touched %lu announced %lu ready %lu forbidden %lu invented %lu missed %lu elsewhere %lu unknown %lu flags %x wrong_page %lu nmis %lu faults %lu exposed %lu reinjected %lu detours %lu at_access %lu stalled %lu",
	     storm_vm.v[0].g->touched, mark->t.announced, mark->t.ready, mark->forbidden,
	     mark->invented, mark->missed, mark->elsewhere, mark->t.unknown, flags_of(&storm_vm),
	     mark->wrong_page, mark->nmis_taken, mark->faults, now.exposed, now.reinjected,
	     mark->detours, now.at_access, storm_vm.stalled);
	apf_vm_free(&storm_vm);
}

/* Each #PF is met by an NMI whose handler faults, before the guest has looked what it is. */
static void nmis(void)
{
	storm(false, true, false);
	tell_storm(sound() && mark->faults == mark->nmis_taken &&
		   mark->nmis_taken == mark->t.announced);
}

/* The control: told by the flags, the guest takes the one for the other. */
static void nmis_legacy(void)
{
	storm(true, true, false);
	tell_storm(mark->invented && mark->missed);
}

/*
 * Userspace looks at the vCPU's events whenever it can, and moves it, or sends it an NMI, whose
 * handler faults.
 */
static void meddled(bool legacy, bool sends_nmis)
{
	now.sends_nmis = sends_nmis;
	storm(legacy, false, true);
	tell_storm(sound() && mark->detours && !mark->nmis_taken == !sends_nmis && !now.exposed);
}

static void moved(void)
{
	meddled(false, false);
}

static void moved_legacy(void)
{
	meddled(true, false);
}

static void moved_nmis(void)
{
	meddled(false, true);
}

static const char help_text[] =
"Page faults that tell of a page that is not present by their error code.  COUNT is the\n"
"number of pages touched in each of the cases with many.";

static const struct step_case cases[] = {
	{ "MSR", msr },
	{ "MSR hidden without CPUID", msr_hidden },
	{ "user mode", user_mode },
	{ "user mode, interrupts disabled", user_mode_masked },
	{ "kernel mode", kernel_mode },
	{ "kernel mode, always send is loaded", always_loaded },
	{ "marked, each met by an NMI", nmis },
	{ "by flags, each met by an NMI", nmis_legacy },
	{ "marked, the vCPU is moved", moved },
	{ "by flags, the vCPU is moved", moved_legacy },
	{ "marked, moved, and NMIs by userspace", moved_nmis },
};

int main(int argc, char **argv)
{
	return step_main(argc, argv, help_text, cases, ARRAY_SIZE(cases));
}
