# SPDX-License-Identifier: GPL-2.0
"""What cannot be done ends with one clear line and leaves nothing half-made."""
import os
import shutil

from selftests.project import command, leftovers, need


def test_bad_base(project):
    """an unsupported kernel version, a missing source, missing headers: one line"""
    there = project.work / "bad"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    other = there / "source"
    other.mkdir()
    (other / "Makefile").write_text("VERSION = 5\nPATCHLEVEL = 4\n")
    for argv, words in (
            (("scripts/prepare-tree", "patched", project.version, other, there / "t"),
             f"5.4, not {project.version}"),
            (("scripts/prepare-tree", "patched", "5.4", other, there / "t"), "no patches"),
            (("scripts/prepare-tree", "patched", project.version, there / "none", there / "t"),
             "no kernel source"),
            (("scripts/build-modules", project.build / "tree/patched", f"{project.version}.0-none",
              there / "m"), f"no headers for {project.version}.0-none"),
            (("scripts/build-modules", *project.root, project.source, project.release, there / "m"),
             "not made by prepare-tree"),
            (("scripts/make-series", project.version, other, "docs/results.json", there / "s"),
             f"5.4, not {project.version}"),
            (("scripts/make-series", project.version, project.source, other / "Makefile", there / "s"),
             "Makefile: "),
            (("dkms/supported", "5.4.1-amd64", "--why"), "no patches for Linux 5.4.1-amd64"),
            (("dkms/supported", "6.12.999+none-amd64", "--why"), "no headers for 6.12.999+none-amd64"),
            (("dkms/install",), "usage"),
            (("make", "modules"), "which kernel?")):
        status, out = command(*argv)
        need(status != 0 and words in out, f"{argv[:2]}: status {status}: {out}")
    need(leftovers(there) == ["source"], f"left behind: {leftovers(there)}")


def test_full_disk(project):
    """a full disk: non-zero, nothing half-made left"""
    need(os.geteuid() == 0, "needs root, to mount a small tmpfs")
    disk = project.work / "small"
    disk.mkdir(exist_ok=True)
    status, out = command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk)
    need(status == 0, out)
    try:
        status, out = command("scripts/prepare-tree", "patched", project.version,
                              project.source, disk / "tree")
        need(status != 0 and "No space left" in out, f"status {status}: {out[-300:]}")
        need(not leftovers(disk), f"left behind: {leftovers(disk)}")
    finally:
        command("umount", disk)


def test_no_network(project):
    """no network: the fetching steps say so and leave nothing behind"""
    there = project.work / "offline"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    offline = dict(os.environ, http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    for argv, words in (
            (("scripts/fetch-kernel", project.base, there / "d", there / "k"),
             "is there a network?" if project.root else "cannot download"),
            (("lab/bochs/fetch.sh", there / "b", there / "b"), "is there a network?")):
        status, out = command(*argv, env=offline)
        need(status != 0 and words in out, f"{argv[0]}: status {status}: {out[-500:]}")
    kept = [n for folder in ("d", "b", ".") for n in leftovers(there / folder)
            if n not in ("d", "b")]
    need(not kept, f"left behind: {kept}")


def test_make_variables(_project):
    """what is said to make is not said to kbuild: KVM's Makefile has a KVM as well, a folder"""
    status, out = command("make", "-s", "--eval", "shown: ; @env", "shown", "KVM=patched", "LAB=svm")
    names = [line.split("=")[0] for line in out.splitlines()]
    need(status == 0 and "PATH" in names and not {"KVM", "MAKEFLAGS"} & {*names},
         f"status {status}: {out[-800:]}")
