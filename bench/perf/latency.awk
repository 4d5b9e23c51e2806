# SPDX-License-Identifier: GPL-2.0
# First from KVM's lines of /proc/modules and the lines of `perf script -F cpu,time,event,trace`
# to lines "what nanoseconds"; then, with -v summary=1 and those sorted, to percentiles and a
# histogram. Called by latency.sh. busybox's awk does.
#
# [CPU] SECONDS.NANOSECONDS: group:event: fields...

# busybox's awk takes a leading 0 for octal, so put a digit ahead of it.
function ns(text, part)
{
	split(text, part, "[.:]")
	return (part[1] % 100000 - 1) * 1000000000 + ("1" part[2])
}

# The number behind a word: "vcpu 0,", "apicid 1"
function after(word, i)
{
	for (i = 4; i < NF; i++)
		if ($i == word)
			return $(i + 1) + 0
	return -1
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

{ now = ns($2); cpu = ("1" substr($1, 2, 3)) - 1000 }

# A kick: KVM is the caller. Only one to a CPU that is in the guest is waited for.
$3 ~ /ipi_send_cpu/ {
	split($4 "=" $5, field, "=")
	target = field[2] + 0
	if (of_kvm(field[4]) && inside[target] && !(target in kicked))
		kicked[target] = now
}

$3 ~ /kvm_exit/ {
	inside[cpu] = 0
	running[after("vcpu")] = 0
	if (cpu in kicked)
		took("kick-to-exit", kicked[cpu])
	delete kicked[cpu]
}

# An interrupt is on its way in from here on, if its vCPU is out of the guest.
$3 ~ /kvm_apicv_accept_irq/ {
	target = after("apicid")
	if (running[target])
		direct++
	else if (!(target in posted))
		posted[target] = now
	next
}
$3 ~ /kvm_apic_accept_irq/ { accepted[after("apicid") "/" after("vec")] = now }
$3 ~ /kvm_inj_virq/ { injected[cpu] = injected[cpu] " " $5 }

$3 ~ /kvm_entry/ {
	target = after("vcpu")
	inside[cpu] = 1
	running[target] = 1
	if (target in posted)
		took("post-to-entry", posted[target])
	delete posted[target]
	count = split(injected[cpu], vectors, " ")
	for (i = 1; i <= count; i++) {
		key = target "/" hex(substr(vectors[i], 3))
		if (key in accepted)
			took("accept-to-entry", accepted[key])
		delete accepted[key]
	}
	injected[cpu] = ""
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
}
