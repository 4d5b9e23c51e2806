#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What a machine of install.py does once it is up, before it powers off.  Runs there as a service;
# rehearsal=STEP on the kernel's command line says which step of install.py it is for.  What it finds goes
# to a serial port of its own: the console's getty throws away what is still to be sent when it starts.
exec </dev/null >/dev/ttyS1 2>&1
cd /rehearsal || exit 1
step=$(sed -n 's/.*rehearsal=\([a-z-]*\).*/\1/p' /proc/cmdline)
release=$(uname -r)

# With gaps in which the target computes on a slow machine, too.
bench=(./kvm-mode-bench post --json --workload exits --gap 0:1000000 --stall 200000 --posts)

vm() {
	"${bench[@]}" 300 "$@"
	echo "vm $?"
}

# A VM beside what follows
vm_begins() {
	"${bench[@]}" 1000000 >/dev/null 2>&1 &
	vm=$!
	sleep 4
}

vm_is_killed() {
	kill $vm
	wait $vm 2>/dev/null
}

# One after the other, each accounted for; KVM is in use between them, too.
vms_begin() {
	rm -f enough
	(
		exec 9<>/dev/kvm
		until [ -e enough ]; do "${bench[@]}" 3000; done
	) >vms.out 2>vms.err &
	vm=$!
	sleep 4
}

exits() {
	cat /sys/kernel/debug/kvm/exits
}

vm_goes_on() {
	local before
	before=$(exits)
	sleep 1
	[ "$(exits)" != "$before" ] && echo "VM goes on: $1"
}

vms_end() {
	touch enough
	wait $vm
	echo "VMs beside: $(grep -c '^{' vms.out), of these right: $(grep -c '"lost":0,"doubled":0' vms.out)"
	grep -v "posts," vms.err
}

loaded() {
	kvm-mode status | grep -E '^(kvm|patched)'
}

# Those that both kinds of modules have
parameters() {
	echo "parameters $1: $(cd /sys/module && grep -H . kvm/parameters/* kvm_amd/parameters/* |
		grep -v -E 'precise_notify|elide_kicks|async_pf' | sha256sum | cut -c1-16)" \
		"$(cat /sys/module/kvm/parameters/ignore_msrs)" "$(cat /sys/module/kvm_amd/parameters/nested)"
}

unwanted() {
	systemctl is-active kvm-mode-dkms
	echo install kvm_amd /bin/false >/etc/modprobe.d/unwanted.conf
	for command in ensure load stock; do kvm-mode $command; echo "$command $?"; done
	rm /etc/modprobe.d/unwanted.conf
	if [ -e /dev/kvm ]; then echo "KVM is loaded"; else echo "no KVM is loaded"; fi
	kvm-mode load; echo "load $?"
}

used() {
	vm_begins
	kvm-mode status | grep -E '^(used by|counters)'
	kvm-mode load; echo "in use $?"
	kvm-mode compare 16 --json; echo "compare $?"
	vm_is_killed
	kvm-mode stock; echo "stock $?"
	loaded; parameters stock
	vm_begins
	kvm-mode estimate 3; echo "estimate $?"
	vm_is_killed
	# A module besides the vendor's that uses KVM
	if modprobe -q kvmgt; then
		kvm-mode load; echo "held $?"; echo "kvm-amd $(cat /sys/module/kvm_amd/initstate)"
		modprobe -r kvmgt
	fi
	kvm-mode load; echo "load $?"
	loaded; parameters load
}

# udev, too, tries the vendor's module while ensure loads the kernel's own: for each CPU.
collide() {
	for _ in $(seq 10); do
		modprobe -r kvm-amd kvm
		while :; do modprobe -q kvm-amd; done & others=$!
		kvm-mode ensure; echo "ensure $?: $(cat /sys/module/kvm_amd/initstate)"
		kill $others; wait $others
	done
}

by_make() {
	kvm-mode stock; echo "stock $?"
	tree/dkms/install kvm-mode-dkms_*.deb; echo "install $?"
	vm
	tree/dkms/install --remove; echo "uninstall $?"
	cat /sys/module/kvm/version || echo "no version"
	vm
}

cpus_go_and_come() {
	for cpu in /sys/devices/system/cpu/cpu[1-9]; do
		echo 0 >"$cpu/online" && sleep 1 && echo 1 >"$cpu/online" && echo "offline and back: ${cpu##*/}"
	done
	vm_goes_on "CPUs went and came"
	# The one beside has lost its place: this one has a thread on each CPU that came back.
	vm --senders 3
}

machine_sleeps() {
	echo +20 >/sys/class/rtc/rtc0/wakealarm && echo mem >/sys/power/state
	echo "slept: $(cat /sys/power/suspend_stats/success) of $(cat /sys/power/mem_sleep)"
	vm_goes_on "the machine slept"
}

# The compiler takes too long in here: what it makes of the newer package was made before, for each kernel.
package_is_upgraded() {
	local kernel
	dpkg --unpack newer/*.deb || return
	for kernel in newer/*/; do
		kernel=$(basename "$kernel")
		mkdir -p "/lib/modules/$kernel/updates/dkms"
		cp newer/"$kernel"/*.ko* "/lib/modules/$kernel/updates/dkms/" || return
		depmod "$kernel"
	done
	dpkg --configure kvm-mode-dkms; echo "upgraded $?"
	vm_goes_on "the package was upgraded"
	kvm-mode status
	kvm-mode load; echo "in use $?"
}

disturbed() {
	vms_begin
	cpus_go_and_come
	machine_sleeps
	package_is_upgraded
	vms_end
	kvm-mode load; echo "load $?"
	loaded
	vm
}

# The kernel again, with a VM in the midst of it
by_kexec() {
	vm_begins
	sed 's/rehearsal=kexec/rehearsal=kexeced/' /proc/cmdline >cmdline
	kexec -l "/boot/vmlinuz-$release" --initrd="/boot/initrd.img-$release" --command-line="$(cat cmdline)"
	echo "kexec $?"
	sync
	vm_goes_on "until the other kernel"
	kexec -e
}

[ "$step" = unwanted ] || for _ in $(seq 60); do [ ! -e /dev/kvm ] || break; sleep 1; done
echo "kernel $release"
cat /sys/module/kvm/version 2>/dev/null
kvm-mode status; echo "status $?"
[ "$step" != unwanted ] || unwanted
vm
parameters booted
case $step in
patched) used ;;
tampered) collide ;;
make) by_make ;;
disturbed) disturbed ;;
kexec) by_kexec ;;
esac
journalctl --no-pager -b -u kvm-mode-dkms 2>/dev/null | grep -F 'kvm-mode['
echo end
systemctl --no-block poweroff
