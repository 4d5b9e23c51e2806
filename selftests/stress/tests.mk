# SPDX-License-Identifier: GPL-2.0
# In a kernel tree: how the tests of this folder are linked.  Included by the Makefile of
# tools/testing/selftests/kvm, which the series adds them to.  In this repository
# guests/build.sh does it.
MODE_SRC := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
MODE := $(OUTPUT)/$(MODE_SRC)
MODE_TESTS := $(filter $(MODE)/%_test, $(TEST_GEN_PROGS))
MODE_GUESTS := $(patsubst %.c, $(OUTPUT)/%.o, $(wildcard $(MODE_SRC)/*_guest.c))
MODE_SHARED := $(addprefix $(MODE_SRC)/, stress.c apf_step.c messages.c post-vm.c \
		post-guest.c apf-vm.c apf-guest.c user-mode.c)
MODE_SHARED := $(patsubst %.c, $(OUTPUT)/%.o, $(wildcard $(MODE_SHARED)))

MODE_OLD := $(if $(shell grep -w vm_alloc include/kvm_util.h),,-include $(MODE_SRC)/old-library.h)
MODE_OLD += $(if $(shell grep 'prepare_vmcs.*guest_rsp' include/x86*/vmx.h),-DL2_STACK_ARGUMENT)

$(MODE)/%.o: CFLAGS += -std=gnu11 -DQUIET $(MODE_OLD)
# Guest code takes interrupts on its own stack, and they save no SSE.
$(MODE_GUESTS) $(MODE)/post-guest.o $(MODE)/apf-guest.o: CFLAGS += -mno-red-zone -mgeneral-regs-only
$(MODE_GUESTS) $(MODE_SHARED): $(OUTPUT)/%.o: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) $(TARGET_ARCH) -c $< -o $@

$(MODE_TESTS): $(MODE_SHARED)
$(MODE_TESTS): LDLIBS := $(MODE_SHARED) $(LDLIBS) -lm
$(foreach guest, $(MODE_GUESTS), $(eval $(guest:_guest.o=_test): $(guest)))
$(foreach guest, $(MODE_GUESTS), $(eval $(guest:_guest.o=_test): LDLIBS := $(guest) $$(LDLIBS)))

EXTRA_CLEAN += $(MODE_GUESTS) $(MODE_SHARED)
