// SPDX-License-Identifier: GPL-2.0
/*
 * Pages announced in kernel mode, where the guest's predicate says that it can sleep, and only
 * there; and announced again to a second task.  The guest is apf_pred_guest.c.
 */
#include <string.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf_pred.h"
#include "stress.h"
#include "user-mode.h"

static struct step step;

static struct apf_pred *of(struct step *s)
{
	return s->shared;
}

static struct kvm_vcpu *vcpu_of(struct step *s)
{
	return s->a.v[0].vcpu;
}

static struct pred_words *words;

static struct apf_pred *setup_guest(struct apf_vm *a, enum pred_guest guest, u64 state)
{
	struct apf_pred *p;
	gva_t gva;

	gva = vm_alloc(a->vm, sizeof(struct apf_pred), KVM_UTIL_MIN_VADDR);
	p = addr_gva2hva(a->vm, gva);
	memset(p, 0, sizeof(*p));
	write_guest_global(a->vm, apf_pred, (struct apf_pred *)gva);
	words = apf_vm_page(a->vm, &p->words, &p->words_gpa);
	apf_vm_page(a->vm, &p->list, &p->list_gpa);
	p->pages_gpa = memslot2region(a->vm, PAGES_SLOT)->region.guest_phys_addr;
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_pred_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_pred_ready);
	p->guest = guest;
	p->state = state;
	user_mode_allow(a->v[0].vcpu);
	return p;
}

static void begin(struct step *s, enum pred_guest guest, u64 state)
{
	step_create(s, (struct apf_setup){ .name = "apf_pred", .guest_main = apf_pred_main });
	s->shared = setup_guest(&s->a, guest, state);
}

/* --- the MSR ---------------------------------------------------------------------- */

static bool loads(struct kvm_vcpu *vcpu, u64 value)
{
	return _vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EXT, value) == 1 &&
	       vcpu_get_msr(vcpu, MSR_KVM_ASYNC_PF_EXT) == value;
}

/* The guest's CHECKs; the host may load a list that is not there yet. */
static void msr(void)
{
	struct step *s = &step;
	bool ok, loaded;

	begin(s, PRED_ABI, 0);
	ok = goes_to(s, PRED_DONE);
	loaded = loads(vcpu_of(s), NOWHERE_GPA | PRED_EXT) &&
		 loads(vcpu_of(s), of(s)->list_gpa | PRED_EXT | KVM_ASYNC_PF_EXT_AGAIN) &&
		 _vcpu_set_msr(vcpu_of(s), MSR_KVM_ASYNC_PF_EXT, of(s)->list_gpa |
			       KVM_ASYNC_PF_EXT_MARK) != 1 &&
		 loads(vcpu_of(s), 0);
	tell(ok && loaded && !of(s)->step.failed, "checks %lu loaded %u failed_line %lu",
	     of(s)->checks, loaded, of(s)->step.failed);
	step_free(s);
}

static void msr_hidden(void)
{
	struct step *s = &step;
	const u32 features = BIT(KVM_FEATURE_ASYNC_PF_PRED) | BIT(KVM_FEATURE_ASYNC_PF_AGAIN);
	bool ok;

	begin(s, PRED_HIDDEN, 0);
	ok = hide_features(vcpu_of(s), features) == features;
	ok = goes_to(s, PRED_DONE) && ok;
	tell(ok && !of(s)->step.failed, "checks %lu failed_line %lu", of(s)->checks,
	     of(s)->step.failed);
	step_free(s);
}

/* --- one page --------------------------------------------------------------------- */

/* The guest touches a page in that state, which is not there for a while. */
static void one_page(u64 state, u64 events)
{
	struct step *s = &step;
	u64 said, again = state & PRED_AGAIN && events;
	bool ok = true;

	begin(s, PRED_ONE, state);
	if (state & PRED_LOADED) {
		ok = goes_to(s, PRED_LOAD);
		ok = ok && loads(vcpu_of(s), of(s)->list_gpa | PRED_EXT);
	}
	ok = ok && goes_to(s, PRED_READY);
	go(s);
	ok = ok && counts_to(&of(s)->t.announced, events) && counts_to(&of(s)->t.again, again);
	ok = ok && hear(s, quiet_ms(events)) == STEP_NOTHING;
	said = READ_ONCE(of(s)->t.announced);
	apf_vm_give(&s->a, 0, 0);
	ok = hears(s, PRED_DONE) && ok;
	tell(ok && said == events && of(s)->t.announced == events && of(s)->t.again == again &&
	     of(s)->t.ready == events && !of(s)->t.unknown && !of(s)->forbidden &&
	     of(s)->kernel == (state & PRED_USER ? 0 : events + again) && !of(s)->elsewhere &&
	     !of(s)->wrong_page && !of(s)->step.failed,
	     "announced %lu again %lu ready %lu kernel %lu forbidden %lu failed_line %lu",
	     of(s)->t.announced, of(s)->t.again, of(s)->t.ready, of(s)->kernel,
	     of(s)->forbidden, of(s)->step.failed);
	step_free(s);
}

#define ONE_PAGE(name, state, events)					\
	static void name(void)						\
	{								\
		one_page(state, events);				\
	}

ONE_PAGE(can_sleep, 0, 1)
ONE_PAGE(count, PRED_COUNT, 0)
ONE_PAGE(resched, PRED_RESCHED, 1)
ONE_PAGE(reader, PRED_READER, 0)
ONE_PAGE(idle, PRED_IDLE, 0)
ONE_PAGE(masked, PRED_MASKED, 0)
ONE_PAGE(behind_sti, PRED_STI, 0)
ONE_PAGE(other_task, PRED_OTHER, 1)
ONE_PAGE(nowhere, PRED_NOWHERE, 0)
ONE_PAGE(absent, PRED_ABSENT, 0)
ONE_PAGE(user_mode, PRED_USER | PRED_COUNT, 1)
ONE_PAGE(rewritten, PRED_REWRITTEN, 1)
ONE_PAGE(loaded, PRED_LOADED, 1)
ONE_PAGE(loaded_broken, PRED_LOADED | PRED_BROKEN, 0)
ONE_PAGE(twice, PRED_TWICE | PRED_AGAIN, 1)
ONE_PAGE(twice_user, PRED_TWICE | PRED_AGAIN | PRED_USER, 1)
ONE_PAGE(twice_unasked, PRED_TWICE, 1)

/* What the guest has asked the host for is completed by one more KVM_RUN, which returns at once. */
static bool complete(struct step *s)
{
	bool ok;

	s->pause = true;
	WRITE_ONCE(vcpu_of(s)->run->immediate_exit, 1);
	go(s);
	ok = hear(s, patience_ms()) == STEP_PAUSED;
	WRITE_ONCE(vcpu_of(s)->run->immediate_exit, 0);
	s->pause = false;
	return ok;
}

/* Its memory, all but the pages that it touches, which are not there, and its vCPU */
static void copy_vm(struct step *to, struct step *from)
{
	struct userspace_mem_region *r = memslot2region(from->a.vm, 0);
	struct kvm_lapic_state lapic;
	struct kvm_x86_state *state;

	memcpy(addr_gpa2hva(to->a.vm, 0), r->host_mem, r->region.memory_size);
	memcpy(to->a.areas->host_mem, from->a.areas->host_mem, PAGE_SIZE);
	state = vcpu_save_state(vcpu_of(from));
	vcpu_ioctl(vcpu_of(from), KVM_GET_LAPIC, &lapic);
	vcpu_sregs_set(vcpu_of(to), &state->sregs);
	vcpu_load_state(vcpu_of(to), state);
	vcpu_ioctl(vcpu_of(to), KVM_SET_LAPIC, &lapic);
	kvm_x86_state_cleanup(state);
}

/* The guest goes on in another VM, about to touch a page: by the list that it made in the first. */
static void another_vm(void)
{
	static struct step there;
	struct step *s = &step, *t = &there;
	bool ok;

	begin(s, PRED_ONE, 0);
	ok = goes_to(s, PRED_READY) && complete(s);
	begin(t, PRED_ONE, 0);
	copy_vm(t, s);
	step_free(s);
	go(t);
	ok = ok && counts_to(&of(t)->t.announced, 1);
	apf_vm_give(&t->a, 0, 0);
	ok = hears(t, PRED_DONE) && ok;
	tell(ok && of(t)->t.announced == 1 && of(t)->kernel == 1 && of(t)->t.ready == 1 &&
	     !of(t)->forbidden && !of(t)->wrong_page && !of(t)->step.failed,
	     "announced %lu ready %lu kernel %lu forbidden %lu failed_line %lu",
	     of(t)->t.announced, of(t)->t.ready, of(t)->kernel, of(t)->forbidden,
	     of(t)->step.failed);
	step_free(t);
}

/* --- many -------------------------------------------------------------------------- */

static struct apf_vm vm;
static struct apf_pred *pred;

/* What userspace does to a vCPU that it has interrupted */
static struct {
	u64 most;
	u64 exposed, reinjected;
	u64 changed;		/* whether the guest can sleep, at an access */
} now;

static bool more(struct apf_vm *a)
{
	u64 touched = a->v[0].g->touched;

	stress_progress("touched %lu", touched);
	return stress_time_left() && (!now.most || touched < now.most);
}

static void interrupted(struct apf_host_vcpu *v)
{
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	vcpu_events_get(v->vcpu, &events);
	now.exposed += events.exception.pending && events.exception.nr == PF_VECTOR;
	now.reinjected += events.exception.injected && events.exception.nr == PF_VECTOR;
	if (events.exception.pending || events.exception.injected)
		return;
	/* Not in a handler, which is about to look whether the event was right. */
	vcpu_regs_get(v->vcpu, &regs);
	if (regs.r11 - regs.rip > TOUCH_BYTES)
		return;
	now.changed++;
	words->sleep.held = !words->sleep.held;
}

static void many(enum pred_guest guest, u64 state, bool meddles)
{
	const struct apf_setup setup = {
		.name = "apf_pred",
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = 64,
		.max_out = 1,
		.delay_max = 40000,
		.guest_main = apf_pred_main,
		.interrupted = meddles ? interrupted : NULL,
		.kick_max = !meddles ? 0 : host_cpu_is_intel ? 60000 : 4000000,
	};

	now.most = stress.count;
	apf_vm_create(&vm, &setup);
	pred = setup_guest(&vm, guest, state);
	apf_vm_start(&vm);
	apf_vm_run(&vm, more);
}

static void storm(u64 state, bool meddles)
{
	many(PRED_STORM, state, meddles);
	tell(pred->t.announced && pred->t.announced == pred->t.ready && !pred->t.unknown &&
	     !pred->t.again == !state && pred->held &&
	     pred->kernel == pred->t.announced + pred->t.again &&
	     !pred->forbidden && !pred->elsewhere && !pred->wrong_page && !vm.stalled &&
	     !now.exposed && !now.changed == !meddles,
	     "touched %lu announced %lu ready %lu again %lu forbidden %lu elsewhere %lu unknown %lu wrong_page %lu held %lu changed %lu exposed %lu reinjected %lu stalled %lu",
	     vm.v[0].g->touched, pred->t.announced, pred->t.ready, pred->t.again,
	     pred->forbidden, pred->elsewhere, pred->t.unknown, pred->wrong_page, pred->held,
	     now.changed, now.exposed, now.reinjected, vm.stalled);
	apf_vm_free(&vm);
}

static void in_all_states(void)
{
	storm(0, false);
}

static void state_changed(void)
{
	storm(0, true);
}

static void two_tasks(void)
{
	storm(PRED_AGAIN, false);
}

/* The guest of apf_test, with all that it and its host do: told by a list that says yes. */
static void everything(void)
{
	const struct apf_setup setup = {
		.name = "apf_pred",
		.nr_vcpus = 2,
		.seed = stress.seed,
		.pages = 256,
		.max_out = 64,
		.gap_max = 500,
		.delay_max = 40000,
		.what = APF_DO_TOGGLE | APF_DO_MOVE | APF_DO_LAPIC | APF_DO_MASK | APF_DO_GARBAGE |
			APF_DO_LATE_ACK | APF_DO_ACK_FIRST | APF_DO_HALT | APF_DO_EXITS |
			APF_DO_HOST_MSRS | APF_DO_HOST_OFF | APF_DO_EVENTS | APF_DO_RESET |
			APF_DO_INIT | APF_DO_SMI,
		.every = 32,
	};
	struct apf_count c;
	struct apf_vcpu *g;
	unsigned int i;

	now.most = stress.count;
	apf_vm_create(&vm, &setup);
	for (i = 0; i < setup.nr_vcpus; i++) {
		struct kvm_async_pf_predicate *list;
		u64 gva, gpa, word_gpa;

		g = vm.v[i].g;
		list = apf_vm_page(vm.vm, &gva, &gpa) + KVM_ASYNC_PF_PRED_OFFSET;
		apf_vm_page(vm.vm, &gva, &word_gpa);	/* of zeroes */
		list->magic = KVM_ASYNC_PF_PRED_MAGIC;
		list->version = KVM_ASYNC_PF_PRED_VERSION;
		list->nr_loads = 1;
		list->loads[0] = sleep_word(word_gpa, 4, ~0u);
		g->ext = gpa | PRED_EXT;
		g->ext_msr = MSR_KVM_ASYNC_PF_EXT;
		g->error_code = KVM_ASYNC_PF_NOT_PRESENT;
	}
	apf_vm_start(&vm);
	apf_vm_run(&vm, more);
	apf_vm_count(&vm, &c);
	apf_vm_tell_wrong(&vm);
	tell(c.announced && !c.lost && !c.doubled && !c.wrong && !vm.stalled &&
	     c.announced == c.ready + c.eaten && c.smis == c.done[17],
	     "announced %lu ready %lu eaten %lu lost %lu doubled %lu wrong %lu stalled %lu sync %lu wakes %lu inits %lu smis %lu",
	     c.announced, c.ready, c.eaten, c.lost, c.doubled, c.wrong, vm.stalled, c.sync,
	     c.wakes, c.done[16], c.smis);
	apf_vm_free(&vm);
}

static void random_lists(void)
{
	many(PRED_FUZZ, 0, false);
	tell(pred->taken && pred->taken < pred->lists && pred->verdicts && pred->t.announced &&
	     !pred->wrong_list && !pred->unasked && pred->untold * 2 <= pred->yes &&
	     !pred->t.again && !pred->forbidden && !pred->elsewhere &&
	     pred->kernel == pred->t.announced && pred->t.announced == pred->t.ready &&
	     !pred->wrong_page && !vm.stalled,
	     "lists %lu taken %lu wrong %lu verdicts %lu yes %lu untold %lu announced %lu ready %lu forbidden %lu unasked %lu wrong_page %lu stalled %lu",
	     pred->lists, pred->taken, pred->wrong_list, pred->verdicts, pred->yes,
	     pred->untold, pred->t.announced, pred->t.ready, pred->forbidden, pred->unasked,
	     pred->wrong_page, vm.stalled);
	apf_vm_free(&vm);
}

static const char help_text[] =
"Pages announced in kernel mode where the guest's predicate says that it can sleep, and\n"
"again to a second task.  COUNT is the number of pages touched, or of lists tried, in each\n"
"of the cases with many.";

static const struct step_case cases[] = {
	{ "MSR", msr },
	{ "MSR hidden without CPUID", msr_hidden },
	{ "it can sleep", can_sleep },
	{ "preemption is disabled", count },
	{ "a reschedule is due", resched },
	{ "an RCU reader", reader },
	{ "the idle task", idle },
	{ "interrupts are disabled", masked },
	{ "behind STI", behind_sti },
	{ "another task is the reader", other_task },
	{ "a word is not in memory", nowhere },
	{ "a word is not present", absent },
	{ "user mode", user_mode },
	{ "the list is overwritten", rewritten },
	{ "userspace loads it", loaded },
	{ "userspace loads it, broken", loaded_broken },
	{ "it goes on in another VM", another_vm },
	{ "accessed again", twice },
	{ "accessed again in user mode", twice_user },
	{ "accessed again, not asked", twice_unasked },
	{ "many in all states", in_all_states },
	{ "many, userspace changes the state", state_changed },
	{ "many, accessed again", two_tasks },
	{ "everything", everything },
	{ "lists at random", random_lists },
};

int main(int argc, char **argv)
{
	return step_main(argc, argv, help_text, cases, ARRAY_SIZE(cases));
}
