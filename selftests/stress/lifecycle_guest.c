// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of lifecycle_test.c: takes interrupts, and between them computes,
 * exits or halts.  Never ends; the host stops it and starts it anew.
 */
#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "lifecycle.h"

struct life_shared *life_shared;

/* Which vCPU: in RDI at the start, and in FS base for the handler */
static u64 this_vcpu(void)
{
	return rdmsr(MSR_FS_BASE);
}

void life_guest_irq(struct ex_regs *regs)
{
	struct life_shared *s = life_shared;
	u64 i = this_vcpu();

	(void)regs;
	WRITE_ONCE(s->vcpu[i].handled, s->vcpu[i].handled + 1);
	wrmsr(APIC_BASE_MSR + (APIC_EOI >> 4), 0);
}

static void spin(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		;
}

void life_guest_main(u64 vcpu)
{
	struct life_shared *s = life_shared;
	u64 rnd = rnd_stream(s->seed, vcpu);
	u32 eax, ebx, ecx, edx;

	wrmsr(MSR_FS_BASE, vcpu);
	x2apic_enable();
	__atomic_add_fetch(&s->vcpu[vcpu].starts, 1, __ATOMIC_SEQ_CST);
	asm volatile("sti" ::: "memory");
	for (;;) {
		switch (rnd_below(&rnd, 4)) {
		case 0:
			cpuid(0, &eax, &ebx, &ecx, &edx);
			break;
		case 1:
			asm volatile("sti; hlt" ::: "memory");
			break;
		default:
			spin(rnd_below(&rnd, 4000));
		}
	}
}
