# SPDX-License-Identifier: GPL-2.0
"""The series as mails."""
import re
import shutil

from selftests.project import command, leftovers, need, ROOT


def series(project, out, *options):
    return command("scripts/make-series", *options, project.version, project.source,
                   "docs/results.json", out)


def test_series(project):
    """the mails make the labs' tree, the same each time, and checkpatch lets them pass; --full: git am"""
    there = project.work / "series"         # the tree of series-check in it is used again
    for name in ("one", "two"):
        shutil.rmtree(there / name, ignore_errors=True)
        status, out = series(project, there / name)
        need(status == 0, out)
    made = [{m.relative_to(there / name): m.read_bytes() for m in (there / name).rglob("*.patch")}
            for name in ("one", "two")]
    need(made[0] == made[1], "two runs differ")
    mails = sorted((there / "one").glob("*.patch"))
    in_sets = [m for m in (there / "one").glob("*/*.patch") if not m.name.startswith("0000-")]
    status, listed = command("scripts/list-series", project.version)
    need(status == 0 and len(mails) == len(in_sets) == len(listed.splitlines()),
         f"{len(mails)} mails, {len(in_sets)} in sets, status {status}: {listed}")
    status, out = command("scripts/series-check", "--quick" if project.full else "--style", project.version,
                          project.source, there / "one", there / "check")
    seen = r"^00\d\d-.* ok +\d+ excepted" if project.full else r"^00\d\d-.* \d+ excepted"
    need(status == 0 and len(re.findall(seen, out, re.MULTILINE)) == len(mails) and
         (not project.full or re.search(r"^without page-ready +ok", out, re.MULTILINE)), out[-2000:])


def test_series_refused(project):
    """a series with a mail missing, one with a sin of style, and a source that lands nowhere, are refused"""
    there = project.work / "series-refused"
    shutil.rmtree(there / "three", ignore_errors=True)
    status, out = series(project, there / "three")
    need(status == 0, out)
    mails = sorted((there / "three").glob("0*.patch"))
    styled, missed = (next(m for m in mails if part in m.name) for part in ("-Track-", "VMX-Notify"))
    styled.write_text(styled.read_text().replace("\n\n", "\n\n" + "too long " * 12 + "\n", 1))
    missed.unlink()
    status, out = command("scripts/series-check", "--quick", project.version, project.source,
                          there / "three", there / "check")
    need(status == 1 and f"{styled.name}: checkpatch" in out and "git am: " in out,
         f"status {status}: {out[-800:]}")
    tree, mail = there / "check/tree", next(m for m in mails if "Rename" in m.name)
    command("git", "-C", tree, "am", "--abort")
    command("git", "-C", tree, "reset", "--quiet", "--hard")
    dirty = tree / "virt/kvm/kvm_main.c"
    text = dirty.read_text() + "/* mine */\n"
    dirty.unlink()          # the source has the same inode
    dirty.write_text(text)
    status, out = command("git", "-C", tree, "-c", "user.name=check", "-c", "user.email=check@localhost",
                          "am", mail)
    need(status != 0 and dirty.read_text() == text, f"dirty tree: status {status}: {out[-800:]}")
    # A copy of the repository in which a source lands with no patch.
    copy = there / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    status, folders = command("scripts/landing-folders")
    need(status == 0, folders)
    for name in ("scripts", "patches", "bench", *folders.split()):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "Kbuild", copy)
    landing = copy / "patches/landing"
    landing.write_text(re.sub(r"^(guests/messages.c\t.*\t).*$", r"\1none", landing.read_text(),
                              flags=re.MULTILINE))
    status, out = command(copy / "scripts/make-series", project.version, project.source,
                          ROOT / "docs/results.json", there / "four")
    need(status == 1 and "messages.c is to land with none" in out, f"landing: status {status}: {out}")
    # One whose labs run something else.
    shutil.copy(ROOT / "patches/landing", landing)
    prepare = copy / "scripts/prepare-tree"
    prepare.write_text(prepare.read_text().replace('chmod 755 "$new"\n',
                                                   'chmod 755 "$new"\necho >>"$new/virt/kvm/Makefile.kvm"\n'))
    status, out = command(copy / "scripts/make-series", project.version, project.source,
                          ROOT / "docs/results.json", there / "four")
    need(status == 1 and "not what the labs run" in out, f"other labs: status {status}: {out}")
    need(not [n for n in leftovers(there) if n.startswith("four")], f"left: {leftovers(there)}")
