# SPDX-License-Identifier: GPL-2.0
"""The benchmarks: what they measure, and what becomes of their results; and the host's live tool."""
import collections
import importlib.machinery
import importlib.util
import json
import lzma
import os
import random
import re
import shutil
import signal
import subprocess
import time
from xml.etree import ElementTree

from bench import flight, latency, paired, posts, report, run, tasks, turns
from lab import bases, lab
from selftests.checks.labs import take_interrupts
from selftests.project import command, need, ROOT, WITHOUT_KVM


def small_bench(project, name):
    """`make bench FULL=1` for the vmx lab, small: (results, what it said failed)"""
    out = project.work / name
    status, text = command("bench/run.py", "--build", project.build, "--full", "--labs", "vmx", "--posts",
                           3000, "--workloads", "exits", "--rounds", 1, "--no-scaling",
                           "--no-flight", "--variants", "stock patched patched_off", "--out", out)
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


# Of the vmx lab, whose seconds are long: what kvm-mode-live is given
LIVE_POSTS = 20000
LIVE_SLICE, LIVE_PAIRS = 0.004, 8
LIVE_SEED = 5               # its first slice is "on"


def test_live(project):
    """kvm-mode-live on a storm of posts: estimate agrees with the emulator, compare with the truth"""
    post = f"kvm-mode-bench post --json --workload exits {posts.LABS['vmx']['extra']}"
    switch = "/sys/module/kvm/parameters/precise_notify"
    script = f"""
        kvm-mode-live compare; echo STATUS $?
        kvm-mode-live estimate --json -- sh -c '{post} --posts {LIVE_POSTS} > /tmp/cell'; echo STATUS $?
        cat /tmp/cell
        load-kvm patched; echo N > {switch}
        {post} --posts 1000000 >/dev/null 2>&1 & storm=$!
        until [ "$(cat /sys/kernel/debug/kvm/exits)" -gt 1000 ]; do :; done
        kvm-mode-live estimate 0.004 --json; echo STATUS $?, STORM $storm
        kvm-mode-live compare {2 * LIVE_PAIRS * LIVE_SLICE} --slice {LIVE_SLICE} --seed 1 --json --svg /tmp/svg
        echo STATUS $? WAS $(cat {switch}); cat /tmp/svg
        kvm-mode-live compare 1 --slice {LIVE_SLICE} --seed {LIVE_SEED} --json & live=$!
        while [ $(cat {switch}) = N ]; do kill -0 $live || break; done
        kill -HUP $live; wait $live; echo STATUS $? WAS $(cat {switch})
        kill $storm"""
    done = lab.run("vmx", "stock", script, build=project.build, timeout=900, hang=400,
                   overlay=[project.build / "lab/live.cpio"], log=project.log("vmx-live"))
    text = "\n".join(done.lines)
    said = re.findall(r"^STATUS (.*)", text, re.MULTILINE)
    storm = re.findall(r"STORM (\d+)", text)
    need(said == ["1", "0", f"0, STORM {storm[0]}", "0 WAS N", "129 WAS N"], text[-3000:])
    estimate, cell, short, compare = [json.loads(line) for line in done.lines if line.startswith("{")]
    report.live(estimate, "estimate")
    report.live(compare, "compare")
    told = estimate["counts"]["notifications taken by the host"]
    truth = cell["emulator"]["vectors"]["0xf2"]["recv_host"]
    need(abs(told - truth) <= 0.05 * truth > 0, f"estimate {told}, emulator {truth}")
    need(sum(estimate["cpus"].values()) == told, str(estimate))
    need([n > 0 for name, n in short["vms"].items() if name.startswith(storm[0] + "-")] == [True], str(short))
    rows = compare["rows"]
    taken, sent = rows["notifications taken by the host"], rows["notify_sent"]
    need(taken["differs"] and taken["ratio"] <= posts.LABS["vmx"]["wasted_ratio"], str(taken))
    svg = ElementTree.fromstring(text[text.index("<svg "):text.index("</svg>") + 6])
    drawn = [e.text for e in svg.iter("{http://www.w3.org/2000/svg}text")]
    need(taken["ratio"] and any(f"{taken['ratio']:.3f} (" in t for t in drawn), f"picture: {drawn}")
    need(sent["differs"] and sent["ratio"] < 1 and rows["notify_elided"]["off"] == 0, str(rows))
    project.notes.append(f"estimate {told} in vain, the emulator {truth}; compare: taken by the host, on to off "
                         f"{taken['ratio']:.3f} ({taken['interval'][0]:.3f} to {taken['interval'][1]:.3f})")


def test_live_interval(project):
    """its intervals have the truth as often as they say, and it knows when pairs are too few"""
    loader = importlib.machinery.SourceFileLoader("live", str(ROOT / "dkms/kvm-mode-live"))
    live = importlib.util.module_from_spec(importlib.util.spec_from_loader("live", loader))
    loader.exec_module(live)
    need(live.interval([1.0] * 5) is None and live.interval([3, 1, 2, 4, 6, 5]) == (1, 6), "six pairs at least")
    chance, trials = random.Random(1), 2000
    for pairs in (6, 20, 60):
        inside = sum(low <= 1 <= high for low, high in
                     (live.interval([chance.lognormvariate(0, 1) for _ in range(pairs)]) for _ in range(trials)))
        need(inside >= live.CONFIDENCE * trials - 3 * (0.05 * 0.95 * trials) ** 0.5,
             f"{pairs} pairs: {inside} of {trials}")
    few = 0
    for _ in range(200):            # rare events: pairs without any while off count as well
        pairs = [(sum(chance.random() < 0.1 for _ in range(5)), sum(chance.random() < 0.1 for _ in range(5)))
                 for _ in range(100)]
        found = live.interval(live.ratios(pairs))
        few += not found[0] <= 1 <= found[1]
    need(few <= 20, f"rare events, no difference: {few} of 200 differ")
    head = "           CPU0       CPU2\n"
    before = live.interrupts(head + f" PIN: {2 ** 32 - 1} 7 Posted-interrupt notification event\nERR: 0\n")
    need(before[live.TAKEN] == {0: 2 ** 32 - 1, 2: 7}, str(before))
    after = live.interrupts(" CPU0 CPU3\n PIN: 4 9 Posted-interrupt notification event\n")
    shots = [{"time": time, "rows": rows, "vms": vms, "others": {}}
             for time, rows, vms in ((0, before, {"7-3": 10, "7-4": 5}), (1, after, {"7-4": 8, "8-3": 9}))]
    found = live.between(*shots)
    need(found["counts"][live.TAKEN] == 5 and found["cpus"] == {0: 5} and found["vms"] == {"7-4": 3} and
         found["came_or_went"] == {"CPUs": 2, "VMs": 2}, str(found))


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


def test_turns(_project):
    """posts in turns: their cell is as of one run; what is slower in each turn misses the bound"""
    one = json.loads((ROOT / "docs/results.json").read_text())["labs"]["vmx"]["workloads"]["hlt"]["patched"]

    def cell(factors):
        return turns.merged([{**one, "seed": seed, "send_mean": 1000 * f, "posts_per_mtick": 500 / f,
                              "latency_max": seed} for seed, f in enumerate(factors, 1)])
    whole = cell([1] * 6)
    need(whole["posted"] == 6 * one["posted"] and whole["latency_max"] == 6 and whole["seed"] == one["seed"] and
         whole["latency_p50"] == one["latency_p50"] and whole["send_mean"] == 1000 and
         whole["emulator"]["vectors"]["0xf2"]["sent"] == 6 * one["emulator"]["vectors"]["0xf2"]["sent"], str(whole))
    for factors, holds in (([1] * 6, True), ([1.002] * 6, False), ([1.01] * 4 + [1] * 2, False),
                           ([1] * 4 + [1.01] * 2, True), ([0.9] * 6, True)):
        found = posts.bounds("vmx", {"hlt": {"ipi": whole, "bare": cell(factors),
                                             "patched": cell([factor * 1.009 for factor in factors])}})
        need(all(bound.holds == (holds or "patched/bare" in bound.what) for bound in found) and len(found) == 4,
             f"{factors}: {found}")
    cells = {"hlt": {"ipi": whole, "bare": whole, "patched": cell([1.011] * 6)}}
    found = posts.bounds("vmx", cells)
    need({bound.what.split()[-3]: bound.holds for bound in found} ==
         {"bare/ipi,": True, "patched/bare,": False}, str(found))
    del cells["hlt"]["bare"]
    need(not posts.bounds("vmx", cells), "a bound that needs the series without its counts, which was not run")


def test_tasks(project):
    """told by its list, a task that waits for pages in its kernel sleeps where it can, and only there (vmx lab)"""
    script = "\n".join(f"kvm-mode-bench tasks --json --rounds 2 --told {told} || exit 1"
                       for told in ("user", "always", "list"))
    done = lab.run("vmx", "patched", script, build=project.build, hang=300, log=project.log("vmx-tasks"))
    need(done.status == 0, f"status {done.status}: " + "\n".join(done.lines[-5:]))
    user, always, told = (json.loads(line) for line in done.lines if line.startswith("{"))
    need(all(cell["pages"] == 128 and not any(cell[key] for key in tasks.BAD) for cell in (user, always, told)),
         str((user, always, told)))
    need(not user["announced"] and not user["other"], str(user))
    need(always["halted"] and always["slept"] and always["other"], str(always))
    need(not told["halted"] and told["announced"] == told["slept"] > 0 and told["other"], str(told))


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


# One line of latency.awk's is made worse: what it says of two VMs has to differ then.
WORSE_READERS = {"VMs are one": ("process = id[1]", "process = 0"),
                 "APIC IDs are decimal": ("hex(apicid)", "number(apicid)")}


def test_latency_two_vms(project):
    """perf's latency recipe finds each IPI of two VMs of 20 vCPUs, as recorded in the vmx lab"""
    text = lzma.open(ROOT / "selftests/checks/two-vms.events.xz", "rt").read()
    head, events = text.split("\n\n", 1)
    modules, recorded = project.work / "two-vms.modules", project.work / "two-vms.events"
    modules.write_text("".join(f"{line}\n" for line in head.splitlines() if line[0] != "#"))
    recorded.write_text(events)
    # A warmup and 10 or 12 samples, each to 19 vCPUs
    sent = [19 * (1 + n) for n in (10, 12)]
    seen = collections.Counter(re.findall(r"^ *(\d+)/\d+ .*kvm_apicv_accept_irq: ", events, re.MULTILINE))
    need(sorted(seen.values()) == sent, f"recorded: {seen}, sent: {sent}")
    reader = (ROOT / "bench/perf/latency.awk").read_text()
    for awk in (["busybox", "awk"], ["awk"]):
        found = latency_account(project, awk, reader, modules, recorded)
        need(found["left out"] == 0 and found["in guest"] + found["waited"] == sum(sent), f"{awk}: {found}")
        for worse, (old, new) in WORSE_READERS.items():
            need(old in reader, f"{worse}: {old}")
            other = latency_account(project, awk, reader.replace(old, new), modules, recorded)
            need(other["in guest"] + other["waited"] != sum(sent), f"not seen: {worse}: {other}")


def latency_account(project, awk, reader, *files):
    """What a form of latency.awk makes of posts"""
    program = project.work / "latency.awk"
    program.write_text(reader)
    status, out = command(*awk, "-f", program, *files)
    need(status == 0, f"{awk}: status {status}: {out[-500:]}")
    counts = {name: int(n) for name, n in re.findall(r"^(\S+) count (\d+)$", out, re.MULTILINE)}
    return {"in guest": counts.pop("posted-while-in-guest", 0), "waited": out.count("post-to-entry "),
            "left out": sum(counts.values())}
