# SPDX-License-Identifier: GPL-2.0
"""The KVMs that are compared in one run: their names in results.json, the module set of
L1 that each one loads, and the parameters of kvm.ko that it runs with. For shell
text that L1 runs, and on a host."""

PARAMETERS = "/sys/module/kvm/parameters"

# name: (module set, {parameter: value}, what a table's reader should know)
VARIANTS = {
    "stock": ("stock", {}, "the base kernel's KVM"),
    "ipi": ("ipi", {}, "stock with the series' first patch: a posted interrupt's IPI goes to a CPU, "
            "not to a mask"),
    "s4": ("s4", {}, "a peer: stock, and vcpu->mode = EXITING as soon as the vCPU exits; unsafe"),
    "unbound": ("unbound", {}, "a peer: stock, with asynchronous page faults resolved on any CPU"),
    "bare": ("bare", {}, "the series without what it is measured by"),
    "patched": ("patched", {"precise_notify": "Y", "elide_kicks": "Y"}, "the series, as it comes"),
    "patched_kicks": ("patched", {"precise_notify": "Y", "elide_kicks": "N"},
                      "the series without kick elision"),
    "patched_off": ("patched", {"precise_notify": "N", "elide_kicks": "Y"},
                    "the series, notifying by the run-loop mode as ipi does"),
}


class Switcher:
    """Shell lines that make the next runs use a variant."""

    def __init__(self, loads=True):
        self.loads, self.loaded = loads, None

    def lines(self, variant):
        module_set, parameters, _ = VARIANTS[variant]
        lines = []
        if self.loads and module_set != self.loaded:
            lines.append(f"load-kvm {module_set} || exit 1")
            self.loaded = module_set
        return lines + [f"echo {value} > {PARAMETERS}/{name} || exit 1"
                        for name, value in parameters.items()]
