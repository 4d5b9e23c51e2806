#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Boot L1 in an emulator with SVM or VMX, load the stock or the patched KVM there, run a
command in it and hand on its output and exit status. Called by `make lab`, by the
benchmark and check runners, and as a module: lab.run("vmx", "stock", "ls /dev/kvm").
"""

import argparse
import contextlib
import ctypes
import errno
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections import deque
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])     # the packages
from lab import base_warnings, bases, monitor
from lab.emulators import EMULATORS, find_one, LabError
from lab.mkinitramfs import small_cpio

EXIT_WARNED = 123
EXIT_WATCHDOG = 124
EXIT_LAB = 125
STATUS_HELP = f"""exit status: that of the command, or
  {EXIT_WARNED}  the command succeeded, but L1's kernel logged a WARNING that is not the base's own
       (base_warnings.py; --ignore-warnings: not)
  {EXIT_WATCHDOG}  the watchdog ended the run (--timeout, --hang)
  {EXIT_LAB}  the lab failed: file missing, emulator died, L1 panicked or could not boot
  130  interrupted"""

KERNEL_LINE = r"^\[ *\d+\.\d+\](?:\[[^\]]*\])? "
FATAL = re.compile(KERNEL_LINE + r"(?:Kernel panic|BUG: (?!KCSAN)|Oops: |.*general protection fault|"
                   r"watchdog: BUG|.*double fault)")
WARNED = re.compile(KERNEL_LINE + r"(?:WARNING: |rcu: INFO: .*stall|rcu: .*detected stalls)")
ENDED = re.compile(r"(.*?)LAB-EXIT (\d+)$")
FATAL_GRACE = 3.0               # seconds of output shown after a panic or an oops
TIMER_SECONDS = 40.0            # for l1/init's check_timers, which takes 0.05 s on an idle machine
LAST_LINES = 20
ESCAPE = b"\x1d"                # Ctrl-]


class Watchdog(LabError):
    """--timeout or --hang expired."""


class DeadTimer(LabError):
    """A CPU of L1 gets no timer interrupts, before any KVM is loaded."""


def base_of(build):
    """The base kernel that a build folder is for; make writes it down if it is not the default."""
    with contextlib.suppress(OSError):
        return (Path(build) / "base").read_text(encoding="ascii").strip()
    return bases.DEFAULT


class Options:
    """What a run needs; the command line's names and defaults."""

    def __init__(self, **given):
        self.build = Path(given.pop("build", "build")).resolve()
        self.lab = given.pop("lab")
        self.kvm = given.pop("kvm")
        self.base = given.pop("base", None) or base_of(self.build)
        self.kernel = Path(given.pop("kernel", None) or
                           self.build / "kernel" / self.base / "image").resolve()
        self.initramfs = Path(given.pop("initramfs", None) or
                              self.build / "lab" / "initramfs.cpio").resolve()
        self.overlays = [Path(path).resolve() for path in given.pop("overlay", None) or ()]
        self.cpus = given.pop("cpus", 4)
        self.mem = given.pop("mem", None)
        self.quantum = given.pop("quantum", None)
        if self.quantum is None:
            self.quantum = EMULATORS[self.lab].quanta[0]
        self.flight, self.spread = given.pop("flight", 0), given.pop("spread", 0)
        self.entry = given.pop("entry", 1)
        self.x2avic = given.pop("x2avic", False)
        self.explore = given.pop("explore", False)
        self.icount = given.pop("icount", False)
        self.trace = given.pop("trace", None)
        self.append = given.pop("append", "")
        self.timeout = given.pop("timeout", None)
        self.hang = given.pop("hang", None)
        self.log = given.pop("log", None)
        if given:
            raise TypeError(f"unknown options: {', '.join(sorted(given))}")
        for name in ("flight", "spread", "entry", "quantum"):
            if not 0 <= getattr(self, name) < 1 << 31:
                raise LabError(f"--{name} wants 0 to {(1 << 31) - 1}")
        if self.lab == "vmx" and not 1 <= self.quantum <= max(EMULATORS["vmx"].quanta):
            raise LabError(f"the vmx lab's turns have 1 to {max(EMULATORS['vmx'].quanta)} instructions")
        if self.x2avic and self.lab != "avic":
            raise LabError(f"the {self.lab} lab has no AVIC, and so no x2AVIC: that is the avic lab's")
        if self.explore and self.lab != "vmx":
            raise LabError(f"schedules are explored in the vmx lab, not in the {self.lab} lab")
        if self.takes_time() and not self.quantum:
            raise LabError(f"nothing takes time in the {self.lab} lab while its CPUs are threads: "
                           "add --quantum 32")

    def takes_time(self):
        """Do IPIs, or VM entries, from when L1 is up?"""
        return self.flight or self.spread or self.entry > 1


class Result:
    """What a run left: .status, .lines (the command's output), .warnings, .base_warnings (those
    that stock KVM of this base gives as well), .seconds."""

    def __init__(self):
        self.status, self.lines, self.warnings, self.base_warnings = None, [], [], []
        self.boot_seconds = self.seconds = None


class Console:
    """Sorts L1's serial output: everything to the log, the command's to @output."""

    def __init__(self, log, output, result):
        self.log, self.output, self.result = log, output, result
        self.partial, self.begun, self.fatal_at = b"", False, None
        self.timers_since = None
        self.last = deque(maxlen=LAST_LINES)

    def feed(self, data):
        *lines, self.partial = (self.partial + data).split(b"\n")
        for raw in lines:
            self._line(raw.replace(b"\r", b"").decode("utf-8", "replace"))

    def _line(self, line):
        self.log.write(line + "\n")
        self.last.append(line)
        if FATAL.match(line) and self.fatal_at is None:
            self.fatal_at = time.monotonic()
        if WARNED.match(line):
            self.result.warnings.append(line)
        if line.startswith("LAB-FAIL "):
            raise LabError(line[len("LAB-FAIL "):])
        ended = ENDED.match(line)
        if ended:
            if ended.group(1):
                self._emit(ended.group(1))
            self.result.status = int(ended.group(2))
        elif line == "LAB-BEGIN":
            self.begun, self.timers_since = True, None
        elif line in ("LAB-TIMERS", "LAB-TIMERS-FIRE"):
            self.timers_since = time.monotonic() if line == "LAB-TIMERS" else None
        elif self.begun and self.result.status is None:
            self._emit(line)

    def _emit(self, line):
        self.result.lines.append(line)
        if self.output:
            self.output(line)


def die_with_parent():
    """In the child: an emulator never outlives lab.py, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Run:
    """One boot of L1 in a temporary directory of its own."""

    def __init__(self, options, command, output=None):
        self.options, self.command, self.output = options, command, output
        self.work = Path(tempfile.mkdtemp(prefix="kvm-lab-"))
        self.log_path = Path(options.log) if options.log else self.work / "console.log"
        self.process, self.emulator = None, EMULATORS[options.lab](options, self.work)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if isinstance(value, LabError) and not self.options.log:
            self._keep_log()
        shutil.rmtree(self.work, ignore_errors=True)

    def _keep_log(self):
        if self.log_path.exists():
            kept = Path(tempfile.gettempdir()) / (self.work.name + ".log")
            with contextlib.suppress(OSError):
                shutil.copyfile(self.log_path, kept)
                self.log_path = kept

    def start(self, serial=None, stdio=None):
        opts = self.options
        kernel = find_one(opts.kernel / "boot", "vmlinuz-*", "the L1 kernel")
        archives = [find_one(opts.initramfs.parent, opts.initramfs.name,
                             "the L1 initramfs").read_bytes(),
                    *(path.read_bytes() for path in opts.overlays)]
        if self.command is not None:
            archives.append(small_cpio({"lab/run": (self.command.encode(), 0o755)}))
        parameters = self.emulator.kvm_parameters
        argv = self.emulator.prepare(kernel, archives, f"lab.kvm={opts.kvm} "
                                     f"lab.kvm_parameters={parameters} {opts.append}", serial)
        with open(self.work / "emulator.err", "wb") as err:
            self.process = subprocess.Popen(
                argv, stdin=stdio if serial else subprocess.DEVNULL, stderr=err,
                stdout=stdio or subprocess.DEVNULL, cwd=self.work,
                start_new_session=True, preexec_fn=die_with_parent)

    def _serial(self):
        """(read end, what the emulator gets as standard output)."""
        if self.emulator.serial_pipe:
            os.mkfifo(self.work / "serial")
            return os.open(self.work / "serial", os.O_RDWR), None
        return os.pipe()

    def execute(self):
        result, started = Result(), time.monotonic()
        reader, writer = self._serial()
        try:
            with open(self.log_path, "w", encoding="utf-8", buffering=1) as log:
                console = Console(log, self.output, result)
                self.start(stdio=writer)
                self._follow(reader, console, started)
        finally:
            os.close(reader)
            if writer is not None:
                os.close(writer)
        result.seconds = time.monotonic() - started
        result.warnings, result.base_warnings = sort_warnings(
            result.warnings, self.options.build, self.options.base)
        return result

    def _follow(self, reader, console, started):
        heard = time.monotonic()
        while True:
            ready, _, _ = select.select([reader], [], [], 0.2)
            now = time.monotonic()
            if ready:
                console.feed(os.read(reader, 65536))
                heard = now
            if console.begun and console.result.boot_seconds is None:
                console.result.boot_seconds = now - started
            if not ready and self.process.poll() is not None:
                break
            self._check(console, now, started, heard)
        if console.result.status is None:
            raise LabError(self._say("the emulator ended before the command did (status "
                                     f"{self.process.returncode})", console))

    def _check(self, console, now, started, heard):
        opts = self.options
        if console.fatal_at and now - console.fatal_at > FATAL_GRACE:
            raise LabError(self._say("L1's kernel crashed", console))
        if console.timers_since and now - console.timers_since > TIMER_SECONDS:
            raise self._hung(DeadTimer, "a CPU of L1 gets no timer interrupts", console)
        if opts.timeout and now - started > opts.timeout:
            raise self._hung(Watchdog, f"not finished after {opts.timeout} s", console)
        if opts.hang and now - heard > opts.hang:
            raise self._hung(Watchdog, f"no output for {opts.hang} s", console)

    def _hung(self, kind, what, console):
        """The error, with where each CPU stands."""
        states = monitor.samples(self.emulator.state)
        state = max(states, key=len)
        console.log.write("".join(line + "\n" for lines in states for line in lines))
        for cpu, why in monitor.deaf(states).items():
            what = f"{what}; CPU {cpu} sleeps in spite of an interrupt: {why}"
        return kind("\n".join([self._say(what, console), *("  | " + s for s in state)]))

    def _say(self, what, console):
        where = self.options.log or Path(tempfile.gettempdir()) / (self.work.name + ".log")
        lines = list(console.last)
        if console.partial:
            lines.append(console.partial.decode("utf-8", "replace"))
        for name in ("emulator.err", "emulator.log"):
            with contextlib.suppress(OSError):
                text = (self.work / name).read_text(errors="replace").splitlines()
                lines += [f"{name}: {line}" for line in text[-5:]]
        return "\n".join([f"{what}; console log: {where}; its end:"] +
                         ["  | " + line for line in lines])

    def interact(self):
        """Connects the terminal with L1's serial console until the emulator ends."""
        master, slave = pty.openpty()
        tty.setraw(slave)
        pipe = self.emulator.serial_pipe
        self.start(serial=os.ttyname(slave) if pipe else "stdio",
                   stdio=subprocess.DEVNULL if pipe else slave)
        print("lab: Ctrl-] ends the lab", file=sys.stderr)
        saved = termios.tcgetattr(0) if os.isatty(0) else None
        try:
            if saved:
                tty.setraw(0)
            self._relay(master)
        finally:
            if saved:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)

    def _relay(self, master):
        sources = [master, 0]
        while True:
            ready, _, _ = select.select(sources, [], [], 0.2)
            if master in ready:
                os.write(1, os.read(master, 65536))
            elif self.process.poll() is not None:
                return
            if 0 in ready:
                typed = os.read(0, 4096)
                if ESCAPE in typed:
                    return
                if not typed:
                    sources.remove(0)
                os.write(master, typed)


def boot_and_run(options, command, output):
    """Boots anew, once, when a timer was dead: QEMU was seen to lose one CPU's for ever
    while L1 booted (lab/README.md), and nothing that could be tested runs by then."""
    try:
        with Run(options, command, output) as job:
            return job.execute()
    except DeadTimer as error:
        print(f"lab: {error}\nlab: booting anew", file=sys.stderr, flush=True)
    with Run(options, command, output) as job:
        return job.execute()


def inputs(options):
    """The files that decide what a run gives, but for the kernel."""
    return [EMULATORS[options.lab](options, None).binary(), options.initramfs, *options.overlays]


def run(lab, kvm, command, output=None, **options):
    """Runs @command (shell text) in L1 and returns a Result; @output is called with each
    line as it comes. Raises LabError, or Watchdog when a limit given expired."""
    return boot_and_run(Options(lab=lab, kvm=kvm, **options), command, output)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=STATUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="directory `make lab-setup` filled")
    parser.add_argument("--lab", choices=sorted(EMULATORS), required=True)
    parser.add_argument("--kvm", default="stock", help="module set: stock, patched, …")
    parser.add_argument("--base", help="kernel that L1 runs; default: the one that BUILD is for")
    parser.add_argument("--kernel", help="another kernel: an unpacked linux-image package")
    parser.add_argument("--initramfs", help="L1's initramfs; default: BUILD/lab/initramfs.cpio")
    parser.add_argument("--overlay", action="append", metavar="FILE",
                        help="a further archive for L1 (mkoverlay.py); may be repeated")
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--mem", type=int, help="MiB of L1 memory")
    parser.add_argument("--quantum", type=int,
                        help="instructions a CPU runs before the next has its turn; default: "
                        "vmx 16, avic 32, svm 0, which is a thread for each CPU")
    parser.add_argument("--flight", type=int, default=0, metavar="TICKS",
                        help="vmx, avic: how long an IPI or a doorbell is on its way (default: 0)")
    parser.add_argument("--spread", type=int, default=0, metavar="TICKS",
                        help="and up to how much longer, at random but the same in each run")
    parser.add_argument("--entry", type=int, default=1, metavar="TICKS",
                        help="vmx, avic: how long VMRUN, VMLAUNCH and VMRESUME take (default: 1)")
    parser.add_argument("--x2avic", action="store_true",
                        help="avic: the CPU has x2AVIC, as Zen 4 does: guests in x2APIC mode send their "
                        "IPIs without KVM")
    parser.add_argument("--explore", action="store_true",
                        help="vmx: the emulator that explores schedules (make explore)")
    parser.add_argument("--icount", action="store_true",
                        help="svm: one thread; L1's clocks and TSC count its instructions")
    parser.add_argument("--trace", metavar="FILE",
                        help="svm, with --icount: each instruction of L1's modules, as QEMU logs it")
    parser.add_argument("--append", default="", help="more kernel command line")
    parser.add_argument("--timeout", type=float, help="seconds the whole run may take")
    parser.add_argument("--hang", type=float, help="seconds without output before it is ended")
    parser.add_argument("--log", help="file for the whole console output")
    parser.add_argument("--run", metavar="CMD", help="shell text; without it: a shell in L1")
    parser.add_argument("--ignore-warnings", action="store_true")
    return parser.parse_args(argv)


def sort_warnings(lines, build, base=None):
    """(those that are not the base's, those that are)"""
    return base_warnings.sort(lines, base or base_of(build), Path(build) / "tree/stock")


def final_status(result, args):
    for line in result.base_warnings:
        print(f"lab: L1's kernel warned, as stock KVM does: {line}", file=sys.stderr)
    for line in result.warnings:
        print(f"lab: L1's kernel warned: {line}", file=sys.stderr)
    if result.status == 0 and result.warnings and not args.ignore_warnings:
        return EXIT_WARNED
    return result.status


def run_from_command_line(args):
    given = {k: v for k, v in vars(args).items() if k not in ("run", "ignore_warnings")}
    if args.run is None:
        with Run(Options(**given), None) as job:
            job.interact()
        return 0
    result = boot_and_run(Options(**given), args.run, lambda line: print(line, flush=True))
    print(f"lab: {args.lab}, {args.kvm}: L1 up after {result.boot_seconds:.1f} s, "
          f"{result.seconds:.1f} s in all", file=sys.stderr)
    return final_status(result, args)


def main(argv=None):
    args = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run_from_command_line(args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EXIT_WATCHDOG if isinstance(error, Watchdog) else EXIT_LAB
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="ascii")
        return 141
    except OSError as error:
        reason = "disk full" if error.errno == errno.ENOSPC else error.strerror
        print(f"lab: {error.filename or tempfile.gettempdir()}: {reason}", file=sys.stderr)
        return EXIT_LAB


if __name__ == "__main__":
    sys.exit(main())
