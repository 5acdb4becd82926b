#!/usr/bin/env python3
"""Prints a table of finished runs (their summary.json): bits, validation loss, perplexity, speed.

    demo_table.py RUN...
"""

import json
import math
import pathlib
import re
import sys


def bits(recipe):
    """("4", "4") for w4a4: bits of weights and activations, for the table."""
    match = re.fullmatch(r"w(\d+)a(\d+).*", recipe)
    return match.groups() if match else ("16", "16")


def row(run):
    """One line of the table from a run's summary."""
    with open(pathlib.Path(run) / "summary.json", encoding="utf-8") as file:
        summary = json.load(file)
    weight, activation = bits(summary["recipe"])
    loss = summary["validation_loss"]
    return [
        summary["recipe"].upper(),
        weight,
        activation,
        f"{loss:.4f}",
        f"{math.exp(loss):.2f}",
        f"{summary['tokens_per_second']:,.0f}",
    ]


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: demo_table.py RUN...")
    header = ["recipe", "weight bits", "activation bits", "validation loss", "perplexity", "tokens/s"]
    try:
        rows = [row(run) for run in sys.argv[1:]]
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"demo_table: a run is not finished or its summary.json is damaged: {error}")
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    for line in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths)))


if __name__ == "__main__":
    main()
