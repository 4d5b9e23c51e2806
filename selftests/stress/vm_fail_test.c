// SPDX-License-Identifier: GPL-2.0
#include "stress.h"
int main(int argc, char **argv)
{
	stress_init(argc, argv, "nothing yet", &(struct stress_options){ 5, 0, 1 });
	stress_plan(1);
	stress_case_begin("x");
	stress_case(true, "y %d", probe_present());
	return stress_end();
}
