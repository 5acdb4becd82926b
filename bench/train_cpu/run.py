#!/usr/bin/env python3
"""Compares `train_cpu` with peer.py on this machine and writes bench/results/train_cpu_<cpu>.md.

    python3 bench/train_cpu/run.py --train-cpu build/bin/train_cpu --peer-python PEER_VENV/bin/python

One measurement is one process. Rounds take all configurations one after the other, so that a change
of the machine's speed meets all of them; a configuration's figure is the median of its rounds, and a
ratio is the median of the rounds' ratios. --raw keeps what was measured, and goes on with what it
holds: rounds of several sessions, or of some --rows, become one table. Exit code: 0 all targets met,
1 one is missed, 2 a program failed.
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import cpu_model, file_name, instructions  # noqa: E402

# peer: the method as its authors compute it, lean: shortened by hand (peer.py). Promises are against peer.
PROGRAMS = ["quest", "peer-eager", "peer-compiled", "lean-eager", "lean-compiled"]
# (name, quantizers, compute type)
ROWS = [("W4A4, BF16", "w4a4", "bf16"), ("BF16", "bf16", "bf16"), ("W4A4, FP32", "w4a4", "fp32"), ("FP32", "bf16", "fp32")]


def is_run(program, quant, compute):
    """Compiling takes minutes: not where nothing is promised against it. lean differs where something is quantized."""
    if program.startswith("lean"):
        return (quant, compute) == ("w4a4", "bf16")
    return (program, compute) != ("peer-compiled", "fp32")


# What is promised, as ratios of tokens/s: (numerator, denominator, with AMX, without AMX); None: no promise.
W4A4_BF16, BF16, W4A4_FP32 = ("w4a4", "bf16"), ("bf16", "bf16"), ("w4a4", "fp32")
TARGETS = [
    (("quest", *W4A4_BF16), ("peer-eager", *W4A4_BF16), 2.0, 1.3),
    (("quest", *W4A4_BF16), ("peer-compiled", *W4A4_BF16), 1.5, 1.0),
    (("quest", *W4A4_FP32), ("peer-eager", *W4A4_FP32), 3.0, 1.3),
    (("quest", *BF16), ("peer-compiled", *BF16), 1.2, 1.0),
    (("quest", *W4A4_BF16), ("quest", *BF16), 0.85, 0.85),
]

def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train-cpu", type=pathlib.Path, required=True, help="the program train_cpu of the build")
    p.add_argument("--peer-python", default=sys.executable, help="a python3 with requirements.txt installed")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=5, help="timed steps of a process")
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--sequence", type=int, default=512)
    p.add_argument("--threads", type=int, default=0, help="0: the cores that this process may use")
    p.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    p.add_argument("--rows", nargs="+", choices=[row[0] for row in ROWS], default=[row[0] for row in ROWS])
    p.add_argument("--raw", type=pathlib.Path, help="lines are added here; the table is of all in it")
    p.add_argument("--table-only", action="store_true", help="run nothing, write the table of --raw")
    p.add_argument("--out", type=pathlib.Path, help="default: bench/results/train_cpu_<cpu>.md")
    return p.parse_args()


def command(a, program, quant, compute, threads):
    """The process that measures one configuration once."""
    common = ["--quant", quant, "--batch", a.batch, "--sequence", a.sequence]
    common += ["--steps", a.steps, "--warmup", a.warmup, "--threads", threads]
    if program == "quest":
        line = [a.train_cpu, "--preset", "30M", "--compute", compute, *common]
    else:
        line = [a.peer_python, HERE / "peer.py", "--dtype", compute, *common]
        style, _, mode = program.partition("-")
        line += ["--style", "authors" if style == "peer" else "lean"]
        line += ["--compile"] if mode == "compiled" else []
    return [str(word) for word in line]


def fail(message):
    sys.stderr.write(f"run.py: {message}\n")
    sys.exit(2)


def measure(line):
    done = subprocess.run(line, capture_output=True, text=True)
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode != 0 or not last.startswith("{"):
        sys.stderr.write(done.stdout + done.stderr)
        sys.stderr.write(f"run.py: failed with exit code {done.returncode}: {shlex.join(line)}\n")
        sys.exit(2)
    return json.loads(last)


def this_machine():
    return {"cpu": cpu_model(), "instructions": instructions()}


def settings_of(a, threads):
    return {"batch": a.batch, "sequence": a.sequence, "steps": a.steps, "warmup": a.warmup, "threads": threads}


def read_raw(a, threads):
    """Of earlier runs: {(program, quant, compute): [results]}, and their machine. Of other settings, or (to go on) of another
    machine: an error."""
    results, machine = {}, this_machine()
    if not a.raw or not a.raw.is_file():
        return results, machine
    try:
        for line in a.raw.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["settings"] != settings_of(a, threads):
                fail(f"--raw: {a.raw} was measured with {record['settings']}, not {settings_of(a, threads)}: name another file")
            results.setdefault(tuple(record["key"]), []).append(record["result"])
            machine = record["machine"]
            if not a.table_only and machine != this_machine():
                fail(f"--raw: {a.raw} was measured on {machine['cpu']}, this is {cpu_model()}: name another file")
    except (ValueError, KeyError, TypeError) as error:
        fail(f"--raw: {a.raw} cannot be read: {error!r}")
    return results, machine


def run_rounds(a, threads, results):
    """Adds to results {(program, quant, compute): [one result for each round]}."""
    for round_number in range(a.rounds):
        for name, quant, compute in ROWS:
            for program in a.programs:
                if name not in a.rows or not is_run(program, quant, compute):
                    continue
                result = measure(command(a, program, quant, compute, threads))
                key = (program, quant, compute)
                results.setdefault(key, []).append(result)
                if a.raw:
                    with open(a.raw, "a", encoding="utf-8") as out:
                        record = {"key": key, "machine": this_machine(), "settings": settings_of(a, threads), "result": result}
                        out.write(json.dumps(record) + "\n")
                rate = result["tokens_per_second"]
                print(f"round {round_number + 1}/{a.rounds}  {name:12} {program:14} {rate:9.1f} tokens/s", flush=True)


def ratio(results, numerator, denominator):
    """Median of the rounds' ratios; None if one of the two was not run."""
    if numerator not in results or denominator not in results:
        return None
    pairs = zip(results[numerator], results[denominator])
    return statistics.median(n["tokens_per_second"] / d["tokens_per_second"] for n, d in pairs)


def fastest_ratio(results, numerator, denominator):
    """Of the fastest step of all rounds: what both reach where nobody else uses the cores."""
    return max(r["most"] for r in results[numerator]) / max(r["most"] for r in results[denominator])


def median_of(results, key, field):
    return statistics.median(r[field] for r in results[key])


def speed_table(results):
    lines = ["| model | program | tokens/s | least to most | MFU | peak memory | quest is |", "|---|---|---|---|---|---|---|"]
    for name, quant, compute in ROWS:
        for program in PROGRAMS:
            key = (program, quant, compute)
            if key not in results:
                continue
            rates = [r["tokens_per_second"] for r in results[key]]
            mfu = f"{100 * median_of(results, key, 'mfu'):.0f} %" if program == "quest" else ""
            memory = f"{median_of(results, key, 'peak_rss_bytes') / 2**20:.0f} MiB"
            advantage = ratio(results, ("quest", quant, compute), key) if program != "quest" else None
            lines.append(
                f"| {name} | {program.replace('-', ', ')} | {statistics.median(rates):.0f} | {min(rates):.0f} to {max(rates):.0f} "
                f"| {mfu} | {memory} | {f'{advantage:.2f} x' if advantage else ''} |"
            )
    return lines


def configuration_name(key):
    program, quant, compute = key
    name = next(row[0] for row in ROWS if row[1:] == (quant, compute))
    return f"{program.replace('-', ', ')} ({name})"


def check_targets(results, has_amx):
    """Lines of a table, and whether all targets that could be checked are met."""
    lines = [f"| tokens/s, target {'with' if has_amx else 'without'} AMX | at least | measured | fastest steps | |", "|---|---|---|---|---|"]
    met = True
    for numerator, denominator, with_amx, without_amx in TARGETS:
        target = with_amx if has_amx else without_amx
        measured = ratio(results, numerator, denominator)
        if measured is None:
            continue
        met &= measured >= target
        verdict = "met" if measured >= target else "**missed**"
        fastest = fastest_ratio(results, numerator, denominator)
        lines.append(f"| {configuration_name(numerator)} / {configuration_name(denominator)} | {target} | {measured:.2f} | {fastest:.2f} | {verdict} |")
    low, full = ("quest", *W4A4_BF16), ("quest", *BF16)
    if low in results and full in results:
        memory = median_of(results, low, "peak_rss_bytes") / median_of(results, full, "peak_rss_bytes")
        met &= memory <= 1.0
        verdict = "met" if memory <= 1.0 else "**missed**"
        lines += ["", f"Peak memory of quest at W4A4 / BF16: {memory:.3f}, at most 1: {verdict}."]
    return lines, met


def write_report(a, results, machine, threads, path):
    has_amx = "amx_bf16" in machine["instructions"]
    target_lines, met = check_targets(results, has_amx)
    versions = sorted({r["version"] for rounds in results.values() for r in rounds})
    levels = sorted({r["isa"] for key, rounds in results.items() if key[0] == "quest" for r in rounds})
    program = next(iter(a.train_cpu.parts[-1:]))
    shown = ["python3", "bench/train_cpu/run.py", "--train-cpu", f"build/bin/{program}", "--peer-python", "PEER_VENV/bin/python"]
    rounds = sorted({len(r) for r in results.values()})
    shown += ["--rounds", rounds[-1], "--steps", a.steps, "--warmup", a.warmup, "--batch", a.batch]
    shown += ["--sequence", a.sequence, "--threads", threads]
    lines = [
        "# A training step on a CPU",
        "",
        f"{datetime.date.today().isoformat()}, {machine['cpu']}, {threads} threads; kernels: {', '.join(levels) or '-'}; "
        f"CPU has {machine['instructions']}. {'; '.join(versions)}.",
        "",
        f"30M Llama (6 blocks, 640 wide, 5 heads of 128, MLP 1792, vocabulary 32000), {a.batch} x {a.sequence} random tokens a step; a "
        "step is zero gradients, loss, backward, clip at norm 1, AdamW. The peer is [peer.py](../train_cpu/peer.py), a plain "
        "PyTorch program of the same method as its authors compute it, with glibc told to keep freed memory and fused "
        "AdamW; `lean` is the same program shortened by hand. MFU refers to the products' type "
        "(BF16 or FP32) at the rate that quest's probe reaches.",
        "",
        f"Medians of {' to '.join(str(n) for n in sorted({rounds[0], rounds[-1]}))} alternating rounds, each a process of {a.warmup} + {a.steps} "
        "steps; `fastest steps` is the ratio of the fastest step of each:",
        "",
        "```",
        shlex.join(str(word) for word in shown),
        "```",
        "",
        *speed_table(results),
        "",
        *target_lines,
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    print("\n".join(lines))
    print(f"written to {path}")
    return met


def main():
    a = parse_arguments()
    if a.table_only and not a.raw:
        fail("--table-only needs --raw FILE")
    if not a.table_only and not a.train_cpu.is_file():
        sys.exit(f"run.py: {a.train_cpu} does not exist; `make build` makes build/bin/train_cpu")
    if min(a.rounds, a.steps) < 1 or a.warmup < 0:
        sys.exit("run.py: --rounds and --steps must be 1 or more, --warmup 0 or more")
    threads = a.threads or len(os.sched_getaffinity(0))
    results, machine = read_raw(a, threads)
    if not a.table_only:
        run_rounds(a, threads, results)
    elif not results:
        fail(f"--raw: {a.raw} holds no measurement")
    path = a.out or HERE.parent / "results" / f"train_cpu_{file_name(machine['cpu'])}.md"
    sys.exit(0 if write_report(a, results, machine, threads, path) else 1)


if __name__ == "__main__":
    main()
