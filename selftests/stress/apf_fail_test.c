// SPDX-License-Identifier: GPL-2.0
/*
 * Asynchronous page faults on pages that do not come, or not yet: a file that ends
 * ahead of them, a mapping that is taken away while they are awaited, one that may
 * only be read.  The guest is apf_fail_guest.c.  Guests that are told of such pages:
 * apf_report_test.c.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf_fail.h"
#include "stress.h"

#define LOOPS		50	/* the guest ends it then */
#define MANY		8

static struct step step;

static struct apf_fail *of(struct step *s)
{
	return s->shared;
}

static char *pages_of(struct step *s)
{
	return s->a.v[0].pages;
}

/* The guest is about to touch @n pages; false: it did not come so far. */
static bool begin_as(struct step *s, u64 n, bool write, bool told)
{
	struct apf_setup setup = { .name = "apf_fail", .guest_main = apf_fail_main };
	gva_t gva;

	step_create(s, setup);
	gva = vm_alloc(s->a.vm, sizeof(struct apf_fail), KVM_UTIL_MIN_VADDR);
	s->shared = addr_gva2hva(s->a.vm, gva);
	memset(s->shared, 0, sizeof(struct apf_fail));
	write_guest_global(s->a.vm, apf_fail, (struct apf_fail *)gva);
	vm_install_exception_handler(s->a.vm, PF_VECTOR, apf_fail_fault);
	vm_install_exception_handler(s->a.vm, APF_VEC, apf_fail_ready);
	of(s)->told = told;
	of(s)->write = write;
	of(s)->pages = n;
	of(s)->most = 2 * n + LOOPS;
	return goes_to(s, FAIL_BEGUN);
}

static bool begin(struct step *s, u64 n)
{
	return begin_as(s, n, false, true);
}

/* For cases that end with the vCPU where pages are no business of userfaultfd's */
static void end(struct step *s)
{
	if (s->running)
		pause_vcpu(s);
	step_quit(s);
	apf_vm_free(&s->a);
}

static void protect(struct step *s, int prot)
{
	if (mprotect(pages_of(s), STEP_PAGES * PAGE_SIZE, prot))
		die("mprotect: %s", strerror(errno));
}

/* A file instead of the pages; with @watched its holes are userfaultfd's. */
static int map_file(struct step *s, int flags, bool watched)
{
	u64 size = STEP_PAGES * PAGE_SIZE;
	int fd = memfd_create("pages", 0), prot = PROT_READ | PROT_WRITE;

	if (fd < 0 || ftruncate(fd, size) ||
	    mmap(pages_of(s), size, prot, flags | MAP_FIXED, fd, 0) != pages_of(s))
		die("no memory file: %s", strerror(errno));
	if (watched)
		watch_pages(s);
	return fd;
}

static void truncate_file(int fd)
{
	if (ftruncate(fd, 0))
		die("ftruncate: %s", strerror(errno));
}

static bool all_awaited(struct step *s, u64 n)
{
	while (n && awaited(s, patience_ms()))
		n--;
	return !n;
}

/* To where the guest can go no further */
static u32 to_the_end(struct step *s)
{
	u32 said;

	do {
		go(s);
		said = hear(s, patience_ms());
	} while (said == FAIL_READY);
	return said;
}

/*
 * The vCPU's way ends in EFAULT, after so many events, or fewer where the host may be done
 * with a page by the time of the entry: the guest is not told of that one.
 */
static void tell_fault(struct step *s, bool ok, u32 said, u64 least, u64 most)
{
	tell(ok && said == STEP_FAULTED && of(s)->t.announced >= least &&
	     of(s)->t.announced <= most && !of(s)->t.unknown && !of(s)->step.failed,
	     "faulted %u events %lu ready %lu failed_line %lu", said == STEP_FAULTED,
	     of(s)->t.announced, of(s)->t.ready, of(s)->step.failed);
	end(s);
}

static void truncated(bool write, bool told)
{
	struct step *s = &step;
	bool ok = begin_as(s, 1, write, told);

	truncate_file(map_file(s, MAP_SHARED, false));
	tell_fault(s, ok, to_the_end(s), 0, told);
}

static void truncated_read(void)
{
	truncated(false, true);
}

static void truncated_write(void)
{
	truncated(true, true);
}

static void truncated_untold(void)
{
	truncated(false, false);
}

static void truncated_meanwhile(void)
{
	struct step *s = &step;
	bool ok = begin(s, 1);
	int fd = map_file(s, MAP_SHARED, true);

	go(s);
	ok = ok && awaited(s, patience_ms()) && counts_to(&of(s)->t.announced, 1);
	truncate_file(fd);
	wake_waiters(s);
	ok = ok && hear(s, patience_ms()) == FAIL_READY;
	tell_fault(s, ok, to_the_end(s), 1, 1);
}

/*
 * @n pages are announced, and fail as the mapping is taken away; then it is there again.
 * The guest has been told that they are ready, and has not looked yet.
 */
static bool begin_failed(struct step *s, u64 n)
{
	bool ok = begin(s, n);

	go(s);
	ok = ok && all_awaited(s, n) && counts_to(&of(s)->t.announced, n);
	protect(s, PROT_NONE);
	wake_waiters(s);
	ok = ok && hear(s, patience_ms()) == FAIL_READY && of(s)->t.announced == n;
	protect(s, PROT_READ | PROT_WRITE);
	return ok;
}

/* Somebody waits for each of the pages, and is given it. */
static u64 give_all(struct step *s)
{
	u64 i, waits = 0;

	for (i = 0; i < MANY; i++) {
		waits += awaited(s, patience_ms());
		apf_vm_give(&s->a, 0, i);
	}
	return waits;
}

/*
 * Nothing is announced a second time: the retry waits for the page itself, also if a
 * signal ends the first wait.  When the pages are away again, that is as it always was.
 */
static void retries_wait(void)
{
	struct step *s = &step;
	bool ok = begin_failed(s, MANY);
	u64 waits, events;

	go(s);
	ok = ok && awaited(s, patience_ms()) && pause_vcpu(s);
	go(s);
	waits = give_all(s);
	ok = hear(s, patience_ms()) == FAIL_DONE && ok;
	events = of(s)->t.announced;
	if (madvise(pages_of(s), MANY * PAGE_SIZE, MADV_DONTNEED))
		die("madvise: %s", strerror(errno));
	go(s);
	ok = all_awaited(s, MANY) && ok;
	ok &= of(s)->t.announced == events + MANY;
	tell(ok && waits == MANY && events == MANY,
	     "failed_pages %u waits %lu events %lu events_later %lu", MANY, waits, events,
	     of(s)->t.announced - events);
	end(s);
}

static void fails_twice(void)
{
	struct step *s = &step;
	bool ok = begin_failed(s, 1);

	go(s);
	ok = ok && awaited(s, patience_ms());
	protect(s, PROT_NONE);
	wake_waiters(s);
	tell_fault(s, ok, hear(s, patience_ms()), 1, 1);
}

/* Does the guest, which waits for an event, get on? */
static bool works(struct step *s)
{
	u64 before = READ_ONCE(of(s)->turns), limit = now_ms() + patience_ms();

	while (READ_ONCE(of(s)->turns) == before && now_ms() < limit)
		sleep_ms(1);
	return READ_ONCE(of(s)->turns) != before;
}

/* The page comes later, and the guest may only read it.  Meanwhile it does other work. */
static void read_only(void)
{
	struct step *s = &step;
	bool ok = begin(s, 1), early, turns;

	protect(s, PROT_READ);
	go(s);
	ok = ok && awaited(s, patience_ms());
	turns = works(s);
	early = hear(s, quiet_ms(true)) != STEP_NOTHING;
	apf_vm_give(&s->a, 0, 0);
	ok = ok && !early && hear(s, patience_ms()) == FAIL_READY;
	ok = to_the_end(s) == FAIL_DONE && ok;
	tell(ok && turns && of(s)->t.announced == 1 && !of(s)->step.failed,
	     "early %u worked %u events %lu ready %lu failed_line %lu", early, turns,
	     of(s)->t.announced, of(s)->t.ready, of(s)->step.failed);
	end(s);
}

/* What the guest has only read is still the file's, and shows what is written there. */
static void private_file(void)
{
	struct step *s = &step;
	bool ok = begin(s, 1), same;
	int fd = map_file(s, MAP_PRIVATE, true);
	u64 value = 1;

	go(s);
	ok = ok && awaited(s, patience_ms()) && counts_to(&of(s)->t.announced, 1);
	ok = pwrite(fd, &value, sizeof(value), 0) == sizeof(value) && ok;
	wake_waiters(s);
	ok = ok && hear(s, patience_ms()) == FAIL_READY;
	ok = to_the_end(s) == FAIL_DONE && ok;
	value = 2;
	ok = pwrite(fd, &value, sizeof(value), 0) == sizeof(value) && ok;
	same = READ_ONCE(*(u64 *)pages_of(s)) == value;
	tell(ok && same && of(s)->t.announced == 1, "copied %u events %lu ready %lu", !same,
	     of(s)->t.announced, of(s)->t.ready);
	end(s);
}

static const char help_text[] =
"Asynchronous page faults on pages that do not come: KVM_RUN fails with EFAULT after\n"
"one event at most, instead of announcing the page for ever.";

static const struct step_case cases[] = {
	{ "truncated file, read", truncated_read },
	{ "truncated file, write", truncated_write },
	{ "truncated file, events not enabled", truncated_untold },
	{ "truncated while the guest waits", truncated_meanwhile },
	{ "mapping away and back: the retries wait", retries_wait },
	{ "mapping away twice", fails_twice },
	{ "mapping that may only be read", read_only },
	{ "private file, read", private_file },
};

int main(int argc, char **argv)
{
	return step_main(argc, argv, help_text, cases, ARRAY_SIZE(cases));
}
