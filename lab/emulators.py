# SPDX-License-Identifier: GPL-2.0
"""How each lab's emulator is started: command line, configuration and the files it boots
from, all in the run's own temporary directory."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

from lab import monitor
from lab.vmlinux import flat_file, flatten, KernelError

# tsc=reliable: both emulators have one TSC for all CPUs. Linux's watchdog, on a busy machine,
# calls it unstable all the same (QEMU: "skewed 3290941 ns"), and then KVM no longer keeps the
# guests' TSCs together: latencies across vCPUs came out negative.
COMMON_CMDLINE = (
    "tsc=reliable console=ttyS0,115200 mitigations=off panic=-1 loglevel=5 printk.time=1 "
    "random.trust_cpu=on nowatchdog audit=0 selinux=0 apparmor=0 cryptomgr.notests")

# Where Linux puts modules (Documentation/arch/x86/x86_64/mm.rst), as QEMU's -dfilter wants it
MODULES = "0xffffffffc0000000+0x3f000000"

# idle=halt: Bochs skips the time in which every CPU is halted.
VMX_CMDLINE = ("nokaslr no_timer_check idle=halt nohpet "
               "8250.nr_uarts=1 i8042.noaux i8042.nokbd")

START_INFO = 0x90000            # a page for boot.S and the kernel's PVH entry
START_INFO_MAGIC = 0x336ec578
MODULE, ENTRY, MAP, CMDLINE = 0x40, 0xf0, 0x100, 0x1000
CMDLINE_LIMIT = 2047
INITRD_ADDRESS = 0x10000000
DISK = {"cylinders": 2, "heads": 16, "spt": 63}
DEVICE_IPS = 4_000_000          # low: device time is waited for in instructions


# I/O port of the emulators' own counters
COUNTERS = "--lab-counters 0x8a20"


class LabError(Exception):
    """The lab itself failed; the text says what to do."""


def find_one(directory, pattern, what):
    found = sorted(directory.glob(pattern)) if directory.is_dir() else []
    if not found:
        raise LabError(f"{what} is missing ({directory}/{pattern}): run `make lab-setup`")
    return found[-1]


def qemu_folder(build):
    """With our patches (`make qemu`), else the distribution's."""
    mended = Path(build) / "qemu-mended"
    return mended if mended.is_dir() else Path(build) / "qemu"


class Machine:
    """What is true of a machine that nothing is known of, such as this one.

    @amounts: by tool, how much of it is run in this lab and with what; a tool that is not named
    does not run there.  `hang`: seconds without output that mean a hang; `extra`: further options;
    `without`: forms that say nothing there, or take minutes.  The tools tell of their own keys."""

    counters = ""               # options for kvm-mode-bench: it counts what a CPU cannot tell
    notifies = False            # interrupts are posted, or rung for
    repeats = False             # a run gives the same again to the tick, whatever runs beside it
    parallel = False            # what its CPUs do at once takes no more ticks than what one does
    quanta = (0,)               # what --quantum can usefully be, the default first
    serial_pipe = False         # writes L1's console to a named pipe, not to standard output
    amounts = {"latency": {"samples": 2000, "extra": "--warmup 200", "hang": 120, "without": ()}}

    @classmethod
    def described(cls, _build):
        return "none: this machine"


class Svm(Machine):
    """QEMU TCG with emulated SVM; several threads, real concurrency."""

    name = "qemu"
    default_mem = 2048
    quanta = (0,)                   # 0: CPUs are threads, or, with --icount, turns have no limit
    cpu = ("-cpu", "EPYC,+svm,+npt")
    avic = "without AVIC"
    kvm_parameters = ""
    amounts = {
        # An exit costs QEMU hundreds of microseconds; shorter gaps would only queue.
        "post": {"posts": 4000, "quick": 1500, "check": 1500, "expect": 120, "hang": 120,
                 "extra": "--gap 0:4000000 --exit-gap 200000"},
        # One of the CPUs, which are threads, cannot watch another without being away.
        "latency": {"samples": 100, "extra": "--warmup 20 --stall 30000", "hang": 120,
                    "without": ("window", "window-fastpath")},
        "apf": {"extra": "--delay 400000 --stall 20000", "icount": True, "most_exits": 1.01},
        "rt": {"cyclictest": "300 1000 1000000", "hackbench": "2500", "hang": 200, "rounds": 6,
               "storm": "--posts 100000 --gap 0:4000000 --exit-gap 200000", "without": ()},
        "kvm-selftests": {"seconds": 60, "quick_seconds": 60, "hang": 400, "mem": 6144, "at_once": 1},
    }

    def __init__(self, options, work):
        self.options, self.work = options, work

    @classmethod
    def described(cls, build):
        folder = qemu_folder(build)
        text = subprocess.run([folder / "qemu-system-x86_64", "--version"], capture_output=True,
                              text=True, check=False).stdout
        version = re.search(r"version (\S+)", text)
        mended = ", mended" if folder.name == "qemu-mended" else ""
        return f"QEMU {version[1] if version else '?'}{mended}, TCG, SVM {cls.avic}"

    def binary(self):
        own = qemu_folder(self.options.build) / "qemu-system-x86_64"
        found = str(own) if own.exists() else shutil.which("qemu-system-x86_64")
        if not found:
            raise LabError("qemu-system-x86_64 is missing: install qemu-system-x86 "
                           "or run `make lab-setup`")
        return found

    def prepare(self, kernel, archives, cmdline, serial):
        """Returns the argument vector. @serial: None for standard output."""
        initrd = self.work / "initrd"
        initrd.write_bytes(b"".join(archives))
        share = qemu_folder(self.options.build) / "share"
        firmware = ["-L", str(share)] if share.is_dir() else []
        return [self.binary(), *firmware, "-M", "q35", *self._accelerator(),
                self.cpu[0], self.cpu[1] + self._more_cpu(), *self.cpu[2:], "-smp", str(self.options.cpus),
                "-m", str(self.options.mem or self.default_mem),
                "-nodefaults", "-display", "none", "-no-reboot",
                "-qmp", "unix:qmp,server=on,wait=off",    # in self.work; a full path can be too long
                "-serial", "stdio" if serial is None else serial,
                "-kernel", str(kernel), "-initrd", str(initrd),
                "-append", f"{COMMON_CMDLINE} lab.emulator=qemu "
                f"{'lab.turns ' if self.options.quantum else ''}{cmdline}"]

    def _more_cpu(self):
        """KVM of a kernel with PREEMPT_RT wants a constant TSC, which is QEMU's with our patches. x2AVIC
        came with family 19h, and KVM from 7.2 on does without AVIC's own IPIs on family 17h (erratum 1235)."""
        more = ",+x2avic,family=25" if self.options.x2avic else ""
        if not self.options.base.endswith("-rt"):
            return more
        if qemu_folder(self.options.build).name != "qemu-mended":
            raise LabError("only QEMU with our patches has a constant TSC: run `make qemu`")
        return f"{more},+invtsc"

    def _accelerator(self):
        quantum = self.options.quantum
        if not (self.options.icount or quantum):
            return ["-accel", "tcg,thread=multi"]
        one = ",one-insn-per-tb=on" if self.options.trace else ""
        # sleep=off: the time in which every CPU is halted is skipped.
        found = ["-rtc", "base=2000-01-01,clock=vm", "-seed", "1",
                 "-icount", "shift=0,sleep=off", "-accel", f"tcg,thread=single{one}"]
        if quantum:
            if qemu_folder(self.options.build).name != "qemu-mended":
                raise LabError("only QEMU with our patches has --quantum: run `make qemu`")
            found += ["-device", f"cpu-turns,quantum={quantum},flight={self.options.flight},"
                      f"spread={self.options.spread},entry={self.options.entry}"]
        if self.options.trace:
            found += ["-d", "exec,nochain", "-dfilter", MODULES, "-D", self.options.trace]
        return found

    def state(self):
        """Lines on where each CPU stands."""
        return monitor.cpus(self.work, "qmp", self.options.cpus)


# KVM executes some 2,770 instructions for a post, and its target's EOI exits as well: with shorter gaps the target
# takes interrupts and nothing else.
AVIC_POSTS = f"{COUNTERS} --gap 0:10000"


class Avic(Svm):
    """The same, a CPU with AVIC (docs/avic.md), and KVM is told to use it.  One thread: on
    those of a busy machine a sender stands still between the flag and its doorbell.  vGIF, as
    CPUs with AVIC have it: AVIC knows nothing of the GIF that KVM emulates for nested guests."""

    quanta = (32, 16, 64, 128, 256)  # of 4 a round of make stress gets to no end
    cpu = ("-cpu", "EPYC,+svm,+npt,+avic,+vgif", "-device", "avic-counters")
    avic = "with AVIC"
    counters, notifies, repeats = COUNTERS, True, True
    kvm_parameters = "avic=1"
    amounts = {
        "post": {"posts": 20000, "quick": 3000, "check": 15000, "expect": 400, "hang": 300,
                 "extra": AVIC_POSTS, "wasted_ratio": 0.80, "wasted_base": "patched_off", "off_tolerance": 0.10},
        "flight": {"posts": 6000},
        "apf": {"extra": "", "icount": False, "most_exits": 1.0},
    }

    def binary(self):
        if qemu_folder(self.options.build).name != "qemu-mended":
            raise LabError("only QEMU with our patches has AVIC: run `make qemu`")
        return super().binary()


class Vmx(Machine):
    """Bochs with emulated VMX, APICv and posted interrupts; one thread.  A tick is one
    instruction of every CPU."""

    name = "bochs"
    counters, notifies, repeats, parallel, serial_pipe = COUNTERS, True, True, True, True
    default_mem = 2048
    quanta = (16, 1, 3, 7, 32)      # its traces have room for 32 instructions
    kvm_parameters = ""
    amounts = {
        "post": {"posts": 60000, "quick": 5000, "check": 30000, "expect": 420, "hang": 300,
                 "extra": COUNTERS, "wasted_ratio": 0.25, "wasted_base": "ipi", "off_tolerance": 0.10},
        "latency": {"samples": 120, "extra": "--warmup 20", "hang": 200, "without": ()},
        "scaling": {"hang": 600, "extra": COUNTERS},
        "flight": {"posts": 3000},
        "timer": {"posts": 3000, "check": 1500},
        "apf": {"extra": COUNTERS, "icount": False, "most_exits": 0.9},
        # A second of its clock is 4.2 billion instructions; its runs repeat.
        "rt": {"cyclictest": "300 50 200000", "hackbench": "500", "hang": 300, "rounds": 3,
               "storm": "--posts 300000", "without": ("cyclictest-busy",)},
        # One test of this lab lasts minutes; its emulator has one thread, and what it gives does
        # not depend on the machine's load.
        "kvm-selftests": {"seconds": 0.3, "quick_seconds": 1.5, "hang": 900, "mem": 2048, "at_once": 2},
    }

    def __init__(self, options, work):
        self.options, self.work = options, work

    def _file(self, name):
        folder = "bochs-explore" if self.options.explore else "bochs"
        return find_one(self.options.build / folder, name, "the vmx lab's emulator")

    def _start_info(self, entry, cmdline, initrd_size):
        """struct hvm_start_info, one module, room for the memory map, the command line."""
        if len(cmdline) > CMDLINE_LIMIT:
            raise LabError("the kernel command line is too long")
        page = bytearray(CMDLINE)
        struct.pack_into("<IIIIQQQQII", page, 0, START_INFO_MAGIC, 1, 0, 1,
                         START_INFO + MODULE, START_INFO + CMDLINE, 0, START_INFO + MAP, 0, 0)
        struct.pack_into("<QQQQ", page, MODULE, INITRD_ADDRESS, initrd_size, 0, 0)
        struct.pack_into("<I", page, ENTRY, entry)
        return bytes(page) + cmdline.encode() + b"\0"

    def _boot_disk(self):
        size = DISK["cylinders"] * DISK["heads"] * DISK["spt"] * 512
        boot = self._file("boot.bin").read_bytes()
        (self.work / "disk").write_bytes(boot.ljust(size, b"\0"))

    def _configuration(self, flat, flat_address, serial):
        mem = self.options.mem or self.default_mem
        geometry = ", ".join(f"{k}={v}" for k, v in DISK.items())
        com1 = f"mode=term, dev={serial}" if serial else \
               f"mode=file, dev={self.work / 'serial'}"
        return "\n".join((
            "display_library: nogui",
            f"memory: guest={mem}, host={mem}, block_size=8192",
            f"romimage: file={self._file('BIOS-bochs-latest')}, options=fastboot",
            f"vgaromimage: file={self._file('VGABIOS-lgpl-latest')}",
            f"cpu: model=arrow_lake, count={self.options.cpus}, "
            f"ips={DEVICE_IPS}, quantum={self.options.quantum}, "
            'reset_on_triple_fault=0, exclude_features="rdrand, rdseed"',
            "clock: sync=none, time0=946684800, rtc_sync=0",
            "vga: extension=none, realtime=0, update_freq=1",
            "speaker: enabled=0",
            "mouse: enabled=0",
            "ata0: enabled=1",
            "ata1: enabled=0",
            f"ata0-master: type=disk, mode=flat, path={self.work / 'disk'}, {geometry}",
            "boot: disk",
            f"optramimage1: file={flat}, address={flat_address:#x}",
            f"optramimage2: file={self.work / 'initrd'}, address={INITRD_ADDRESS:#x}",
            f"optramimage3: file={self.work / 'start-info'}, address={START_INFO:#x}",
            f"com1: enabled=1, {com1}",
            f"log: {self.work / 'emulator.log'}",
            "panic: action=fatal",
            "error: action=ignore",
            "info: action=ignore",
            "debug: action=ignore", ""))

    @classmethod
    def described(cls, _build):
        patches = len(list((Path(__file__).parent / "bochs/patches").glob("*.patch")))
        return f"Bochs 3.0 with {patches} patches, VMX with posted interrupts"

    def binary(self):
        return self._file("bochs")

    def prepare(self, kernel, archives, cmdline, serial):
        initrd = b"".join(archives)
        (self.work / "initrd").write_bytes(initrd)
        cmdline = (f"{COMMON_CMDLINE} {VMX_CMDLINE} lab.emulator=bochs "
                   f"{'lab.times ' if self.options.takes_time() else ''}{cmdline}")
        try:
            flat, address, entry = flat_file(kernel, self.options.build / "lab")
        except KernelError as error:
            raise LabError(f"{kernel}: {error}") from error
        return self._command(flat, address, entry, cmdline, len(initrd), serial)

    def prepare_program(self, elf):
        """The same of a program without an operating system (bare_metal.py), with the debug port on standard
        output."""
        (self.work / "initrd").write_bytes(b"")
        address, entry, image = flatten(Path(elf).read_bytes())
        flat = self.work / "program"
        flat.write_bytes(image)
        command = self._command(flat, address, entry, "", 0, None)
        with open(self.work / "bochsrc", "a", encoding="utf-8") as file:
            file.write("port_e9_hack: enabled=1\n")
        return command

    def _command(self, flat, address, entry, cmdline, initrd_size, serial):
        self._boot_disk()
        (self.work / "start-info").write_bytes(self._start_info(entry, cmdline, initrd_size))
        (self.work / "bochsrc").write_text(self._configuration(flat, address, serial))
        return ["env", f"LAB_FLIGHT={self.options.flight}", f"LAB_SPREAD={self.options.spread}",
                f"LAB_ENTRY={self.options.entry}", str(self.binary()), "-q", "-f", str(self.work / "bochsrc")]

    def state(self):
        """Bochs has no door to ask through while it runs."""
        return []


EMULATORS = {"svm": Svm, "avic": Avic, "vmx": Vmx}
HOST = "host"                   # this machine, where a tool runs on it as well


def of(name):
    """The lab's emulator, or what is known of a machine that is none's."""
    return EMULATORS.get(name, Machine)


def slower(name, turns):
    """How many times as long as with its own turns a lab may take with @turns, {"quantum": ...}."""
    quantum = turns.get("quantum")
    return max(1, of(name).quanta[0] / quantum) if quantum else 1


def amounts(tool):
    """{lab: its amounts of @tool}, of those that it runs in"""
    return {name: cls.amounts[tool] for name, cls in {**EMULATORS, HOST: Machine}.items()
            if tool in vars(cls).get("amounts", {})}
