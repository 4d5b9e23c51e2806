# SPDX-License-Identifier: GPL-2.0
#
# kvm-mode: builds, measures and tests the patchset.  `make help` has the list.
# Everything generated lives under build/.  The kernel build itself is in
# Kbuild; what a step does is in scripts/, lab/, bench/ and selftests/.

# The oldest base is taken where none is named.
FIRST := $(shell cd patches && printf '%s\n' [0-9]* | sort -V | head -n 1)
BASE ?= $(FIRST)
# BASE=6.12-rt, say, is that version's kernel with PREEMPT_RT.
VERSION := $(BASE:%-rt=%)
LAB ?= svm
KVM ?= patched
POSTS ?=
SEED ?= 1
DURATION ?=
FULL ?=
WHERE ?=
KTAP ?=

# What does not depend on the base is in SHARED; so is everything of the first base.  The
# programs for L1 are built once, against the first base's selftests library.
SHARED := build
BUILD := $(SHARED)$(if $(filter-out $(FIRST),$(BASE)),/$(BASE))
DOWNLOADS := $(SHARED)/downloads
KERNEL := $(SHARED)/kernel/$(BASE)
SOURCE := $(KERNEL)/linux-source-$(VERSION)
PROGRAMS := $(SHARED)/kernel/$(FIRST)
# A base from another suite of Debian wants its compiler and libc.
root = $$([ ! -e $(KERNEL)/suite ] || echo --root $(KERNEL)/root)
LABS := svm avic vmx

export KVM_MODE_START := $(shell date +%s)
export LC_ALL := C.UTF-8
SHELL := /bin/bash

ktap := $(if $(KTAP),--ktap)
step = scripts/step --expect $(1) --log $(BUILD)/log/$(2).log

# Two steps at a time: while one downloads or links, the other compiles.  Not two goals.
ifeq ($(words $(MAKECMDGOALS)),$(filter 0 1,$(words $(MAKECMDGOALS))))
MAKEFLAGS += -j2
endif
# Ours, not that of makes further down.  KVM's own Makefile has a KVM as well, a folder.
unexport MAKEFLAGS MFLAGS MAKELEVEL KVM

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:

.PHONY: help
ifndef ALL
help:
	@echo 'make bench              stock against patched KVM; FULL=1: all of it, an hour once built'
	@echo 'make check              tests of what a change may break; FULL=1: every test'
	@echo 'make lab                a shell in L1, or RUN="command" (LAB=svm|avic|vmx, KVM=stock|patched)'
	@echo 'make stress             the stress tests for long (DURATION=seconds, WHERE="svm avic vmx" or host)'
	@echo 'make modules KVER=...   patched kvm.ko, kvm-intel.ko and kvm-amd.ko for installed headers'
	@echo 'make install            patched modules on this host, through DKMS; make uninstall'
	@echo 'make series             the series as mails for `git am`, in $(SHARED)/series/BASE/ (BASE='"$$(cd patches && echo [0-9]*)"')'
	@echo 'make compare            two results.json, before and after: A=file B=file'
	@echo 'make clean              remove $(BUILD)/, except downloads'
	@echo 'make help ALL=1         everything else: perf, cost, mutants, debug kernels, CI kit, packages'
else
help:
	@echo 'make bench            stock against patched KVM: tables, $(BUILD)/bench/results.json and report.html'
	@echo '                      (FULL=1: all labs, variants, peers and tools, an hour;'
	@echo '                      LABS="svm avic vmx", POSTS=per workload, SEED=1; WHERE=host: on this'
	@echo '                      machine'"'"'s own KVM, with the modules that are loaded; KTAP=1: KTAP'
	@echo '                      instead, as with compare, stress, mutants and kvm-selftests)'
	@echo 'make compare          two results.json, such as before and after: A=file B=file'
	@echo 'make perf             the perf recipes of bench/perf in the labs, on patched KVM, to $(BUILD)/perf/'
	@echo 'make cost             the instructions that the series adds to an exit, by name (svm lab)'
	@echo 'make kicks            IPIs that kick elision leaves out, by what kicks (avic lab, AVIC off; vmx lab)'
	@echo 'make guest-waits      what a Linux guest with our patches gains whose memory is swapped out (svm lab)'
	@echo 'make guest-mutants    breaks the guest'"'"'s patches, one way at a time; a whole VM shows each (svm lab)'
	@echo 'make tasks            what another task gets done while one waits for pages in kernel mode (vmx, avic labs)'
	@echo 'make flight           notifications wasted when they, or VM entries, take time (vmx and avic labs)'
	@echo 'make placement        what other places of the flag, and counts, would cost: a replica, native'
	@echo 'make guest-kit        $(BUILD)/guest/: a kernel and an initramfs for bench/guest/boot.sh'
	@echo 'make check            tests; ends with "N passed, N failed" (FULL=1: every test)'
	@echo 'make stress           the stress tests for long, until DURATION=600 seconds are over for each;'
	@echo '                      QUANTUM= and FLIGHT=: turns and time on the way, in the vmx and avic labs'
	@echo '                      (WHERE="svm avic vmx" or host, SEED=1, KVM=patched)'
	@echo 'make mutants          every mutant of the series, and what catches it'
	@echo 'make turns            stress tests and mutants with other turns of CPUs and delays, an hour'
	@echo 'make explore          small scenarios under every schedule with K=1 preemptions, in the vmx lab'
	@echo '                      (K=2, HOLD=yes|no|both, SCENARIOS="...", KVM= or COMMIT=, REPLAY="SCENARIO SCHEDULE")'
	@echo 'make kvm-selftests    the base kernel'"'"'s own KVM selftests on stock and on patched: a table'
	@echo 'make debug-kernel     the stress tests on kernels with KASAN and lockdep, and with KCSAN'
	@echo '                      (DURATION=1600 seconds each, DEBUG_KERNELS="kasan kcsan")'
	@echo 'make ci-kit           $(BUILD)/kvm-mode-ci.tar.gz: what a CI farm (LAVA) runs on its machines'
	@echo 'make lab              a shell in L1, or RUN="command"; its exit status comes back'
	@echo '                      (LAB=svm|avic|vmx, KVM=stock|patched)'
	@echo '                      BASE=7.3, say, with any of these: on that base, in $(SHARED)/7.3/'
	@echo 'make modules          $(BUILD)/modules/KVER/{kvm,kvm-intel,kvm-amd}.ko for installed headers'
	@echo '                      (KVER=release, as in uname -r)'
	@echo 'make deb              $(BUILD)/deb/kvm-mode-dkms_VERSION_all.deb: modules through DKMS'
	@echo 'make install          installs it and the running kernel'"'"'s headers and source, and loads the'
	@echo '                      modules unless a VM runs; make uninstall: all as it was'
	@echo 'make check-install    rehearses that: apt, reboot, kernel upgrade, removal, in Debian roots under'
	@echo '                      QEMU (SUITES="bookworm trixie trixie-backports")'
	@echo 'make series           the series as mails for `git am`, in $(BUILD)/series/BASE/'
	@echo '                      (BASE=$(FIRST); SIGNOFF=1 adds your Signed-off-by)'
	@echo 'make series-check     applies, checks and builds each of them; the last one in other'
	@echo '                      configurations too, with clang and for other architectures'
	@echo '                      (PLAIN=tarball: do they apply to this kernel.org release?)'
	@echo 'make fresh-times      how long bench, check and the inner loop take a newcomer, in fresh roots'
	@echo 'make users            is each use of vcpu->mode and each kick of the base listed with its rule?'
	@echo 'make qemu             QEMU for the svm lab with our patches; make check does that as well'
	@echo 'make lab-setup        all that the labs need, without running them'
	@echo 'make readme           the figures of README.md, docs/results.md and docs/results.svg from'
	@echo '                      $(BUILD)/bench/results.json'
	@echo 'make clean            remove $(BUILD)/, except downloads'
	@echo 'make distclean        remove $(BUILD)/'
endif

# --- what the machine and the distribution give -------------------------------

.PHONY: deps
deps:
	@scripts/install-deps

$(SHARED)/kernel/%/version: scripts/fetch-kernel | deps
	@$(call step,60,fetch-kernel-$*) "fetch source, image and headers of Linux $*" \
		scripts/fetch-kernel $* $(DOWNLOADS) $(@D)

$(KERNEL)/.root: scripts/make-root scripts/in-root $(KERNEL)/version
	@[ ! -e $(KERNEL)/suite ] || scripts/install-deps scripts/packages-root
	@[ ! -e $(KERNEL)/suite ] || $(call step,45,root) "make a root to build for Linux $(BASE) in" \
		scripts/make-root $(KERNEL) $(DOWNLOADS) $(KERNEL)/root
	@touch $@

$(DOWNLOADS)/bochs/.done: lab/bochs/fetch.sh | deps
	@$(call step,15,fetch-bochs) "fetch Bochs and its BIOS" lab/bochs/fetch.sh \
		$(DOWNLOADS)/bochs $(DOWNLOADS)/bochs
	@touch $@

$(SHARED)/qemu/.done: lab/qemu/fetch.sh | deps
	@$(call step,15,fetch-qemu) "provide QEMU" lab/qemu/fetch.sh $(DOWNLOADS)/qemu $(SHARED)/qemu
	@touch $@

# QEMU with lab/qemu/patches; the svm lab takes it when it is there.
$(SHARED)/qemu-mended/.done: lab/qemu/build.sh $(wildcard lab/qemu/patches/*) $(SHARED)/qemu/.done
	@$(call step,240,qemu-mended) "build QEMU, mended" lab/qemu/build.sh \
		$(DOWNLOADS)/qemu-source $(SHARED)/qemu/share $(SHARED)/qemu-mended
	@touch $@

.PHONY: qemu
qemu: $(SHARED)/qemu-mended/.done

# --- modules ------------------------------------------------------------------

# The folders too: a patch that goes leaves its place to one in common/.
SERIES := $(wildcard patches/$(VERSION) patches/common patches/$(VERSION)/*.patch patches/common/*.patch \
	kvm/*/* kvm-asm-offsets/*) patches/landing patches/series

$(BUILD)/tree/stock/.done: scripts/prepare-tree scripts/series.sh Kbuild $(KERNEL)/version
$(BUILD)/tree/patched/.done: scripts/prepare-tree scripts/series.sh Kbuild $(KERNEL)/version $(SERIES)
$(BUILD)/tree/%/.done:
	@scripts/prepare-tree --with-probe $* $(VERSION) $(SOURCE) $(BUILD)/tree/$*
	@touch $@

# These change a few files of others, which are built: peers, the series' first patch, and the
# series without its last set.
PEERS := s4 unbound
$(PEERS:%=$(BUILD)/tree/%/.done): $(wildcard \
	$(foreach f,patches/$(VERSION) patches/common,$f/peers $f/peers/*.patch))
$(BUILD)/tree/ipi/.done: $(wildcard patches/$(VERSION)/kvm-vmx-send-*.patch patches/common/kvm-vmx-send-*.patch) patches/series
$(BUILD)/tree/bare/.done: ALIKE := patched
$(BUILD)/tree/bare/.done: $(BUILD)/modules/patched/.done
$(foreach t,$(PEERS) ipi,$(BUILD)/tree/$t/.done): ALIKE := stock
$(foreach t,$(PEERS) ipi,$(BUILD)/tree/$t/.done): $(BUILD)/modules/stock/.done
$(foreach t,$(PEERS) ipi bare,$(BUILD)/tree/$t/.done): $(BUILD)/tree/%/.done: scripts/copy-tree
	@scripts/copy-tree $(BUILD)/tree/$(ALIKE) $(BUILD)/tree/$*
	@scripts/prepare-tree --with-probe $* $(VERSION) $(SOURCE) $(BUILD)/tree/$*
	@touch $@

$(BUILD)/modules/%/.done: $(BUILD)/tree/%/.done scripts/build-modules scripts/lab-flags $(wildcard selftests/probe/*) \
		$(KERNEL)/.root
	@$(call step,80,modules-$*) "build $* modules" scripts/build-modules --with-probe \
		$(root) $(BUILD)/tree/$* $$(cat $(KERNEL)/version) $(BUILD)/modules/$*
	@touch $@

$(BUILD)/types.o: $(BUILD)/modules/patched/.done scripts/build-types scripts/copy-tree
	@$(call step,10,types) "build debug information of KVM's structures" scripts/build-types \
		$(root) $(BUILD)/tree/patched $$(cat $(KERNEL)/version) $@

ifdef KVER
.PHONY: modules
modules: $(BUILD)/tree/patched/.done
	@have=$$(cut -d+ -f1 $(KERNEL)/version) && [ "$$have" = "$$(echo $(KVER) | cut -d+ -f1)" ] || { \
		echo "make modules: the source here is of $$have, not of $(KVER); make install builds" \
			"for the running kernel, from its own source" >&2; exit 1; }
	@$(call step,80,modules-$(KVER)) "build modules for $(KVER)" \
		scripts/build-modules $(BUILD)/tree/patched $(KVER) $(BUILD)/modules/$(KVER)
	@ls $(BUILD)/modules/$(KVER)/*.ko
else
.PHONY: modules
modules:
	@echo "make modules: which kernel? e.g. make modules KVER=$$(uname -r)" >&2; exit 2
endif

# --- mails ----------------------------------------------------------------------

# The figures: those that the documentation has
RESULTS ?= docs/results.json

.PHONY: series
series: $(KERNEL)/version
	@scripts/make-series $(if $(SIGNOFF),--sign-off) $(VERSION) $(SOURCE) $(RESULTS) $(SHARED)/series/$(BASE)
	@ls $(SHARED)/series/$(BASE)/*.patch

# Each use of vcpu->mode and each kick of the base, and its rule.
.PHONY: users
users: $(KERNEL)/version
	@scripts/list-users --check $(VERSION) $(SOURCE)

.PHONY: series-check
series-check: series
	@scripts/install-deps scripts/packages-series
	@scripts/series-check $(if $(PLAIN),--plain $(PLAIN)) $(VERSION) $(SOURCE) \
		$(SHARED)/series/$(BASE) $(SHARED)/series-check/$(BASE)

# --- packages -------------------------------------------------------------------

# For hosts: DKMS builds the modules there, for each kernel.
.PHONY: deb
deb: | deps
	@scripts/install-deps dkms/packages
	@dkms/deb $(BUILD)/deb-work $(BUILD)/deb

.PHONY: install uninstall
install: deb
	@dkms/install $(BUILD)/deb/kvm-mode-dkms_*.deb

uninstall:
	@dkms/install --remove

SUITES := bookworm trixie trixie-backports

.PHONY: fresh-times
fresh-times: deps
	@scripts/fresh-times $(BUILD)/fresh

.PHONY: check-install
check-install: deb qemu $(SHARED)/bin/kvm-mode-bench
	@selftests/install.py --build $(BUILD) --suites "$(SUITES)" $(BUILD)/deb/kvm-mode-dkms_*.deb

# --- guests and labs ----------------------------------------------------------

# Tools look for all that they need in one folder, which says what base it is for.
LINKS := $(if $(filter-out $(SHARED),$(BUILD)),$(BUILD)/base)
$(BUILD)/base: Makefile
	@mkdir -p $(BUILD)/bin
	@ln -sfn $(addprefix ../,downloads kernel bochs bochs-explore qemu qemu-mended herd7 lava) $(BUILD)/
	@ln -sfn $(addprefix ../../bin/,kvm-mode-bench stress) $(BUILD)/bin/
	@echo $(BASE) >$@

$(SHARED)/bin/kvm-mode-bench: $(wildcard bench/program/*.[ch] guests/* selftests/probe/*.h) $(PROGRAMS)/version
	@$(call step,40,bench-program) "build the benchmark program" \
		guests/build.sh $(PROGRAMS)/linux-source-$(FIRST) $(SHARED)/bin

$(SHARED)/bin/stress/.done: $(wildcard selftests/stress/*.[ch] selftests/stress/*.sh selftests/probe/*.h guests/*) \
		$(PROGRAMS)/version | $(SHARED)/bin/kvm-mode-bench
	@$(call step,20,stress-tests) "build the stress tests" \
		guests/build.sh --stress $(PROGRAMS)/linux-source-$(FIRST) $(SHARED)/bin
	@touch $@

$(BUILD)/bin/selftests/.done: guests/build.sh $(KERNEL)/version | $(SHARED)/bin/stress/.done
	@$(call step,150,kvm-selftests) "build the kernel's KVM selftests" \
		guests/build.sh --selftests $(SOURCE) $(BUILD)/bin
	@touch $@

$(SHARED)/bochs/.done: lab/bochs/build.sh $(wildcard lab/bochs/patches/*) $(DOWNLOADS)/bochs/.done
	@$(call step,80,bochs) "build Bochs" lab/bochs/build.sh \
		$(DOWNLOADS)/bochs/bochs_3.0+dfsg.orig.tar.xz $(SHARED)/bochs
	@cp $(DOWNLOADS)/bochs/*BIOS*-latest $(SHARED)/bochs/
	@touch $@

$(SHARED)/bochs-explore/.done: $(wildcard lab/bochs/explore/*) $(SHARED)/bochs/.done
	@$(call step,100,bochs-explore) "build the Bochs that explores schedules" lab/bochs/build.sh --explore \
		$(DOWNLOADS)/bochs/bochs_3.0+dfsg.orig.tar.xz $(SHARED)/bochs-explore
	@cp $(DOWNLOADS)/bochs/*BIOS*-latest $(SHARED)/bochs-explore/
	@touch $@

$(SHARED)/bin/explore: $(wildcard selftests/explore/* selftests/probe/*.h guests/*) $(PROGRAMS)/version | \
		$(SHARED)/bin/stress/.done
	@$(call step,20,explore-program) "build the explorer's program" \
		guests/build.sh --explore $(PROGRAMS)/linux-source-$(FIRST) $(SHARED)/bin

$(BUILD)/lab/explore.cpio: lab/mkoverlay.py $(SHARED)/bin/explore
	@mkdir -p $(@D)
	@lab/mkoverlay.py --out $@ --add $(SHARED)/bin/explore:/bin/explore

# Some are for FULL=1; once built they stay, bare until the series is built anew.
MORE := bare $(PEERS)
there = $(shell [ ! -e $(BUILD)/modules/$(1)/.done ] || [ $(BUILD)/modules/$(1)/.done -ot $(2) ] || echo $(1))
SETS = stock ipi patched $(if $(FULL),$(MORE),$(call there,bare,$(BUILD)/modules/patched/.done) \
	$(foreach p,$(PEERS),$(call there,$p,$(BUILD)/modules/stock/.done)))

$(BUILD)/lab/initramfs.cpio: lab/mkinitramfs.py $(wildcard lab/l1/*) \
		$(patsubst %,$(BUILD)/modules/%/.done,stock ipi patched $(if $(FULL),$(MORE))) \
		$(SHARED)/bin/kvm-mode-bench $(SHARED)/bin/stress/.done
	@mkdir -p $(@D)
	@$(call step,5,initramfs) "make the labs' initramfs" lab/mkinitramfs.py --out $@ \
		--kernel $(KERNEL)/image $(foreach s,$(SETS),--kvm $s=$(BUILD)/modules/$s) \
		--add $(SHARED)/bin/kvm-mode-bench:/bin/kvm-mode-bench --add $(SHARED)/bin/stress:/stress

# What of the distribution's own programs L1 runs.
$(BUILD)/lab/rt.cpio: lab/mkoverlay.py bench/rt/under-storm.sh | deps
	@mkdir -p $(@D)
	@lab/mkoverlay.py --out $@ --program cyclictest --program hackbench \
		--add bench/rt/under-storm.sh:/bin/under-storm.sh

$(BUILD)/guest/.done: $(wildcard bench/guest/*) lab/mkoverlay.py $(KERNEL)/version
	@bench/guest/build.sh $(KERNEL)/image $(BUILD)/guest
	@touch $@

SMALL_KERNEL := lab/small-kernel/build.sh lab/small-kernel/small.config

# A guest's kernel with the series' set `guest`.  Only its own patches and sources make it anew.
$(BUILD)/guest-kernel/tree/.done: scripts/prepare-guest scripts/series.sh patches/series patches/landing \
		$(wildcard patches/$(VERSION) patches/common) \
		$(KERNEL)/version kvm/asm/kvm_apf.h lab/guest-kernel/waits_test.c \
		$(wildcard $(foreach f,patches/$(VERSION) patches/common,$f/sched-* $f/rcu-* $f/x86-kvm-*))
	@scripts/prepare-guest $(VERSION) $(SOURCE) $(@D)
	@touch $@

$(BUILD)/guest-kernel/version: $(BUILD)/guest-kernel/tree/.done $(SMALL_KERNEL) lab/guest-kernel/guest.config \
		$(KERNEL)/.root
	@$(call step,260,guest-kernel) "build the guest's kernel" lab/small-kernel/build.sh \
		$(BUILD)/guest-kernel/tree $(@D) lab/guest-kernel/guest.config

$(BUILD)/lab/guest-kernel.cpio: $(BUILD)/guest-kernel/version lab/mkoverlay.py
	@lab/mkoverlay.py --out $@ --add $(BUILD)/guest-kernel/boot/vmlinuz-$$(cat $<):/guest/vmlinuz-guest

$(BUILD)/lab/guest.cpio: $(BUILD)/guest/.done $(SHARED)/qemu/.done $(wildcard bench/guest/*.sh)
	@lab/mkoverlay.py --out $@ --program $(SHARED)/qemu/qemu-system-x86_64 \
		--add $(SHARED)/qemu/share:/usr/share/qemu --add $(BUILD)/guest:/guest \
		$(foreach f,boot pressure lost-page migrate,--add bench/guest/$f.sh:/bin/$f.sh)

# A guest with a web server: guest.cpio, and what that needs; and a QEMU that migrates it.
$(SHARED)/server/.done: bench/guest/server/fetch.sh lab/private-apt.sh | deps
	@$(call step,10,fetch-nginx) "fetch nginx" bench/guest/server/fetch.sh $(DOWNLOADS)/nginx $(SHARED)/server
	@touch $@

$(BUILD)/lab/server.cpio: $(BUILD)/guest/.done $(SHARED)/server/.done $(SHARED)/qemu-mended/.done \
		$(wildcard bench/guest/server/*) lab/mkoverlay.py
	@mkdir -p $(@D) && trap 'rm -f $@.part $@.whole' EXIT && \
		lab/mkoverlay.py --out $@.part --program $(SHARED)/server/usr/sbin/nginx --program wrk \
			$(foreach f,nginx.conf wrk.lua,--add bench/guest/server/$f:/etc/$f) && \
		cat $(BUILD)/guest/guest.cpio $@.part >$@.whole && \
		ln -sfn $(abspath $(SHARED)/qemu-mended/qemu-system-x86_64) $(@D)/qemu-async-pf && \
		lab/mkoverlay.py --out $@ --program $(@D)/qemu-async-pf --add $@.whole:/guest/server.cpio

$(BUILD)/lab/perf.cpio: lab/mkoverlay.py $(wildcard bench/perf/*) | deps
	@mkdir -p $(@D)
	@lab/mkoverlay.py --out $@ --program perf --add bench/perf:/perf

$(BUILD)/lab/live.cpio: lab/mkoverlay.py dkms/kvm-mode-live | deps
	@mkdir -p $(@D)
	@lab/mkoverlay.py --out $@ --python dkms/kvm-mode-live

.PHONY: cost
cost: lab-setup
	@bench/cost.py --build $(BUILD)

.PHONY: flight
flight: lab-setup qemu
	@bench/flight.py --build $(BUILD)

.PHONY: kicks
kicks: lab-setup qemu $(BUILD)/bin/selftests/.done
	@bench/kicks.py --build $(BUILD)

.PHONY: guest-waits
guest-waits: lab-setup qemu $(addprefix $(BUILD)/lab/,guest.cpio guest-kernel.cpio server.cpio)
	@bench/guest/waits.py --build $(BUILD) --seed $(SEED)

.PHONY: tasks
tasks: lab-setup qemu
	@bench/tasks.py --build $(BUILD) --seed $(SEED)

.PHONY: placement
placement: deps $(BUILD)/types.o
	@bench/placement/run.py --build $(BUILD)

PERF_svm = POSTS=500 STORM="--gap 0:4000000 --exit-gap 200000"
PERF_vmx = POSTS=3000

.PHONY: perf
perf: lab-setup $(BUILD)/lab/perf.cpio
	@mkdir -p $(BUILD)/perf
	@set -o pipefail; for lab in svm vmx; do \
		case $$lab in svm) set -- '$(PERF_svm)' ;; vmx) set -- '$(PERF_vmx)' ;; esac; \
		lab/lab.py --build $(BUILD) --base $(BASE) --lab $$lab --kvm $(KVM) --hang 300 \
			--overlay $(BUILD)/lab/perf.cpio --run "export $$1; /perf/all.sh" | \
			tee $(BUILD)/perf/$$lab.txt || exit; \
	done

.PHONY: guest-kit
guest-kit: $(BUILD)/guest/.done
	@ls $(BUILD)/guest/*

.PHONY: lab-setup
lab-setup: $(LINKS) $(BUILD)/lab/initramfs.cpio $(SHARED)/bochs/.done $(SHARED)/qemu/.done

.PHONY: lab
lab: lab-setup
	@lab/lab.py --build $(BUILD) --lab $(LAB) --kvm $(KVM) $(if $(RUN),--run "$$LAB_RUN")
lab: export LAB_RUN = $(RUN)

# --- models -------------------------------------------------------------------

$(SHARED)/herd7/.done: models/herd7/fetch.sh lab/private-apt.sh | deps
	@$(call step,30,herd7) "provide herd7" models/herd7/fetch.sh $(DOWNLOADS)/herd7 $(SHARED)/herd7
	@touch $@

# --- for CI farms -------------------------------------------------------------

STRESS_TESTS := $(patsubst selftests/%.c,%,$(wildcard selftests/stress/*_test.c))
CI_FILES := kvm-mode.yaml ktap-to-lava.sh README.md

$(BUILD)/kvm-mode-ci.tar.gz: $(CI_FILES:%=bench/ci/%) $(SHARED)/bin/kvm-mode-bench $(SHARED)/bin/stress/.done
	@tar -czf $@ --owner=0 --group=0 COPYING -C $(CURDIR)/bench/ci $(CI_FILES) \
		-C $(abspath $(SHARED))/bin kvm-mode-bench $(STRESS_TESTS)

.PHONY: ci-kit
ci-kit: $(BUILD)/kvm-mode-ci.tar.gz
	@ls -sh $<

$(SHARED)/lava/.done: bench/ci/fetch-lava.sh lab/private-apt.sh | deps
	@$(call step,10,fetch-lava) "fetch LAVA's schemas" bench/ci/fetch-lava.sh $(DOWNLOADS)/lava $(SHARED)/lava
	@touch $@

# --- the main job and the tests -----------------------------------------------

# LABS or WHERE of the command line; else those of the form
SOME = $(if $(WHERE),$(WHERE),$(if $(filter file,$(origin LABS)),,$(LABS)))

.PHONY: bench
bench: $(if $(filter host,$(WHERE)),deps $(SHARED)/bin/kvm-mode-bench,lab-setup qemu \
		$(if $(FULL),$(BUILD)/lab/rt.cpio $(BUILD)/lab/guest.cpio))
	@bench/run.py --build $(BUILD) --base $(BASE) $(if $(FULL),--full) $(if $(SOME),--labs "$(SOME)") \
		--seed $(SEED) $(if $(POSTS),--posts $(POSTS)) $(ktap)

.PHONY: compare
compare:
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo 'make compare: which files? A=file B=file' >&2; exit 2; }
	@bench/compare.py "$(A)" "$(B)" $(ktap)

.PHONY: readme
readme:
	@bench/readme.py $(BUILD)/bench/results.json

.PHONY: check
check: lab-setup qemu $(BUILD)/types.o $(SHARED)/herd7/.done $(SHARED)/lava/.done ci-kit $(if $(FULL),\
		$(BUILD)/bin/selftests/.done $(SHARED)/bochs-explore/.done \
		$(addprefix $(BUILD)/lab/,rt.cpio perf.cpio guest.cpio guest-kernel.cpio server.cpio live.cpio explore.cpio))
	@selftests/check.py --build $(BUILD) --base $(BASE) $(if $(FULL),--full)

.PHONY: stress
stress: $(if $(filter host,$(WHERE)),$(SHARED)/bin/stress/.done,lab-setup qemu)
	@selftests/stress.py --build $(BUILD) $(DURATION:%=--duration %) --seed $(SEED) --kvm $(KVM) \
		$(QUANTUM:%=--quantum %) $(FLIGHT:%=--flight %) \
		$(if $(WHERE),--where "$(WHERE)",--where "$(LABS)") $(ktap)

# Kernels with checkers built in, for L1 of the svm lab; then the stress tests on each.
DEBUG_KERNELS := kasan kcsan

$(BUILD)/debug/%/version: $(SMALL_KERNEL) lab/debug-kernel/common.config \
		lab/debug-kernel/%.config $(KERNEL)/version
	@$(call step,800,debug-kernel-$*) "build the $* kernel" lab/small-kernel/build.sh \
		$(SOURCE) $(@D) lab/debug-kernel/common.config lab/debug-kernel/$*.config

$(BUILD)/debug/%/lab.cpio: $(BUILD)/debug/%/version $(SERIES) scripts/prepare-tree scripts/build-modules scripts/lab-flags \
		$(wildcard selftests/probe/*) $(SHARED)/bin/stress/.done $(wildcard lab/l1/*)
	@scripts/prepare-tree --with-probe patched $(VERSION) $(SOURCE) $(@D)/tree
	@$(call step,150,debug-modules-$*) "build modules for the $* kernel" \
		scripts/build-modules --with-probe --headers $(@D)/build \
		$(@D)/tree $$(cat $<) $(@D)/modules
	@lab/mkinitramfs.py --out $@ --kernel $(@D) --kvm patched=$(@D)/modules \
		--add $(SHARED)/bin/stress:/stress

.PHONY: debug-kernel
debug-kernel: lab-setup qemu $(DEBUG_KERNELS:%=$(BUILD)/debug/%/lab.cpio)
	@lab/debug-kernel/run.py --build $(BUILD) $(DURATION:%=--duration %) --seed $(SEED) $(DEBUG_KERNELS)

.PHONY: explore
explore: lab-setup $(SHARED)/bochs-explore/.done $(BUILD)/lab/explore.cpio
	@selftests/explore.py --build $(BUILD) --base $(BASE) --kvm $(KVM) $(K:%=-k %) $(HOLD:%=--hold %) \
		$(COMMIT:%=--commit %) $(MOST:%=--most %) $(if $(SCENARIOS),--scenarios "$(SCENARIOS)") \
		$(if $(REPLAY),--replay "$(REPLAY)")

.PHONY: kvm-selftests
kvm-selftests: lab-setup qemu $(BUILD)/bin/selftests/.done
	@selftests/kvm_selftests.py --build $(BUILD) --base $(BASE) --labs "$(LABS)" $(ktap)

.PHONY: mutants
mutants: lab-setup qemu $(BUILD)/types.o
	@selftests/mutants.py --build $(BUILD) --base $(BASE) $(ktap)

.PHONY: guest-mutants
guest-mutants: lab-setup qemu $(BUILD)/lab/guest.cpio $(BUILD)/lab/guest-kernel.cpio
	@selftests/guest_mutants.py --build $(BUILD) --base $(BASE)

.PHONY: turns
turns: lab-setup qemu
	@selftests/turns.py --build $(BUILD) --base $(BASE)

.PHONY: clean distclean
clean:
	@find $(BUILD) -mindepth 1 -maxdepth 1 ! -name downloads -exec rm -rf {} + 2>/dev/null || true

distclean:
	@rm -rf $(SHARED)
