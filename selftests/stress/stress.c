// SPDX-License-Identifier: GPL-2.0
/* What the stress tests share; stress.h says what it does. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "stress.h"

#define PROGRESS_US	2000000

struct stress_options stress;

static struct {
	unsigned int planned, done, failed;
	const char *name, *only;
	u64 begun, case_begun, case_end, end, said;
} run;

u64 now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ull + ts.tv_nsec / 1000;
}

void sleep_us(u64 us)
{
	struct timespec ts = {
		.tv_sec = us / 1000000,
		.tv_nsec = us % 1000000 * 1000,
	};

	nanosleep(&ts, NULL);
}

static void print_help(const char *name, const char *what, FILE *to)
{
	fprintf(to, "usage: %s [-d SECONDS] [-n COUNT] [-s SEED] [-c CASE]\n\n%s\n\n"
		"  -d, --duration SECONDS  how long it may run (default %lu)\n"
		"  -n, --count COUNT       end earlier, after so much of what it does (default %lu, 0: never)\n"
		"  -s, --seed SEED         of everything random (default %lu)\n"
		"  -c, --case TEXT         only cases whose name contains it, skip the others\n"
		"  -h, --help\n\n"
		"Prints KTAP.  exit status: 0 passed, 1 failed, 2 usage, 4 skipped\n",
		name, what, stress.seconds, stress.count, stress.seed);
}

static u64 parse_u64(const char *text)
{
	char *end;
	u64 n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || *end || end == text || *text == '-') {
		fprintf(stderr, "not a number: %s\n", text);
		exit(2);
	}
	return n;
}

static void message(bool fatal, const char *text)
{
	if (fatal)
		ksft_exit_fail_msg("%s\n", text);
	fprintf(stderr, "# warning: %s\n", text);
}

void stress_init(int argc, char **argv, const char *what,
		 const struct stress_options *defaults)
{
	static const struct option options[] = {
		{ "duration", required_argument, NULL, 'd' },
		{ "count", required_argument, NULL, 'n' },
		{ "seed", required_argument, NULL, 's' },
		{ "case", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int c;

	messages_to(message);
	stress = *defaults;
	while ((c = getopt_long(argc, argv, "d:n:s:c:h", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			stress.seconds = parse_u64(optarg);
			break;
		case 'n':
			stress.count = parse_u64(optarg);
			break;
		case 's':
			stress.seed = parse_u64(optarg);
			break;
		case 'c':
			run.only = optarg;
			break;
		case 'h':
			print_help(argv[0], what, stdout);
			exit(0);
		default:
			print_help(argv[0], what, stderr);
			exit(2);
		}
	}
	if (optind != argc) {
		print_help(argv[0], what, stderr);
		exit(2);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* The library loads the guest from this file; argv[0] may lack a path. */
	program_invocation_name = "/proc/self/exe";
	puts("KTAP version 1");
	ksft_print_msg("seed %lu, at most %lu s\n", stress.seed, stress.seconds);
	if (access("/dev/kvm", R_OK | W_OK))
		stress_skip_all("no usable /dev/kvm: load KVM, run as root");
}

void stress_plan(unsigned int n)
{
	run.planned = n;
	run.begun = now_us();
	run.end = run.begun + stress.seconds * 1000000;
	ksft_set_plan(n);
}

bool stress_case_begin(const char *name)
{
	u64 now = now_us();
	u64 left = run.end > now ? run.end - now : 0;

	run.name = name;
	if (run.only && !strstr(name, run.only)) {
		stress_skip("not asked for");
		return false;
	}
	run.case_begun = now;
	if (!run.only)
		left /= run.planned - run.done;
	run.case_end = now + left;
	run.said = now;
	fprintf(stderr, "# %s: begins, %.0f s\n", name,
		(run.case_end - now) / 1e6);
	return true;
}

bool stress_time_left(void)
{
	return now_us() < run.case_end;
}

static const char *vformat(const char *fmt, va_list args)
{
	static __thread char text[512];

	vsnprintf(text, sizeof(text), fmt, args);
	return text;
}

const char *stress_format(const char *fmt, ...)
{
	const char *text;
	va_list args;

	va_start(args, fmt);
	text = vformat(fmt, args);
	va_end(args);
	return text;
}

void stress_case_text(bool ok, const char *text)
{
	ksft_test_result(ok, "%s # %s\n", run.name, text);
	run.done++;
	run.failed += !ok;
}

void stress_skip_text(const char *text)
{
	ksft_test_result_code(KSFT_SKIP, run.name, "%s", text);
	run.done++;
}

int stress_end(void)
{
	ksft_print_msg("%.1f s\n", (now_us() - run.begun) / 1e6);
	ksft_print_cnts();
	return run.failed ? 1 : 0;
}

bool stress_progress_due(void)
{
	u64 now = now_us();

	if (now - run.said < PROGRESS_US)
		return false;
	run.said = now;
	return true;
}

void stress_progress_text(const char *text)
{
	fprintf(stderr, "# %s: %.0f of %.0f s: %s\n", run.name,
		(run.said - run.case_begun) / 1e6,
		(run.case_end - run.case_begun) / 1e6, text);
}

void stress_note_text(const char *text)
{
	ksft_print_msg("%s\n", text);
}

void stress_skip_all(const char *why)
{
	ksft_exit_skip("%s\n", why);
}

static int probe_fd(void)
{
	static int fd = -2;

	if (fd == -2)
		fd = open(PROBE_PATH, O_RDWR | O_CLOEXEC);
	return fd;
}

bool probe_present(void)
{
	return probe_fd() >= 0;
}

void probe(unsigned long op, struct kvm_vcpu *vcpu, struct kvm_mode_probe *p)
{
	p->vcpu_fd = vcpu->fd;
	p->until_out_ms = 0;
	if (ioctl(probe_fd(), op, p))
		stress_die("%s: %s; is the module of another KVM loaded?",
			   PROBE_PATH, strerror(errno));
}

u32 probe_watch(struct kvm_vcpu *vcpu, struct kvm_mode_change *changes, u32 nr, u32 quiet_ms)
{
	struct kvm_mode_watch w = {
		.vcpu_fd = vcpu->fd,
		.quiet_ms = quiet_ms,
		.nr = nr,
		.changes = (u64)changes,
	};

	if (ioctl(probe_fd(), PROBE_WATCH, &w))
		stress_die("%s: %s", PROBE_PATH, strerror(errno));
	return w.nr;
}

static int param_open(const char *name, int flags)
{
	char path[256];
	const char *slash = strchr(name, '/');

	snprintf(path, sizeof(path), "/sys/module/%.*s/parameters/%s",
		 (int)(slash - name), name, slash + 1);
	return open(path, flags | O_CLOEXEC);
}

char param_read(const char *name)
{
	int fd = param_open(name, O_RDONLY);
	char c = 0;

	if (fd < 0)
		return 0;
	if (read(fd, &c, 1) != 1)
		c = 0;
	close(fd);
	return c;
}

bool param_write(const char *name, const char *value)
{
	int fd = param_open(name, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	close(fd);
	return ok;
}

const char * const stress_switches[STRESS_NR_SWITCHES] = {
	"kvm/elide_kicks", "kvm/precise_notify",
};

static char switches_saved[STRESS_NR_SWITCHES];

bool switches_save(void)
{
	bool any = false;
	unsigned int i;

	for (i = 0; i < STRESS_NR_SWITCHES; i++) {
		switches_saved[i] = param_read(stress_switches[i]);
		any |= switches_saved[i];
	}
	return any;
}

void switches_restore(void)
{
	unsigned int i;

	for (i = 0; i < STRESS_NR_SWITCHES; i++)
		if (switches_saved[i])
			param_write(stress_switches[i], switches_saved[i] == 'Y' ? "Y" : "N");
}

long long count_read(const char *name)
{
	char path[128];
	long long n;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm_mode/%s", name);
	f = fopen(path, "r");
	if (!f)
		return -1;
	if (fscanf(f, "%lld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

bool other_vms(void)
{
	DIR *dir = opendir("/sys/kernel/debug/kvm");
	struct dirent *vm;
	bool others = false;
	int pid, fd;

	if (!dir)
		return false;
	while ((vm = readdir(dir)))
		others |= sscanf(vm->d_name, "%d-%d", &pid, &fd) == 2 && pid != getpid();
	closedir(dir);
	return others;
}

void thread_start(pthread_t *thread, int cpu, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	cpu_set_t set;
	int r;

	pthread_attr_init(&attr);
	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	r = pthread_create(thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	if (r)
		stress_die("cannot start a thread: %s", strerror(r));
}
