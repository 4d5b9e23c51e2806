// SPDX-License-Identifier: GPL-2.0
/*
 * Everything the host counts while a guest runs: /proc/interrupts, KVM binary
 * statistics, the series' counts in debugfs, kicks by tracepoint, the lab emulator's
 * counters, module parameters.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "bench.h"

struct host_info host;

const char * const irq_line_names[NR_IRQ_LINES] = {
	"PIN", "NPI", "PIW", "RES", "CAL", "LOC",
};

const char * const vcpu_stat_names[NR_VCPU_STATS] = {
	[ST_EXITS]		= "exits",
	[ST_HALT_EXITS]		= "halt_exits",
};

const char * const mode_event_names[NR_MODE_EVENTS] = {
	[EV_NOTIFY_SENT]	= "notify_sent",
	[EV_NOTIFY_ELIDED]	= "notify_elided",
	[EV_KICK_IPI_SENT]	= "kick_ipi_sent",
	[EV_APF_READY_SENT]	= "apf_ready_sent",
	[EV_APF_READY_ASKED]	= "apf_ready_asked",
};

long long counter_delta(long long before, long long after)
{
	if (before == NO_VALUE || after == NO_VALUE)
		return NO_VALUE;
	return after - before;
}

long long counter_sum(long long a, long long b)
{
	if (a == NO_VALUE || b == NO_VALUE)
		return NO_VALUE;
	return a + b;
}

/* A module parameter's first line; false if there is none */
static bool param_read(const char *module, const char *name, char *buf,
		       size_t size)
{
	char path[128];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module,
		 name);
	f = fopen(path, "r");
	if (!f)
		return false;
	ok = fgets(buf, size, f);
	fclose(f);
	return ok;
}

/* 'Y', 'N', or 0 if there is no such parameter */
static char param_bool(const char *module, const char *name)
{
	char buf[32];

	if (!param_read(module, name, buf, sizeof(buf)))
		return 0;
	return buf[0] == 'Y' || buf[0] == '1' ? 'Y' : 'N';
}

void host_info_read(void)
{
	const char *vendor;
	char buf[32];

	host.intel = host_cpu_is_intel;
	vendor = host.intel ? "kvm_intel" : "kvm_amd";
	host.apicv = param_bool(vendor, host.intel ? "enable_apicv" : "avic");
	host.ipiv = param_bool(vendor, "enable_ipiv");
	host.nrips = param_bool(vendor, "nrips");
	host.preemption_timer = param_bool(vendor, "preemption_timer");
	host.precise_notify = param_bool("kvm", "precise_notify");
	host.elide_kicks = param_bool("kvm", "elide_kicks");
	host.halt_poll_ns = NO_VALUE;
	if (param_read("kvm", "halt_poll_ns", buf, sizeof(buf)))
		host.halt_poll_ns = strtoll(buf, NULL, 0);
	host.nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	/* Without NRIPS SVM never takes the fastpath: the exit is ordinary. */
	host.fastpath_ops = POST_FP_ICR;
	if (host.intel && host.preemption_timer == 'Y')
		host.fastpath_ops |= POST_FP_TSC_DEADLINE;
}

void irq_counts_read(struct irq_counts *c)
{
	size_t size = 0;
	char *line = NULL;
	FILE *f;
	int i;

	for (i = 0; i < NR_IRQ_LINES; i++) {
		c->n[i] = NO_VALUE;
		c->first[i] = NO_VALUE;
	}

	f = fopen("/proc/interrupts", "r");
	if (!f)
		return;
	while (getline(&line, &size, f) > 0) {
		char *p = line + strspn(line, " "), *end;

		for (i = 0; i < NR_IRQ_LINES; i++)
			if (!strncmp(p, irq_line_names[i], 3) && p[3] == ':')
				break;
		if (i == NR_IRQ_LINES)
			continue;
		c->n[i] = 0;
		c->first[i] = strtoll(p + 4, NULL, 10);
		for (p += 4; ; p = end) {
			long long n = strtoll(p, &end, 10);

			if (end == p)
				break;
			c->n[i] += n;
		}
	}
	free(line);
	fclose(f);
}

void vcpu_stats_read(int stats_fd, struct vcpu_stats *st)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs;
	u64 value;
	u32 i;
	int k;

	read_stats_header(stats_fd, &header);
	descs = read_stats_descriptors(stats_fd, &header);
	for (k = 0; k < NR_VCPU_STATS; k++)
		st->n[k] = NO_VALUE;
	for (i = 0; i < header.num_desc; i++) {
		struct kvm_stats_desc *d;

		d = get_stats_descriptor(descs, i, &header);
		for (k = 0; k < NR_VCPU_STATS; k++) {
			if (strcmp(d->name, vcpu_stat_names[k]))
				continue;
			read_stat_data(stats_fd, &header, d, &value, 1);
			st->n[k] = value;
		}
	}
	free(descs);
}

void mode_counts_read(struct mode_counts *c)
{
	char path[128];
	FILE *f;
	int i;

	for (i = 0; i < NR_MODE_EVENTS; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/kvm_mode/%s",
			 mode_event_names[i]);
		c->n[i] = NO_VALUE;
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fscanf(f, "%lld", &c->n[i]) != 1)
			c->n[i] = NO_VALUE;
		fclose(f);
	}
}

struct mode_counts mode_counts_since(const struct mode_counts *before)
{
	struct mode_counts c;
	int i;

	mode_counts_read(&c);
	for (i = 0; i < NR_MODE_EVENTS; i++)
		c.n[i] = counter_delta(before->n[i], c.n[i]);
	return c;
}

/*
 * Kicks. smp_send_reschedule() fires ipi:ipi_send_cpu with the return address
 * of the function it is expanded in as call site: for kvm_vcpu_kick() that is
 * kvm_vcpu_kick()'s caller, inside a KVM module. A histogram trigger counts
 * by call site in the kernel; nothing is written to the trace buffer.
 */
#define HIST_KEYS	"hist:keys=callsite.sym"

static const char *ipi_event_dir(void)
{
	static const char * const dirs[] = {
		"/sys/kernel/tracing/events/ipi/ipi_send_cpu",
		"/sys/kernel/debug/tracing/events/ipi/ipi_send_cpu",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dirs); i++)
		if (!access(dirs[i], W_OK))
			return dirs[i];
	return NULL;
}

static bool trigger_write(const char *text)
{
	const char *dir = ipi_event_dir();
	char path[128];
	bool ok;
	FILE *f;

	if (!dir)
		return false;
	snprintf(path, sizeof(path), "%s/trigger", dir);
	f = fopen(path, "w");
	if (!f)
		return false;
	ok = fputs(text, f) >= 0;
	ok = !fclose(f) && ok;
	return ok;
}

bool kick_trace_start(void)
{
	if (!opts.trace_kicks)
		return false;
	trigger_write("!" HIST_KEYS);	/* what a killed run has left */
	return trigger_write(HIST_KEYS);
}

/* One line of the histogram: its hits, if the call site is KVM's */
static long long kick_trace_line(const char *line)
{
	const char *hits = strstr(line, "hitcount:");

	if (!hits || !strstr(line, "callsite:"))
		return 0;
	if (!strstr(line, "[kvm]") && !strstr(line, "[kvm_intel]") &&
	    !strstr(line, "[kvm_amd]"))
		return 0;
	return strtoll(hits + strlen("hitcount:"), NULL, 10);
}

/* The kicks since kick_trace_start(), or NO_VALUE if they cannot be told */
long long kick_trace_stop(void)
{
	const char *dir = ipi_event_dir();
	long long sum = NO_VALUE;
	bool complete = false;
	size_t size = 0;
	char *line = NULL;
	char path[128];
	FILE *f;

	if (!dir)
		return NO_VALUE;
	snprintf(path, sizeof(path), "%s/hist", dir);
	f = fopen(path, "r");
	/* Symbols of a built-in KVM carry no module name. */
	if (f && !access("/sys/module/kvm/initstate", R_OK)) {
		sum = 0;
		while (getline(&line, &size, f) > 0) {
			const char *p = strstr(line, "Dropped:");

			sum += kick_trace_line(line);
			if (p)
				complete = !strtoll(p + 8, NULL, 10);
		}
	}
	free(line);
	if (f)
		fclose(f);
	trigger_write("!" HIST_KEYS);
	return complete ? sum : NO_VALUE;
}

/*
 * The lab's emulator: 'R' written to its port resets its counters, 'P' makes
 * the following reads give them as JSON text that ends with a 0 byte.
 */
static int lab_port_open(void)
{
	int fd;

	if (opts.lab_port == NO_VALUE)
		return -1;
	fd = open("/dev/port", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		warn("/dev/port: %s: run as root, or leave out --lab-counters",
		     strerror(errno));
	return fd;
}

static bool lab_port_write(int fd, char c)
{
	return pwrite(fd, &c, 1, opts.lab_port) == 1;
}

void lab_counters_reset(void)
{
	int fd = lab_port_open();

	if (fd < 0)
		return;
	if (!lab_port_write(fd, 'R'))
		warn("cannot reset the emulator's counters: %s",
		     strerror(errno));
	close(fd);
}

/* The text's length, or 0 if what came is no such text */
static size_t lab_text_read(int fd, char *text)
{
	size_t i;

	if (!lab_port_write(fd, 'P'))
		return 0;
	for (i = 0; i < EMULATOR_TEXT; i++) {
		if (pread(fd, text + i, 1, opts.lab_port) != 1)
			return 0;
		if (!text[i])
			return text[0] == '{' ? i : 0;
		if (isspace((unsigned char)text[i]))
			text[i] = ' ';
		if (text[0] != '{')
			return 0;
	}
	return 0;
}

char *lab_counters_read(void)
{
	int fd = lab_port_open();
	char *text;

	if (fd < 0)
		return NULL;
	text = calloc(1, EMULATOR_TEXT);
	if (!text)
		die("no memory for the emulator's counters");
	if (!lab_text_read(fd, text)) {
		warn("I/O port 0x%llx gave no counters: is this the vmx lab?",
		     opts.lab_port);
		free(text);
		text = NULL;
	}
	close(fd);
	return text;
}
