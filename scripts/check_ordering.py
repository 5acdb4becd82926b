#!/usr/bin/env python3
"""Trains configs/demo.toml at several recipes, seeds and learning rates and checks the orders that the
method promises: validation loss BF16 <= W4A4 < W2A2 < W1A1 (means over the seeds), W4A4 at most 1.02 times
BF16, and W1A1 without divergence over an eightfold range of learning rates.

usage: check_ordering.py QUEST DATA OUT [--jobs N] [--threads N] [--seeds N] [--config FILE]

QUEST is the program, DATA a folder made by `quest data`. Runs go to OUT/runs and are resumed if the script
is started again; OUT/ordering.md gets the tables. Exit code 1 if a check fails.
"""
import argparse
import concurrent.futures
import json
import math
import pathlib
import subprocess
import sys

RECIPES = ["bf16", "w4a4", "w2a2", "w1a1"]
RATES = [1e-3, 2e-3, 4e-3, 8e-3]  # of W1A1: a range of 8


def train(arguments, name, *flags):
    command = [arguments.quest, "train", "--config", arguments.config, "--data", arguments.data,
               "--out", str(arguments.out / "runs"), "--name", name,
               "--threads", str(arguments.threads), *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}:\n{result.stderr[-2000:]}")
    summary = json.loads((arguments.out / "runs" / name / "summary.json").read_text())
    print(f"{name}: validation loss {summary['validation_loss']:.4f}", flush=True)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("quest")
    parser.add_argument("data")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, default=2, help="threads of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", default="configs/demo.toml")
    arguments = parser.parse_args()

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        by_recipe = {r: [pool.submit(train, arguments, f"{r}-seed{s}", "--quant", r, "--seed", str(s))
                         for s in range(arguments.seeds)] for r in RECIPES}
        by_rate = {lr: pool.submit(train, arguments, f"w1a1-lr{lr:g}", "--quant", "w1a1",
                                   "--lr", f"{lr:g}") for lr in RATES}
        losses = {r: [f.result()["validation_loss"] for f in runs] for r, runs in by_recipe.items()}
        rates = {lr: f.result()["validation_loss"] for lr, f in by_rate.items()}

    mean = {r: sum(x) / len(x) for r, x in losses.items()}
    checks = {
        "BF16 <= W4A4": mean["bf16"] <= mean["w4a4"],
        "W4A4 < W2A2": mean["w4a4"] < mean["w2a2"],
        "W2A2 < W1A1": mean["w2a2"] < mean["w1a1"],
        "W4A4 <= 1.02 x BF16": mean["w4a4"] <= 1.02 * mean["bf16"],
        # A model that diverged is no better than one that knows nothing but token frequencies.
        "W1A1 trains at every learning rate":
            all(math.isfinite(x) and x < 1.15 * min(rates.values()) for x in rates.values()),
    }
    lines = ["| recipe | " + " | ".join(f"seed {s}" for s in range(arguments.seeds))
             + " | mean | to BF16 |", "|---" * (arguments.seeds + 3) + "|"]
    for r in RECIPES:
        lines.append(f"| {r} | " + " | ".join(f"{x:.4f}" for x in losses[r])
                     + f" | {mean[r]:.4f} | {mean[r] / mean['bf16']:.4f} |")
    lines += ["", "| W1A1 at learning rate | " + " | ".join(f"{lr:g}" for lr in RATES) + " |",
              "|---" * (len(RATES) + 1) + "|",
              "| validation loss | " + " | ".join(f"{rates[lr]:.4f}" for lr in RATES) + " |", ""]
    lines += [f"- {'holds' if ok else 'FAILS'}: {text}" for text, ok in checks.items()]
    text = "\n".join(lines) + "\n"
    (arguments.out / "ordering.md").write_text(text)
    print(text)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
