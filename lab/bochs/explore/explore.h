// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a piece of what L1 does under many schedules.  A program in L1 writes commands,
 * a line each, to EXPLORE_PORT, and reads what they found from there, bytes of text
 * until 0:
 *
 *   watch NAME ADDRESS LENGTH	accesses to this physical memory are events, too
 *   pid			the same for posted-interrupt descriptors that are in use: pir, on
 *   explore [NAME=NUMBER]...	runs from here to "end", under one schedule after the other;
 *				then, once more, for good, as the emulator does it otherwise
 *   replay [NAME=NUMBER]... SCHEDULE	one schedule, and each of its events
 *   end RESULT			of a schedule: 0, or what was wrong; from 100 on, what was seen, and is counted
 *   forget			all watches
 *
 * numbers of explore: k, preemptions at most (2); hold=1, stores may wait in a store buffer
 * while another CPU runs; cpus, a mask of the CPUs that may be preempted (3); quiet,
 * instructions without an event after which the next CPU has its turn (20000); turn, the same
 * with events (60000); most, schedules (1000000); first=1, ends with the first one that is wrong.
 *
 * A schedule is a list of EVENT>CPU: after event number EVENT that CPU runs.  With an h
 * behind it the stores of the one that ran, since it last had its store buffer empty,
 * are seen by others only when it runs again.  Where no preemption is due a CPU runs until it
 * halts, or has been quiet for long.
 *
 * Events: accesses to what is watched, VM entries and exits, interrupts taken.  Each schedule
 * is a child of the emulator, so that the machine stays as it was.
 */
#ifndef LAB_EXPLORE_H
#define LAB_EXPLORE_H

#define EXPLORE_PORT 0x8a24

extern void explore_write(Bit8u byte);
extern Bit8u explore_read(void);

/* Between two traces of @cpu: what was asked for is done here. */
extern bool explore_due;
extern void explore_now(unsigned cpu);

#endif
