/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The in-guest flag, the run-loop mode, kicks, wake-ups and notifications of
 * one vCPU under x86-TSO, for Spin.  run.py verifies it in many configurations;
 * README.md says what is modelled, what is abstracted, and what was found.
 *
 * Processes: vcpu (pid 0) is the vCPU's thread, two senders (pids 1 and 2), or
 * three, do what SENDER1, SENDER2 and SENDER3 say as often as they like, machine
 * drains the store buffers and takes interrupts for the host.
 *
 * "calm" becomes true at an arbitrary moment, for good: from then on nobody
 * starts anything new, the guest runs and never exits on its own.  All work
 * under way then has to come to rest with nothing left behind.  Until calm,
 * every choice is free, so that rest is examined after every possible past.
 */

/* Configuration: -D on the command line, see run.py. */
#define NONE		0
#define POST		1	/* vmx_deliver_posted_interrupt() */
#define DOORBELL	2	/* svm_deliver_interrupt(), AVIC */
#define NESTED		3	/* vmx_deliver_nested_posted_interrupt() */
#define DEVICE		4	/* VT-d, or IPI virtualization, posts; no KVM code */
#define KICK		5	/* kvm_vcpu_kick() without a request (PML) */
#define KICK_REQUEST	6	/* kvm_make_request(), kvm_vcpu_kick() */
#define KICK_WAIT	7	/* kvm_make_all_cpus_request(KVM_REQUEST_WAIT) */

#ifndef SENDER1
#define SENDER1		POST
#endif
#ifndef SENDER2
#define SENDER2		NONE
#endif
#ifdef SENDER3			/* kicks only, with or without a request */
#define SENDERS		3
#else
#define SENDERS		2
#define SENDER3		NONE
#endif
#ifndef PRECISE			/* kvm.precise_notify: 0, 1, 2: toggled at will */
#define PRECISE		1
#endif
#ifndef DEPTH			/* of a store buffer; it never gets full, see B0 */
#define DEPTH		6
#endif
#ifndef SKIP			/* mask of properties that are not asserted */
#define SKIP		0
#endif
/*
 * Also: AVIC (instead of VMX), INHIBIT (AVIC is switched off and on), MIGRATE,
 * PI_WAKEUP (PID.NV and PID.SN are used, with DEVICE), SELF_POST, SAME_VECTOR,
 * SHADOW_WALK, ELIDE, and the seeded faults, FAULT_*.
 */

/*
 * A statement that does nothing, but that Spin reports if it is never reached:
 * for branches that the verification must have taken.
 */
#define witness		skip

#define V		0	/* the vCPU's thread; a thread's number is its pid */
#define THREADS		(SENDERS + 1)
#ifdef MIGRATE
#define PCPUS		2
#else
#define PCPUS		1
#endif

/*
 * The properties.  An assertion starts with the name of its property, so that
 * the name shows up in the verifier's message.
 */
hidden byte P0_rests = ((SKIP >> 0) & 1);	/* comes to rest, in the guest or blocked */
hidden byte P1_irq = ((SKIP >> 1) & 1);		/* no interrupt pends in the guest for ever */
hidden byte P2_kick = ((SKIP >> 2) & 1);	/* no kick, no request is lost */
hidden byte P3_wait = ((SKIP >> 3) & 1);	/* a wait-kick waits for the stay to end */
hidden byte P4_wake = ((SKIP >> 4) & 1);	/* no blocked vCPU has an interrupt */
hidden byte P5_flag = ((SKIP >> 5) & 1);	/* outside the run loop the flag is KVM_EXEC_HOST */
hidden byte B0_bound = ((SKIP >> 6) & 1);	/* DEPTH is as good as no bound */

/* --- memory under x86-TSO ----------------------------------------------------- */

/* Variables that somebody writes with plain stores. */
#define MODE		0	/* vcpu->mode */
#define FLAG		1	/* vcpu->arch.execution_mode */
#define CPU		2	/* vcpu->cpu */
#define TASK		3	/* the thread's state, for set_current_state() */
#define WAITER		4	/* rcuwait.task is set */
#define PI_PENDING	5	/* vmx->nested.pi_pending */
#define APICV_OFF	6	/* !apic->apicv_active */
#define VARIABLES	7

/* MODE */
#define OUTSIDE_RUN_LOOP		0
#define IN_RUN_LOOP			1
#define EXITING_RUN_LOOP		2
#define READING_SHADOW_PAGE_TABLES	3
/* FLAG */
#define KVM_EXEC_HOST			0
#define KVM_EXEC_GUEST			1
/* TASK */
#define TASK_RUNNING			0
#define TASK_INTERRUPTIBLE		1

byte mem[VARIABLES];

/* Written by locked read-modify-writes and by hardware only. */
byte pir;		/* a bit per vector */
bool on;		/* PID.ON */
bool nv_wakeup;		/* PID.NV is POSTED_INTR_WAKEUP_VECTOR */
bool sn;		/* PID.SN */
bit ndst;		/* PID.NDST */
byte npir;		/* the PID that L1 uses for L2 */
bool non;
byte virr;		/* AVIC backing page */
byte requests;		/* vcpu->requests: a bit per sender, and: */
#define REQ_EVENT	4

typedef store_buffer {
	byte used;
	byte what[DEPTH];
	byte value[DEPTH];
}
store_buffer sb[THREADS];

hidden byte i;		/* scratch of d_steps */
hidden byte x;

inline store(t, variable, new)
{
	d_step {
		!B0_bound || sb[t].used < DEPTH ->
		assert(B0_bound || sb[t].used < DEPTH);
		sb[t].what[sb[t].used] = variable;
		sb[t].value[sb[t].used] = new;
		sb[t].used++;
	}
}

/* The newest store in the own buffer, else memory. */
inline load(t, variable, result)
{
	d_step {
		x = mem[variable];
		i = 0;
		do
		:: i < sb[t].used ->
			if
			:: sb[t].what[i] == variable -> x = sb[t].value[i]
			:: else
			fi;
			i++
		:: else -> break
		od;
		result = x;
	}
}

/* MFENCE, and the first half of each locked read-modify-write. */
#define drained(t)	(sb[t].used == 0)

inline smp_mb(t)
{
	drained(t)
}

inline drain_oldest(t)
{
	d_step {
		sb[t].used > 0 ->
		mem[sb[t].what[0]] = sb[t].value[0];
		i = 1;
		do
		:: i < sb[t].used ->
			sb[t].what[i - 1] = sb[t].what[i];
			sb[t].value[i - 1] = sb[t].value[i];
			i++
		:: else -> break
		od;
		sb[t].used--;
		sb[t].what[sb[t].used] = 0;
		sb[t].value[sb[t].used] = 0;
	}
}

/* --- pCPUs and hardware ------------------------------------------------------- */

/*
 * Interrupts on their way to, or pending at, a pCPU's local APIC.  Whoever
 * takes one may take his time, which covers the time that it is on its way.
 * Sending one does not drain the sender's store buffer.
 */
#define NOTIFY		1	/* POSTED_INTR_VECTOR */
#define NOTIFY_NESTED	2	/* POSTED_INTR_NESTED_VECTOR */
#define WAKEUP		4	/* POSTED_INTR_WAKEUP_VECTOR */
#define BELL		8	/* AVIC doorbell, never pends once it arrived */
#define RESCHEDULE	16	/* a kick */
#define CALL		32	/* smp_call_function_many(), shifted by the sender */
#define ANY_CALL	(CALL << 1 | CALL << 2)
#define FOR_HOST	(WAKEUP | RESCHEDULE | ANY_CALL)
byte ipi[PCPUS];

inline send_ipi(c, vector)
{
	ipi[c] = ipi[c] | (vector)
}

inline ack_ipi(c, vector)
{
	ipi[c] = ipi[c] & (255 - (vector))
}

/* What is, as opposed to what anybody's memory says. */
bit phys;		/* the pCPU that the vCPU's thread is, or was last, on */
bool irqs_off;		/* on that pCPU */
bool in_guest;
bool blocked;		/* scheduled out in kvm_vcpu_block() */
bool calm;
byte ended;		/* senders that are through */
bool at_rest;		/* came to rest and was examined */

/* Bookkeeping for the properties. */
bool logged;		/* the guest has logged to its PML buffer, not flushed */
bool flush_owed;	/* what a kick found logged is still not flushed */
bool run_loop;		/* past the barrier that follows the store of mode */
byte stays;		/* wait-kicks that began in this stay: a bit per sender */
bool waited;		/* a wait-kick returned before its request was processed */
byte called;		/* wait-kicks whose IPI was handled: a bit per sender */

#define me		_pid
#define my_bit		(1 << (me == 3 -> 3 : me - 1))	/* bit 2 is REQ_EVENT */
#ifdef SAME_VECTOR
#define my_vector	1
#else
#define my_vector	my_bit
#endif
#define SELF_VECTOR	4

/* --- the vCPU's thread -------------------------------------------------------- */

/* vmx_sync_pir_to_irr(); on SVM there is nothing to do. */
inline sync_pir_to_irr()
{
#ifndef AVIC
	if
	:: on ->
		atomic { drained(V) -> on = false };
		/* Found by the vCPU itself. */
		atomic { drained(V) -> irr = irr | pir; pir = 0 }
	:: else
	fi
#else
	skip
#endif
}

/*
 * A preemption or a sleep in which the thread may have moved: a full barrier,
 * vmx_vcpu_pi_load(), then kvm_arch_vcpu_load() stores vcpu->cpu.
 */
inline sched_in()
{
#ifdef MIGRATE
	if
	:: atomic { !calm && drained(V) -> phys = 1 - phys };	/* moved */
#ifdef PI_WAKEUP
		atomic { drained(V) -> ndst = phys };
#endif
		store(V, CPU, phys)
	:: skip
	fi;
#endif
#ifdef PI_WAKEUP
	atomic { drained(V) -> nv_wakeup = false; sn = false; ndst = phys };
	if
	:: pir != 0 -> atomic { drained(V) -> on = true }
	:: else
	fi;
#endif
	skip
}

/* kvm_mode_enter() */
inline kvm_mode_enter()
{
	store(V, FLAG, KVM_EXEC_GUEST)
}

/* kvm_mode_reenter(), one XCHG */
inline kvm_mode_reenter()
{
#ifndef FAULT_NO_ENTER
	store(V, FLAG, KVM_EXEC_GUEST);
#endif
#ifndef FAULT_NO_FASTPATH_BARRIER
	smp_mb(V);
#endif
	skip
}

/* kvm_mode_exit(), where no assembly has stored the flag: the guest was not entered */
inline kvm_mode_exit()
{
#ifndef FAULT_BAILOUT_LEAVES_GUEST
	store(V, FLAG, KVM_EXEC_HOST)
#else
	skip
#endif
}

/* kvm_mode_assert_in_host(): what the vCPU itself sees */
inline kvm_mode_assert_in_host()
{
	atomic {
		load(V, FLAG, r);
		assert(P5_flag || r == KVM_EXEC_HOST);
		r = 0
	}
}

/* kvm_vcpu_exit_request() */
inline kvm_vcpu_exit_request(result)
{
#ifdef FAULT_ELIDE_NO_MODE_CHECK
	result = 0;
#else
	atomic {
		load(V, MODE, result);
		result = (result == EXITING_RUN_LOOP)
	};
#endif
	result = (result || requests != 0)
}

/* kvm_check_request() for all of them; KVM_REQ_EVENT is the last one. */
inline process_requests()
{
	if
	:: requests != 0 ->
		atomic {
			drained(V) ->
			r = requests & REQ_EVENT;
#ifndef FAULT_REQUEST_STAYS
			requests = 0;
#endif
			waited = false
		};
		if
		:: r != 0 -> r = 0; process_event()
		:: else
		fi
	:: else
	fi
}

/* KVM_REQ_EVENT, that is kvm_check_and_inject_events() */
inline process_event()
{
#ifdef AVIC
	if
	:: apicv_off ->		/* injected by KVM, with the next entry */
		atomic { drained(V) -> irr = irr | virr; virr = 0 }
	:: else
	fi
#else
	/* vmx_complete_nested_posted_interrupt() */
	load(V, PI_PENDING, r);
	if
	:: r != 0 ->
		r = 0;
		store(V, PI_PENDING, 0);
		atomic { drained(V) -> r = non; non = false };
		if
		:: r != 0 ->
			r = 0;
			atomic { drained(V) -> irr = irr | npir; npir = 0 }
		:: else
		fi
	:: else
	fi
#endif
}

/* A vCPU posts to itself from a fastpath exit handler: it is in the host. */
inline post_to_self()
{
#ifdef SELF_POST
	if
	:: atomic { !calm && drained(V) -> pir = pir | SELF_VECTOR };
		atomic { drained(V) -> r = on; on = true };
		if
		:: r == 0 -> kvm_mode_assert_in_host()
		:: else -> r = 0
		fi
	:: skip
	fi
#else
	skip
#endif
}

/* VM-Enter: vmx: the vIRR is the vCPU's alone; svm: VMRUN evaluates it. */
inline vm_enter()
{
	atomic {
		assert(P3_wait || !waited);
		in_guest = true;
		logged = true;
		irr = 0;
#ifdef AVIC
		if
		:: !apicv_off && virr != 0 -> virr = 0	/* evaluated by VMRUN */
		:: else
		fi
#else
		if
		:: ipi[phys] & NOTIFY -> witness	/* has pended since before */
		:: else
		fi
#endif
	}
}

/* What makes the guest exit: an exit is slow, fast (re-enters), or HLT. */
#define EXIT_NONE	0
#define EXIT_SLOW	1
#define EXIT_FAST	2
#define EXIT_HLT	3

inline guest()
{
	do
#ifdef AVIC
	:: atomic {
		ipi[phys] & BELL ->	/* heard */
		ack_ipi(phys, BELL);
		if
		:: !apicv_off -> virr = 0
		:: else
		fi
	   }
#else
	:: atomic { ipi[phys] & NOTIFY -> ack_ipi(phys, NOTIFY); on = false };
		pir = 0			/* posted-interrupt processing */
	:: atomic { ipi[phys] & NOTIFY_NESTED -> ack_ipi(phys, NOTIFY_NESTED); non = false };
		npir = 0		/* the same, for L2 */
#endif
	:: atomic { ipi[phys] & FOR_HOST -> exit = EXIT_SLOW }; break
	:: atomic { !calm -> exit = EXIT_SLOW }; break
	:: atomic { !calm -> exit = EXIT_FAST }; break
	:: atomic { !calm -> exit = EXIT_HLT }; break
#ifdef FAULT_EARLY_IN_HOST
	:: !calm && drained(V) -> store(V, FLAG, KVM_EXEC_HOST)
#endif
	od
}

/* vmx_vcpu_run(), svm_vcpu_run(), and their assembly, which stores after VM-Exit only */
inline vcpu_run_vendor()
{
#ifdef FAULT_NO_ENTER
	store(V, FLAG, KVM_EXEC_GUEST);
#endif
	if
	:: vm_enter();
		guest();
		atomic {
			in_guest = false;
#ifdef FAULT_STALE_IN_GUEST
			if
			:: exit == EXIT_FAST -> store(V, FLAG, KVM_EXEC_HOST)
			:: else
			fi
#else
			store(V, FLAG, KVM_EXEC_HOST)
#endif
		}
	:: !calm -> exit = EXIT_SLOW;	/* VM-Fail, or a fault on VM-Enter */
#ifndef FAULT_VMFAIL_LEAVES_FLAG
		store(V, FLAG, KVM_EXEC_HOST)
#endif
	:: !calm -> exit = EXIT_SLOW;	/* the early return, an entry that was not tried */
		kvm_mode_exit()
	fi
}

inline leave_run_loop()
{
	atomic {
		run_loop = false;
		stays = 0;
		store(V, MODE, OUTSIDE_RUN_LOOP)
	};
	irqs_off = false
#ifdef LTL
	;
	/*
	 * An interrupt may be on its way for any time, so that the guest may be
	 * left and entered again before it is taken: for ever, unless that is
	 * ruled out here.
	 */
	(!calm || (ipi[phys] & (255 - BELL)) == 0)
#endif
}

inline vcpu_enter_guest()
{
	process_requests();

	atomic {
		irqs_off = true;
		store(V, MODE, IN_RUN_LOOP);
#if !defined(FAULT_NO_ENTER) && !defined(FAULT_ENTER_AFTER_BARRIER)
		kvm_mode_enter()
#endif
	};
	/* smp_mb__after_srcu_read_unlock() */
	atomic { smp_mb(V); run_loop = true };
#ifdef FAULT_ENTER_AFTER_BARRIER
	kvm_mode_enter();
#endif
	sync_pir_to_irr();
	kvm_vcpu_exit_request(r);
	if
	:: r != 0 ->			/* bail out */
		r = 0;
		kvm_mode_exit();
		leave_run_loop()
	:: else ->
		do
		:: vcpu_run_vendor();
			if
			:: exit != EXIT_FAST -> break
			:: else
			fi;
			post_to_self();
			kvm_mode_reenter();
#ifndef FAULT_NO_FASTPATH_SYNC
			sync_pir_to_irr();
#endif
			kvm_vcpu_exit_request(r);
			if
			:: r != 0 ->	/* out of the fastpath loop */
				r = 0;
				kvm_mode_exit();
				break
			:: else
			fi
		od;
		kvm_mode_assert_in_host();
		leave_run_loop();
		/* handle_exit(): flushes the PML buffer whatever the exit was */
		atomic {
			logged = false;
			flush_owed = false;
			halted = (exit == EXIT_HLT);
			exit = EXIT_NONE
		}
	fi
}

/* kvm_vcpu_check_block(): does an interrupt pend? */
inline kvm_vcpu_check_block(result)
{
#ifdef AVIC
	result = (virr != 0 || irr != 0)
#else
	sync_pir_to_irr();
	load(V, PI_PENDING, result);
	result = ((result != 0 && non) || irr != 0)
#endif
}

/* vmx_vcpu_pi_put() of a vCPU that blocks: pi_enable_wakeup_handler() */
inline vmx_vcpu_pi_put()
{
#ifdef PI_WAKEUP
	atomic {
		drained(V) ->
		nv_wakeup = true;
		if
		:: on -> send_ipi(phys, WAKEUP)	/* to this pCPU itself */
		:: else
		fi
	};
#endif
	skip
}

/* kvm_vcpu_block() */
inline kvm_vcpu_block()
{
	store(V, WAITER, 1);
	do
	:: /* set_current_state() */
		store(V, TASK, TASK_INTERRUPTIBLE);
#ifndef FAULT_WAKE_NO_BARRIER
		smp_mb(V);
#endif
		kvm_vcpu_check_block(r);
		if
		:: r != 0 -> r = 0; halted = false; break
		:: !calm -> r = 0; break		/* a signal */
		:: r == 0					/* schedule() */
		fi;
		/* Holding the runqueue's lock, with a full barrier. */
		drained(V);
		if
		:: mem[TASK] == TASK_INTERRUPTIBLE ->
			vmx_vcpu_pi_put();
			blocked = true;
			atomic { mem[TASK] == TASK_RUNNING -> blocked = false };
			sched_in()
		:: mem[TASK] == TASK_RUNNING -> witness	/* woken already */
		fi
	od;
	/* finish_rcuwait() */
	store(V, WAITER, 0);
	store(V, TASK, TASK_RUNNING)
}

/* walk_shadow_page_lockless_begin() and _end() */
inline shadow_walk()
{
#ifdef SHADOW_WALK
	irqs_off = true;
	store(V, MODE, READING_SHADOW_PAGE_TABLES);
	atomic { smp_mb(V); run_loop = true };
	leave_run_loop()
#else
	skip
#endif
}

/* kvm_vcpu_update_apicv() */
inline update_apicv()
{
#ifdef INHIBIT
	apicv_off = !apicv_off;
	store(V, APICV_OFF, apicv_off);
	if
	:: apicv_off ->		/* kvm_make_request(KVM_REQ_EVENT) */
		atomic { drained(V) -> requests = requests | REQ_EVENT }
	:: else
	fi
#else
	skip
#endif
}

/* vcpu_run(), with what surrounds it */
active proctype vcpu()
{
	byte r;			/* scratch */
	byte exit;
	byte irr;		/* known to the vCPU: delivered by the next entry */
	bool halted;		/* KVM_MP_STATE_HALTED */
#ifdef AVIC
	bool apicv_off;		/* the VMCB's view */
#endif

	do
	:: !halted -> vcpu_enter_guest();
		kvm_mode_assert_in_host()
	:: halted -> kvm_vcpu_block()
	:: !calm -> kvm_mode_assert_in_host()	/* userspace */
	:: !calm -> halted = true		/* KVM_REQ_APF_HALT, KVM_SET_MP_STATE */
#ifdef MIGRATE
	:: !calm ->				/* preempted */
#ifdef PI_WAKEUP
		atomic { drained(V) -> sn = true };
#endif
		sched_in()
#endif
#ifdef SHADOW_WALK
	:: !calm -> shadow_walk()
#endif
#ifdef INHIBIT
	:: !calm -> update_apicv()
#endif
	od
}

/* --- senders ------------------------------------------------------------------ */

/* rcuwait_wake_up(), try_to_wake_up() */
inline kvm_vcpu_wake_up(woken)
{
	smp_mb(me);
	load(me, WAITER, woken);
	if
	:: woken != 0 ->
		atomic {
			drained(me) ->
			woken = (mem[TASK] == TASK_INTERRUPTIBLE);
			if
			:: woken != 0 -> mem[TASK] = TASK_RUNNING	/* wakes */
			:: else
			fi
		}
	:: else
	fi
}

/* kvm_mode_read() */
inline kvm_mode_read(result)
{
	if
#if PRECISE != 0
	:: load(me, FLAG, result)
#endif
#if PRECISE != 1
	:: load(me, MODE, result);	/* kvm_mode_in_run_loop() */
		result = (result == IN_RUN_LOOP -> KVM_EXEC_GUEST : KVM_EXEC_HOST)
#endif
	fi
}

/* A sender with what it has seen: an IPI or a doorbell, for which it reads vcpu->cpu; or kvm_mode_wake() */
inline notify_or_wake(how, vector)
{
	if
	:: how != KVM_EXEC_HOST ->
		load(me, CPU, cpu);
		atomic { send_ipi(cpu, vector); cpu = 0; how = 0 }
	:: else ->
		load(me, MODE, how);
		if
#ifndef FAULT_NO_WAKE
		:: how == OUTSIDE_RUN_LOOP -> kvm_vcpu_wake_up(how); how = 0
#endif
		:: else -> how = 0		/* neither notified nor woken */
		fi
	fi
}

/* vmx_deliver_posted_interrupt() */
inline vmx_deliver_posted_interrupt()
{
#ifdef FAULT_FLAG_BEFORE_ON
	kvm_mode_read(seen);
#endif
	if
	:: atomic { drained(me) && (pir & my_vector) -> witness }
	:: atomic { drained(me) && !(pir & my_vector) -> pir = pir | my_vector };
		if
		:: atomic { drained(me) && on -> witness }
		:: atomic { drained(me) && !on -> on = true };
#ifndef FAULT_FLAG_BEFORE_ON
			kvm_mode_read(seen);
#endif
			notify_or_wake(seen, NOTIFY)
		fi
	fi
#ifdef FAULT_FLAG_BEFORE_ON
	; seen = 0
#endif
}

/* vmx_deliver_nested_posted_interrupt(), after L1 has posted; L2 is active */
inline vmx_deliver_nested_posted_interrupt()
{
	atomic { drained(me) -> npir = npir | my_vector };
	if
	:: atomic { drained(me) && non -> witness }	/* L1 sends no IPI */
	:: atomic { drained(me) && !non -> non = true };
		store(me, PI_PENDING, 1);
		atomic { drained(me) -> requests = requests | REQ_EVENT };
		kvm_mode_read(seen);
		notify_or_wake(seen, NOTIFY_NESTED)
	fi
}

/* svm_deliver_interrupt(), svm_complete_interrupt_delivery() */
inline svm_deliver_interrupt()
{
#ifdef FAULT_FLAG_BEFORE_ON
	kvm_mode_read(seen);
#endif
	atomic { drained(me) -> virr = virr | my_vector };
	smp_mb(me);
#ifndef FAULT_FLAG_BEFORE_ON
	kvm_mode_read(seen);
#endif
	load(me, APICV_OFF, old);
	if
	:: old != 0 ->				/* AVIC is inhibited */
		old = 0;
		seen = 0;
		atomic { drained(me) -> requests = requests | REQ_EVENT };
		kvm_vcpu_kick()
	:: else -> notify_or_wake(seen, BELL)
	fi
}

/* Hardware reads PID.ON, SN, NV and NDST in one atomic operation. */
inline device_posts()
{
	pir = pir | my_vector;
	atomic {
		if
		:: !on && !sn ->
			on = true;
			if
			:: nv_wakeup -> send_ipi(ndst, WAKEUP)
			:: else -> send_ipi(ndst, NOTIFY)
			fi
		:: else -> witness		/* suppressed, or outstanding */
		fi
	}
}

/* kvm_vcpu_exiting_run_loop() */
inline kvm_vcpu_exiting_run_loop(result)
{
	atomic {
		drained(me) ->
		result = mem[MODE];
		if
		:: result == IN_RUN_LOOP -> mem[MODE] = EXITING_RUN_LOOP
		:: else
		fi
	}
}

/* kvm_vcpu_kick(), kvm_arch_vcpu_should_kick(), smp_send_reschedule() */
inline kvm_vcpu_kick()
{
	kvm_vcpu_wake_up(old);
	if
	:: old != 0 -> old = 0			/* woken: no IPI */
	:: else ->
#ifdef FAULT_ELIDE_FLAG_BEFORE_MODE
		load(me, FLAG, seen);
#endif
#ifdef FAULT_KICK_BY_FLAG
		load(me, FLAG, old);
		old = (old == KVM_EXEC_HOST -> OUTSIDE_RUN_LOOP : IN_RUN_LOOP);
#else
		kvm_vcpu_exiting_run_loop(old);
#endif
		if
		:: old != IN_RUN_LOOP -> old = 0
		:: else ->
			old = 0;
#ifdef ELIDE
#ifndef FAULT_ELIDE_FLAG_BEFORE_MODE
			load(me, FLAG, seen);
#endif
			if
			:: seen == KVM_EXEC_HOST -> witness	/* elided */
			:: else ->
				load(me, CPU, cpu);
				send_ipi(cpu, RESCHEDULE)
			fi
#else
			load(me, CPU, cpu);
			send_ipi(cpu, RESCHEDULE)
#endif
		fi
	fi;
	atomic { seen = 0; cpu = 0 }
}

/* What the guest has logged when the kick begins has to be flushed. */
inline begin_kick()
{
	flush_owed = flush_owed | logged
}

/* kvm_make_all_cpus_request(), KVM_REQUEST_WAIT | KVM_REQUEST_NO_WAKEUP */
inline kvm_make_all_cpus_request()
{
	atomic {
		if
		:: run_loop -> stays = stays | my_bit
		:: else
		fi
	};
	if
	:: atomic { drained(me) -> requests = requests | my_bit }
	:: true					/* KVM_REQUEST_NO_ACTION */
	fi;
	kvm_vcpu_exiting_run_loop(old);
	if
	:: old == OUTSIDE_RUN_LOOP -> witness	/* nothing to wait for */
#ifdef FAULT_WAIT_NOT_FOR_EXITING
	:: old == EXITING_RUN_LOOP
#endif
	:: else ->
		if
		:: atomic { old == IN_RUN_LOOP -> witness }
		:: atomic { old == EXITING_RUN_LOOP -> witness }
		:: atomic { old == READING_SHADOW_PAGE_TABLES -> witness }
		fi;
#ifdef FAULT_ELIDE_WAIT
		load(me, FLAG, seen);
		if
		:: seen == KVM_EXEC_HOST
		:: else ->
#endif
		load(me, CPU, cpu);
#ifdef FAULT_WAIT_SENDS_RESCHEDULE
		send_ipi(cpu, RESCHEDULE);
#else
		send_ipi(cpu, CALL << me);
#endif
		atomic { called & my_bit -> called = called & ~my_bit }
#ifdef FAULT_ELIDE_WAIT
		fi
#endif
	fi;
	atomic {
		old = 0;
		seen = 0;
		cpu = 0;
		assert(P3_wait || !(stays & my_bit));
		if
		:: requests & my_bit -> waited = true
		:: else
		fi
	}
}

active [SENDERS] proctype sender()
{
	byte kind;
	byte seen;
	byte old;
	byte cpu;

	kind = (me == 1 -> SENDER1 : (me == 2 -> SENDER2 : SENDER3));
	do
	:: calm || kind == NONE -> break
	:: !calm && kind == POST -> vmx_deliver_posted_interrupt()
	:: !calm && kind == NESTED -> vmx_deliver_nested_posted_interrupt()
	:: !calm && kind == DOORBELL -> svm_deliver_interrupt()
	:: !calm && kind == DEVICE -> device_posts()
	:: atomic { !calm && kind == KICK -> begin_kick() };
		kvm_vcpu_kick()
	:: atomic { !calm && kind == KICK_REQUEST -> begin_kick() };
		atomic { drained(me) -> requests = requests | my_bit };
		kvm_vcpu_kick()
	:: !calm && kind == KICK_WAIT -> kvm_make_all_cpus_request()
	od;
	ended++
}

/* --- the machine -------------------------------------------------------------- */

/* A pCPU takes interrupts in the host, unless the vCPU's thread has them off. */
#define takes(c)	(!(irqs_off && phys == (c)))

/* The handler's stores follow those of the thread that it interrupted. */
#define in_order(c)	(phys != (c) || drained(V))

/* pi_wakeup_handler() */
inline pi_wakeup_handler(c)
{
	if
	:: nv_wakeup && ndst == c && on && mem[WAITER] && mem[TASK] == TASK_INTERRUPTIBLE ->
		mem[TASK] = TASK_RUNNING
	:: else
	fi
}

inline take_interrupts(c)
{
	if
	:: atomic { (ipi[c] & NOTIFY) && takes(c) -> ack_ipi(c, NOTIFY) }	/* spurious */
	:: atomic { (ipi[c] & NOTIFY_NESTED) && takes(c) -> ack_ipi(c, NOTIFY_NESTED) }
	:: atomic { (ipi[c] & RESCHEDULE) && takes(c) -> ack_ipi(c, RESCHEDULE) }
	:: atomic {
		(ipi[c] & ANY_CALL) && takes(c) && in_order(c) ->
		called = called | ((ipi[c] & ANY_CALL) / (CALL << 1));
		ack_ipi(c, ANY_CALL)
	   }
	:: atomic {
		(ipi[c] & BELL) && !(in_guest && phys == (c)) ->	/* dropped */
		ack_ipi(c, BELL);
		if
		/* Ahead of VMRUN, which will evaluate it. */
		:: drained(V) && mem[FLAG] == KVM_EXEC_GUEST && virr != 0 -> witness
		:: else
		fi
	   }
	:: atomic { (ipi[c] & WAKEUP) && takes(c) && in_order(c) ->
		ack_ipi(c, WAKEUP);
		pi_wakeup_handler(c)
	   }
	fi
}

/* All is at rest.  irr is the vCPU's own, empty in the guest; see check_block. */
inline examine()
{
	assert(P0_rests || ((in_guest ^ blocked) && ended == SENDERS));
	assert(P1_irq || !in_guest || (pir == 0 && npir == 0 && virr == 0));
	assert(P2_kick || !in_guest || (!flush_owed && (requests & ~REQ_EVENT) == 0));
	assert(P4_wake || !blocked || (pir == 0 && npir == 0 && virr == 0));
	assert(P5_flag || mem[FLAG] == (in_guest -> KVM_EXEC_GUEST : KVM_EXEC_HOST))
}

active proctype machine()
{
	do
	:: drain_oldest(0)
	:: drain_oldest(1)
	:: drain_oldest(2)
#if SENDERS == 3
	:: drain_oldest(3)
#endif
	:: take_interrupts(0)
#ifdef MIGRATE
	:: take_interrupts(1)
#endif
	:: !calm -> calm = true
	:: timeout ->
		atomic { examine(); at_rest = true };
		break
	od
}

#ifdef LTL
/* Once calm, everything comes to rest, by itself and whatever the scheduling. */
ltl rests { [] (calm -> <> at_rest) }
#endif
