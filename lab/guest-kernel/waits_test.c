// SPDX-License-Identifier: GPL-2.0
/*
 * Waits for pages of the host's in kernel mode, of tasks that are about to do something else: for
 * the guest's kernel of the labs, not for the series.  Reading debugfs' kvm_waits_test/KIB runs it
 * on that much memory, which the host is to swap out meanwhile, for as long as that is told to take
 * (kvm_waits_test/seconds), and gives a line of JSON.
 *
 * A kthread reads pages, of which some are not there, each time in another state:
 *
 *   sleep      TASK_INTERRUPTIBLE or TASK_UNINTERRUPTIBLE: it is in that state afterwards.
 *   special    TASK_PARKED, __TASK_STOPPED, __TASK_TRACED: the same.
 *   woken      TASK_INTERRUPTIBLE, and another kthread wakes it all the time: if that has
 *              succeeded it is running afterwards.
 *   frozen     TASK_FROZEN: in that state, or running if it has waited ("again").
 *   rtlock     TASK_RTLOCK_WAIT, with a state that is saved: in the same, or running if it has
 *              waited; the saved one is as it was.
 *   tasks      a section without a voluntary sleep, in which no grace period of RCU Tasks may
 *              both begin and end; another kthread waits for these all the time.
 *
 * If kvm_waits_test/nmis is Y, all CPUs get NMIs meanwhile, whose handler has page faults of its
 * own, as perf's has: one for which the guest's page tables are the reason, and one for which
 * only the host's may be.  "nmis" says how many there were, "nmi_wrong" how many did not get an
 * error for the first one and the page's contents for the other.
 *
 * Without ACPI nothing but this knows how to suspend the machine, for /sys/power/pm_test.
 *
 * Another one on the same CPU reads the same pages, right behind it, so that both wait for
 * some.  "waits" counts reads during which the task was switched from.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/suspend.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/apic.h>
#include <asm/nmi.h>

enum way { SLEEP, SPECIAL, WOKEN, FROZEN, RTLOCK, TASKS, NR_WAYS };

static const char * const names[NR_WAYS] = {
	"sleep", "special", "woken", "frozen", "rtlock", "tasks",
};

struct test {
	unsigned long **pages, nr, at;
	struct task_struct *reader;
	bool stop;
	u64 again, followed;
	u64 reads[NR_WAYS], waits[NR_WAYS], wrong[NR_WAYS];
	/* of the read that the waker may wake, and that it has woken; 0: none */
	u64 wakeable, woken;
	bool waking;
	/* of the section that the reader is in; 0: none */
	u64 section, grace_periods, too_short;
	void *hole;			/* not mapped */
	atomic64_t nmis, nmi_wrong;
};

static u32 seconds = 10;
static bool nmis;
static struct test *nmi_test;		/* of the NMIs' handler, or NULL */

static unsigned long value(unsigned long page)
{
	return (page + 1) * 0x9e3779b97f4a7c15ul;
}

/* The next page */
static void read_one(struct test *t, enum way way)
{
	unsigned long switches = current->nivcsw, page = t->at;
	bool right;

	t->at = (t->at + 61) % t->nr;
	right = READ_ONCE(*t->pages[page]) == value(page);
	t->reads[way]++;
	t->wrong[way] += !right;
	t->waits[way] += current->nivcsw != switches;
}

/* No state that a wakeup which is not ours can end: nobody else knows the task. */
static void in_state(struct test *t, enum way way, unsigned int state, bool special)
{
	unsigned int now;

	if (special)
		set_special_state(state);
	else
		set_current_state(state);
	read_one(t, way);
	now = get_current_state();
	__set_current_state(TASK_RUNNING);
	t->wrong[way] += now != state && !(way == FROZEN && now == TASK_RUNNING);
	t->again += way == FROZEN && now == TASK_RUNNING;
}

static void while_woken(struct test *t)
{
	static u64 nr;
	u64 woken;

	smp_store_release(&t->wakeable, ++nr);
	set_current_state(TASK_INTERRUPTIBLE);
	read_one(t, WOKEN);
	woken = smp_load_acquire(&t->woken);
	t->wrong[WOKEN] += woken == nr && get_current_state() != TASK_RUNNING;
	__set_current_state(TASK_RUNNING);
	/* Whom it does not know by now it does not wake. */
	smp_store_mb(t->wakeable, 0);
	while (smp_load_acquire(&t->waking))
		cpu_relax();
}

static void in_rtlock(struct test *t)
{
	unsigned int now, saved;

	set_current_state(TASK_INTERRUPTIBLE);
	local_irq_disable();
	current_save_and_set_rtlock_wait_state();
	local_irq_enable();
	read_one(t, RTLOCK);
	/* Running now, if it has waited; what is saved is in use as before. */
	read_one(t, RTLOCK);
	now = get_current_state();
	local_irq_disable();
	saved = current->saved_state;
	current_restore_rtlock_saved_state();
	local_irq_enable();
	__set_current_state(TASK_RUNNING);
	t->wrong[RTLOCK] += saved != TASK_INTERRUPTIBLE || (now != TASK_RUNNING && now != TASK_RTLOCK_WAIT);
}

static void in_section(struct test *t)
{
	unsigned long end = jiffies + HZ * 3 / 2;	/* longer than a grace period without it */
	static u64 nr;

	smp_store_mb(t->section, ++nr);
	do {
		read_one(t, TASKS);
		udelay(200);
	} while (time_before(jiffies, end));
	smp_store_mb(t->section, 0);
	schedule_timeout_uninterruptible(1);
}

static int waker(void *data)
{
	struct test *t = data;

	while (!READ_ONCE(t->stop)) {
		u64 nr;

		smp_store_mb(t->waking, true);
		nr = READ_ONCE(t->wakeable);
		if (nr && wake_up_state(t->reader, TASK_INTERRUPTIBLE))
			smp_store_release(&t->woken, nr);
		smp_store_release(&t->waking, false);
		usleep_range(50, 100);
	}
	return 0;
}

static int grace_periods(void *data)
{
	struct test *t = data;

	while (!READ_ONCE(t->stop)) {
		u64 before = smp_load_acquire(&t->section);

		synchronize_rcu_tasks();
		t->grace_periods++;
		t->too_short += before && READ_ONCE(t->section) == before;
	}
	return 0;
}

static int on_nmi(unsigned int type, struct pt_regs *regs)
{
	struct test *t = READ_ONCE(nmi_test);
	unsigned long page, word;

	if (!t)
		return nmis ? NMI_HANDLED : NMI_DONE;
	page = atomic64_inc_return(&t->nmis) % t->nr;
	if (!copy_from_kernel_nofault(&word, t->hole, sizeof(word)) ||
	    copy_from_kernel_nofault(&word, t->pages[page], sizeof(word)) || word != value(page))
		atomic64_inc(&t->nmi_wrong);
	return NMI_HANDLED;
}

static int send_nmis(void *data)
{
	struct test *t = data;

	WRITE_ONCE(nmi_test, t);
	while (!READ_ONCE(t->stop)) {
		cpus_read_lock();
		__apic_send_IPI_mask(cpu_online_mask, NMI_VECTOR);
		cpus_read_unlock();
		usleep_range(300, 900);
	}
	WRITE_ONCE(nmi_test, NULL);
	synchronize_rcu();		/* handlers are readers */
	return 0;
}

static int reader(void *data)
{
	static const unsigned int special[] = { TASK_PARKED, __TASK_STOPPED, __TASK_TRACED };
	struct test *t = data;
	unsigned long n;

	for (n = 0; !READ_ONCE(t->stop); n++) {
		in_state(t, SLEEP, n % 2 ? TASK_INTERRUPTIBLE : TASK_UNINTERRUPTIBLE, false);
		in_state(t, SPECIAL, special[n % ARRAY_SIZE(special)], true);
		in_state(t, FROZEN, TASK_FROZEN, true);
		while_woken(t);
		in_rtlock(t);
		if (n % 64 == 0)
			in_section(t);
		/* So that pages are not used too often to be swapped out. */
		schedule_timeout_uninterruptible(1);
	}
	return 0;
}

/* The pages that the reader is at */
static int follower(void *data)
{
	struct test *t = data;

	while (!READ_ONCE(t->stop)) {
		unsigned long page = READ_ONCE(t->at);

		if (READ_ONCE(*t->pages[page]) != value(page))
			t->wrong[SLEEP]++;
		t->followed++;
		if (page == READ_ONCE(t->at))
			schedule_timeout_uninterruptible(1);
	}
	return 0;
}

static struct task_struct *begin(int (*function)(void *), struct test *t, const char *name)
{
	struct task_struct *task = kthread_create(function, t, "waits-%s", name);

	if (!IS_ERR(task))
		get_task_struct(task);
	return task;
}

static void run(struct test *t)
{
	struct task_struct *others[4];
	int i, nr = nmis ? 4 : 3;

	t->reader = begin(reader, t, "reader");
	others[0] = begin(follower, t, "follower");
	others[1] = begin(waker, t, "waker");
	others[2] = begin(grace_periods, t, "tasks");
	others[3] = nmis ? begin(send_nmis, t, "nmis") : NULL;
	if (IS_ERR(t->reader) || IS_ERR(others[0]) || IS_ERR(others[1]) ||
	    IS_ERR(others[2]) || IS_ERR(others[3]))
		return;
	kthread_bind(t->reader, 0);
	kthread_bind(others[0], 0);
	wake_up_process(t->reader);
	for (i = 0; i < nr; i++)
		wake_up_process(others[i]);
	ssleep(seconds);
	WRITE_ONCE(t->stop, true);
	for (i = 0; i < nr; i++)
		kthread_stop_put(others[i]);
	kthread_stop_put(t->reader);
}

static int waits_test_show(struct seq_file *m, void *unused)
{
	struct test *t = kzalloc(sizeof(*t), GFP_KERNEL);
	void *mapped = vmalloc(PAGE_SIZE);
	unsigned long i;
	int way;

	if (!t || !mapped) {
		vfree(mapped);
		kfree(t);
		return -ENOMEM;
	}
	t->hole = mapped + PAGE_SIZE;	/* vmalloc's guard page */
	t->nr = (unsigned long)m->private / 4;
	t->pages = kvcalloc(t->nr, sizeof(*t->pages), GFP_KERNEL);
	for (i = 0; t->pages && i < t->nr; i++) {
		t->pages[i] = (void *)get_zeroed_page(GFP_KERNEL);
		if (!t->pages[i])
			break;
		*t->pages[i] = value(i);
	}
	if (t->pages && i == t->nr)
		run(t);
	seq_puts(m, "{");
	for (way = 0; way < NR_WAYS; way++)
		seq_printf(m, "\"%s\":{\"reads\":%llu,\"waits\":%llu,\"wrong\":%llu},", names[way],
			   t->reads[way], t->waits[way], t->wrong[way]);
	seq_printf(m, "\"again\":%llu,\"followed\":%llu,\"grace_periods\":%llu,\"too_short\":%llu,",
		   t->again, t->followed, t->grace_periods, t->too_short);
	seq_printf(m, "\"nmis\":%llu,\"nmi_wrong\":%llu}\n", (u64)atomic64_read(&t->nmis),
		   (u64)atomic64_read(&t->nmi_wrong));
	while (t->pages && i--)
		free_page((unsigned long)t->pages[i]);
	kvfree(t->pages);
	vfree(mapped);
	kfree(t);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(waits_test);

/* pm_test=core turns back ahead of it. */
static int no_suspend(suspend_state_t state)
{
	return -EOPNOTSUPP;
}

static const struct platform_suspend_ops suspend_ops = {
	.valid = suspend_valid_only_mem,
	.enter = no_suspend,
};

static int __init waits_test_init(void)
{
	struct dentry *dir = debugfs_create_dir("kvm_waits_test", NULL);

	debugfs_create_u32("seconds", 0600, dir, &seconds);
	debugfs_create_bool("nmis", 0600, dir, &nmis);
	suspend_set_ops(&suspend_ops);
	register_nmi_handler(NMI_LOCAL, on_nmi, 0, "kvm_waits_test");
	debugfs_create_file("49152", 0400, dir, (void *)49152ul, &waits_test_fops);
	return 0;
}
late_initcall(waits_test_init);
