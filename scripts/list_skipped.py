#!/usr/bin/env python3
"""Prints the tests that were skipped, with the reason, from the log that ctest leaves behind.

GoogleTest writes for a skipped test
    [ RUN      ] Suite.Name
    path/file.cpp:12: Skipped
    the reason, one or more lines
    [  SKIPPED ] Suite.Name (0 ms)
"""

import re
import sys


def skipped_tests(lines):
    """Yields (name, reason) for each skipped GoogleTest test in the lines of a log."""
    reason = None
    for line in lines:
        line = line.rstrip("\n")
        if line.startswith("[ RUN      ]"):
            reason = None
        elif re.search(r":\d+: Skipped$", line) or line.endswith("): Skipped"):
            reason = []
        elif match := re.match(r"\[  SKIPPED \] (\S+) \(\d+ ms\)", line):
            yield match.group(1), " ".join(part for part in reason or [] if part)
        elif reason is not None:
            reason.append(line.strip())


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: list_skipped.py LastTest.log")
    try:
        with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
            skipped = sorted(set(skipped_tests(log)))
    except OSError as error:
        sys.exit(f"list_skipped: {error}")
    if skipped:
        print(f"SKIPPED ({len(skipped)}):")
        for name, reason in skipped:
            print(f"  {name}: {reason or 'no reason given'}")
    else:
        print("SKIPPED: none")


if __name__ == "__main__":
    main()
