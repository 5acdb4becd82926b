#!/usr/bin/env python3
"""Trains the first steps of a run on the CPU and on the GPU, from the same seed and data, for several recipes,
and checks that no step's loss differs by more than 0.5 %.

usage: check_devices.py QUEST DATA OUT [--config FILE] [--recipes NAME ...] [--steps N] [--batch N]
       [--whole-schedule] [FLAGS]

QUEST is a program built with the GPU side, DATA a folder made by `quest data`, FLAGS more flags of
`quest train`. Step for step the learning rates are those of the configuration, and the run is stopped after N
steps; with --whole-schedule its warm-up and decay are run through in the N steps. Runs go to OUT, OUT/devices.md
gets the table. Exit code 1 if a check fails.
"""
import argparse
import json
import math
import pathlib
import signal
import subprocess
import sys
import time
import tomllib

LIMIT = 0.005  # of a step's loss
DEVICES = ["cpu", "cuda"]
INTERRUPTED = 130


def steps_of_config(path):
    settings = tomllib.loads(pathlib.Path(path).read_text())["train"]
    if settings.get("steps"):
        return settings["steps"]
    return math.ceil(settings["tokens"] / (settings["batch_size"] * settings["sequence_length"]))


def read_steps(run):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in map(json.loads, lines) if "loss" in line]


def train(arguments, recipe, device):
    name = f"{recipe}-{device}"
    run = arguments.out / name
    if run.exists():
        sys.exit(f"{run} is there: name another folder")
    command = [arguments.quest, "train", "--config", arguments.config, "--data", arguments.data,
               "--out", str(arguments.out), "--name", name, "--quant", recipe, "--device", device,
               "--steps", str(arguments.total), "--batch", str(arguments.batch),
               "--train.micro_batch_size", str(arguments.batch), "--log.every", "1", "--eval-every", "0",
               "--checkpoint.every", "0", "--checkpoint.minutes", "0", *arguments.flags]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stopped = False
    while process.poll() is None:
        if not stopped and arguments.total > arguments.steps and len(read_steps(run)) >= arguments.steps:
            process.send_signal(signal.SIGINT)
            stopped = True
        time.sleep(0.1)
    output = process.communicate()[0]
    if process.returncode not in ([0, INTERRUPTED] if stopped else [0]):
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{output[-2000:]}")
    steps = read_steps(run)[:arguments.steps]
    if len(steps) < arguments.steps:
        sys.exit(f"{run}: {len(steps)} steps in metrics.jsonl, not {arguments.steps}")
    print(f"{name}: loss {steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f}, "
          f"{time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return steps


def largest_difference(cpu, gpu, key):
    """The largest of the steps' differences relative to the CPU's value, and its step; no number is largest."""
    differences = [abs(b[key] - a[key]) / a[key] if None not in (a[key], b[key]) else float("inf")
                   for a, b in zip(cpu, gpu)]
    worst = max(differences)
    return worst, 1 + differences.index(worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("quest")
    parser.add_argument("data")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--config", default="configs/30M.toml")
    parser.add_argument("--recipes", nargs="+", default=["bf16", "w8a8", "w4a4", "w2a2", "w1a1"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--whole-schedule", action="store_true")
    arguments, arguments.flags = parser.parse_known_args()
    arguments.total = arguments.steps if arguments.whole_schedule else steps_of_config(arguments.config)

    rows, good = [], True
    for recipe in arguments.recipes:
        cpu, gpu = (train(arguments, recipe, device) for device in DEVICES)
        loss, loss_step = largest_difference(cpu, gpu, "loss")
        norm, norm_step = largest_difference(cpu, gpu, "grad_norm")
        good = good and loss <= LIMIT
        rows.append(f"| {recipe} | {cpu[0]['loss']:.4f} to {cpu[-1]['loss']:.4f} "
                    f"| {gpu[0]['loss']:.4f} to {gpu[-1]['loss']:.4f} "
                    f"| {100 * loss:.4f} % (step {loss_step}) | {100 * norm:.3f} % (step {norm_step}) "
                    f"| {'yes' if loss <= LIMIT else 'NO'} |")
    head = ["recipe", "loss, CPU", "loss, GPU", "largest difference of loss", "of gradient norm",
            f"loss within {100 * LIMIT:g} %"]
    text = "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]) + "\n"
    (arguments.out / "devices.md").write_text(text)
    print(text, end="")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
