// SPDX-License-Identifier: GPL-2.0
/*
 * Scenarios for the emulator's schedule explorer (lab/bochs/explore): a vCPU that enters
 * the guest, and threads that post interrupts to it.  What is looked for is an
 * interrupt that the guest takes late, twice, or never.  In the vmx lab, on its
 * explorer's emulator, as root.
 *
 *   explore SCENARIO [explore NAME=NUMBER... | replay SCHEDULE]...
 *
 * exit status: 0 all were right, 1 one was not, 2 wrong usage, 3 it failed,
 * 4 this is not that emulator
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "explore.h"
#include "kvm-mode-probe.h"
#include "messages.h"

/* <sys/io.h> and the library do not go together. */
int ioperm(unsigned long from, unsigned long nr, int on);

#define EXPLORE_PORT	0x8a24
#define WARM_UPS	4

static const struct scenario {
	const char *name;
	enum explore_guest guest;
	u64 posters, late;
} scenarios[] = {
	{ "post-entry", EXPLORE_COMPUTE, 1, 300 },
	{ "post-fastpath", EXPLORE_FASTPATH, 1, 300 },
	{ "post-exits", EXPLORE_EXITS, 1, 300 },
	{ "post-block", EXPLORE_HLT, 1, 4 },
	{ "two-posts-entry", EXPLORE_COMPUTE, 2, 300 },
};

/*
 * What the emulator's own memory does, without a VM: threads that each do two or three
 * accesses.  The outcome is what they have read, or what memory has in the end, as bits.
 */
static u32 *x, *y;		/* on pages of their own */
static u32 *z;			/* read first: where each may be preempted ahead of its part */

#define LOAD(from)	({ u32 v; asm volatile("mov %1, %0" : "=r"(v) : "m"(*(from))); v; })
#define STORE(to, v)	({ asm volatile("movl %1, %0" : "=m"(*(to)) : "i"(v)); })
#define FENCE()		({ asm volatile("mfence" ::: "memory"); })

/* The first one is loaded first, whatever order C evaluates arguments in. */
#define two(first, second)	({ u32 one = (first); one << 1 | (second); })

static u32 sb_0(void) { STORE(x, 1); return LOAD(y); }
static u32 sb_1(void) { STORE(y, 1); return LOAD(x); }
static u32 sb_fenced_0(void) { STORE(x, 1); FENCE(); return LOAD(y); }
static u32 sb_fenced_1(void) { STORE(y, 1); FENCE(); return LOAD(x); }
static u32 mp_0(void) { STORE(x, 1); STORE(y, 1); return 0; }
static u32 mp_1(void) { return two(LOAD(y), LOAD(x)); }
static u32 w2_0(void) { STORE(x, 1); STORE(y, 2); return 0; }
static u32 w2_1(void) { STORE(y, 1); STORE(x, 2); return 0; }
static u32 own_0(void) { STORE(x, 1); return two(LOAD(x), LOAD(y)); }
static u32 own_1(void) { STORE(y, 1); return two(LOAD(y), LOAD(x)); }
static u32 iriw_0(void) { STORE(x, 1); return 0; }
static u32 iriw_1(void) { STORE(y, 1); return 0; }
static u32 iriw_2(void) { return two(LOAD(x), LOAD(y)); }
static u32 iriw_3(void) { return two(LOAD(y), LOAD(x)); }

static const struct litmus {
	u32 (*body[4])(void);
	const char *name;
	unsigned int threads, bits;	/* of each that reads */
	bool memory;			/* x and y in the end are the outcome */
} litmus[] = {
	{ { sb_0, sb_1 }, "sb", 2, 1, false },
	{ { sb_fenced_0, sb_fenced_1 }, "sb-fenced", 2, 1, false },
	{ { own_0, own_1 }, "sb-own", 2, 2, false },
	{ { mp_0, mp_1 }, "mp", 2, 2, false },
	{ { w2_0, w2_1 }, "2+2w", 2, 2, true },
	{ { iriw_0, iriw_1, iriw_2, iriw_3 }, "iriw", 4, 2, false },
};

#define SEEN	100		/* explore.h of the emulator */

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static struct explore_shared *s;
static const struct scenario *sc;
static sem_t begin[EXPLORE_POSTERS], over[EXPLORE_POSTERS];
static u64 ready, go;		/* of a litmus test: which round */

static void write_byte(u8 byte)
{
	asm volatile("outb %0, %w1" : : "a"(byte), "d"(EXPLORE_PORT));
}

static u8 read_byte(void)
{
	u8 byte;

	asm volatile("inb %w1, %0" : "=a"(byte) : "d"(EXPLORE_PORT));
	return byte;
}

static void ask(const char *format, ...)
{
	char line[256], *c = line;
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	strcat(line, "\n");
	while (*c)
		write_byte(*c++);
}

static void *poster_fn(void *data)
{
	u64 i = (u64)data;
	struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = EXPLORE_VEC + i };

	pin_self_to_cpu(1 + i);
	for (;;) {
		sem_wait(&begin[i]);
		__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
		while (!READ_ONCE(go))
			;
		if (ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) != 1)
			die("KVM_SIGNAL_MSI: %s", strerror(errno));
		WRITE_ONCE(s->posted[i], 1);
		sem_post(&over[i]);
	}
	return NULL;
}

/* All is as it will be when it counts, posters about to post. */
static void get_ready(void)
{
	u64 i;

	memset(s->posted, 0, sizeof(s->posted));
	memset(s->handled, 0, sizeof(s->handled));
	s->wrong = 0;
	go = 0;
	ready = 0;
	for (i = 0; i < sc->posters; i++)
		sem_post(&begin[i]);
	while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < sc->posters)
		;
	/* They have a turn of the emulator's in their loop. */
	for (i = 0; i < 1000; i++)
		asm volatile("pause");
}

static void wait_for_posters(void)
{
	u64 i;

	for (i = 0; i < sc->posters; i++)
		sem_wait(&over[i]);
}

static void run(void)
{
	WRITE_ONCE(go, 1);
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason != KVM_EXIT_IO || vcpu->run->io.port != EXPLORE_EXIT)
		die("the guest has left with exit reason %u (%s)", vcpu->run->exit_reason,
		    exit_reason_str(vcpu->run->exit_reason));
}

/* As the emulator does it when it is not exploring: that has to be right. */
static void run_for_real(void)
{
	run();
	ask("end %llu", (unsigned long long)s->wrong);
	wait_for_posters();
	if (s->wrong)
		die("wrong %llu without any preemption", (unsigned long long)s->wrong);
}

static void watch_words(void)
{
	struct kvm_mode_where where = { .vcpu_fd = vcpu->fd };
	int fd = open(PROBE_PATH, O_RDWR);

	if (fd < 0 || ioctl(fd, PROBE_WHERE, &where))
		die("%s: %s: load-kvm loads the probe", PROBE_PATH, strerror(errno));
	close(fd);
	ask("forget");
	ask("watch mode %llx 4", where.mode);
	ask("watch requests %llx 8", where.requests);
	if (where.flag)
		ask("watch flag %llx 1", where.flag);
	ask("pid");
}

/* What the emulator says of a schedule that is not right */
static const char *const verdicts[] = { "wrong", "all CPUs sleep", "does not end",
					"too many events",
					"not the run that it was", "the emulator ended" };

static bool is_wrong(const char *line)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(verdicts); i++)
		if (!strncmp(line, verdicts[i], strlen(verdicts[i])))
			return true;
	return false;
}

static bool show(void)
{
	char line[512];
	unsigned int n = 0, c;
	bool wrong = false, any = false;

	while ((c = read_byte()) && c != 0xff) {
		if (c != '\n' && n < sizeof(line) - 1) {
			line[n++] = c;
			continue;
		}
		line[n] = 0;
		n = 0;
		printf("%s\n", line);
		any = true;
		wrong |= !strncmp(line, "schedule ", 9) || is_wrong(line);
		if (!strncmp(line, "error", 5))
			die("%s", line);
	}
	if (!any) {
		fprintf(stderr, "explore: no answer: this emulator explores nothing\n");
		exit(4);
	}
	return wrong;
}

static u64 physical(void *address)
{
	u64 entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &entry, 8, (u64)address / PAGE_SIZE * 8) != 8 || !(entry >> 63))
		die("/proc/self/pagemap: %s", strerror(errno));
	close(fd);
	return (entry & (BIT_ULL(55) - 1)) * PAGE_SIZE + (u64)address % PAGE_SIZE;
}

static const struct litmus *test;
static u32 found[4];
static u64 finished;

static void *litmus_fn(void *data)
{
	u64 i = (u64)data, round = 0;

	pin_self_to_cpu(i);
	for (;;) {
		round++;
		__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
		while (READ_ONCE(go) != round)
			;
		LOAD(z);
		found[i] = test->body[i]();
		__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* Thread 0's part is this one's.  The others wait in user mode; so does this one, for them. */
static u32 litmus_round(u64 round)
{
	u32 outcome = 0;
	unsigned int i;

	/* With a fence: nothing of it is to be in a store buffer then. */
	__atomic_store_n(&go, round, __ATOMIC_SEQ_CST);
	LOAD(z);
	found[0] = test->body[0]();
	while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) < test->threads - 1)
		;
	for (i = 0; i < test->threads; i++)
		outcome = outcome << test->bits | found[i];
	if (test->memory)
		outcome = READ_ONCE(*x) << 2 | READ_ONCE(*y);
	return outcome;
}

static void litmus_ready(void)
{
	while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < test->threads - 1)
		;
	ready = 0;
	finished = 0;
	*x = 0;
	*y = 0;
}

static bool run_litmus(int argc, char **argv)
{
	static u32 words[6144] __aligned(PAGE_SIZE);
	pthread_t thread;
	u64 i, round = 1;
	bool wrong = false;
	int n;

	x = &words[0];
	y = &words[2048];
	z = &words[4096];
	*z = 0;
	pin_self_to_cpu(0);
	for (i = 1; i < test->threads; i++)
		if (pthread_create(&thread, NULL, litmus_fn, (void *)i))
			die("no thread");
	litmus_ready();
	litmus_round(round++);
	ask("forget");
	ask("watch x %llx 4", physical(x));
	ask("watch y %llx 4", physical(y));
	ask("watch z %llx 4", physical(z));
	for (n = 2; n < argc; n++) {
		litmus_ready();
		printf("%s: %s\n", test->name, argv[n]);
		fflush(stdout);
		tcdrain(STDOUT_FILENO);
		ask("%s", argv[n]);
		ask("end %u", SEEN + litmus_round(round++));
		wrong |= show();
	}
	return wrong;
}

static void create(void)
{
	gva_t gva;
	u64 i;

	vm = vm_create_with_one_vcpu(&vcpu, explore_guest_main);
	gva = vm_alloc(vm, sizeof(*s), KVM_UTIL_MIN_VADDR);
	s = addr_gva2hva(vm, gva);
	memset(s, 0, sizeof(*s));
	s->guest = sc->guest;
	s->late = sc->late;
	write_guest_global(vm, explore_shared, (struct explore_shared *)gva);
	for (i = 0; i < sc->posters; i++)
		vm_install_exception_handler(vm, EXPLORE_VEC + i, explore_guest_irq);
}

static void say(bool fatal, const char *text)
{
	fprintf(stderr, "explore: %s\n", text);
	if (fatal)
		exit(3);
}

int main(int argc, char **argv)
{
	pthread_t thread;
	bool wrong = false;
	u64 i;
	int n;

	for (i = 0; argc > 1 && i < ARRAY_SIZE(scenarios); i++)
		if (!strcmp(argv[1], scenarios[i].name))
			sc = &scenarios[i];
	for (i = 0; argc > 1 && i < ARRAY_SIZE(litmus); i++)
		if (!strcmp(argv[1], litmus[i].name))
			test = &litmus[i];
	if (!(sc || test) || argc < 3) {
		fprintf(stderr, "usage: explore SCENARIO COMMAND...; scenarios:");
		for (i = 0; i < ARRAY_SIZE(scenarios); i++)
			fprintf(stderr, " %s", scenarios[i].name);
		for (i = 0; i < ARRAY_SIZE(litmus); i++)
			fprintf(stderr, " %s", litmus[i].name);
		fprintf(stderr, "\n");
		return 2;
	}
	messages_to(say);
	if (ioperm(EXPLORE_PORT, 1, 1))
		die("ioperm: %s", strerror(errno));
	if (test)
		return run_litmus(argc, argv);
	create();
	pin_self_to_cpu(0);
	for (i = 0; i < sc->posters; i++) {
		sem_init(&begin[i], 0, 0);
		sem_init(&over[i], 0, 0);
		if (pthread_create(&thread, NULL, poster_fn, (void *)i))
			die("no thread");
	}
	/* Its local APIC is enabled then. */
	run();
	s->posters = sc->posters;
	for (n = 2; n < argc; n++) {
		for (i = 0; i < WARM_UPS; i++) {
			get_ready();
			run_for_real();
		}
		get_ready();
		watch_words();
		printf("%s: %s\n", sc->name, argv[n]);
		fflush(stdout);
		tcdrain(STDOUT_FILENO);
		ask("%s", argv[n]);
		run_for_real();
		wrong |= show();
	}
	return wrong;
}
