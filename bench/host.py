# SPDX-License-Identifier: GPL-2.0
"""The benchmarks on this machine's own KVM, with the modules that are loaded: the patched
ones as patched, patched_kicks and patched_off by their parameters, others as stock. Modules
are not loaded or unloaded here: run it before and after installing, and compare the two
results.json with bench/compare.py. Called by run.py."""
import os
import subprocess
import time
from pathlib import Path

from bench import environment, latency, posts as posting
from bench.progress import Cells
from bench.variants import PARAMETERS, Switcher, VARIANTS

EXTRA = "--gap 0:40000 --exit-gap 20000"
POSTS = 20000


class Unusable(Exception):
    """No KVM that could be measured; its text says what is missing."""


class Result:
    """As lab.Result: what run.py reads of it."""

    def __init__(self, seconds, found):
        self.seconds, self.environment = seconds, found


def check():
    """Says exactly what is missing."""
    flags = Path("/proc/cpuinfo").read_text()
    if not os.path.exists("/dev/kvm"):
        if "vmx" not in flags.split() and "svm" not in flags.split():
            raise Unusable("no /dev/kvm, and this CPU shows neither vmx nor svm: enable "
                           "virtualization in the firmware, or nested virtualization in the "
                           "hypervisor; the labs need neither: make bench")
        raise Unusable("no /dev/kvm: modprobe kvm-intel or kvm-amd")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Unusable("/dev/kvm is not readable and writable for this user: run as root, or "
                       "join the group kvm")
    try:
        open("/dev/kvm", "r+b", buffering=0).close()
    except OSError as error:
        raise Unusable(f"/dev/kvm does not open: {error.strerror}") from error


def variants():
    """Those that the loaded modules can be."""
    if not Path(PARAMETERS, "precise_notify").exists():
        return ("stock",)
    if os.access(f"{PARAMETERS}/precise_notify", os.W_OK):
        return tuple(v for v, (_, parameters, _) in VARIANTS.items() if parameters)
    return ("patched",)


def parameters():
    return {name: Path(PARAMETERS, name).read_text().strip()
            for name in ("precise_notify", "elide_kicks") if Path(PARAMETERS, name).exists()}


def run_script(text, build, collector):
    """Runs shell text with the benchmark on its path; parameters are put back."""
    before = parameters()
    path = f"{Path(build, 'bin').resolve()}:{os.environ['PATH']}"
    job = subprocess.Popen(["sh", "-c", text], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True,
                           env={**os.environ, "PATH": path}, start_new_session=True)
    try:
        for line in job.stdout:
            collector(line.rstrip("\n"))
        job.wait()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, 15)
            job.wait()
        for name, value in before.items():
            if Path(PARAMETERS, name).read_text().strip() != value:
                Path(PARAMETERS, name).write_text(value)
    return job.returncode


def posts(args, workloads):
    """({workload: {variant: cell}}, Result)"""
    check()
    known, start = variants(), time.time()
    collector = Cells("host", len(workloads) * len(known))
    text = posting.script("host", workloads, dict.fromkeys(known, args.posts or POSTS), args.seed, EXTRA,
                          Switcher(loads=False))
    run_script(text, args.build, collector)
    cells = posting.arrange("host", collector, workloads, known, args.seed)
    return cells, Result(time.time() - start, environment.parse(collector.other))


def latencies(args):
    forms, known = latency.FORMS, variants()
    collector = Cells("host", latency.total(forms, known, args.plan.rounds))
    run_script(latency.script("host", forms, known, args.seed, Switcher(loads=False),
                              args.plan.rounds), args.build, collector)
    return latency.summarize(collector.cells)
