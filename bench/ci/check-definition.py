#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Checks a LAVA test definition against LAVA's own schema. Debian's python3, whatever else is in
PATH: it has yaml and voluptuous.

exit status: 0 valid, 1 not, 2 wrong usage"""
import argparse
import sys

import voluptuous
import yaml


def script(definition):
    parameters = [f"{name}='{value}'" for name, value in definition.get("params", {}).items()]
    return "\n".join([*parameters, "set -e", *definition["run"]["steps"]])


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("schemas", help="folder of LAVA's, as fetch-lava.sh makes it")
    args.add_argument("file")
    args.add_argument("--script", action="store_true",
                      help="print the shell text that LAVA makes of parameters and steps")
    args = args.parse_args()
    sys.path.insert(0, args.schemas)
    from lava_common.schemas.test import testdef
    try:
        with open(args.file) as file:
            definition = yaml.safe_load(file)
        testdef.validate(definition)
    except (yaml.YAMLError, voluptuous.Invalid) as error:
        sys.exit(f"{args.file}: not a LAVA test definition: {error}")
    # The schema takes one without steps, and any name of the part that holds them.
    if not definition.get("run", {}).get("steps"):
        sys.exit(f"{args.file}: nothing to run")
    if args.script:
        print(script(definition))
    return 0


if __name__ == "__main__":
    sys.exit(main())
