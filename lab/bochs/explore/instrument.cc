// SPDX-License-Identifier: GPL-2.0
/* The schedule explorer; explore.h says what it does. */
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/icache.h"
#include "memory/memory-bochs.h"
#include "pc_system.h"
#include "cpu/lab_ipi.h"
#include "cpu/explore.h"
#include "cpu/decoder/ia_opcodes.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_EVENTS = 8192, MAX_WATCHES = 16, MAX_STORE = 64, BUFFER = 48 };
enum { NO_WATCH = -1, SEEN = 100 };

struct watch {
  char name[16];
  bx_phy_address at;
  unsigned len;
};

struct choice {
  Bit32u event;
  Bit8u cpu;
  bool hold;
  Bit64u rip;                   // of the event, or 0: not known
};

typedef std::vector<choice> schedule;

struct event {
  Bit8u cpu, kind;              // 'r', 'w', 'x' (both), 'E' entry, 'X' exit, 'I' interrupt
  Bit8u next;                   // the CPU that runs behind it
  bool held;                    // and stores wait
  bool last;                    // of its instruction: here the CPU can be preempted
  bool stores;                  // stores may wait here
  Bit32u blocked;               // CPUs that have halted, a mask
  Bit16s watch;
  bx_phy_address at;            // of an access, or of the watch if that begins behind it
  Bit64u rip, value, instructions;
};

enum ending { OPEN, ENDED, BLOCKED, SPINS, TOO_MANY, DIVERGED, CRASHED };

// What a child leaves
struct outcome {
  Bit32u ending, result, events;
  Bit64u instructions;
  event e[MAX_EVENTS];
};

// A store that may not be seen by others yet
struct store {
  bx_phy_address at;
  unsigned len;
  Bit8u was[MAX_STORE], is[MAX_STORE];
};

struct side {
  bool in_guest, held;
  std::deque<store> buffer;     // since it was empty for sure
};

bool explore_on, explore_due;

static watch watches[MAX_WATCHES];
static unsigned nr_watches;
static std::string command, due, text;
static const char *trouble;
static size_t text_pos;

static struct {
  Bit64u k, hold, cpus, quiet, turn, most, first;
} opt;

// Of the schedule that runs, in a child
static outcome *out;
static side sides[BX_MAX_SMP_THREADS_SUPPORTED];
static const schedule *plan;
static std::vector<event> seen;         // of the instruction that was executed, or of what came ahead of it
static bool done;

static const Bit64u MOST_INSTRUCTIONS = 3000000, MOST_IDLE = 20000000;   // what a timer has to mend is late

static void say(const char *format, ...)
{
  char line[512];
  va_list args;

  va_start(args, format);
  vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  text += line;
}

static bool is_write(const event *e)
{
  return e->kind == 'w' || e->kind == 'x';
}

static bool is_access(const event *e)
{
  return e->kind == 'r' || is_write(e);
}

/* --- what the CPUs do ------------------------------------------------------- */

static int watched(bx_phy_address phy, unsigned len)
{
  for (unsigned n = 0; n < nr_watches; n++)
    if (phy < watches[n].at + watches[n].len && watches[n].at < phy + len)
      return n;
  return NO_WATCH;
}

// The trace ends behind this instruction.
static void saw(unsigned cpu, Bit8u kind, int watch, bx_phy_address at = 0)
{
  Bit64u rip = BX_CPU(cpu)->prev_rip;
  event e = { };

  BX_CPU(cpu)->async_event |= BX_ASYNC_EVENT_STOP_TRACE;
  if (! seen.empty() && seen.back().kind == 'r' && kind == 'w' && seen.back().watch == watch &&
      seen.back().rip == rip) {
    seen.back().kind = 'x';
    return;
  }
  e.cpu = cpu;
  e.kind = kind;
  e.watch = watch;
  e.at = at;
  e.rip = rip;
  seen.push_back(e);
}

static Bit8u *host_memory(bx_phy_address phy)
{
  return BX_MEM(0)->getHostMemAddr(BX_CPU(0), phy, BX_READ);
}

static void remember_store(side *s, bx_phy_address phy, unsigned len)
{
  const Bit8u *memory = host_memory(phy);
  store st;

  // Devices see it at once, and what was before it.
  if (! memory || len > MAX_STORE) {
    s->buffer.clear();
    return;
  }
  st.at = phy;
  st.len = len;
  memcpy(st.was, memory, len);
  s->buffer.push_back(st);
  if (s->buffer.size() > BUFFER)
    s->buffer.pop_front();
}

// Ahead of an instruction's access
void explore_access(unsigned cpu, bx_phy_address phy, unsigned len, unsigned rw)
{
  int watch = watched(phy, len);

  if (opt.hold && rw != BX_READ)
    remember_store(&sides[cpu], phy, len);
  if (watch != NO_WATCH)
    saw(cpu, rw == BX_READ ? 'r' : rw == BX_WRITE ? 'w' : 'x', watch, std::max(phy, watches[watch].at));
}

// Of a page walk, the virtual APIC, a VMCS, a posted-interrupt descriptor: the CPU's own, behind
// the access
void explore_own_access(unsigned cpu, bx_phy_address phy, unsigned len, unsigned rw)
{
  int watch = watched(phy, len);

  if (rw != BX_READ)
    sides[cpu].buffer.clear();
  if (watch != NO_WATCH)
    saw(cpu, rw == BX_READ ? 'r' : rw == BX_WRITE ? 'w' : 'x', watch, std::max(phy, watches[watch].at));
}

// The ICR in x2APIC mode, and the TSC deadline: no serialising WRMSR (SDM volume 3A, "Serializing
// Instructions" and "MSR Access in x2APIC Mode")
static bool is_lazy_msr(unsigned cpu)
{
  Bit32u msr = BX_CPU(cpu)->gen_reg[BX_64BIT_REG_RCX].dword.erx;

  return msr == 0x6e0 || (msr >= 0x800 && msr < 0x900);
}

static bool empties_buffer(unsigned cpu, bxInstruction_c *i)
{
  if (i->getLock())
    return true;
  switch (i->getIaOpcode()) {
  case BX_IA_WRMSR:
    return ! is_lazy_msr(cpu);
  case BX_IA_XCHG_EbGb: case BX_IA_XCHG_EwGw: case BX_IA_XCHG_EdGd: case BX_IA_XCHG_EqGq:
    return ! i->modC0();
  case BX_IA_MFENCE:
  case BX_IA_CPUID:
  case BX_IA_IRET_Op16: case BX_IA_IRET_Op32: case BX_IA_IRET_Op64:
  case BX_IA_VMLAUNCH: case BX_IA_VMRESUME:
  case BX_IA_OUT_DXAL: case BX_IA_OUT_DXAX: case BX_IA_OUT_DXEAX:
  case BX_IA_OUT_IbAL: case BX_IA_OUT_IbAX: case BX_IA_OUT_IbEAX:
  case BX_IA_IN_ALDX: case BX_IA_IN_AXDX: case BX_IA_IN_EAXDX:
  case BX_IA_IN_ALIb: case BX_IA_IN_AXIb: case BX_IA_IN_EAXIb:
  case BX_IA_INVLPG: case BX_IA_INVEPT: case BX_IA_INVVPID: case BX_IA_INVPCID:
  case BX_IA_MOV_CR0Rq: case BX_IA_MOV_CR2Rq: case BX_IA_MOV_CR3Rq: case BX_IA_MOV_CR4Rq:
  case BX_IA_MOV_DqRq: case BX_IA_LGDT_Op64_Ms: case BX_IA_LIDT_Op64_Ms: case BX_IA_LTR_Ew: case BX_IA_LLDT_Ew:
    return true;
  default:
    return false;
  }
}

void explore_executed(unsigned cpu, bxInstruction_c *i)
{
  if (opt.hold && empties_buffer(cpu, i))
    sides[cpu].buffer.clear();
}

void explore_interrupt(unsigned cpu, unsigned vector)
{
  sides[cpu].buffer.clear();
  saw(cpu, 'I', vector);
}

/* --- a schedule, in a child --------------------------------------------------- */

// Code may be there that is decoded already.
static void put(bx_phy_address at, const Bit8u *bytes, unsigned len)
{
  memcpy(host_memory(at), bytes, len);
  pageWriteStampTable.decWriteStamp(at, len);
}

static void hold_stores(side *s)
{
  for (auto &st : s->buffer)
    memcpy(st.is, host_memory(st.at), st.len);
  // What a later one has written over the same bytes is of the later one.
  for (auto st = s->buffer.rbegin(); st != s->buffer.rend(); ++st)
    put(st->at, st->was, st->len);
  s->held = true;
}

static void release_stores(side *s)
{
  for (auto &st : s->buffer)
    put(st.at, st.is, st.len);
  s->buffer.clear();
  s->held = false;
}

// Of what was accessed, as far as it is watched
static Bit64u value_of(const event *e)
{
  const watch *w = &watches[e->watch];
  const Bit8u *memory = host_memory(e->at);
  Bit64u value = 0;

  if (memory)
    memcpy(&value, memory, std::min<bx_phy_address>(w->at + w->len - e->at, 8));
  return value;
}

static void look_for_entry(unsigned cpu)
{
  bool is = BX_CPU(cpu)->in_vmx_guest;

  if (is == sides[cpu].in_guest)
    return;
  sides[cpu].in_guest = is;
  sides[cpu].buffer.clear();
  saw(cpu, is ? 'E' : 'X', 0);
}

// The choice that is due at the event that was just recorded, or none
static const choice *choice_at(Bit32u number)
{
  for (const auto &c : *plan)
    if (c.event == number)
      return &c;
  return NULL;
}

static unsigned next_of(unsigned cpu, Bit32u blocked)
{
  for (unsigned n = 1; n <= BX_SMP_PROCESSORS; n++)
    if (! (blocked >> ((cpu + n) % BX_SMP_PROCESSORS) & 1))
      return (cpu + n) % BX_SMP_PROCESSORS;
  return (cpu + 1) % BX_SMP_PROCESSORS;
}

static void switch_to(unsigned *cpu, unsigned next, bool hold)
{
  side *s = &sides[*cpu];

  if (next == *cpu)
    return;
  if (hold)
    hold_stores(s);
  else
    s->buffer.clear();
  *cpu = next;
  if (sides[next].held)
    release_stores(&sides[next]);
}

static void finish(Bit32u ending, Bit32u result)
{
  out->ending = ending;
  out->result = result;
  done = true;
}

static void record(unsigned *cpu, Bit32u blocked)
{
  for (size_t n = 0; n < seen.size(); n++) {
    const choice *c = choice_at(out->events);
    event *e = &out->e[out->events];

    if (out->events == MAX_EVENTS)
      return finish(TOO_MANY, 0);
    if (c && ((c->rip && c->rip != seen[n].rip) || n + 1 < seen.size()))
      return finish(DIVERGED, 0);
    out->events++;
    *e = seen[n];
    e->value = is_access(e) ? value_of(e) : 0;
    e->instructions = out->instructions;
    e->blocked = blocked;
    e->last = n + 1 == seen.size();
    e->stores = ! sides[*cpu].buffer.empty();
    e->next = c ? c->cpu : *cpu;
    e->held = c && c->hold;
    if (c)
      switch_to(cpu, c->cpu, c->hold);
  }
}

static void run_schedule(unsigned first)
{
  // static: they change between setjmp and longjmp
  static unsigned cpu;
  static Bit64u quiet, turn, idle;
  static Bit32u blocked;
  static bool jumped;

  cpu = first;
  for (unsigned n = 0; n < BX_SMP_PROCESSORS; n++) {
    sides[n].in_guest = BX_CPU(n)->in_vmx_guest;
    sides[n].held = false;
    BX_CPU(n)->icount_last_sync = BX_CPU(n)->get_icount();
  }
  bx_pc_system.smp_ahead = 0;
  if (setjmp(BX_CPU_C::jmp_buf_env)) {
    BX_CPU(cpu)->icount++;
    jumped = true;
  }
  while (! done) {
    // What comes ahead of an instruction, such as an interrupt, is an event of its own.
    if (! jumped && ! (BX_CPU(cpu)->async_event && BX_CPU(cpu)->handleAsyncEvent()) && seen.empty())
      BX_CPU(cpu)->cpu_run_trace();
    jumped = false;

    Bit64u n = BX_CPU(cpu)->get_icount() - BX_CPU(cpu)->icount_last_sync;
    BX_CPU(cpu)->icount_last_sync = BX_CPU(cpu)->get_icount();
    out->instructions += n;
    quiet += n;
    turn += n;
    look_for_entry(cpu);
    if (n || ! seen.empty())
      blocked = 0;      // it may have woken others
    else
      blocked |= 1 << cpu;
    Bit64u ticks = n;
    if (blocked == (Bit32u) (1 << BX_SMP_PROCESSORS) - 1) {
      ticks = bx_pc_system.getNumCpuTicksLeftNextEvent();
      idle += ticks;
      blocked = 0;
    }
    if (ticks)
      BX_TICKN((Bit32u) ticks);
    lab_ipi_round();

    if (out->instructions > MOST_INSTRUCTIONS)
      return finish(SPINS, 0);
    if (idle > MOST_IDLE)
      return finish(BLOCKED, 0);
    if (! seen.empty()) {
      unsigned was = cpu;

      quiet = 0;
      record(&cpu, blocked);
      seen.clear();
      if (cpu != was)
        turn = 0;
    }
    else if (! n || quiet > opt.quiet || turn > opt.turn) {
      quiet = turn = 0;
      switch_to(&cpu, next_of(cpu, blocked), false);
    }
  }
}

/* --- all of them ---------------------------------------------------------------- */

static std::string name_of(const schedule &s)
{
  std::string name;
  char part[32];

  for (const auto &c : s) {
    snprintf(part, sizeof(part), "%s%u>%u%s", name.empty() ? "" : ",", c.event, c.cpu, c.hold ? "h" : "");
    name += part;
  }
  return name.empty() ? "-" : name;
}

static schedule named(const char *name)
{
  schedule s;
  unsigned event, cpu;
  int n;

  while (sscanf(name, "%u>%u%n", &event, &cpu, &n) == 2) {
    name += n;
    choice c = { event, Bit8u(cpu), *name == 'h', 0 };
    name += c.hold;
    name += *name == ',';
    s.push_back(c);
  }
  return s;
}

// Devices that go on in a child write nowhere: consoles, disks.
static void silence()
{
  int fd, null = open("/dev/null", O_RDWR);

  for (fd = 0; fd < 256; fd++)
    if (fd != null)
      dup2(null, fd);
}

static pid_t begin(unsigned cpu, const schedule &s, outcome *where)
{
  pid_t pid;

  where->ending = OPEN;
  where->events = 0;
  where->instructions = 0;
  pid = fork();
  if (pid)
    return pid;
  silence();
  out = where;
  plan = &s;
  explore_on = true;
  run_schedule(cpu);
  if (! plan->empty() && plan->back().event >= out->events && out->ending == ENDED)
    out->ending = DIVERGED;
  _exit(0);
}

static void end_of(pid_t pid, outcome *where)
{
  int status;

  if (pid < 0 || waitpid(pid, &status, 0) != pid || status || where->ending == OPEN)
    where->ending = CRASHED;
}

static const char *text_of(const outcome *o)
{
  static const char *names[] = { "open", "ended", "all CPUs sleep", "does not end", "too many events",
                                 "not the run that it was", "the emulator ended" };
  static char line[64];

  if (o->ending == ENDED && ! o->result)
    return "right";
  if (o->ending == ENDED && o->result >= SEEN)
    return "seen";
  if (o->ending == ENDED) {
    snprintf(line, sizeof(line), "wrong %u", o->result);
    return line;
  }
  return names[o->ending];
}

static bool is_right(const outcome *o)
{
  return o->ending == ENDED && (! o->result || o->result >= SEEN);
}

static void add_following(std::vector<schedule> *work, const schedule &s, const outcome *o)
{
  Bit32u from = s.empty() ? 0 : s.back().event + 1;

  for (Bit32u n = from; n < o->events; n++) {
    const event *e = &o->e[n];

    if (! (opt.cpus >> e->cpu & 1) || ! e->last)
      continue;
    for (unsigned cpu = 0; cpu < BX_SMP_PROCESSORS; cpu++) {
      if (cpu == e->cpu || ! (opt.cpus >> cpu & 1) || e->blocked >> cpu & 1)
        continue;
      schedule more = s;
      choice c = { n, Bit8u(cpu), false, e->rip };
      more.push_back(c);
      work->push_back(more);
      if (opt.hold && e->stores) {
        more.back().hold = true;
        work->push_back(more);
      }
    }
  }
}

static double seconds()
{
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static outcome *shared(unsigned nr)
{
  void *p = mmap(NULL, nr * sizeof(outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  return p == MAP_FAILED ? NULL : (outcome *) p;
}

// What follows them
static const char *options(const char *words)
{
  static const struct { const char *name; Bit64u *value; Bit64u preset; } all[] = {
    { "k", &opt.k, 2 }, { "hold", &opt.hold, 0 }, { "cpus", &opt.cpus, 3 }, { "quiet", &opt.quiet, 20000 },
    { "turn", &opt.turn, 60000 },
    { "most", &opt.most, 1000000 }, { "first", &opt.first, 0 },
  };
  char name[16];
  unsigned long long value;
  int n;

  for (const auto &o : all)
    *o.value = o.preset;
  while (sscanf(words, " %15[a-z]=%llu%n", name, &value, &n) == 2) {
    words += n;
    for (const auto &o : all)
      if (! strcmp(o.name, name))
        *o.value = value;
  }
  return words + strspn(words, " ");
}

// Two accesses of different CPUs to the same 8 bytes, one of them a write, by their instructions,
// in the order in which they happened
typedef std::pair<Bit64u, Bit64u> pair;

struct tally {
  Bit64u runs, right, wrong, stuck, instructions;
  std::map<Bit32u, Bit64u> seen;        // results from SEEN on: not wrong
  std::set<pair> pairs;
};

static void add_pairs(std::set<pair> *pairs, const outcome *o)
{
  for (Bit32u i = 0; i < o->events; i++)
    for (Bit32u j = i + 1; j < o->events; j++) {
      const event *a = &o->e[i], *b = &o->e[j];

      if (is_access(a) && is_access(b) && a->cpu != b->cpu && a->at / 8 == b->at / 8 &&
          (is_write(a) || is_write(b)))
        pairs->insert(pair(a->rip, b->rip));
    }
}

static unsigned both_orders(const std::set<pair> &pairs)
{
  unsigned n = 0;

  for (const auto &p : pairs)
    n += p.first < p.second && pairs.count(pair(p.second, p.first));
  return n;
}

static unsigned either_order(const std::set<pair> &pairs)
{
  unsigned n = 0;

  for (const auto &p : pairs)
    n += p.first <= p.second || ! pairs.count(pair(p.second, p.first));
  return n;
}

static void count(tally *t, const schedule &s, const outcome *o)
{
  t->runs++;
  t->instructions += o->instructions;
  if (o->events < 1000)
    add_pairs(&t->pairs, o);
  if (o->ending == ENDED && o->result >= SEEN)
    t->seen[o->result]++;
  if (is_right(o)) {
    t->right++;
    return;
  }
  (o->ending == ENDED ? t->wrong : t->stuck)++;
  if (t->wrong + t->stuck <= 10)
    say("schedule %s: %s, number %llu\n", name_of(s).c_str(), text_of(o), (unsigned long long) t->runs);
}

// Breadth first: the fewer preemptions the sooner.  Two at a time.
static void explore_all(unsigned cpu, outcome *o)
{
  enum { AT_ONCE = 2 };
  std::deque<schedule> work(1);
  double start = seconds();
  Bit32u base = 0;
  tally t = { };

  while (! work.empty() && t.runs < opt.most && ! (opt.first && t.wrong + t.stuck)) {
    unsigned n, nr = std::min<size_t>(AT_ONCE, work.size());
    schedule s[AT_ONCE];
    pid_t pid[AT_ONCE];

    for (n = 0; n < nr; n++) {
      s[n] = work.front();
      work.pop_front();
      pid[n] = begin(cpu, s[n], &o[n]);
    }
    for (n = 0; n < nr; n++)
      end_of(pid[n], &o[n]);
    for (n = 0; n < nr; n++) {
      std::vector<schedule> more;

      if (! t.runs)
        base = o[n].events;
      count(&t, s[n], &o[n]);
      if (s[n].size() < opt.k && o[n].ending == ENDED)
        add_following(&more, s[n], &o[n]);
      work.insert(work.end(), more.begin(), more.end());
    }
  }
  for (const auto &r : t.seen)
    say("seen %u in %llu schedules\n", r.first, (unsigned long long) r.second);
  say("explored %llu schedules, %llu left, of %u events: right %llu wrong %llu stuck %llu, "
      "%llu instructions each, pairs %u in both orders %u, %.1f s\n", (unsigned long long) t.runs, (unsigned long long) work.size(), base,
      (unsigned long long) t.right, (unsigned long long) t.wrong, (unsigned long long) t.stuck,
      (unsigned long long) (t.instructions / std::max<Bit64u>(t.runs, 1)), either_order(t.pairs), both_orders(t.pairs),
      seconds() - start);
}

static void show(const outcome *o)
{
  for (Bit32u n = 0; n < o->events; n++) {
    const event *e = &o->e[n];
    bool memory = is_access(e);
    unsigned offset = memory ? e->at - watches[e->watch].at : 0;
    char within[16] = "";

    if (offset)
      snprintf(within, sizeof(within), "+%u", offset);
    say("event %u cpu %u %c %s%s %llx rip %llx instructions %llu", n, e->cpu, e->kind,
        memory ? watches[e->watch].name : "-", within, (unsigned long long) (memory ? e->value : (Bit64u) e->watch),
        (unsigned long long) e->rip, (unsigned long long) e->instructions);
    if (e->next != e->cpu)
      say(" then cpu %u%s", e->next, e->held ? ", stores wait" : "");
    say("\n");
  }
  say("%s, %llu instructions\n", text_of(o), (unsigned long long) o->instructions);
}

void explore_now(unsigned cpu)
{
  outcome *o = shared(2);

  explore_due = false;
  text.clear();
  text_pos = 0;
  if (! o)
    trouble = "no memory";
  if (trouble) {
    say("error: %s\n", trouble);
    return;
  }
  if (! due.compare(0, 8, "explore ")) {
    options(due.c_str() + 7);
    explore_all(cpu, o);
  }
  else {
    schedule s = named(options(due.c_str() + 6));

    end_of(begin(cpu, s, o), o);
    show(o);
  }
  munmap(o, 2 * sizeof(outcome));
}

/* --- the port ---------------------------------------------------------------------- */

static void add_watch(const char *name, bx_phy_address at, unsigned len)
{
  for (unsigned n = 0; n < nr_watches; n++)
    if (watches[n].at == at)
      return;
  if (nr_watches == MAX_WATCHES) {
    trouble = "too many watches";
    return;
  }
  snprintf(watches[nr_watches].name, sizeof(watches[0].name), "%s", name);
  watches[nr_watches].at = at;
  watches[nr_watches++].len = len;
}

static void execute(const std::string &line)
{
  unsigned long long at;
  unsigned len, result;
  char name[16];

  if (sscanf(line.c_str(), "watch %15s %llx %u", name, &at, &len) == 3)
    add_watch(name, at, len);
  else if (line == "forget") {
    nr_watches = 0;
    trouble = NULL;
  }
  else if (line == "pid") {
    unsigned before = nr_watches;

    for (unsigned n = 0; n < BX_SMP_PROCESSORS; n++) {
      bx_phy_address pid = BX_CPU(n)->vmcs.pid_addr;

      if (pid) {
        add_watch("pir", pid, 32);
        add_watch("on", pid + 32, 8);
      }
    }
    if (nr_watches == before)
      trouble = "no posted-interrupt descriptor is in use";
  }
  else if (sscanf(line.c_str(), "end %u", &result) == 1) {
    if (explore_on)
      finish(ENDED, result);
  }
  else if (! explore_on) {
    due = line;
    explore_due = true;
  }
}

void explore_write(Bit8u byte)
{
  if (byte != '\n') {
    command += char(byte);
    return;
  }
  execute(command);
  command.clear();
}

Bit8u explore_read(void)
{
  return text_pos < text.size() ? text[text_pos++] : 0;
}
