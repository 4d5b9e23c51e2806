#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Checks a LAVA test definition against LAVA's own schema; --script also prints the shell text
that LAVA makes of its parameters and steps. Called by check.py; LAVA_SCHEMAS is the folder of
fetch-lava.sh. Debian's python3, whatever else is in PATH: it has yaml and voluptuous.

exit status: 0 valid, 1 not"""
import sys

import voluptuous
import yaml


def script(definition):
    parameters = [f"{name}='{value}'" for name, value in definition.get("params", {}).items()]
    return "\n".join([*parameters, "set -e", *definition["run"]["steps"]])


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: check-definition.py LAVA_SCHEMAS FILE [--script]")
    sys.path.insert(0, sys.argv[1])
    from lava_common.schemas.test import testdef
    try:
        with open(sys.argv[2]) as file:
            definition = yaml.safe_load(file)
        testdef.validate(definition)
    except (yaml.YAMLError, voluptuous.Invalid) as error:
        sys.exit(f"{sys.argv[2]}: not a LAVA test definition: {error}")
    # The schema takes one without steps, and any name of the part that holds them.
    if not definition.get("run", {}).get("steps"):
        sys.exit(f"{sys.argv[2]}: nothing to run")
    if "--script" in sys.argv:
        print(script(definition))
    return 0


if __name__ == "__main__":
    sys.exit(main())
