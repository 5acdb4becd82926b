#!/usr/bin/env python3
"""Compares `train_gpu` with peer.py on this machine's GPU and writes bench/results/train_gpu_<gpu>.md.

    python3 bench/train_gpu/run.py --train-gpu build-cuda/bin/train_gpu

One measurement is one process, and its line of JSON is added to --raw at once. A round takes all programs of a model one
after the other (every second round backwards), so that a change of the GPU's speed meets all of them; a figure is the
median of its rounds, a ratio is the median of the rounds' ratios to compiled BF16 PyTorch (peer.py). A program that fails
becomes a row that says so. --table-only writes the table of the newest session in --raw again; --session NAME goes on with
a session, in pieces of a few minutes. Exit code: 0 all targets met, 1 one is missed or could not be measured, 2 wrong arguments.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from gpu_session import Parser, fail, gpu_and_driver, last_error, records_of_session, run_process, run_rounds  # noqa: E402
from machine import file_name  # noqa: E402
from shapes import MODELS  # noqa: E402

# 80 GB hold all of them: compiled PyTorch needs about 57 GB of the 1.6B, 35 GB of the 800M.
BATCHES = {"800M": 32, "30M": 64, "1.6B": 32}
SEQUENCE = 512
BASELINE = "compiled"
# Programs of PyTorch: flags of peer.py
PEERS = {
    BASELINE: ["--method", "bf16", "--compile"],
    "eager": ["--method", "bf16"],
    "w4a4 compiled": ["--method", "w4a4", "--compile"],
    "w4a4 eager": ["--method", "w4a4"],
}
# Programs of quest: flags of train_gpu
RECIPES = {
    "bf16": ["--recipe", "bf16", "--backward", "bf16"],
    "w4a4": ["--recipe", "w4a4", "--backward", "bf16"],
    "w4a4 fp8": ["--recipe", "w4a4", "--backward", "fp8"],
    "w2a2": ["--recipe", "w2a2", "--backward", "bf16"],
    "w1a1": ["--recipe", "w1a1", "--backward", "bf16"],
}
MEASURED = {"800M": list(RECIPES), "30M": ["bf16", "w4a4", "w4a4 fp8"], "1.6B": ["bf16", "w4a4", "w4a4 fp8"]}
ROWS = {f"{model} {recipe}": (model, recipe) for model, recipes in MEASURED.items() for recipe in recipes}
NEEDED = ("tokens_per_second", "ms_per_step", "peak_memory_bytes", "loss_first", "loss_last")


@dataclasses.dataclass(frozen=True)
class Target:
    ratio: float = 0  # at least so many times the tokens/s of compiled BF16 PyTorch
    memory: float = 0  # at most so many times its peak memory
    tokens: float = 0  # at least so many tokens/s

    def text(self):
        parts = [f"{self.ratio:.2f} x"] * (self.ratio > 0) + [f"memory at most {self.memory:.2f} x"] * (self.memory > 0)
        return "; ".join(parts + [f"{self.tokens / 1e6:.1f}M tokens/s"] * (self.tokens > 0))


TARGETS = {
    "800M bf16": Target(ratio=1.0, memory=1.0),
    "800M w4a4": Target(ratio=1.03, memory=1.0),
    "800M w4a4 fp8": Target(ratio=1.2, memory=1.0),
    "30M w4a4": Target(tokens=1.1e6),
}


def parse_arguments():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--train-gpu", type=pathlib.Path, metavar="PATH", help="the program train_gpu of the build; without it only PyTorch is measured")
    p.add_argument("--peer-python", default=sys.executable, help="a python3 with torch; default: this one")
    p.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=f"of quest: {', '.join(ROWS)}")
    p.add_argument("--peers", nargs="+", choices=list(PEERS), default=[BASELINE], help=f"programs of PyTorch; default {BASELINE}")
    p.add_argument("--peer-options", default="", help='more flags of peer.py, as "--attention cudnn"')
    p.add_argument("--train-options", default="", help="more flags of train_gpu")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=20, help="timed steps of a process; default 20")
    p.add_argument("--warmup", type=int, default=5, help="steps before, 3 or more; default 5")
    p.add_argument("--batch", type=int, default=0, help=f"sequences of a step; 0 (default): {', '.join(f'{m} {b}' for m, b in BATCHES.items())}")
    p.add_argument("--seq", type=int, default=SEQUENCE, help=f"tokens of a sequence; default {SEQUENCE}")
    p.add_argument("--peak-tflops", type=float, default=989, help="that MFU refers to; default 989, dense BF16 of an H100 or H200")
    p.add_argument("--timeout", type=float, default=300, help="seconds after which a process counts as failed; default 300")
    p.add_argument("--minutes", type=float, default=0, help="starts no process after so long; 0 (default): no limit")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try this script, with peer.py on the CPU")
    p.add_argument("--raw", type=pathlib.Path, default=HERE.parent.parent / "build" / "train_gpu.jsonl", help="lines are added here")
    p.add_argument("--session", help="goes on with this session of --raw; default: a new one, named by the time")
    p.add_argument("--table-only", action="store_true", help="run nothing, write the table of --raw")
    p.add_argument("--out", type=pathlib.Path, help="default: bench/results/train_gpu_<gpu>.md")
    a = p.parse_args()
    if min(a.rounds, a.steps, a.seq) < 1 or a.batch < 0 or a.minutes < 0 or min(a.timeout, a.peak_tflops) <= 0:
        p.error("--rounds, --steps and --seq must be 1 or more, --timeout and --peak-tflops above 0, --batch and --minutes 0 or more")
    if a.warmup < 3:
        p.error(f"--warmup is {a.warmup}, must be 3 or more")
    if a.train_gpu and not a.table_only and not a.train_gpu.is_file():
        p.error(f"--train-gpu: {a.train_gpu} does not exist; `make build PRESET=cuda` makes build-cuda/bin/train_gpu")
    p.split_flags(a, "peer_options", "train_options")
    return a


def measure(line, timeout):
    """The program's line of JSON, what went wrong, and what to say of it."""
    printed, error = run_process(line, timeout)
    if error:
        return None, error, ""
    try:
        result = json.loads(printed.strip().rpartition("\n")[2])
        wrong = [key for key in NEEDED if not (isinstance(result.get(key), (int, float)) and math.isfinite(result[key]))]
    except (ValueError, AttributeError):
        return None, f"no line of JSON: {last_error(printed)}", ""
    if wrong:
        return None, f"its JSON has no number as {', '.join(wrong)}", ""
    return result, None, f"{result['tokens_per_second']:10.0f} tokens/s"


def batch_of(a, model):
    return a.batch or BATCHES[model]


def programs(a, model):
    """[(name, command)] of a round, the baseline first."""
    common = ["--model", model, "--batch", batch_of(a, model), "--seq", a.seq, "--steps", a.steps, "--warmup", a.warmup]
    found = []
    for name in (known for known in PEERS if known in a.peers):
        line = [a.peer_python, HERE / "peer.py", *common, *PEERS[name], *a.peer_options, *(["--device", "cpu"] if a.device == "cpu" else [])]
        found.append((f"{model} PyTorch {name}", line))
    for name in (known for known in ROWS if known in a.rows and a.train_gpu):
        if ROWS[name][0] == model:
            line = [a.train_gpu.resolve(), *common, "--lr", MODELS[model].learning_rate, *RECIPES[ROWS[name][1]]]
            found.append((name, [*line, *a.train_options]))
    return [(name, [str(word) for word in line]) for name, line in found]


def run_session(a):
    """Adds a line to the raw file for each process; the session's name."""
    gpu, driver = gpu_and_driver()
    settings = {"gpu": gpu, "driver": driver, "seq": a.seq, "batch": a.batch, "steps": a.steps, "warmup": a.warmup}
    settings.update(peer_options=a.peer_options, train_options=a.train_options)
    models = [m for m in BATCHES if any(ROWS[row][0] == m for row in a.rows)]
    return run_rounds(
        a,
        settings,
        models,
        programs=lambda model: programs(a, model),
        measure=lambda line: measure(line, a.timeout),
        script="bench/train_gpu/run.py",
        more=lambda model: {"batch": batch_of(a, model)},
    )


class Session:
    """What one session measured."""

    def __init__(self, records):
        self.records = records
        self.settings = records[0]["settings"]
        self.results, self.errors = {}, {}  # {name: {round: result}}, {name: last error}
        for record in records:
            if "result" in record:
                self.results.setdefault(record["name"], {})[record["round"]] = record["result"]
            else:
                self.errors[record["name"]] = record["error"]
        self.batches = {r["name"]: r["batch"] for r in records}
        self.models = {r["name"]: r["model"] for r in records}

    def names(self):
        order = [name for m in BATCHES for name in [*(f"{m} PyTorch {p}" for p in PEERS), *(row for row in ROWS if ROWS[row][0] == m)]]
        return [name for name in order if name in self.models]

    def values(self, name, key):
        return [result[key] for result in self.results[name].values()]

    def median(self, name, key):
        return statistics.median(self.values(name, key))

    def ratio(self, name, key):
        """To the baseline of the same model: the median of the rounds' ratios; None if one of the two was not run."""
        mine = self.results.get(name, {})
        baseline = self.results.get(f"{self.models[name]} PyTorch {BASELINE}", {})
        ratios = [mine[r][key] / baseline[r][key] for r in mine if r in baseline]
        return statistics.median(ratios) if ratios else None

    def mfu(self, name, peak_tflops):
        flops = MODELS[self.models[name]].flops_per_token(self.settings["seq"])
        return self.median(name, "tokens_per_second") * flops / (1e12 * peak_tflops)

    def target(self, name):
        """None where there is none, or not for this batch and sequence."""
        usual = self.batches[name] == BATCHES[self.models[name]] and self.settings["seq"] == SEQUENCE
        return TARGETS.get(name) if usual else None

    def verdicts(self, name):
        """[(what, whether it is met; None: the baseline is missing)]"""
        target, found = self.target(name), []
        if target is None:
            return found
        if name not in self.results:
            return [("", False)]
        if target.ratio:
            speed = self.ratio(name, "tokens_per_second")
            found.append(("speed", None if speed is None else speed >= target.ratio))
        if target.memory:
            memory = self.ratio(name, "peak_memory_bytes")
            found.append(("memory", None if memory is None else memory <= target.memory))
        if target.tokens:
            found.append(("speed", self.median(name, "tokens_per_second") >= target.tokens))
        return found

    def verdict_text(self, name):
        found = self.verdicts(name)
        words = {True: "met", False: "**missed**", None: "not measured"}
        if len({met for _, met in found}) == 1:
            return words[found[0][1]]
        return ", ".join(f"{what} {words[met]}" for what, met in found)

    def row(self, name, peak_tflops):
        target = self.target(name)
        end = f"{target.text() if target else ''} | {self.verdict_text(name)} |"
        label = f"{name}, {self.batches[name]} x {self.settings['seq']}"
        if name not in self.results:
            return f"| {label} | failed: {self.errors[name].replace('|', '/')} |{' |' * 7} {end}"
        rates = self.values(name, "tokens_per_second")
        speed, memory = self.ratio(name, "tokens_per_second"), self.ratio(name, "peak_memory_bytes")
        gib = lambda key: f"{self.median(name, key) / 2**30:.1f}"  # noqa: E731
        has_reserved = all("peak_reserved_bytes" in result for result in self.results[name].values())
        cells = [
            label,
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f} to {max(rates):.0f}",
            f"{self.median(name, 'ms_per_step'):.1f}",
            "" if speed is None else f"{speed:.3f}",
            gib("peak_memory_bytes") + (f" ({gib('peak_reserved_bytes')})" if has_reserved else ""),
            "" if memory is None else f"{memory:.3f}",
            f"{100 * self.mfu(name, peak_tflops):.1f} %",
            f"{self.median(name, 'loss_first'):.2f} to {self.median(name, 'loss_last'):.2f}",
        ]
        return "| " + " | ".join(cells) + " | " + end

    def table(self, peak_tflops):
        head = ["row", "tokens/s", "least to most", "ms/step", "times compiled BF16 PyTorch", "peak GiB (reserved)", "times its memory"]
        head += ["MFU", "loss", "target", ""]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        return lines + [self.row(name, peak_tflops) for name in self.names()]

    def notes(self):
        """Rounds that failed where others did not, and the plans that train_gpu reports."""
        lines = [f"{name}: another round failed: {self.errors[name]}" for name in self.names() if name in self.errors and name in self.results]
        for name in self.names():
            plans = {r["plan"] if isinstance(r["plan"], str) else json.dumps(r["plan"]) for r in self.results.get(name, {}).values() if r.get("plan")}
            lines += [f"{name}: {plan}" for plan in sorted(plans)]
        return [f"- {line}" for line in lines]

    def every(self, key):
        found = {result[key] for rounds in self.results.values() for result in rounds.values() if result.get(key)}
        return ", ".join(sorted(map(str, found)))

    def gpu(self):
        """nvidia-smi's name; where there is none, what the programs say."""
        return self.settings["gpu"] if self.settings["driver"] != "none" else self.every("gpu") or self.settings["gpu"]

    def all_met(self):
        return all(met for name in self.names() for _, met in self.verdicts(name))


def report(session, peak_tflops):
    records = session.records
    rounds = [len(found) for found in session.results.values()]
    counts = f"{min(rounds)} to {max(rounds)}" if len(set(rounds)) > 1 else f"{max(rounds, default=0)}"
    dates, runs = sorted({r["date"] for r in records}), list(dict.fromkeys(r["run"] for r in records))
    version = session.every("version")
    notes = session.notes()
    return [
        "# A training step on a GPU, next to PyTorch",
        "",
        f"{', '.join(dates)}, {session.gpu()}, driver {session.settings['driver']}; torch {session.every('torch') or 'unknown'}"
        f"{f'; {version}' if version else ''}.",
        "",
        "Whole optimizer steps on random tokens: zero gradients, loss, backward, clip at norm 1, AdamW; FP32 master weights. The peer is "
        "[peer.py](../train_gpu/peer.py); ratios are to its compiled BF16 program in the same round. `fp8`: the backward products in FP8 too. "
        f"MFU of all rows is of the step's BF16 operations at {peak_tflops:g} TFLOP/s. Peak memory is what tensors take in the timed steps, "
        "in brackets what the allocator holds.",
        "",
        f"Medians of {counts} alternating rounds, each a process of {session.settings['warmup']} + {session.settings['steps']} steps:",
        "",
        "```",
        *runs,
        "```",
        "",
        *session.table(peak_tflops),
        "",
        *(notes + [""] if notes else []),
    ]


def main(a):
    records, name = records_of_session(a.raw, a.session if a.table_only else run_session(a))
    session = Session(records)
    text = "\n".join(report(session, a.peak_tflops))
    path = a.out or HERE.parent / "results" / f"train_gpu_{file_name(session.gpu())}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {path}; session {name} of {a.raw}")
    sys.exit(0 if session.all_met() else 1)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except OSError as problem:
        fail(f"{problem.strerror}: {problem.filename}")
