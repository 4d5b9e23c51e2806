# SPDX-License-Identifier: GPL-2.0
"""KTAP, and what a CI farm makes of it."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench import ktap, latency, posts as posting
from lab import bases
from selftests.project import command, need, ROOT, WITHOUT_KVM


def kunit(project, text):
    """The kernel's own KTAP parser: (number of results, what else it counted, its output)"""
    parser = project.source / "tools/testing/kunit/kunit.py"
    done = subprocess.run([sys.executable, "-B", parser, "parse"], input=text, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    ran = re.search(r"Ran (\d+) tests: (.*)", done.stdout)
    need(ran, f"kunit.py found no results: {done.stdout[-1000:]}")
    counts = {key: int(n) for key, n in re.findall(r"(\w+): (\d+)", ran[2])}
    return int(ran[1]), counts, done.stdout


def handed_over(project, text, *argv):
    """What ktap-to-lava.sh calls lava-test-case with: [(case, result, measurement, units)]"""
    with tempfile.TemporaryDirectory(dir=project.work) as folder:
        for tool, text_of_it in (("lava-test-case", 'echo "$@" >> "$LAVA_CALLS"'),
                                 ("modprobe", "exit 1")):
            Path(folder, tool).write_text(f"#!/bin/sh\n{text_of_it}\n")
            Path(folder, tool).chmod(0o755)
        calls = Path(folder, "calls")
        calls.write_text("")
        done = subprocess.run(argv or [ROOT / "bench/ci/ktap-to-lava.sh", "x"], input=text,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={
                                  **os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
                                  "LAVA_CALLS": str(calls)})
        lines = calls.read_text().splitlines()
    need(done.returncode == 0, f"status {done.returncode}: {done.stdout[-1000:]}")
    found = []
    for line in lines:
        call = re.fullmatch(r"([\w.-]+) --result (pass|fail|skip)"
                            r"(?: --measurement ([\d.]+) --units (\S+))?", line)
        need(call, f"LAVA would not take: {line}")
        found.append(call.groups())
    return found


def ktap_passes_on(project, name, text):
    """The parsers agree on each result, and no figure is lost on the way to LAVA."""
    lines = re.findall(r"^(not ok|ok) \d+ (.*)$", text, re.M)
    number, counts, said = kunit(project, text)
    need(number == len(lines) > 0 and not {"errors", "crashed"} & set(counts), f"{name}: {said}")
    calls = handed_over(project, text)
    wanted = ["skip" if " # SKIP" in rest else {"ok": "pass", "not ok": "fail"}[word]
              for word, rest in lines]
    results = [c[1] for c in calls if c[2] is None]
    need(results == wanted, f"{name}: {results}, not {wanted}")
    figures = re.findall(r"^# [\w.-]+ ([\d.]+) \S+$", text, re.M)
    figures += [n for word, rest in lines if " # SKIP" not in rest
                for n in re.findall(r"\b[a-z_]+ (\d+)(?![\w.%)])", rest.partition(" # ")[2])]
    passed_on = Counter(c[2] for c in calls if c[2])
    need(passed_on == Counter(figures), f"{name}: {passed_on - Counter(figures)} too many, "
         f"{Counter(figures) - passed_on} missing")


def test_ktap(project):
    """KTAP of the runners is the kernel's, LAVA gets all of it, broken KTAP is refused"""
    status, out = command("bench/compare.py", "--ktap", "docs/results.json", "docs/results.json")
    need(status == 0, out)
    ktap_passes_on(project, "compare.py", out[out.index(ktap.HEAD):])
    results = json.loads((ROOT / "docs/results.json").read_text())
    cases = [case for name, entry in results["labs"].items()
             for case in posting.cases(name, entry["workloads"]) +
             latency.cases(name, entry.get("latency", {}))]
    cases += [ktap.Case(False, "a fault", "lost 3"), ktap.Case(None, "no KVM", "none here")]
    ktap_passes_on(project, "run.py", ktap.text(cases))
    # The fault, and the bounds that the results miss
    wrong = sum(case.ok is False for case in cases)
    need(kunit(project, ktap.text(cases))[1]["failed"] == wrong > 0, f"kunit.py saw other than {wrong} failures")
    # Can it fail?
    whole = f"{ktap.HEAD}\n1..2\nok 1 a # n 1\nok 2 b\n"
    ktap_passes_on(project, "whole", whole)
    nameless = () if bases.traits(project.base)["nameless_results"] else (
        whole.replace("ok 2 b", "ok 2 # SKIP b"),)
    for broken in (whole.replace("ok 2 b\n", ""), whole.replace("ok 2", "ok 3"), *nameless):
        need({"errors", "crashed"} & set(kunit(project, broken)[1]), f"kunit.py took {broken}")
    twice = handed_over(project, f"{ktap.HEAD}\n1..3\nnot ok 1 a b # n 1\nok 2 a_b # n 2\nok 3 a*b # SKIP c\n")
    need(twice == [("x.a_b", "fail", None, None), ("x.a_b.n", "fail", "1", "count"),
                   ("x.a_b-2", "pass", None, None), ("x.a_b-2.n", "pass", "2", "count"),
                   ("x.a_b-3", "skip", None, None)], f"results of one name: {twice}")
    for broken in (whole.replace("ok 2 b\n", ""), whole.replace("ok 2", "ok 3"),
                   whole.replace(ktap.HEAD, "")):
        need(("x", "fail", None, None) in handed_over(project, broken), f"taken: {broken}")


def test_ci_kit(project):
    """the LAVA definition is valid and runs from the kit; a broken one is refused"""
    check, schemas = "bench/ci/check-definition.py", project.build / "lava"
    status, script = command(check, schemas, "bench/ci/kvm-mode.yaml", "--script")
    need(status == 0, script)
    good = (ROOT / "bench/ci/kvm-mode.yaml").read_text()
    broken = project.work / "broken.yaml"
    for old, new in (("Definition 1.0", "Definition 9"), ("  name: kvm-mode\n", ""),
                     ("- uname -a", "- uname: -a"), ("  steps:", "  stairs:"),
                     ("metadata:", "metadata: [")):
        broken.write_text(good.replace(old, new))
        status, out = command(check, schemas, broken)
        need(status == 1 and "Traceback" not in out, f"taken with {new!r}: {out}")
    kit = project.work / "kit"
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir()
    status, out = command("tar", "-xf", project.build / "kvm-mode-ci.tar.gz", "-C", kit)
    need(status == 0, out)
    need(os.geteuid() == 0, "needs root, to hide /dev")
    calls = handed_over(project, "", *WITHOUT_KVM, "sh", "-c", f'cd "$0" || exit 1\n{script}', kit)
    need(len(calls) > 20 and {c[1] for c in calls} == {"skip"}, f"without KVM: {calls}")
    tools = {c[0] for c in calls}
    need(tools >= {"post", "ipi", "kick", "exit", "timer", "lost_kick_test", "vm_fail_test",
                   "apf_test", "apf_vmm_test", "apf_many_test"},
         f"only: {tools}")
