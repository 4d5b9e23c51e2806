# SPDX-License-Identifier: GPL-2.0
"""Small scenarios under every schedule of one preemption; docs/explore.md."""
from selftests import explore, mutants
from selftests.project import need

# A missing barrier, which shows only where a store waits; and an event of a page that is forgotten
CONTROLS = ("flag-after-barrier", "apf-ack-sends-nothing")
# Where stores wait; and, where they do not, one of those that locks order, whose schedules are many
HELD = [name for name in explore.SCENARIOS if "page" not in name]
FREE = ["page-entry"]


def test_explore(project):
    """every schedule of one preemption: no interrupt, request or page-ready event lost, late or doubled (vmx lab)"""
    image = mutants.dynamic_image(project, project.notes.append, "vmx", CONTROLS)
    control = {mutant: explore.MUTANTS[mutant][0] for mutant in CONTROLS}
    script = [f"echo SET {kvm}; load-kvm {kvm} || exit 3; " +
              "; ".join(explore.command(name, "explore " + explore.options(name, 1, name in HELD, kvm != "patched"))
                        for name in names)
              for kvm, names in (("patched", HELD + FREE), *((mutant, [name]) for mutant, name in control.items()))]
    lines = explore.run(project.build, "\n".join([*script, "exit 0"]), log=project.log("explore"), initramfs=image,
                        overlay=[explore.overlay(project.build)], timeout=1500)
    parts = [lines.index(f"SET {kvm}") for kvm in ("patched", *CONTROLS)] + [len(lines)]
    product, *others = [explore.read(lines[start:end]) for start, end in zip(parts, parts[1:])]
    need(list(product) == HELD + FREE, f"explored {list(product)}")
    for name, (one, *_) in product.items():
        need(one.explored and not one.left, f"{name}: {one}")
        first = one.schedules[0] if one.schedules else ("-", "not right")
        need(one.right == one.explored,
             f"{name}: {first[1]}: {explore.replay_command(name, first[0], project.base)}")
    numbers = []
    for (mutant, name), found in zip(control.items(), others):
        need(found[name][0].wrong, f"{mutant} was not found: {found[name][0]}")
        numbers.append(f"{mutant} found by number {found[name][0].schedules[0][2]}")
    project.notes.append(f"{sum(one.explored for (one, *_) in product.values())} schedules of {len(product)} scenarios, "
                         f"all right; {', '.join(numbers)}")
