# SPDX-License-Identifier: GPL-2.0
"""The benchmarks: what they measure, and what becomes of their results."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

from bench import flight, latency, paired, report, run
from lab import bases
from selftests.checks.labs import take_interrupts
from selftests.project import command, need, ROOT, WITHOUT_KVM


def small_bench(project, name):
    """`make bench FULL=1` for the vmx lab, small: (results, what it said failed)"""
    out = project.work / name
    status, text = command("bench/run.py", "--build", project.build, "--full", "--labs", "vmx", "--posts",
                           3000, "--workloads", "exits", "--rounds", 1, "--no-scaling",
                           "--no-flight", "--variants", "stock patched patched_kicks patched_off", "--out", out)
    # With so few posts a bound of the comparison may be missed.
    need(status in (0, 1), f"status {status}: {text[-2000:]}")
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    return json.loads((out / "results.json").read_text()), failed


def test_measuring(project):
    """vmx lab: senders see the guest for less long; exits cost the same"""
    results, failed = small_bench(project, "bench-1")
    need(not [x for x in failed if "lost" in x or "late" in x], "\n".join(failed))
    forms = results["labs"]["vmx"]["latency"]
    seen = {v: e["window"] for v, e in forms["window"].items()}
    after = {v: w["after_exit_p50"] for v, w in seen.items()}
    need(min(w["watched"] for w in seen.values()) > 0, f"nothing watched: {seen}")
    need(after["patched"] * 4 < after["stock"], f"seen in the guest after an exit: {after}")
    # The same modules, told to go by the run-loop mode: the measurement must notice.
    need(after["patched_off"] > 0.8 * after["stock"], f"precise_notify off: {after}")
    fast = {v: e["window"] for v, e in forms["window-fastpath"].items()}
    need(fast["stock"]["unseen"] == fast["stock"]["watched"] > 0, f"stock, fastpath: {fast}")
    need(fast["patched"]["unseen"] == 0 < fast["patched"]["watched"], f"fastpath: {fast}")
    beside = results["labs"]["vmx"]["scheduling"]
    exits = {form: [run["exits"] for run in beside[form]["patched"]["runs"]] for form in beside}
    need(all(min(n) > 0 or form.endswith("-idle") for form, n in exits.items()),
         f"no guest ran beside rt-tests: {exits}")
    for form in ("exit", "exit-fastpath"):
        cost = latency.ratio(forms[form]["patched"], forms[form]["stock"])[0]
        need(cost < 1.01, f"{form}: patched/stock {cost}")
    # Stock forces none where preemption is lazy: no IPI for its worker (docs/apf.md).
    paged = {v: e["forced_exits"] for v, e in results["labs"]["vmx"]["apf"].items()}
    need(paged["patched"] == 0 < paged["unbound"], f"forced exits: {paged}")
    need(bases.traits(project.base)["lazy_preemption"] or paged["stock"] > 0, f"forced exits: {paged}")
    need(results["labs"]["vmx"]["memory_mib"] > 100, "the emulator's memory is not its own")
    project.notes.append(f"seen in the guest after an exit, ticks: {after}")


def test_flight(project):
    """avic lab: what is wasted when doorbells and VMRUN take time, the floor told from the rest"""
    runs = flight.run_lab("avic", project.build, log=project.log("avic-flight"), times=((256, 1), (0, 256)))
    wrong = flight.broken("avic", runs)
    need(not wrong, "\n".join(wrong))
    for one, floor, other in zip(runs, ("recv_host_sent_in_guest", "recv_entry"),
                                 ("recv_entry", "recv_host_sent_in_guest")):
        for variant, cell in one["cells"].items():
            seen = cell["emulator"]["doorbell"]
            need(seen[floor] > 0 == seen[other], f"{flight.said(one)}, {variant}: {seen}")
    page = report.flight_part("avic", runs)
    need("<svg" in page and "VMRUN" in page, page[:500])
    project.notes.append(flight.sentence("avic", runs))


def interrupted_bench(project, out, posts, cells=None):
    """What a small benchmark says, and its status; Ctrl-C when so many cells are done."""
    out.mkdir(exist_ok=True)
    with open(out / "said", "w+", encoding="utf-8") as file:
        job = subprocess.Popen([ROOT / "bench/run.py", "--build", project.build, "--base", project.base,
                                "--full", "--labs", "svm", "--workloads", "compute exits", "--variants",
                                "stock patched", "--rounds", "0", "--no-scaling", "--posts", str(posts),
                                "--out", out], stdout=subprocess.DEVNULL, stderr=file,
                               preexec_fn=take_interrupts)
        while cells is not None and job.poll() is None and len(list(out.glob("kept/*/*.json"))) < cells:
            time.sleep(0.1)
        if cells is not None:
            job.send_signal(signal.SIGINT)
        status = job.wait()
        file.seek(0)
        return file.read(), status


def test_interrupted(project):
    """a benchmark that was interrupted goes on where it stopped, unless it is another one"""
    out = project.work / "interrupted"
    shutil.rmtree(out, ignore_errors=True)
    said, status = interrupted_bench(project, out, 300, 1)
    need(status == 130 and not (out / "results.json").exists(), f"status {status}: {said[-500:]}")
    said, status = interrupted_bench(project, out, 301, 2)
    need(status == 130 and "kept" not in said, f"other posts: status {status}: {said[-500:]}")
    said, status = interrupted_bench(project, out, 300)
    need(status == 0 and "then 3 runs; 1 are kept" in said, f"status {status}: {said[-500:]}")
    need(sorted(p.name for p in out.glob("*.*")) == ["report.html", "results.json", "svm.log"] and
         not (out / "kept").exists(), f"{sorted(out.iterdir())}")


def test_compare(project):
    """results are compared, a loss is named, a broken file refused; the page is whole"""
    good = ROOT / "docs/results.json"
    status, out = command("bench/compare.py", good, good)
    need(status == 0 and "1.000 (1.000 to 1.000)" in out, f"status {status}: {out[-500:]}")
    results = json.loads(good.read_text())
    page = report.html(results)
    shown = page.count("<svg")
    need(shown == page.count("</svg>") > 10, f"{shown} pictures")
    need("http://" not in page.replace("http://www.w3.org", ""), "the page loads something")
    need("not alike" not in out, f"the same file: {out[:500]}")
    need(not run.broken_in("host", {"workloads": results["labs"]["vmx"]["workloads"]}), "a host's run ends")
    results["labs"]["vmx"]["workloads"]["exits"]["patched"]["late"] = 3
    results["labs"]["vmx"]["environment"]["cpu"] = "another"
    results["seed"] = 2
    worse = project.work / "worse.json"
    worse.write_text(json.dumps(results))
    status, out = command("bench/compare.py", good, worse)
    need(status == 1 and "late 3" in out, f"status {status}: {out[-500:]}")
    need("not alike: seed 1 and 2" in out and re.search("not alike: vmx: cpu .* and another", out), out[:800])
    del results["labs"]["vmx"]["workloads"]["exits"]["patched"]["exits"]
    worse.write_text(json.dumps(results))
    status, out = command("bench/compare.py", good, worse)
    need(status == 2 and "'exits' is a required property" in out, f"status {status}: {out}")


def test_paired(_project):
    """ratios of paired rounds: intervals hold what they promise, on data whose truth is known"""
    rnd, trials = random.Random(1), 20000

    def rounds(factor):
        """A figure of two variants: what a seed does to both, and noise of each"""
        both = [rnd.lognormvariate(7, 0.5) for _ in range(paired.ROUNDS)]
        return [[x * f * rnd.lognormvariate(0, 0.02) for x in both] for f in (factor, 1)]
    for factor in (1, 1.1):
        found = [paired.compared(*rounds(factor)) for _ in range(trials)]
        held = sum(one.least <= factor <= one.greatest for one in found) / trials
        need(abs(held - paired.level(paired.ROUNDS)) < 0.005, f"factor {factor}: {held:.3f} hold it")
        differ = sum(one.differs for one in found)
        if factor == 1:
            chance = float(paired.family(found)[0].split("at most ")[1].split()[0])
            need(abs(differ - chance) < 0.15 * chance, f"{differ} differ, {chance} said")
        else:
            need(differ > 0.95 * trials, f"a tenth more: {differ} of {trials} differ")
    # Control: figures that are not paired hide the same tenth behind what the seed does.
    apart = [paired.compared(rounds(1.1)[0], rounds(1.1)[1]) for _ in range(trials)]
    need(sum(one.differs for one in apart) < 0.2 * trials, "unpaired figures say as much")
    alike = paired.compared([101] * 6, [100] * 6)
    need(alike.differs and alike.fixed and "at most 0.0 would" in paired.family([alike])[0], str(alike))
    need(not set(paired.seeds(1)) & set(paired.seeds(2)), "two seeds share rounds")


def test_readme(_project):
    """README's figures are those of docs/results.json"""
    status, out = command("bench/readme.py", "--check")
    need(status == 0, out)


def test_no_kvm(project):
    """the benchmark on a host without KVM: what is missing, and a status of its own"""
    need(os.geteuid() == 0, "needs root, to hide /dev")
    for form in ((), ("--ktap",)):
        status, out = command(*WITHOUT_KVM, "bench/run.py", "--build", project.build,
                              "--labs", "host", *form)
        need(status == 4 and "no /dev/kvm" in out, f"status {status}: {out}")
        need("Traceback" not in out, out)
        need(("1..0 # SKIP" in out) == bool(form), out)


# As `perf script -F pid,tid,cpu,time,event,trace` prints them; made by hand.
PERF_EVENTS = """\
  100/101   [000]   10.000000100:  kvm:kvm_entry: vcpu 0, rip 0x1
  100/112   [1001]  10.000000110:  kvm:kvm_entry: vcpu 11, rip 0x1
  200/201   [002]   10.000000120:  kvm:kvm_entry: vcpu 0, rip 0x1
  100/101   [000]   10.000000200:  kvm:kvm_exit: reason EXTERNAL_INTERRUPT rip 0x1
  100/112   [1001]  10.000000200:  kvm:kvm_exit: vcpu 11 reason CPUID rip 0x1
  100/150   [003]   10.000000300:  kvm:kvm_apicv_accept_irq: apicid b vec 49 (Fixed|edge)
  200/250   [003]   10.000000310:  kvm:kvm_apicv_accept_irq: apicid 0 vec 49 (Fixed|edge)
  7/7       [003]   10.000000320:  kvm:kvm_apicv_accept_irq: apicid 0 vec 49 (Fixed|edge)
  100/150   [1003]  10.000000330:  ipi:ipi_send_cpu: cpu=1001 callsite=0xc0001000 callback=0x0
  100/101   [000]   10.000000400:  kvm:kvm_entry: vcpu 0, rip 0x1
  100/112   [1001]  10.000000500:  kvm:kvm_entry: vcpu 11, rip 0x1
  100/150   [1003]  10.000000600:  ipi:ipi_send_cpu: cpu=1001 callsite=0xc0001000 callback=0x0
  100/112   [1001]  10.000000690:  kvm:kvm_exit: vcpu 11 reason EXTERNAL_INTERRUPT rip 0x1
what else perf may say
"""


def test_latency_reader(project):
    """perf's latency recipe tells VMs apart and reads APIC IDs, CPUs and what it cannot read"""
    modules, events = project.work / "perf.modules", project.work / "perf.events"
    modules.write_text("kvm 1000000 1 - Live 0xffffffffc0000000\n")
    events.write_text(PERF_EVENTS)
    for awk in (["busybox", "awk"], ["awk"]):
        status, out = command(*awk, "-f", "bench/perf/latency.awk", modules, events)
        # Vector 49 to vCPU 11 of one VM, out of the guest; to vCPU 0 of the other one, in it.
        need((status, sorted(out.splitlines())) == (0, [
            "kick-to-exit 90", "left-out-as-the-VM-is-not-known count 1", "lines-not-read count 1",
            "post-to-entry 200", "posted-while-in-guest count 1"]), f"{awk}: status {status}: {out}")
