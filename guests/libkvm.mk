# SPDX-License-Identifier: GPL-2.0
# The selftests library as one archive, by the kernel tree's own rules.
# Called by build.sh in tools/testing/selftests/kvm of that tree.
include Makefile

$(OUTPUT)/libkvm.a: $(LIBKVM_OBJS)
	$(RM) $@
	$(AR) rcs $@ $(LIBKVM_OBJS)
