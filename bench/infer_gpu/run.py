#!/usr/bin/env python3
"""Compares `quest bench` with compiled BF16 PyTorch (peer.py) on this machine's GPU and writes bench/results/infer_gpu_<gpu>.md.

    python3 bench/infer_gpu/run.py --quest build-cuda/bin/quest --models /tmp/models

Parts: prefill and decode of models, and linear layers (whose BF16 product, cuBLAS, is timed by quest itself). One measurement
is one process, and what it says is added to --raw at once. A round takes all programs of a part one after the other (every
second round backwards), so that a change of the GPU's speed meets all of them; a figure is the median of its rounds, a ratio
the median of the rounds' ratios. A program that fails becomes a line that says so. --session NAME goes on with a session, in
pieces of a few minutes; --table-only writes the table of the newest session in --raw again; --figures DIR also writes what
`quest plot fig6` and `fig7` draw. Exit code: 0 all targets met, 1 one is missed or could not be measured, 2 wrong arguments.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from gpu_session import Parser, fail, gpu_and_driver, last_error, records_of_session, run_process, run_rounds  # noqa: E402
from machine import file_name  # noqa: E402

PREFILL_RECIPES, DECODE_RECIPES, LAYER_RECIPES = ["w4a4_nohadamard", "w4a4"], ["w4a4", "w2a2", "w1a1"], ["w4a4"]
PEER, QUEST, INT8 = "PyTorch", "quest", "quest, weights also as int8"
LAYER_ROWS = [1, 8, 16, 64, 512, 4096]
NUMBERS = {"prefill": ("batch", "seconds"), "decode": ("batch", "seconds", "block_seconds", "head_seconds"), "layer": ("n", "k", "rows", "seconds")}

# At least so many times BF16.
PREFILL_TARGETS = {(model, batch): ratio for model in ("800M", "1.6B") for batch, ratio in ((1, 1.2), (8, 1.3), (32, 1.3))}
DECODE_TARGETS = {("7B", "w4a4"): 3, ("7B", "w2a2"): 5, ("7B", "w1a1"): 8}  # the blocks' part, one sequence
LAYER_TARGET, LAYER_TARGET_ROWS = 1.5, 4096
MEMORY_TARGET = {("7B", "w4a4"): 4.5e9}  # at most so many bytes without the cache


def parse_arguments():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quest", type=pathlib.Path, metavar="PATH", help="the program quest of the GPU build; without it only PyTorch is measured")
    p.add_argument("--peer-python", default=sys.executable, help="a python3 with torch; default: this one")
    p.add_argument("--parts", nargs="+", choices=["prefill", "decode", "layers"], default=["prefill", "decode", "layers"])
    p.add_argument("--prefill-models", nargs="+", default=["800M", "1.6B"], metavar="MODEL", help="default: 800M 1.6B")
    p.add_argument("--decode-models", nargs="+", default=["7B"], metavar="MODEL", help="default: 7B")
    p.add_argument("--layer-models", nargs="+", default=["800M", "7B"], metavar="MODEL", help="default: 800M 7B")
    p.add_argument("--batch", default="1,8,32", help="of prefill, sequences of 512 tokens; default 1,8,32")
    p.add_argument("--decode-batch", default="1", help="of decode, after 512 tokens; default 1")
    p.add_argument("--tokens", type=int, default=512, help="of a sequence; default 512")
    p.add_argument("--peer-options", default="", help='more flags of peer.py, as "--attention cudnn"')
    p.add_argument("--quest-options", default="", help="more flags of quest bench prefill and decode")
    p.add_argument("--models", type=pathlib.Path, metavar="DIR", help="random models are kept here and taken again (7B W4A4: 3.5 GB)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--timeout", type=float, default=400, help="seconds after which a process counts as failed; default 400")
    p.add_argument("--minutes", type=float, default=0, help="starts no process after so long; 0 (default): no limit")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try this script, with peer.py on the CPU")
    p.add_argument("--raw", type=pathlib.Path, default=HERE.parent.parent / "build" / "infer_gpu.jsonl", help="lines are added here")
    p.add_argument("--session", help="goes on with this session of --raw; default: a new one, named by the time")
    p.add_argument("--table-only", action="store_true", help="run nothing, write the table of --raw")
    p.add_argument("--out", type=pathlib.Path, help="default: bench/results/infer_gpu_<gpu>.md")
    p.add_argument("--figures", type=pathlib.Path, metavar="DIR", help="also write DIR/fig6.json and DIR/fig7.json")
    a = p.parse_args()
    if min(a.rounds, a.tokens) < 1 or a.minutes < 0 or a.timeout <= 0:
        p.error("--rounds and --tokens must be 1 or more, --timeout above 0, --minutes 0 or more")
    if a.quest and not a.table_only and not a.quest.is_file():
        p.error(f"--quest: {a.quest} does not exist; `make build PRESET=cuda` makes build-cuda/bin/quest")
    p.split_flags(a, "peer_options", "quest_options")
    return a


def programs(a, part, json_path):
    """[(name, command)] of a round of a part ("prefill 800M", "layers"), PyTorch first."""
    kind, _, model = part.partition(" ")
    if kind == "layers":
        line = ["bench", "layer", "--shape", ",".join(a.layer_models), "--rows", ",".join(map(str, LAYER_ROWS)), "--json", json_path]
        found = [(f"{part} {recipe}", [a.quest, *line, "--quant", recipe]) for recipe in LAYER_RECIPES if a.quest]
        return [(name, [str(word) for word in line]) for name, line in found]
    batch = a.batch if kind == "prefill" else a.decode_batch
    cpu = ["--device", "cpu", "--eager"] if a.device == "cpu" else []
    found = [(f"{part} {PEER}", [a.peer_python, HERE / "peer.py", kind, "--model", model, "--batch", batch, "--tokens", a.tokens, *a.peer_options, *cpu])]
    if a.quest:
        recipes = PREFILL_RECIPES if kind == "prefill" else DECODE_RECIPES
        line = [a.quest, "bench", kind, "--shape", model, "--quant", ",".join(recipes), "--batch", batch, *a.quest_options, "--json", json_path]
        line += ["--prompt-tokens" if kind == "prefill" else "--depth", a.tokens, *(["--models", a.models] if a.models else [])]
        found.append((f"{part} {QUEST}", line))
        if kind == "prefill":
            found.append((f"{part} {INT8}", [*line, "--unpacked-weights"]))
    return [(name, [str(word) for word in line]) for name, line in found]


def parsed(printed, json_path):
    """What a program measured: quest's JSON file, or the lines of peer.py in the same form."""
    if json_path.is_file():
        result = json.loads(json_path.read_text(encoding="utf-8"))
        json_path.unlink()
        return result
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return {"program": f"peer {lines[0]['what']}", "gpu": lines[0]["gpu"], "torch": lines[0]["torch"], "measurements": lines}


def measure(line, timeout, json_path):
    """(result, error, what to say of it)"""
    printed, error = run_process(line, timeout)
    if error:
        return None, error, ""
    try:
        result = parsed(printed, json_path)
        needed = NUMBERS[result["program"].split()[-1]]
        for entry in result["measurements"]:
            wrong = [key for key in needed if not (isinstance(entry.get(key), (int, float)) and math.isfinite(entry[key]) and entry[key] > 0)]
            if wrong:
                return None, f"its JSON has no number as {', '.join(wrong)}", ""
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, f"no JSON of a measurement: {last_error(printed)}", ""
    times = [f"{1e3 * entry['seconds']:.3g}" for entry in result["measurements"]]
    return result, None, f"ms: {' '.join(times[:12])}{' ...' if len(times) > 12 else ''}"


def run_session(a):
    gpu, driver = gpu_and_driver()
    settings = {"gpu": gpu, "driver": driver, "tokens": a.tokens, "peer_options": a.peer_options, "quest_options": a.quest_options}
    models = {"prefill": a.prefill_models, "decode": a.decode_models, "layers": [""]}
    parts = [f"{kind} {model}".strip() for kind in a.parts for model in models[kind]]
    with tempfile.TemporaryDirectory() as folder:
        json_path = pathlib.Path(folder) / "quest.json"
        return run_rounds(
            a,
            settings,
            parts,
            programs=lambda part: programs(a, part, json_path),
            measure=lambda line: measure(line, a.timeout, json_path),
            script="bench/infer_gpu/run.py",
        )


def median(values):
    """None of nothing."""
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


class Session:
    """What one session measured."""

    def __init__(self, records):
        self.records, self.settings = records, records[0]["settings"]
        self.results, self.errors = {}, {}  # {name: {round: result}}, {name: last error}
        for record in records:
            if "result" in record:
                self.results.setdefault(record["name"], {})[record["round"]] = record["result"]
            else:
                self.errors[record["name"]] = record["error"]
        self.parts = list(dict.fromkeys(r["model"] for r in records))

    def models(self, kind):
        return [part.partition(" ")[2] for part in self.parts if part.split()[0] == kind]

    def entries(self, name, **wanted):
        """{round: the measurement with these values}"""
        found = {}
        for number, result in self.results.get(name, {}).items():
            for entry in result["measurements"]:
                if all(entry.get(key) == value for key, value in wanted.items()):
                    found[number] = entry
        return found

    def value(self, name, key, **wanted):
        return median(entry.get(key) for entry in self.entries(name, **wanted).values())

    def ratio(self, base, name, key, base_wanted, wanted):
        """The median of the rounds' ratios base / name; None if one of the two was not run."""
        bases, mine = self.entries(base, **base_wanted), self.entries(name, **wanted)
        return median(bases[r][key] / mine[r][key] for r in mine if r in bases)

    def batches(self, part):
        return sorted({e["batch"] for name, rounds in self.results.items() if name.startswith(f"{part} ") for r in rounds.values() for e in r["measurements"]})

    def every(self, key):
        found = {result[key] for rounds in self.results.values() for result in rounds.values() if result.get(key)}
        return ", ".join(sorted(map(str, found)))

    def gpu(self):
        return self.settings["gpu"] if self.settings["driver"] != "none" else self.every("gpu") or self.settings["gpu"]

    def prefill_ratio(self, model, batch, recipe, program):
        part = f"prefill {model}"
        return self.ratio(f"{part} {PEER}", f"{part} {program}", "seconds", {"batch": batch}, {"batch": batch, "recipe": recipe})

    def decode_ratio(self, model, batch, recipe, key):
        part = f"decode {model}"
        return self.ratio(f"{part} {PEER}", f"{part} {QUEST}", key, {"batch": batch}, {"batch": batch, "recipe": recipe})

    def layers(self, recipe):
        """The layers (n, k) in the order measured."""
        rounds = self.results.get(f"layers {recipe}", {}).values()
        return list(dict.fromkeys((e["n"], e["k"]) for result in rounds for e in result["measurements"]))

    def layer_ratio(self, recipe, n, k, rows, weights, work):
        name, place = f"layers {recipe}", {"n": n, "k": k, "rows": rows}
        return self.ratio(name, name, "seconds", {**place, "weights": "bf16"}, {**place, "weights": weights, "work": work})

    def memory(self, model, recipe):
        """(weights, cache, scratch, all that the device gave) of the smallest batch."""
        part = f"decode {model}"
        batch = min(self.batches(part), default=1)
        keys = ("weight_bytes", "cache_bytes", "scratch_bytes", "device_bytes")
        return [self.value(f"{part} {QUEST}", key, batch=batch, recipe=recipe) for key in keys]


def number(value, digits=3, scale=1.0):
    """With so many significant digits; empty for None."""
    if value is None:
        return ""
    value *= scale
    before = math.floor(math.log10(value)) + 1 if value >= 1 else 1
    return f"{value:.{max(0, digits - before)}f}"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]


def prefill_table(s):
    rows = []
    for model in s.models("prefill"):
        part = f"prefill {model}"
        for batch in s.batches(part):
            cells = [model, str(batch), number(s.value(f"{part} {PEER}", "seconds", batch=batch), 3, 1e3)]
            for program in (QUEST, INT8):
                for recipe in PREFILL_RECIPES:
                    ms = s.value(f"{part} {program}", "seconds", batch=batch, recipe=recipe)
                    ratio = s.prefill_ratio(model, batch, recipe, program)
                    cells.append("" if ms is None else f"{number(ms, 3, 1e3)} ({number(ratio)})")
            rows.append(cells)
    head = ["model", "sequences", "PyTorch, ms"] + [f"{recipe}{', int8 weights' * (p == INT8)}" for p in (QUEST, INT8) for recipe in PREFILL_RECIPES]
    return ["## Prefill", "", f"{s.settings['tokens']} tokens a sequence to the logits of its last token: ms, and in brackets how many times as fast as compiled BF16 PyTorch.", "", *table(head, rows)] if rows else []


def decode_table(s):
    rows = []
    for model in s.models("decode"):
        part = f"decode {model}"
        for batch in s.batches(part):
            for recipe in [PEER, *DECODE_RECIPES]:
                name = f"{part} {PEER if recipe == PEER else QUEST}"
                wanted = {"batch": batch} if recipe == PEER else {"batch": batch, "recipe": recipe}
                if not s.entries(name, **wanted):
                    continue
                seconds = s.value(name, "seconds", **wanted)
                cells = [model, str(batch), "PyTorch BF16" if recipe == PEER else recipe]
                cells += [number(s.value(name, key, **wanted), 3, 1e3) for key in ("block_seconds", "head_seconds")]
                cells += [f"{batch / seconds:.0f}", number(s.value(name, "written_per_second", **wanted))]
                bytes_read = s.value(name, "block_bytes", **wanted)
                cells.append(number(bytes_read / s.value(name, "block_seconds", **wanted) / 1e9 if bytes_read else None))
                cells += ["1", "1"] if recipe == PEER else [number(s.decode_ratio(model, batch, recipe, key)) for key in ("block_seconds", "seconds")]
                rows.append(cells)
    head = ["model", "sequences", "", "blocks, ms", "head, ms", "tokens/s", "with the host", "GB/s in blocks", "times BF16, blocks", "times BF16, all"]
    return ["## Decode", "", f"One token for each sequence after {s.settings['tokens']} others.", "", *table(head, rows)] if rows else []


def memory_table(s):
    rows = []
    for model in s.models("decode"):
        for recipe in DECODE_RECIPES:
            found = s.memory(model, recipe)
            if found[0] is not None:
                rows.append([model, recipe, *(number(value, 3, 1e-9) for value in found)])
    return ["GB of device memory:", "", *table(["model", "", "weights", "cache", "scratch", "taken in all"], rows)] if rows else []


def layer_table(s):
    lines = []
    for recipe in LAYER_RECIPES:
        rows = []
        for n, k in s.layers(recipe):
            for m in LAYER_ROWS:
                name, place = f"layers {recipe}", {"n": n, "k": k, "rows": m}
                bf16 = s.value(name, "seconds", weights="bf16", **place)
                if bf16 is None:
                    continue
                cells = [f"{n} x {k}", str(m), number(bf16, 3, 1e6)]
                for weights, work in (("packed", "product"), ("packed", "quantize"), ("packed", "hadamard_quantize"), ("int8", "hadamard_quantize")):
                    us = s.value(name, "seconds", weights=weights, work=work, **place)
                    ratio = s.layer_ratio(recipe, n, k, m, weights, work)
                    cells.append("" if us is None else f"{number(us, 3, 1e6)} ({number(ratio)})")
                rows.append(cells)
        head = ["outputs x inputs", "rows", "BF16, us", "product alone", "with quantization", "with Hadamard", "with Hadamard, int8 weights"]
        if rows:
            lines += [f"## Linear layers, {recipe}", "", "Microseconds, and in brackets how many times as fast as BF16 (cuBLAS). Weights come from memory. Above 64 rows packed weights are unpacked before each product.", "", *table(head, rows)]
    return lines


def targets(s):
    """[(what, at least or at most, found or None, met or None)]"""
    found, usual = [], s.settings["tokens"] == 512
    for (model, batch), least in PREFILL_TARGETS.items():
        if usual and model in s.models("prefill"):
            ratios = [s.prefill_ratio(model, batch, "w4a4", program) for program in (QUEST, INT8)]
            best = max((r for r in ratios if r is not None), default=None)
            found.append((f"prefill, {model}, {batch} x {s.settings['tokens']}", f"{least:.1f} x", number(best), None if best is None else best >= least))
    for (model, recipe), least in DECODE_TARGETS.items():
        if usual and model in s.models("decode"):
            ratio = s.decode_ratio(model, 1, recipe, "block_seconds")
            found.append((f"decode, {model}, {recipe}, blocks", f"{least:.0f} x", number(ratio), None if ratio is None else ratio >= least))
    for recipe in LAYER_RECIPES if "layers" in s.parts else []:
        if not s.layers(recipe):
            found.append((f"layers, {recipe}, {LAYER_TARGET_ROWS} rows", f"{LAYER_TARGET} x", "", None))
        for n, k in s.layers(recipe):
            ratios = [s.layer_ratio(recipe, n, k, LAYER_TARGET_ROWS, weights, "hadamard_quantize") for weights in ("packed", "int8")]
            best = max((r for r in ratios if r is not None), default=None)
            found.append((f"layer {n} x {k}, {recipe}, {LAYER_TARGET_ROWS} rows", f"{LAYER_TARGET} x", number(best), None if best is None else best >= LAYER_TARGET))
    for (model, recipe), most in MEMORY_TARGET.items():
        if model in s.models("decode"):
            _, cache, _, device = s.memory(model, recipe)
            taken = None if None in (cache, device) else device - cache
            found.append((f"memory without cache, {model}, {recipe}", f"{most / 1e9} GB at most", "" if taken is None else f"{taken / 1e9:.2f} GB", None if taken is None else taken < most))
    return found


def target_table(s):
    words = {True: "met", False: "**missed**", None: "not measured"}
    rows = [[what, wanted, value, words[met]] for what, wanted, value, met in targets(s)]
    return ["## Targets", "", "Times BF16; of packed weights and weights kept as int8 the faster.", "", *table(["", "target", "found", ""], rows)] if rows else []


def report(s):
    dates, runs = sorted({r["date"] for r in s.records}), list(dict.fromkeys(r["run"] for r in s.records))
    counts = sorted({len(rounds) for rounds in s.results.values()}) or [0]
    shown = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    version = s.every("version")
    errors = [f"- {name}: failed: {error}" for name, error in s.errors.items()]
    return [
        "# Packed models on a GPU, next to PyTorch",
        "",
        f"{', '.join(dates)}, {s.gpu()}, driver {s.settings['driver']}; torch {s.every('torch') or 'unknown'}{f'; {version}' if version else ''}.",
        "",
        "The peer is [peer.py](../infer_gpu/peer.py), BF16, compiled, as a CUDA graph; random weights. "
        f"Medians of {shown} alternating rounds, ratios of one round:",
        "",
        "```",
        *runs,
        "```",
        "",
        *target_table(s),
        *prefill_table(s),
        *decode_table(s),
        *memory_table(s),
        *layer_table(s),
        *(errors + [""] if errors else []),
    ]


def figure6(s):
    """What `quest plot fig6` reads: medians of the rounds."""
    recipe = LAYER_RECIPES[0]
    name = f"layers {recipe}"
    ways = [("bf16", "product"), ("packed", "quantize"), ("packed", "hadamard_quantize"), ("int8", "hadamard_quantize")]
    layers = {}
    for n, k in s.layers(recipe):
        rows = [[m, *(s.value(name, "seconds", n=n, k=k, rows=m, weights=w, work=work) for w, work in ways)] for m in LAYER_ROWS]
        layers[f"{n}x{k}"] = [row for row in rows if row[1] is not None]
    columns = ["batch_tokens", "bf16", f"{recipe}_nohadamard", recipe, f"{recipe}_int8_weights"]
    return {"gpu": s.gpu(), "columns": columns, "layers": layers} if layers else None


def figure7(s):
    """What `quest plot fig7` reads; BF16 is compiled PyTorch."""
    batches = sorted({batch for model in s.models("prefill") for batch in s.batches(f"prefill {model}")})
    models = {}
    for model in s.models("prefill"):
        part = f"prefill {model}"
        programs_of = [(PEER, {}), *((QUEST, {"recipe": r}) for r in PREFILL_RECIPES), (INT8, {"recipe": "w4a4"})]
        rows = [[s.value(f"{part} {program}", "seconds", batch=b, **wanted) for program, wanted in programs_of] for b in batches]
        if all(row[0] is not None for row in rows):
            models[f"model_{model}"] = rows
    columns = ["bf16", *PREFILL_RECIPES, "w4a4_int8_weights"]
    return {"gpu": s.gpu(), "sequence_length": s.settings["tokens"], "columns": columns, "batch_sizes": batches, **models} if models else None


def write_figures(s, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("fig6", figure6(s)), ("fig7", figure7(s))):
        if content is None:
            print(f"no {name}.json: not measured")
            continue
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"written to {path}: `quest plot {name} {path}`")


def main(a):
    records, name = records_of_session(a.raw, a.session if a.table_only else run_session(a))
    s = Session(records)
    text = "\n".join(report(s))
    path = a.out or HERE.parent / "results" / f"infer_gpu_{file_name(s.gpu())}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {path}; session {name} of {a.raw}")
    if a.figures:
        write_figures(s, a.figures)
    sys.exit(0 if all(met for *_, met in targets(s)) else 1)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except OSError as problem:
        fail(f"{problem.strerror}: {problem.filename}")
