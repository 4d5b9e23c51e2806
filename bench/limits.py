# SPDX-License-Identifier: GPL-2.0
"""What was not tested: the list of docs/limits.md, for the report and the cover letter."""
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/limits.md"
HEADLINE = "## What was not tested\n"


def items():
    """[plain text]"""
    text = re.split(r"^## ", PAGE.read_text().split(HEADLINE)[1], flags=re.MULTILINE)[0]
    found = [" ".join(item.split()) for item in re.split(r"^- ", text, flags=re.MULTILINE)]
    linked = [re.sub(r"\[([^]]*)\]\((http[^)]*)\)", r"\1, \2", item) for item in found if item]
    return [re.sub(r"\*\*|`", "", item) for item in linked]
