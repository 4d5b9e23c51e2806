# SPDX-License-Identifier: GPL-2.0
"""Where a benchmark ran: shell text that L1, or a host, runs; what it printed; what of that
makes results worthless."""

SHELL = r"""
env_() { printf 'ENV\t%s\t%s\n' "$1" "$2"; }
env_ kernel "$(uname -r)"
env_ cpu "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
env_ microcode "$(sed -n 's/^microcode[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
env_ cpus "$(grep -c ^processor /proc/cpuinfo)"
env_ hypervisor "$(grep -qw hypervisor /proc/cpuinfo && echo yes || echo no)"
env_ cmdline "$(cat /proc/cmdline)"
env_ isolated "$(cat /sys/devices/system/cpu/isolated 2>/dev/null)"
env_ smt "$(cat /sys/devices/system/cpu/smt/active 2>/dev/null)"
env_ governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
env_ clocksource "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource 2>/dev/null)"
env_ vms "$(ls -d /sys/kernel/debug/kvm/*-* 2>/dev/null | wc -l)"
env_ mitigations "$(cd /sys/devices/system/cpu/vulnerabilities 2>/dev/null &&
	grep . -- * | grep -v 'Not affected' | tr '\n' ';')"
for module in kvm kvm_intel kvm_amd; do
	[ -d /sys/module/$module ] || continue
	env_ "$module" "$(cat /sys/module/$module/srcversion 2>/dev/null)"
	[ -d /sys/module/$module/parameters ] || continue
	env_ "$module parameters" "$(cd /sys/module/$module/parameters && grep . -- * 2>/dev/null |
		sed 's/:/=/' | tr '\n' ' ')"
done
"""


def parse(lines):
    """{name: text} of the ENV lines; empty ones left out"""
    fields = (line.split("\t", 2) for line in lines if line.startswith("ENV\t"))
    return {name: value.strip() for _, name, value in fields if value.strip()}


def doubts(found, emulated):
    """[text]: what makes times worthless here; counts and ratios may still mean something."""
    if emulated:
        return ["emulated: times are no hardware's"]
    texts = []
    if found.get("hypervisor") == "yes":
        texts.append("this machine is itself a virtual one: KVM is nested")
    if not found.get("isolated"):
        texts.append("no isolated CPUs (isolcpus=, nohz_full=): other work shares the vCPUs'")
    if found.get("governor") in ("powersave", "ondemand", "conservative", "schedutil"):
        texts.append(f"CPU frequency governor {found['governor']}: set performance")
    if found.get("smt") == "1":
        texts.append("SMT is on: a sibling shares the vCPU's core")
    if found.get("vms", "0") != "0":
        texts.append(f"{found['vms']} other VMs: counts of notifications and kicks are the whole host's")
    if found.get("clocksource", "tsc") != "tsc":
        texts.append(f"clocksource {found['clocksource']}, not tsc")
    return texts
