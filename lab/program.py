# SPDX-License-Identifier: GPL-2.0
"""What programs that people start have in common: options, how they end, exit status."""
import argparse
import signal
import sys
from pathlib import Path

from lab.lab import LabError, base_of


def options(doc, base=False):
    """A parser, with @doc, a module's, for --help; with --base as well, if asked for."""
    args = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--build", default="build", help="what `make lab-setup` filled")
    if base:
        args.add_argument("--base", help="default: the one that BUILD is for")
    return args


def parse(args):
    """What a parser with --base makes of the command line."""
    found = args.parse_args()
    found.base = found.base or base_of(found.build)
    return found


def start(main, statuses=(), name=None):
    """Ends with what @main returns. SIGTERM ends it as Ctrl-C does, with 130; 125: the lab
    failed. @statuses: (exception, exit status) of the program's own; they are said in a line, behind its
    name."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except tuple(kind for kind, _ in (*statuses, (LabError, 125))) as error:
        print(f"{name or Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(next(status for kind, status in (*statuses, (LabError, 125)) if isinstance(error, kind)))
