# SPDX-License-Identifier: GPL-2.0
"""Runs of a lab beside each other, each in a process of its own: for the vmx lab, whose
emulator has one thread and whose results do not depend on the machine's load. Ctrl-C and
SIGTERM end them all, emulators included."""
import multiprocessing
import os
import signal


def guarded(job):
    function, args = job
    try:
        return function(*args)
    except KeyboardInterrupt:           # cleaned up; the parent has had it too, or sent it
        os._exit(130)


def processes(number):
    return multiprocessing.Pool(number, signal.signal,
                                (signal.SIGTERM, signal.default_int_handler))


def unordered(function, jobs, at_once):
    """Yields function(*job) for each of @jobs, begun in their order, as they end."""
    with processes(at_once) as pool:
        yield from pool.imap_unordered(guarded, [(function, job) for job in jobs])
        pool.close()
        pool.join()


def run(function, jobs, at_once):
    """[function(*job) for each of @jobs], @at_once of them at a time; one after the other in a
    process that is of such a run itself."""
    if len(jobs) == 1 or multiprocessing.current_process().daemon:
        return [function(*job) for job in jobs]
    with processes(at_once) as pool:
        results = pool.map(guarded, [(function, job) for job in jobs], chunksize=1)
        pool.close()
        pool.join()
    return results
