# SPDX-License-Identifier: GPL-2.0
"""The models of models/, and that the code names them."""
import re
import subprocess

from selftests.project import command, need, ROOT


def test_litmus(project):
    """litmus tests: herd7's verdicts are the expected ones"""
    status, out = command("models/litmus/run.py", "--herd7", project.build / "herd7/herd7",
                          "--memory-model", project.source / "tools/memory-model")
    need(status == 0, out[-3000:])
    project.notes.append(out.splitlines()[-1])


def test_litmus_named(project):
    """the code names a litmus test at each barrier, and each named test exists"""
    status, out = command("models/litmus/run.py", "--list")
    need(status == 0, out)
    proofs, named = set(out.split()), {}
    for file in (*ROOT.glob("kvm/*/*"), *ROOT.glob("patches/*/*.patch")):
        # A list may go on over lines of the comment, to the first full stop.
        text = re.sub(r"\n[+ ]?\s*\*\s?", " ", file.read_text())
        for names in re.findall(r"Litmus: ([a-z0-9, -]+)", text):
            named.update((name.strip(), file.name) for name in names.split(",") if name.strip())
    need(named, "no litmus test is named in the code")
    unknown = sorted(f"{name} ({named[name]})" for name in set(named) - proofs)
    need(not unknown, f"named, but do not exist: {', '.join(unknown)}")
    need(not proofs - set(named), f"named nowhere: {', '.join(sorted(proofs - set(named)))}")


def test_spin(project):
    """Spin: the protocol holds in all configurations, every seeded fault is found"""
    done = subprocess.run(["models/spin/run.py", "--quick"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE)
    need(done.returncode == 0, done.stdout[-3000:])
    project.notes.append(f"Spin: {done.stdout.splitlines()[-1]}")
