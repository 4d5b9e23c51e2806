# SPDX-License-Identifier: GPL-2.0
# First from KVM's lines of /proc/modules and the lines of `perf script -F pid,tid,cpu,time,event,trace`
# to lines "what nanoseconds"; then, with -v summary=1 and those sorted, to percentiles and a
# histogram. Called by latency.sh. busybox's awk does.
#
# PID/TID [CPU] SECONDS.NANOSECONDS: group:event: fields...
#
# A VM is a process: vCPUs of the same number in two VMs are two. What an interrupt is accepted
# for has no VM in its event, but the process that posts it: its own VM's, or, if it has none,
# the only one's. In an interrupt handler it is the process that was interrupted.

# busybox's awk takes a leading 0 for octal.
function number(text)
{
	sub(/^0+/, "", text)
	return text + 0
}

function ns(text, part)
{
	split(text, part, "[.:]")
	return part[1] % 100000 * 1000000000 + number(part[2])
}

# The word behind another one: "vcpu 0,", "apicid 1f"; empty if it is not there.
function after(word, i)
{
	for (i = 5; i < NF; i++)
		if ($i == word) {
			i = $(i + 1)
			sub(/,$/, "", i)
			return i
		}
	return ""
}

function percentile(p)
{
	return value[1 + int((n - 1) * p / 100 + 0.5)]
}

# The values are sorted.
function finish(i, low, count)
{
	if (!n)
		return
	printf "%s: %d, p50 %d, p90 %d, p99 %d, max %d ns\n", what, n, percentile(50),
		percentile(90), percentile(99), value[n]
	low = 1
	for (i = 1; i <= n; i++) {
		if (value[i] >= 2 * low) {
			bin(low, count)
			count = 0
		}
		while (value[i] >= 2 * low)
			low *= 2
		count++
	}
	bin(low, count)
	n = 0
}

function bin(low, count)
{
	if (count)
		printf "  %12d to %12d ns  %8d\n", low, 2 * low - 1, count
}

summary && $2 == "count" { printf "%s: %d\n", $1, $3; next }
summary {
	if ($1 != what) {
		finish()
		what = $1
	}
	value[++n] = $2
	next
}

# Modules are in the uppermost 2 GiB, so eight digits of an address do; awk's numbers have 53 bits.
NR == FNR {
	from[NR] = hex(substr($6, length($6) - 7))
	to[NR] = from[NR] + $2
	modules = NR
	next
}

function of_kvm(address, i, n)
{
	n = hex(substr(address, length(address) - 7))
	for (i = 1; i <= modules; i++)
		if (n >= from[i] && n < to[i])
			return 1
	return 0
}

# What has no place in it is counted, and said.
NF < 5 || $1 !~ /^[0-9]+\/[0-9]+$/ || $2 !~ /^\[[0-9]+\]$/ || $3 !~ /^[0-9]+\.[0-9]+:$/ {
	unread++
	next
}
{
	split($1, id, "/")
	process = id[1]
	thread = id[2]
	cpu = number(substr($2, 2, length($2) - 2))
	now = ns($3)
}

# A kick: KVM is the caller. Only one to a CPU that is in the guest is waited for.
$4 ~ /ipi_send_cpu/ {
	split($5 "=" $6, field, "=")
	target = field[2] + 0
	if (of_kvm(field[4]) && inside[target] && !(target in kicked))
		kicked[target] = now
}

# Which vCPU it was its thread's entry has said: not every kernel's kvm_exit does.
$4 ~ /kvm_exit/ {
	inside[cpu] = 0
	if (thread in vcpu_of)
		running[vcpu_of[thread]] = 0
	if (cpu in kicked)
		took("kick-to-exit", kicked[cpu])
	delete kicked[cpu]
}

# The vCPU that an interrupt is for, by its APIC ID, or "".
function target_of(apicid)
{
	if (apicid !~ /^[0-9a-fA-F]+$/)
		return ""
	if (process in is_vm)
		return process "/" hex(apicid)
	if (vms == 1)
		return the_vm "/" hex(apicid)
	return ""
}

# An interrupt is on its way in from here on, if its vCPU is out of the guest.
$4 ~ /kvm_apic(v)?_accept_irq/ {
	target = target_of(after("apicid"))
	if (target == "") {
		homeless++
		next
	}
}
$4 ~ /kvm_apicv_accept_irq/ {
	if (running[target])
		direct++
	else if (!(target in posted))
		posted[target] = now
	next
}
$4 ~ /kvm_apic_accept_irq/ { accepted[target "/" after("vec")] = now }
$4 ~ /kvm_inj_virq/ { injected[thread] = injected[thread] " " $6 }

$4 ~ /kvm_entry/ {
	target = after("vcpu")
	if (target !~ /^[0-9]+$/) {
		unread++
		next
	}
	target = vcpu_of[thread] = process "/" target
	if (!(process in is_vm)) {
		is_vm[process] = 1
		the_vm = process
		vms++
	}
	inside[cpu] = 1
	running[target] = 1
	if (target in posted)
		took("post-to-entry", posted[target])
	delete posted[target]
	count = split(injected[thread], vectors, " ")
	for (i = 1; i <= count; i++) {
		key = target "/" hex(substr(vectors[i], 3))
		if (key in accepted)
			took("accept-to-entry", accepted[key])
		delete accepted[key]
	}
	injected[thread] = ""
}

function took(what, since)
{
	if (now > since)
		print what, now - since
	else
		backwards++
}

function hex(text, i, n)
{
	text = tolower(text)
	for (i = 1; i <= length(text); i++)
		n = n * 16 + index("0123456789abcdef", substr(text, i, 1)) - 1
	return n + 0
}

END {
	if (summary)
		finish()
	if (direct)
		print "posted-while-in-guest count", direct
	if (backwards)
		print "left-out-as-clocks-differ count", backwards
	if (homeless)
		print "left-out-as-the-VM-is-not-known count", homeless
	if (unread)
		print "lines-not-read count", unread
}
