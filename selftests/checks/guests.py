# SPDX-License-Identifier: GPL-2.0
"""Linux as a guest, with the series' set `guest` and without: pages that the host takes away, and
pages that it loses."""
import json
import re

from lab import lab
from selftests.project import need

# A guest in which something went wrong that it can tell is at its end.
STRICT = "oops=panic panic_on_warn=1 hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=60"
# (guest's kernel, QEMU's -cpu): the channels.  Without its name QEMU offers a guest no feature of KVM's
# that it does not know.
OURS, UNKNOWN, DEBIAN = ("vmlinuz-guest", "host,migratable=off"), ("vmlinuz-guest", "host"), ("vmlinuz", "host,migratable=off")


def script(guest, mib, rounds, more, room=0):
    """Shell text: a whole VM of that kernel, whose memory is swapped out all the time."""
    kernel, cpu = guest
    room = room or (48 if guest == DEBIAN else 40)      # MiB, for what the VM has besides
    return (f"KERNEL={kernel} CPU={cpu} GUEST='{STRICT} {more}' pressure.sh /guest {mib + room} {mib} {rounds} 2 400\n"
            "echo STATUS $?\n")


def run(project, name, variant, text, log, more=()):
    """L1's lines."""
    done = lab.run(name, variant, text, build=project.build, timeout=900, hang=400, log=project.log(log),
                   overlay=[project.build / "lab" / part for part in ("guest.cpio", "guest-kernel.cpio", *more)])
    need(not done.warnings, f"{variant}: {done.warnings}")
    return done.lines


def line_of(lines, name):
    """The JSON that follows that word"""
    found = [text for text in lines if text.startswith(f"{name} {{")]
    need(len(found) == 1, f"{len(found)} lines of {name}:\n" + "\n".join(lines[-30:]))
    return json.loads(found[0].split(" ", 1)[1])


def counts(lines):
    return {name: int(n) for name, n in re.findall(r"^(kvm_async_pf_\w+) (\d+)$", "\n".join(lines), re.MULTILINE)}


def pressed(lines, visited, again=False, least=500):
    """(pages announced, waits in user mode, in kernel mode) of one VM; what it computed is right."""
    need("STATUS 0" in lines, "\n".join(lines[-30:]))
    need(any(re.match("kernel .*, 2 CPUs", text) for text in lines), "the guest has not got two CPUs")
    found = line_of(lines, "memory")
    need(visited in (None, found["visited"]) and not found["wrong"], str(found))
    events = counts(lines)
    announced, ready = events["kvm_async_pf_not_present"], events["kvm_async_pf_ready"]
    need(announced > least, f"too little pressure to say anything: {events}")
    # One that is announced again is ready once.
    need(again or announced <= ready, f"announced and not ready: {events}")
    waits = line_of(lines, "waits") if any(text.startswith("waits {") for text in lines) else {}
    return announced, waits.get("user"), waits.get("kernel")


# What the kernel's own test runs beside, and how long that is to take
WAITS = script(OURS, 64, 3, "guest.kernel=1 guest.waits=1 guest.seconds=20")


def at_its_end(lines):
    return "at its end: " + " ".join(text for text in lines if re.search("panic|BUG|WARN|INFO|boot:", text))[:300]


def wrong_waits(lines, visited=64 * 256 * 3, share=0.9):
    """[what is wrong] with the waits of WAITS; see lab/guest-kernel/waits_test.c."""
    if "STATUS 0" not in lines:
        return [at_its_end(lines)]
    told, user, in_kernel = pressed(lines, visited, again=True)
    found = line_of(lines, "waits-test")
    ways = {name: way for name, way in found.items() if isinstance(way, dict)}
    return ([f"{name}: wrong {way['wrong']}" for name, way in ways.items() if way["wrong"]] +
            [f"{name}: {way['waits']} waits say nothing" for name, way in ways.items() if way["waits"] < 5] +
            ([f"too_short {found['too_short']}"] if found["too_short"] else []) +
            ([] if found["again"] else ["again 0"]) + ([] if found["grace_periods"] >= 5 else [f"{found}"]) +
            ([] if user + in_kernel >= share * told else [f"share: {user} and {in_kernel} of {told} pages slept for"]))


def test_guest_waits(project):
    """waits in kernel mode keep what a task was about to do, and are no quiescent state of RCU Tasks (svm lab)"""
    lines = run(project, "svm", "patched", WAITS, "svm-guest-waits")
    found = wrong_waits(lines)
    need(not found, f"{found}\n" + "\n".join(lines[-20:]))
    project.notes.append(f"waits_test: {line_of(lines, 'waits-test')}")


# All of a VM's memory is paged out so often, in milliseconds.
PAGE_OUT = 1500
STORM = f"PAGE_OUT={PAGE_OUT} " + script(OURS, 32, 2, "guest.kernel=1 guest.waits=1 guest.nmis=1 guest.seconds=20")


def wrong_storm(lines):
    """[what is wrong] with the waits and the NMIs of STORM"""
    # Pages of its boot are announced as well, when nobody counts waits yet.
    found = wrong_waits(lines, 32 * 256 * 2, share=0.7)
    if "STATUS 0" in lines:
        seen = line_of(lines, "waits-test")
        found += [f"nmi_wrong {seen['nmi_wrong']}"] if seen["nmi_wrong"] else []
        found += [f"nmis {seen['nmis']} say nothing"] if seen["nmis"] < 1000 else []
        found += ["page-out: too seldom"] if line_of(lines, "page-out")["rounds"] < 5 else []
    return found


# The same of a guest that is told by the word in memory, in user mode
OLD_STORM = f"PAGE_OUT={PAGE_OUT} " + script(UNKNOWN, 32, 4, "guest.waits=1 guest.nmis=1 guest.seconds=20")


def wrong_old_storm(lines):
    """[what is wrong] with OLD_STORM"""
    if "STATUS 0" not in lines:
        return [at_its_end(lines)]
    pressed(lines, 32 * 256 * 4)
    seen = line_of(lines, "waits-test")
    return [] if seen["nmis"] >= 1000 and not seen["nmi_wrong"] else [str(seen)]


def test_guest_storm(project):
    """all memory of a guest paged out again and again, its scheduler's text too, beside NMIs that fault (svm lab)"""
    lines = run(project, "svm", "patched", STORM, "svm-guest-storm")
    found = wrong_storm(lines)
    need(not found, f"{found}\n" + "\n".join(lines[-20:]))
    told, user, in_kernel = pressed(lines, 32 * 256 * 2, again=True)
    project.notes.append(f"svm: {told:,} pages, waits {user} in user and {in_kernel} in kernel mode, "
                         f"{line_of(lines, 'page-out')}, {line_of(lines, 'waits-test')['nmis']} NMIs")


def test_linux_guest(project):
    """a Linux guest told of pages by their error code sleeps in kernel mode too; old guests and old hosts go on (svm lab)"""
    mib, rounds = 48, 3
    for variant in ("patched", "stock"):
        guests = [(OURS, 1), (OURS, 0), (UNKNOWN, 1), (DEBIAN, 1)] if variant == "patched" else [(OURS, 1)]
        lines = run(project, "svm", variant,
                    "".join(script(guest, mib, rounds, f"guest.kernel={kernel}", room=0 if guest == DEBIAN else 34)
                            for guest, kernel in guests), f"svm-linux-guest-{variant}")
        ends = [n for n, text in enumerate(lines) if text.startswith("STATUS ")]
        need(len(ends) == len(guests), f"{variant}: {len(ends)} of {len(guests)} VMs:\n" + "\n".join(lines[-20:]))
        for begin, end, (guest, kernel) in zip([-1, *ends], ends, guests):
            told, user, in_kernel = pressed(lines[begin + 1:end + 1], mib * 256 * rounds,
                                            again=guest == OURS and variant == "patched")
            name = f"{variant}, {guest[0]}, {guest[1]}, accesses in {'kernel' if kernel else 'user'} mode"
            project.notes.append(f"{name}: {told:,} pages, waits {user} in user and {in_kernel} in kernel mode")
            if guest == DEBIAN:
                continue
            if guest == OURS and variant == "patched":
                # In user mode the kernel's own pages are a greater part, and those it cannot sleep for.
                need(user + in_kernel >= (0.9 if kernel else 0.8) * told,
                     f"{name}: {user + in_kernel} of {told} pages slept for")
                need(in_kernel > user if kernel else user > in_kernel, f"{name}: {user} and {in_kernel}")
            else:
                need(not in_kernel, f"{name}: {in_kernel} waits in kernel mode")


def test_guest_disturbed(project):
    """waits in kernel mode beside hotplug of CPUs, suspends, ftrace's trampolines, stopped and traced tasks (svm lab)"""
    lines = run(project, "svm", "patched", script(OURS, 48, 1, "guest.kernel=1 guest.disturb=1 guest.seconds=20"),
                "svm-guest-disturbed")
    told, user, in_kernel = pressed(lines, 48 * 256, again=True)
    done, stopped = line_of(lines, "disturbed"), line_of(lines, "stopped")
    need(min(done.values()) >= 4 and stopped["stops"] >= 4 and not stopped["wrong"], f"{done} {stopped}")
    need(in_kernel > 500, f"{in_kernel} waits in kernel mode say nothing")
    project.notes.append(f"svm: {told:,} pages, waits {user} in user and {in_kernel} in kernel mode, beside {done}, {stopped}")


# The same VM with a web server, while interrupts are posted to another VM; and one that moves to another QEMU,
# with as much memory as it wants
SERVER = "guest.server=1 guest.seconds=20"
SERVED = ("(until [ -e /tmp/end ]; do /stress/lost_interrupt_test -d 4 >>/tmp/posts || echo POSTS failed; done) & posts=$!\n" +
          script(OURS, 48, 1, SERVER) + ": >/tmp/end\nwait $posts\necho POSTS $(grep -c '^# Totals' /tmp/posts)\n")
MOVED = "export BOOT=migrate.sh\n" + script((OURS[0], "host"), 48, 1, SERVER, room=700)


def served(project, name, text, share, least):
    """L1's lines; the server's answers are right."""
    lines = run(project, "svm", "patched", text, f"svm-guest-{name}", more=["server.cpio"])
    told, user, in_kernel = pressed(lines, None, again=True, least=least)
    found = line_of(lines, "memory")
    need(found["requests"] >= 100 and line_of(lines, "served") == {"workers_left": 0, "errors": 0}, "\n".join(lines[-15:]))
    need(user + in_kernel >= share * told and in_kernel > user, f"{user} and {in_kernel} of {told} pages slept for")
    project.notes.append(f"{name}: {told:,} pages, waits {user} in user and {in_kernel} in kernel mode; {found}")
    return lines


def test_guest_served(project):
    """nginx in a Linux guest whose files are swapped out, beside interrupts that are posted: answers are right (svm lab)"""
    lines = served(project, "served", SERVED, 0.8, least=500)
    posts = [int(n) for n in re.findall(r"^POSTS (\d+)$", "\n".join(lines), re.MULTILINE)]
    need("POSTS failed" not in lines and posts and posts[0], "\n".join(lines[-12:]))


def test_guest_moved(project):
    """the same server, in a guest that moves to another QEMU by post-copy and goes on as it was told (svm lab)"""
    # Of 64 KiB in a row the first page is asked for, and the others come behind it.
    lines = served(project, "moved", MOVED, 0.6, least=30)
    asked = re.findall(r"^moved, (\d+) pages asked for$", "\n".join(lines), re.MULTILINE)
    need(asked and int(asked[0]) >= 100 and any(text.startswith("pages swapped in 0,") for text in lines),
         "\n".join(lines[-12:]))


BOOT_LOST = f"KERNEL=vmlinuz-guest GUEST='{STRICT}' lost-page.sh /guest 2 300\necho STATUS $?\n"
LOST = "echo Y >/sys/module/kvm/parameters/async_pf_fail\n" + BOOT_LOST


def wrong_lost(lines, name):
    """[what is wrong] with what that lab's VM says of LOST"""
    if "STATUS 0" not in lines:
        return ["at its end: " + " ".join(lines[-7:])[:300]]
    found = line_of(lines, "lost-page")
    wanted = {"sigbus": "right" if name == "vmx" else "unknown", "bystander_wrong": 0, "left_wrong": 0,
              **dict.fromkeys(("read", "write", "from", "to"), "EFAULT")}
    return [f"{key}: {found[key]}, not {value}" for key, value in wanted.items() if found[key] != value] + \
        [f"{key}: 0" for key in ("bystander_right", "left") if not found[key]]


def test_lost_page(project, name):
    """a page that the host has lost: SIGBUS and EFAULT in a Linux guest that goes on; svm: the VM's end without"""
    lines = run(project, name, "patched", BOOT_LOST * (name == "svm") + LOST, f"{name}-lost-page")
    first = [n for n, text in enumerate(lines) if text.startswith("STATUS ")][0] + 1 if name == "svm" else 0
    need(not first or lines[first - 1] == "STATUS 1" and "lost-page ready" in lines[:first] and
         not any(text.startswith("lost-page {") for text in lines[:first]), "\n".join(lines[:first]))
    found = wrong_lost(lines[first:], name)
    need(not found, f"{found}\n" + "\n".join(lines[-20:]))
