/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A page of one vCPU that is not there: announced, ready, or never to come.  What
 * kvm/mode/apf.c, apf_ext.c, apf_fail.c and virt/kvm/async_pf.c do, and the faults that
 * call them.  Processes: the vCPU, with the userspace that runs it; the worker of each
 * attempt to get the page; the host, which gives the page and takes it away.
 *
 * What is done with async_pf.lock held is one step, and so is what only the vCPU's
 * thread touches: memory is sequentially consistent.  There is one place for a token,
 * which the guest's ACK frees; its vector is named.  No injection is broken off.
 *
 * -DTASKS=2: while one of the guest's tasks waits another one may access the page; -DAGAIN: it
 * is announced to that one, too.
 * -DNP: the smallest bounds, for a search for whoever never gets on.
 * -DSTAYS: userspace leaves the vCPU where it is.  -DFAULT_...: something is wrong; run.py names
 * the property that finds it.
 */
#ifndef TASKS
#define TASKS	1
#endif
#ifndef NP
#define ROUNDS	2	/* accesses of the guest */
#ifndef CHANGES
#define CHANGES	2	/* of the page, by the host */
#endif
#define RETURNS	2	/* of KVM_RUN */
#else
#define ROUNDS	1
#define CHANGES	1
#define RETURNS	0
#endif
#define WORKS	5	/* attempts to get the page asynchronously, at most */

/* The page, for get_user_pages() */
#define AWAY	0	/* waits */
#define GONE	1	/* fails */
#define HERE	2

#define NONE	255


/* False: an assertion starts with the name of its property, as in protocol.pml. */
hidden byte A1_at_the_access, A2_can_sleep, A3_known_token, A4_told_in_time, A5_work_exists,
	A6_once, B0_bound;

byte page = AWAY;

/* One attempt: struct kvm_async_pf */
bool exists[WORKS];
bool listed[WORKS];	/* async_pf.done */
bool failed[WORKS];
bool announced[WORKS];	/* notpresent_injected */
bool sent[WORKS];
bool mapped[WORKS];
bool ended[WORKS];	/* flush_work() returns */
byte begun;		/* attempts */

/* The vCPU's, in KVM */
byte frame = NONE;	/* apf.gfns: the attempt that is on its way */
byte deferred = NONE;
bool failed_frame;	/* apf.failed */
bool failing;
bool request;		/* KVM_REQ_APF_READY */

/* The vCPU's, in the guest */
bool at_access = true;	/* its RIP */
bool can_sleep = true;	/* by its CPL, its RFLAGS, and what it says itself */
bool irq[WORKS];	/* a page-ready event that it has not taken, with that token */
bool place;		/* taken by a token; the guest has not ACKed it */
byte waiting;		/* tasks */
byte waits[WORKS];	/* for its token */
byte accesses;		/* that are done with */

byte failures;		/* since the page was here, the guest told, or KVM_RUN entered */
bool kept_here;		/* the page: since KVM_RUN was entered */

inline send(i)
{
	sent[i] = true;
	place = true;
	irq[i] = true
}

/* async_pf_execute() */
proctype worker(byte w)
{
	atomic {
		page != AWAY ->
		failed[w] = page == GONE
	}
#ifdef FAULT_FAIL_BY_WORKER
	if
	:: failed[w] -> failing = true; request = true
	:: else
	fi;
#endif
#ifdef FAULT_SENT_FIRST
	atomic {
		if
		:: announced[w] -> send(w)
		:: else
		fi
	}
#endif
	listed[w] = true;			/* the lock */
#ifndef FAULT_NO_REQUEST
	request = true;
#endif
#ifndef FAULT_SENT_FIRST
	atomic {				/* the lock: what is on the list */
		if
		:: listed[w] && announced[w] && !sent[w] && !place -> send(w)
		:: else
		fi
	}
#endif
	ended[w] = true
}

proctype host()
{
	byte n;

	do
	:: atomic { n < CHANGES ->
		if
		:: page == AWAY -> page = HERE; failures = 0
		:: page == AWAY -> page = GONE
		:: page == GONE -> page = HERE; failures = 0
		:: page == HERE -> page = GONE; kept_here = false
		:: page == HERE -> page = AWAY; kept_here = false
		fi;
		n++
	   }
	:: atomic { n == CHANGES && page == AWAY -> page = HERE; failures = 0 }
	:: page != AWAY -> break		/* it comes, or it does not, for good */
	od
}

/* Another page of the vCPU's */
proctype other()
{
	request = true
}

/* kvm_apf_process(), of attempt i */
inline process(i)
{
	atomic {				/* apf_send_own(): the lock */
		if
#ifdef FAULT_SENT_TWICE
		:: exists[i] && listed[i] && announced[i] && !place -> send(i)
#else
		:: exists[i] && listed[i] && announced[i] && !sent[i] && !place -> send(i)
#endif
		:: else
		fi
	}
	if					/* kvm_arch_async_page_ready(), apf_map_pages() */
	:: exists[i] && listed[i] && !mapped[i] ->
#ifndef FAULT_FAILURE_FORGOTTEN
		failed_frame = failed_frame || failed[i];
#endif
		mapped[i] = true;
		failures = failures + failed[i];
		assert(A6_once || failures <= 1);
		if
		:: frame == i -> frame = NONE
		:: else
		fi
	:: else
	fi;
	if					/* kvm_check_async_pf_completion() */
#ifdef FAULT_DEQUEUED_UNSENT
	:: exists[i] && listed[i] && mapped[i] ->
#else
	:: exists[i] && listed[i] && mapped[i] && (!announced[i] || sent[i]) ->
#endif
		listed[i] = false;		/* the lock */
		ended[i];
		exists[i] = false;
#ifndef FAULT_NOT_FORGOTTEN
		if
		:: deferred == i -> deferred = NONE
		:: else
		fi
#endif
	:: else
	fi
}

/* The guest's page fault handler: the page is announced */
inline told_of(i)
{
	assert(A1_at_the_access || at_access);
	assert(A2_can_sleep || can_sleep);
	waits[i]++;
	waiting++
}

/* The page-ready event, and its ACK: all tasks that wait for this token go on. */
inline ready(i)
{
	assert(A3_known_token || waits[i]);
	irq[i] = false;
	place = false;
	request = true;
	waiting = waiting - waits[i];
	waits[i] = 0
}

/* kvm_announce_async_pf(), kvm_apf_tell() */
inline announce()
{
	if
	:: deferred != NONE ->
		w = deferred;
		deferred = NONE;
		if
#ifdef FAULT_JUDGED_ONCE
		:: true ->
#elif defined(FAULT_MODE_JUDGED_ONCE)
		:: at_access ->
#else
		:: at_access && can_sleep ->
#endif
			assert(A5_work_exists || exists[w]);
			atomic {		/* the lock */
				if
				:: !listed[w] -> announced[w] = true; told_of(w)
#ifdef FAULT_FORGOTTEN_AGAIN
				:: listed[w] -> announced[w] = false
#else
				:: else
#endif
				fi
			}
		:: else
		fi
	:: else
	fi
}

/* kvm_apf_tell_failure() */
inline tell_failure()
{
	if
	:: failing ->
		failing = false;
		assert(A1_at_the_access || at_access);
		assert(A4_told_in_time || !kept_here);
		accesses++;
		failures = 0
	:: else
	fi
}

inline there()
{
	accesses++;
	failures = 0
}

/* KVM_REQ_APF_HALT, until the page is ready, or an interrupt comes */
inline halt(i)
{
	if
	:: listed[i]
#ifndef NP
	:: true
#endif
	fi
}

/* __kvm_faultin_pfn(), of an access to a page that is not mapped */
inline fault()
{
	if
	:: failed_frame ->			/* the retry, which waits */
		atomic { page != AWAY ->
			failed_frame = false;
			if
			:: page == HERE -> there()
			:: page == GONE -> failing = true; request = true
			fi
		}
	:: else ->
		if
		:: page == HERE -> there()	/* it is by now */
		:: page != HERE && frame != NONE ->
#ifdef AGAIN
			w = 0;		/* async_pf.queue: also those whose token is still to be sent */
			do
			:: w < WORKS && !(exists[w] && !mapped[w]) -> w++
			:: else -> break
			od;
			if
			:: can_sleep && w < WORKS -> deferred = w; request = true
			:: else -> halt(frame)
			fi
#else
			halt(frame)
#endif
		:: page != HERE && frame == NONE ->
			assert(B0_bound || begun < WORKS);
			w = begun;
			begun++;
			exists[w] = true;
			frame = w;
			run worker(w);
			if
			:: can_sleep -> deferred = w; request = true
			:: !can_sleep -> halt(w)
			fi
		fi
	fi
}

/* Userspace, between two KVM_RUNs.  Away from the access the guest does not make it. */
inline userspace()
{
	if
	:: true
#ifndef STAYS
	:: at_access = false; can_sleep = false
	:: at_access = true; can_sleep = true
	:: at_access = true; can_sleep = false
#endif
	fi
}

active proctype vcpu()
{
	byte w, left = RETURNS;

	run host();
	run other();
	kept_here = page == HERE;
	do
	:: accesses < ROUNDS || waiting || !at_access ->
		if
		:: left ->			/* KVM_RUN returns, here at the latest */
			left--;
#ifndef FAULT_FAILURE_KEPT
			failing = false;
#endif
			userspace();
			atomic {
				kept_here = page == HERE;
				failures = 0
			}
		:: true
		fi;
		if
		:: request ->
			request = false;
			process(0);
			process(1);
			process(2);
			process(3);
			process(4);
			announce();
			tell_failure()
		:: else
		fi;
		/* The guest */
		if
		:: irq[0] -> ready(0)
		:: irq[1] -> ready(1)
		:: irq[2] -> ready(2)
		:: irq[3] -> ready(3)
		:: irq[4] -> ready(4)
		:: !place && waiting && at_access && !request ->
			place		/* it computes: nobody kicks it out of the guest */
		:: !place && !at_access ->	/* back, by itself or by userspace */
			at_access = true;
			can_sleep = true
		:: !place && waiting < TASKS && at_access && accesses < ROUNDS && !failing ->
			fault()
		:: else
		fi
	:: else -> break
	od
}

/* Whoever waits for a token gets it: else the vCPU waits for ever, an invalid end state */
