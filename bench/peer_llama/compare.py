"""Compares `quest-run bench` with peer_llama (llama.cpp) on this machine: what bench/decode_cpu/run.py and
bench/prefill_cpu/run.py have in common.

One measurement is one process, and its line of JSON is kept in the file --raw. A round takes all formats of a shape one
after the other, so that a change of the machine's speed meets all of them; a format's figure is the median of its
rounds, a ratio is the median of the rounds' ratios. Long comparisons may be made in pieces (--shapes, --measure
decode prefill, more rounds of one --session) into the same --raw; the table is of the newest session of each shape,
and --table-only writes it again. Exit code: 0 all targets met, 1 one is missed, 2 a program failed.
"""

import argparse
import datetime
import json
import os
import pathlib
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from machine import cpu_flags, cpu_model, file_name, instructions  # noqa: E402
import random_gguf  # noqa: E402

QUEST, LLAMA = "quest", "llama.cpp"
SHAPES = list(random_gguf.SHAPES)
# In the order of a round: what is compared stands side by side.
FORMATS = ["W4A4", "Q4_0", "Q8_0", "W2A2", "TQ2_0", "W1A1", "Q1_0"]
REPEATS = {"135M": 3, "800M": 1, "3B": 1}  # in a process
# Other programs' share of the machine with which a measurement counts; the last of the attempts counts anyway.
MOST_OTHERS, ATTEMPTS = 0.08, 4
# (shape, format, at least so many times the best llama.cpp format: with AMX, without)
TARGETS = {
    "decode": [
        ("800M", "W4A4", 1.15, 1.15),
        ("800M", "W2A2", 2.0, 2.0),
        ("800M", "W1A1", 3.0, 3.0),
        ("135M", "W4A4", 1.3, 1.3),
        ("3B", "W4A4", 1.15, 1.15),
        ("3B", "W1A1", 3.3, 3.3),
    ],
    "prefill": [
        ("800M", "W4A4", 3.0, 1.5),
        ("800M", "W1A1", 3.0, 1.5),
        ("135M", "W4A4", 2.0, 2.0),
    ],
}


def program_of(name):
    return QUEST if name.startswith("W") else LLAMA


def parse_arguments(kind, description):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__)
    build = HERE.parent.parent / "build"
    p.add_argument("--quest-run", type=pathlib.Path, default=build / "bin" / "quest-run")
    p.add_argument("--peer", type=pathlib.Path, default=build / "peer_llama", help="folder that setup.sh made")
    p.add_argument("--models", type=pathlib.Path, default=build / "peer_llama" / "models", help="random models; made if missing")
    p.add_argument("--raw", type=pathlib.Path, default=build / "peer_llama" / "runs.jsonl", help="lines are added here")
    p.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    p.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    p.add_argument("--measure", nargs="+", choices=["decode", "prefill"], default=[kind], help="by each process")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=0, help="in a process; 0: 3 of the 135M, 1 of others")
    p.add_argument("--prompt-tokens", type=int, default=512)
    p.add_argument("--tokens", type=int, default=64, help="written after an empty context")
    p.add_argument("--threads", type=int, default=0, help="0: the cores that this process may use")
    p.add_argument("--no-amx", action="store_true", help="AMX off in both programs")
    p.add_argument("--session", help="goes on with the rounds of this session of --raw (default: a new one, named by the time)")
    p.add_argument("--table-only", action="store_true", help="run nothing, write the table of --raw")
    p.add_argument("--out", type=pathlib.Path, help=f"default: bench/results/{kind}_cpu_<cpu>.md")
    a = p.parse_args()
    if min(a.rounds, a.prompt_tokens, a.tokens) < 1 or min(a.repeats, a.threads) < 0:
        p.error("--rounds, --prompt-tokens and --tokens must be 1 or more, --repeats and --threads 0 or more")
    a.threads = a.threads or len(os.sched_getaffinity(0))
    a.amx = not a.no_amx and {"amx_int8", "amx_tile"} <= cpu_flags()
    return a


def fail(message):
    sys.stderr.write(f"run.py: {message}\n")
    sys.exit(2)


def busy_seconds():
    """Processor time that all programs, and other guests of the host, have taken from this machine."""
    try:
        words = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = (int(word) for word in words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def run(line, environment):
    """What the program printed, and the share of the machine's processors that others took meanwhile."""
    start, busy, own = time.monotonic(), busy_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode != 0:
        fail(f"failed with exit code {done.returncode}: {shlex.join(line)}\n{done.stdout}{done.stderr}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_seconds = now.ru_utime + now.ru_stime - own.ru_utime - own.ru_stime
    elapsed = (time.monotonic() - start) * os.cpu_count()
    return done.stdout, max(0.0, busy_seconds() - busy - own_seconds) / elapsed


def quest_environment(a):
    """QUEST_ISA as it is, but below AMX where AMX is to be off."""
    has_amx = {"amx_int8", "amx_tile"} <= cpu_flags()
    return {"QUEST_ISA": "avx512vnni"} if has_amx and not a.amx else {}


def packed_path(a, shape, name):
    return a.models / f"{shape}-{name.lower()}"


def make_packed(a, shape, name):
    line = [a.quest_run, "bench", "--shape", shape, "--quant", name.lower(), "--embedding", "int8", "--head", "int8"]
    line += ["--prompt-tokens", 1, "--tokens", 1, "--repeats", 1, "--keep", packed_path(a, shape, name)]
    run([str(word) for word in line], {})


def measure_quest(a, shape, name, repeats):
    prompt, tokens = (a.prompt_tokens if "prefill" in a.measure else 1), (a.tokens if "decode" in a.measure else 1)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "bench.json"
        line = [a.quest_run, "bench", packed_path(a, shape, name), "--depth", 0, "--threads", a.threads]
        line += ["--prompt-tokens", prompt, "--tokens", tokens, "--repeats", repeats]
        _, others = run([str(word) for word in [*line, "--measure", "--json", path]], quest_environment(a))
        result = json.loads(path.read_text())
    kept = ["bytes_per_step", "memory_bytes_per_second", "int8_operations_per_second", "int8_instructions", "version"]
    return {**{key: result[key] for key in kept}, "detail": result["level"], "others": others}, result


def measure_llama(a, shape, name, repeats):
    folder = a.peer / ("amx" if a.amx else "noamx")
    line = [folder / "peer_llama", random_gguf.model_path(a.models, shape, name), "--threads", a.threads]
    line += ["--prompt-tokens", a.prompt_tokens if "prefill" in a.measure else 0]
    line += ["--tokens", a.tokens if "decode" in a.measure else 0, "--repeats", repeats]
    printed, others = run([str(word) for word in line], {})
    result = json.loads(printed.strip().rpartition("\n")[2])
    buffers = " ".join(result["buffers"])
    expected = "AMX" if a.amx else "CPU_REPACK"
    if name == "Q4_0" and expected not in buffers:
        fail(f"llama.cpp does not use {expected} for {name}: {buffers}; {result['system_info']}")
    kept = {key: result[key] for key in ("version", "flash", "load", "buffers")}
    return {**kept, "others": others, "bytes_per_step": random_gguf.bytes_per_step(shape, name), "detail": result["system_info"]}, result


def check_programs(a):
    if any(program_of(name) == QUEST for name in a.formats) and not a.quest_run.is_file():
        fail(f"{a.quest_run} does not exist; `make build` makes build/bin/quest-run")
    peer = a.peer / ("amx" if a.amx else "noamx") / "peer_llama"
    files = [name for name in a.formats if program_of(name) == LLAMA]
    if files and not peer.is_file():
        fail(f"{peer} does not exist; bench/peer_llama/setup.sh makes it")
    a.models.mkdir(parents=True, exist_ok=True)
    for shape in a.shapes:
        for name in a.formats:
            if program_of(name) == QUEST:
                if not packed_path(a, shape, name).exists():
                    make_packed(a, shape, name)
            elif not (path := random_gguf.model_path(a.models, shape, name)).exists():
                random_gguf.write_model(path, shape, name)


def run_rounds(a):
    """Adds a line to the raw file for each process."""
    check_programs(a)
    a.raw.parent.mkdir(parents=True, exist_ok=True)
    session = a.session or f"{datetime.datetime.now().isoformat(timespec='seconds')} {os.getpid()}"
    before = [r for r in read_records(a) if r["session"] == session] if a.raw.is_file() else []
    for shape in a.shapes:
        done = max((r["round"] for r in before if r["shape"] == shape), default=0)
        for number in range(done + 1, done + a.rounds + 1):
            for name in (known for known in FORMATS if known in a.formats):
                program = program_of(name)
                measure = measure_quest if program == QUEST else measure_llama
                for attempt in range(1, ATTEMPTS + 1):
                    record, result = measure(a, shape, name, a.repeats or REPEATS[shape])
                    if record["others"] <= MOST_OTHERS or attempt == ATTEMPTS:
                        break
                    print(f"{name}: other programs took {record['others']:.0%} of the machine: once more", flush=True)
                    time.sleep(2)
                record = {"session": session, "date": datetime.date.today().isoformat(), "round": number, "shape": shape, "format": name, **record}
                record.update(amx=a.amx, threads=a.threads, prompt=a.prompt_tokens, tokens=a.tokens, cpu=cpu_model())
                record.update({kind: result[f"{kind}_tokens_per_second"] for kind in a.measure})
                with open(a.raw, "a", encoding="utf-8") as out:
                    out.write(json.dumps(record) + "\n")
                rates = ", ".join(f"{kind} {record[kind]:8.1f}" for kind in a.measure)
                print(f"{shape} round {number}/{done + a.rounds}  {name:6} {rates} tokens/s", flush=True)


def read_records(a):
    if not a.raw.is_file():
        fail(f"{a.raw} does not exist")
    return [json.loads(line) for line in a.raw.read_text(encoding="utf-8").splitlines()]


def newest_sessions(a, kind):
    """{(amx, shape): records that measured `kind`, of the newest session that did}"""
    newest = {}
    for record in read_records(a):
        if kind not in record or record["cpu"] != cpu_model():
            continue
        key = (record["amx"], record["shape"])
        if key in newest and newest[key][0]["session"] != record["session"]:
            newest[key] = []
        newest.setdefault(key, []).append(record)
    return newest


class Shape:
    """What one session measured of one shape."""

    def __init__(self, kind, records):
        self.kind = kind
        self.by_format = {}
        for record in records:
            self.by_format.setdefault(record["format"], {})[record["round"]] = record
        llama = [name for name in self.by_format if program_of(name) == LLAMA]
        self.best = max(llama, key=self.speed, default=None)
        ceiling = "memory_bytes_per_second" if kind == "decode" else "int8_operations_per_second"
        self.ceiling = max((r[ceiling] for r in records if ceiling in r), default=None)

    def rates(self, name):
        return [record[self.kind] for record in self.by_format[name].values()]

    def speed(self, name):
        return statistics.median(self.rates(name))

    def ratio(self, name, other=None):
        """To `other` or the best llama.cpp format: the median of the rounds' ratios; None if one of the two was not run."""
        other = other or self.best
        if name not in self.by_format or other not in self.by_format:
            return None
        mine, theirs = self.by_format[name], self.by_format[other]
        ratios = [mine[r][self.kind] / theirs[r][self.kind] for r in mine if r in theirs]
        return statistics.median(ratios) if ratios else None

    def cost(self, shape, name):
        """Of a token: bytes of weights to read, or operations of the blocks' products (no head: only the last token has one)."""
        if self.kind == "decode":
            return next(iter(self.by_format[name].values()))["bytes_per_step"]
        blocks = [t for t in random_gguf.tensors_of(shape, "Q8_0") if t[0].startswith("blk.") and t[2] is not None]
        return 2 * sum(rows * columns for _, _, rows, columns in blocks)


def speed_table(kind, shapes):
    if kind == "decode":
        columns = ["MB a token", "GB/s", "of memory"]
    else:
        columns = ["TOP/s", "of INT8 peak"]
    lines = ["| " + " | ".join(["shape", "rounds", "tokens", "program", "format", "tokens/s", "least to most", "times best llama.cpp", "times Q4_0", *columns]) + " |"]
    lines.append("|---" * (9 + len(columns)) + "|")
    for shape in SHAPES:
        measured = shapes.get(shape)
        for name in FORMATS if measured else []:
            if name not in measured.by_format:
                continue
            speed, rates, cost = measured.speed(name), measured.rates(name), measured.cost(shape, name)
            rate, ratios = speed * cost, [measured.ratio(name), measured.ratio(name, "Q4_0")]
            counts = [str(len(rates)), str(next(iter(measured.by_format[name].values()))["prompt" if kind == "prefill" else "tokens"])]
            cells = [shape, *counts, program_of(name), f"**{name}**" if name == measured.best else name, f"{speed:.1f}"]
            cells += [f"{min(rates):.1f} to {max(rates):.1f}", *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)]
            cells += [f"{cost / 1e6:.0f}", f"{rate / 1e9:.1f}"] if kind == "decode" else [f"{rate / 1e12:.3f}"]
            cells.append(f"{100 * rate / measured.ceiling:.0f} %" if measured.ceiling else "")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def target_table(kind, shapes, amx):
    """Lines of a table, and whether all targets that were measured are met."""
    lines = ["| shape | format | at least, times best llama.cpp | measured | |", "|---|---|---|---|---|"]
    met = True
    for shape, name, with_amx, without_amx in TARGETS[kind]:
        target = with_amx if amx else without_amx
        ratio = shapes[shape].ratio(name) if shape in shapes else None
        met &= ratio is None or ratio >= target
        verdict = "not measured" if ratio is None else ("met" if ratio >= target else "**missed**")
        best = f" ({shapes[shape].best})" if ratio is not None else ""
        lines.append(f"| {shape} | {name} | {target}{best} | {'' if ratio is None else f'{ratio:.2f}'} | {verdict} |")
    return lines, met


def settings(records, kind):
    """What all records of a table share, in words."""
    pick = lambda key: ", ".join(sorted({str(r[key]) for r in records if r.get(key)}))  # noqa: E731
    what = "tokens read into an empty context" if kind == "prefill" else "tokens written after an empty context"
    levels = ", ".join(sorted({r["detail"] for r in records if program_of(r["format"]) == QUEST}))
    others = [r["others"] for r in records if "others" in r]
    ceilings = [r for r in records if "memory_bytes_per_second" in r]
    lines = [f"{pick('threads')} threads; {what}; medians of alternating rounds. Kernels of quest: {levels or '-'}."]
    if ceilings:
        memory = [r["memory_bytes_per_second"] / 1e9 for r in ceilings]
        peak = max(ceilings, key=lambda r: r["int8_operations_per_second"])
        lines[0] += (
            f" Ceilings: memory {min(memory):.1f} to {max(memory):.1f} GB/s in different processes, INT8 up to "
            f"{peak['int8_operations_per_second'] / 1e12:.2f} TOP/s ({peak['int8_instructions']}); shares are of a shape's highest."
        )
    if others:
        share = f"{max(others):.0%}".replace("%", " %")
        lines[0] += f" Other programs took at most {share} of the machine during a measurement (looked at in {len(others)} of {len(records)})."
    infos = sorted({r["detail"].removeprefix("CPU : ").strip(" |") for r in records if program_of(r["format"]) == LLAMA})
    return lines + [""] + [f"llama.cpp says: {info}." for info in infos]


def write_report(a, kind):
    newest = newest_sessions(a, kind)
    script = f"bench/{kind}_cpu/run.py"
    everything = [r for records in newest.values() for r in records]
    dates = sorted({r["date"] for r in everything})
    lines = [f"# {'Writing' if kind == 'decode' else 'Reading'} ({kind}) on a CPU, next to llama.cpp", ""]
    lines += [f"{', '.join(dates)}, {cpu_model()}; CPU has {instructions()}. {'; '.join(sorted({r['version'] for r in everything}))}.", ""]
    met = True
    for amx in (True, False):
        records = {shape: found for (has_amx, shape), found in newest.items() if has_amx == amx}
        if not records:
            continue
        shapes = {shape: Shape(kind, found) for shape, found in records.items()}
        flat = [r for found in records.values() for r in found]
        shown = ["python3", script, "--rounds", max(r["round"] for r in flat), "--threads", flat[0]["threads"]]
        shown += ["--tokens", flat[0]["tokens"]] if kind == "decode" else ["--prompt-tokens", flat[0]["prompt"]]
        shown += [] if amx else ["--no-amx"]
        lines += [f"## {'With' if amx else 'Without'} AMX", "", *settings(flat, kind), ""]
        lines += ["```", "bench/peer_llama/setup.sh", shlex.join(str(word) for word in shown), "```", ""]
        targets, all_met = target_table(kind, shapes, amx)
        met &= all_met
        lines += [*speed_table(kind, shapes), "", *targets, ""]
    lines += [
        "Random weights, shapes as `quest-run bench --shape` has them; quest with an INT8 embedding and head, llama.cpp with the "
        "types that its quantizer chooses ([random_gguf.py](../peer_llama/random_gguf.py)); bold is its best format here. "
        + (
            "MB a token are the weights that a token reads; a small model is read from the cache in part."
            if kind == "decode"
            else "Operations are those of the blocks' products; quest's W1A1 counts bits with popcount where that is faster, so INT8's peak does not bind it."
        ),
        "",
    ]
    path = a.out or HERE.parent / "results" / f"{kind}_cpu_{file_name(cpu_model())}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    print(f"written to {path}")
    return met


def main(kind, description):
    a = parse_arguments(kind, description)
    if not a.table_only:
        run_rounds(a)
    sys.exit(0 if write_report(a, kind) else 1)
