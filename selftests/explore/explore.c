// SPDX-License-Identifier: GPL-2.0
/*
 * Scenarios for the emulator's schedule explorer (lab/bochs/explore): a vCPU that enters
 * the guest, and threads that post interrupts to it, kick it, or give pages that it has been
 * told of.  What is looked for is an interrupt, or a page's token, that the guest takes
 * late, twice, never, or ahead of the page; a kick's mark or a request that stays; a wait
 * that is over too soon.  In the vmx lab, on its explorer's emulator, as root.
 *
 *   explore SCENARIO [explore NAME=NUMBER... | replay SCHEDULE]...
 *
 * exit status: 0 all were right, 1 one was not, 2 wrong usage, 3 it failed,
 * 4 this is not that emulator
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "explore.h"
#include "kvm-mode-probe.h"

/* <sys/io.h> and the library do not go together. */
int ioperm(unsigned long from, unsigned long nr, int on);

#define EXPLORE_PORT	0x8a24
#define WARM_UPS	4

/* Looks of the kicker's at what it has kicked: some turns of the emulator's */
#define LOOKS		200

enum explore_act { POST, KICK, PAGES };

/* What the host does to the memory that tokens go to, before the pages come */
enum explore_area {
	AREA_STAYS,
	AREA_GONE,		/* it is not mapped, as if it were swapped out */
};

static const struct scenario {
	const char *name;
	enum explore_guest guest;
	unsigned int actors;
	u64 late;		/* turns of the guest's loop, behind a post or a page */
	enum explore_act act;
	unsigned int kick;	/* KICK: PROBE_* */
	unsigned int pages;	/* PAGES: how many */
	enum explore_area area;	/* PAGES */
} scenarios[] = {
#define ROW(NAME, GUEST, ACTORS, ACT, ...)	\
	{ .name = NAME, .guest = EXPLORE_##GUEST, .actors = ACTORS, .act = ACT, ##__VA_ARGS__ }
	ROW("post-entry", COMPUTE, 1, POST, .late = 300),
	ROW("post-fastpath", FASTPATH, 1, POST, .late = 300),
	ROW("post-exits", EXITS, 1, POST, .late = 300),
	ROW("post-block", HLT, 1, POST, .late = 4),
	ROW("two-posts-entry", COMPUTE, 2, POST, .late = 300),
	ROW("kick-entry", COMPUTE, 1, KICK, .kick = PROBE_KICK),
	ROW("kick-fastpath", FASTPATH, 1, KICK, .kick = PROBE_KICK),
	ROW("request-entry", COMPUTE, 1, KICK, .kick = PROBE_REQUEST),
	ROW("request-fastpath", FASTPATH, 1, KICK, .kick = PROBE_REQUEST),
	ROW("wait-entry", COMPUTE, 1, KICK, .kick = PROBE_WAIT),
	ROW("page-entry", COMPUTE, 1, PAGES, .late = 10000, .pages = 1),
	ROW("page-exits", ALL_EXITS, 1, PAGES, .late = 300, .pages = 1),
	ROW("page-block", HLT, 1, PAGES, .late = 100, .pages = 1),
	ROW("page-entry-area-gone", COMPUTE, 1, PAGES, .late = 10000, .pages = 1,
	    .area = AREA_GONE),
	ROW("page-exits-area-gone", ALL_EXITS, 1, PAGES, .late = 300, .pages = 1,
	    .area = AREA_GONE),
	ROW("page-block-area-gone", HLT, 1, PAGES, .late = 100, .pages = 1,
	    .area = AREA_GONE),
	ROW("three-pages-entry", COMPUTE, 1, PAGES, .late = 10000, .pages = 3),
#undef ROW
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
static struct apf_vm pages;
static struct kvm_vcpu *vcpu;
static struct explore_shared *s;
static const struct scenario *sc;
static sem_t begin[EXPLORE_ACTORS], over[EXPLORE_ACTORS];
static u64 ready, go;		/* of a litmus test: which round */
static int probe_fd;

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

static void probe(unsigned int what, void *arg)
{
	if (ioctl(probe_fd, what, arg))
		die("%s: %s", PROBE_PATH, strerror(errno));
}

/* In the guest, which is told by an interrupt */
static void post(u64 i)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = EXPLORE_VEC + i };

	if (ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) != 1)
		die("KVM_SIGNAL_MSI: %s", strerror(errno));
	WRITE_ONCE(s->posted[i], 1);
}

/*
 * Is the vCPU still to do what it was kicked for?  A kick that has left no mark looks as if
 * that were done.
 */
static bool is_due(const struct kvm_mode_probe *p)
{
	return sc->kick == PROBE_REQUEST ? p->requests & BIT(PROBE_REQUEST_BIT)
					 : p->mode == PROBE_EXITING_RUN_LOOP;
}

/* The guest knows nothing of it, and goes on until it is told here that all is over. */
static void kick(u64 i)
{
	struct kvm_mode_probe p = { .vcpu_fd = vcpu->fd };
	unsigned int n;

	probe(sc->kick, &p);
	if (sc->kick == PROBE_WAIT && is_due(&p))
		WRITE_ONCE(s->wrong, EXPLORE_WAIT_OVER);
	for (n = 0; is_due(&p) && n < LOOKS; n++)
		probe(PROBE_READ, &p);
	if (is_due(&p) && !s->wrong)
		WRITE_ONCE(s->wrong, EXPLORE_KICK_LATE);
	WRITE_ONCE(s->handled[i], 1);
}

/* What waits for them is KVM's workers, which tell the guest. */
static void give(u64 i)
{
	u64 n;

	(void)i;
	for (n = 0; n < sc->pages; n++) {
		apf_vm_give(&pages, 0, n);
		WRITE_ONCE(s->posted[n], 1);
	}
}

static void (*const acts[])(u64 i) = { [POST] = post, [KICK] = kick, [PAGES] = give };

static void *actor_fn(void *data)
{
	u64 i = (u64)data;

	pin_self_to_cpu(1 + i);
	for (;;) {
		sem_wait(&begin[i]);
		__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
		while (!READ_ONCE(go))
			;
		acts[sc->act](i);
		sem_post(&over[i]);
	}
	return NULL;
}

static void run_to(u16 port)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == port)
		return;
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		die("guest assertion: %s", uc.buffer);
	else
		die("the guest has left with exit reason %u (%s)", vcpu->run->exit_reason,
		    exit_reason_str(vcpu->run->exit_reason));
}

/* The guest has been told of all pages, and KVM's workers wait for them. */
static void take_pages(void)
{
	unsigned int waited = 0;
	struct uffd_msg msg;

	if (madvise(pages.v[0].pages, sc->pages * PAGE_SIZE, MADV_DONTNEED))
		die("madvise: %s", strerror(errno));
	run_to(EXPLORE_READY);
	while (waited < sc->pages) {
		if (read(pages.uffd, &msg, sizeof(msg)) == sizeof(msg))
			waited++;
		else if (errno != EAGAIN)
			die("userfaultfd: %s", strerror(errno));
	}
	if (sc->area == AREA_GONE && madvise(pages.areas->host_mem, PAGE_SIZE, MADV_DONTNEED))
		die("madvise: %s", strerror(errno));
}

/* All is as it will be when it counts, the actors about to act. */
static void get_ready(void)
{
	u64 i;

	memset(s->posted, 0, sizeof(s->posted));
	memset(s->handled, 0, sizeof(s->handled));
	s->wrong = 0;
	if (sc->act == PAGES)
		take_pages();
	go = 0;
	ready = 0;
	for (i = 0; i < sc->actors; i++)
		sem_post(&begin[i]);
	while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < sc->actors)
		;
	/* They have a turn of the emulator's in their loop. */
	for (i = 0; i < 1000; i++)
		asm volatile("pause");
}

static void wait_for_actors(void)
{
	u64 i;

	for (i = 0; i < sc->actors; i++)
		sem_wait(&over[i]);
}

static void run(void)
{
	WRITE_ONCE(go, 1);
	run_to(EXPLORE_EXIT);
}

/* As the emulator does it when it is not exploring: that has to be right. */
static void run_for_real(void)
{
	run();
	ask("end %llu", (unsigned long long)s->wrong);
	wait_for_actors();
	if (s->wrong)
		die("wrong %llu without any preemption", (unsigned long long)s->wrong);
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

static void watch_words(void)
{
	struct kvm_mode_where where = { .vcpu_fd = vcpu->fd };

	probe(PROBE_WHERE, &where);
	ask("forget");
	ask("watch mode %llx 4", where.mode);
	ask("watch requests %llx 8", where.requests);
	if (where.flag)
		ask("watch flag %llx 1", where.flag);
	if (sc->act == PAGES) {
		ask("watch apf %llx %llu", where.apf, where.apf_size);
		ask("watch done %llx 16", where.apf_done);
		if (sc->area != AREA_GONE)
			ask("watch token %llx 4", physical(pages.areas->host_mem) + 4);
	}
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

static void create_pages(void)
{
	struct apf_setup setup = {
		.name = sc->name,
		.nr_vcpus = 1,
		.pages = sc->pages,
		.guest_main = explore_guest_main,
	};

	apf_vm_create(&pages, &setup);
	vm = pages.vm;
	vcpu = pages.v[0].vcpu;
	vm_install_exception_handler(vm, PF_VECTOR, explore_guest_fault);
	vm_install_exception_handler(vm, APF_VEC, explore_guest_ready);
}

static void create(void)
{
	gva_t gva;
	u64 i;

	if (sc->act == PAGES)
		create_pages();
	else
		vm = vm_create_with_one_vcpu(&vcpu, explore_guest_main);
	gva = vm_alloc(vm, sizeof(*s), KVM_UTIL_MIN_VADDR);
	s = addr_gva2hva(vm, gva);
	memset(s, 0, sizeof(*s));
	s->guest = sc->guest;
	s->late = sc->late;
	write_guest_global(vm, explore_shared, (struct explore_shared *)gva);
	for (i = 0; i < sc->actors; i++)
		vm_install_exception_handler(vm, EXPLORE_VEC + i, explore_guest_irq);
	if (sc->act == PAGES) {
		s->area = pages.v[0].g->area[0];
		s->area_gpa = pages.v[0].g->area_gpa[0];
		for (i = 0; i < sc->pages; i++)
			s->page[i] = pages.v[0].g->pages + i * PAGE_SIZE;
	}
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
	probe_fd = open(PROBE_PATH, O_RDWR);
	if (probe_fd < 0)
		die("%s: %s: load-kvm loads the probe", PROBE_PATH, strerror(errno));
	create();
	pin_self_to_cpu(0);
	for (i = 0; i < sc->actors; i++) {
		sem_init(&begin[i], 0, 0);
		sem_init(&over[i], 0, 0);
		if (pthread_create(&thread, NULL, actor_fn, (void *)i))
			die("no thread");
	}
	/* It sets itself up. */
	if (sc->act == PAGES)
		run_to(EXPLORE_READY);
	run_to(EXPLORE_EXIT);
	s->events = sc->pages ?: sc->actors;
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
