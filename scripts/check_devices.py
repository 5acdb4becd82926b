#!/usr/bin/env python3
"""Trains the same few steps on the CPU and on the GPU, from the same seed and data, for several recipes, and
checks that no step's loss differs by more than 0.5 %.

usage: check_devices.py QUEST DATA OUT [--config FILE] [--recipes NAME ...] [--steps N] [--batch N] [FLAGS]

QUEST is a program built with the GPU side, DATA a folder made by `quest data`, FLAGS more flags of
`quest train`. The configuration's schedule is run through in the N steps, warm-up and decay included, so that
the rates are those of a whole run. Runs go to OUT, OUT/devices.md gets the table. Exit code 1 if a check fails.
"""
import argparse
import json
import pathlib
import subprocess
import sys

LIMIT = 0.005  # of a step's loss
DEVICES = ["cpu", "cuda"]


def train(arguments, recipe, device):
    name = f"{recipe}-{device}"
    command = [arguments.quest, "train", "--config", arguments.config, "--data", arguments.data,
               "--out", str(arguments.out), "--name", name, "--quant", recipe, "--device", device,
               "--steps", str(arguments.steps), "--batch", str(arguments.batch),
               "--train.micro_batch_size", str(arguments.batch), "--log.every", "1", "--eval-every", "0",
               "--checkpoint.every", "0", "--checkpoint.minutes", "0", *arguments.flags]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}:\n{result.stderr[-2000:]}")
    run = arguments.out / name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    if len(steps) != arguments.steps:
        sys.exit(f"{run}: {len(steps)} steps in metrics.jsonl, not {arguments.steps}")
    summary = json.loads((run / "summary.json").read_text())
    print(f"{name}: loss {steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f}, "
          f"{summary['wall_seconds']:.0f} s", file=sys.stderr, flush=True)
    return steps, summary["validation_loss"]


def largest_difference(cpu, gpu, key):
    """The largest of the steps' differences relative to the CPU's value, and its step; NaN is largest."""
    differences = [abs(b[key] - a[key]) / a[key] if None not in (a[key], b[key]) else float("inf")
                   for a, b in zip(cpu, gpu)]
    worst = max(differences)
    return worst, 1 + differences.index(worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("quest")
    parser.add_argument("data")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--config", default="configs/30M.toml")
    parser.add_argument("--recipes", nargs="+", default=["bf16", "w8a8", "w4a4", "w2a2", "w1a1"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    arguments, arguments.flags = parser.parse_known_args()

    rows, good = [], True
    for recipe in arguments.recipes:
        (cpu, cpu_validation), (gpu, gpu_validation) = (train(arguments, recipe, d) for d in DEVICES)
        loss, loss_step = largest_difference(cpu, gpu, "loss")
        norm, norm_step = largest_difference(cpu, gpu, "grad_norm")
        good = good and loss <= LIMIT
        rows.append(f"| {recipe} | {cpu[0]['loss']:.4f} to {cpu[-1]['loss']:.4f} "
                    f"| {100 * loss:.3f} % (step {loss_step}) | {100 * norm:.2f} % (step {norm_step}) "
                    f"| {cpu_validation:.4f} | {gpu_validation:.4f} "
                    f"| {'yes' if loss <= LIMIT else 'NO'} |")
    head = ["recipe", "loss on the CPU", "largest difference of loss", "of gradient norm",
            "validation loss, CPU", "GPU", f"loss within {100 * LIMIT:g} %"]
    text = "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]) + "\n"
    (arguments.out / "devices.md").write_text(text)
    print(text, end="")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
