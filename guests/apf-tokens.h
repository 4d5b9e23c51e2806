/* SPDX-License-Identifier: GPL-2.0 */
/* Which tokens are outstanding: for guests with one vCPU that do little else. */
#ifndef APF_TOKENS_H
#define APF_TOKENS_H

#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf-guest.h"

struct apf_tokens {
	u64 announced, ready, wakes;
	u64 again;		/* announcements of what is outstanding already */
	u64 unknown;		/* tokens of no announcement */
	u64 nr_out;
	u32 out[APF_MAX_OUT];
};

static inline void apf_token_announced(struct apf_tokens *t, u32 token)
{
	GUEST_ASSERT(t->nr_out < APF_MAX_OUT);
	t->out[t->nr_out++] = token;
	t->announced++;
}

/* The same where a page may be announced to several tasks: for all of them it comes once. */
static inline void apf_token_announced_again(struct apf_tokens *t, u32 token)
{
	u64 i;

	for (i = 0; i < t->nr_out; i++) {
		if (t->out[i] == token) {
			t->again++;
			return;
		}
	}
	apf_token_announced(t, token);
}

static inline void apf_token_came(struct apf_tokens *t, u32 token)
{
	u64 i;

	if (token == APF_WAKE_ALL) {
		t->wakes++;
		return;
	}
	for (i = 0; i < t->nr_out && t->out[i] != token; i++)
		;
	if (i == t->nr_out) {
		t->unknown++;
		return;
	}
	t->out[i] = t->out[--t->nr_out];
	t->ready++;
}

/* What the interrupt's handler does */
static inline void apf_token_take(struct apf_tokens *t, struct apf_area *area)
{
	u32 token = READ_ONCE(area->token);

	wrmsr(APIC_BASE_MSR + (APIC_EOI >> 4), 0);
	WRITE_ONCE(area->token, 0);
	if (token)
		apf_token_came(t, token);
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

static inline u64 apf_read_cr2(void)
{
	u64 cr2;

	asm volatile("mov %%cr2, %0" : "=r" (cr2));
	return cr2;
}

#endif /* APF_TOKENS_H */
