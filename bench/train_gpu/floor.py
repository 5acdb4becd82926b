#!/usr/bin/env python3
"""What a training step of the 800M model cannot avoid, as bare PyTorch operations on this GPU.

16 blocks, C = 2048, MLP 5632, 16 heads, vocabulary 32000, 32 x 512 tokens: products in BF16, FP8 and INT8,
attention, AdamW, copying. Medians of CUDA events; operands are random and rotate through several buffers, so
that they come from memory and not from the cache. An operation that fails is a line of the table, the others
go on. Prints Markdown.

    python3 floor.py | tee floor.md
"""

import argparse
import datetime
import functools
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from shapes import MODELS, VOCABULARY

MODEL, BATCH, SEQUENCE = MODELS["800M"], 32, 512
ROTATED_BYTES = 1 << 29  # of all buffers of an operation together, several times the L2 cache
SETS = (2, 8)  # of buffers, least and most
HEADER = ["| | ms | rate |", "|---|---|---|"]
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def parse_arguments():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--seconds", type=float, default=0.3, help="of measuring each operation; default 0.3")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try the program")
    p.add_argument("--shrink", type=int, default=1, help="divides all sizes (a power of two up to 16), to try the program; default 1")
    a = p.parse_args()
    if a.seconds <= 0 or a.shrink not in (1, 2, 4, 8, 16):
        p.error("--seconds must be above 0, --shrink 1, 2, 4, 8 or 16")
    if a.device == "cuda" and not torch.cuda.is_available():
        p.error("torch sees no GPU (--device cpu --shrink 16 tries the program on the CPU)")
    return a


class Meter:
    """Times operations and keeps {name: milliseconds}, without those that failed."""

    def __init__(self, a):
        self.device, self.seconds = a.device, a.seconds
        self.times = {}

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, calls, repeats):
        """Of each of `repeats` calls that follow one another."""
        if self.device != "cuda":
            marks = [time.perf_counter()]
            for i in range(repeats):
                calls[i % len(calls)]()
                marks.append(time.perf_counter())
            return [1e3 * (end - start) for start, end in zip(marks, marks[1:])]
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for i in range(repeats):
            calls[i % len(calls)]()
            marks[i + 1].record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in zip(marks, marks[1:])]

    def measure(self, name, amount, unit, make_calls):
        """A line of the table. `amount` is of one call, in operations or bytes; `make_calls` gives a call for each set of buffers."""
        try:
            calls = make_calls()
            self.milliseconds(calls, 2 * len(calls))
            estimate = statistics.median(self.milliseconds(calls, 5))
            repeats = max(10, min(2000, int(1e3 * self.seconds / max(estimate, 1e-3))))
            ms = statistics.median(self.milliseconds(calls, repeats))
        except Exception as error:  # noqa: BLE001  (whatever it was: the other lines count)
            first = (str(error).strip() or "no message").splitlines()[0][:140].replace("|", "/")
            return f"| {name} | failed: {type(error).__name__}: {first} | |"
        finally:
            calls = None
            if self.device == "cuda":
                torch.cuda.empty_cache()
        self.times[name] = ms
        digits = 2 if unit == "TB/s" else 0
        return f"| {name} | {ms:.3f} | {amount / ms / 1e9:.{digits}f} {unit} |"

    def total(self, parts):
        """Milliseconds of [(count, name or names of which the fastest counts)]; None if one is missing."""
        total = 0.0
        for count, names in parts:
            known = [self.times[name] for name in ([names] if isinstance(names, str) else names) if name in self.times]
            if not known:
                return None
            total += count * min(known)
        return total


def sets_of(bytes_each):
    return max(SETS[0], min(SETS[1], -(-ROTATED_BYTES // bytes_each)))


def random_matrix(rows, columns, dtype, device):
    """Normal in BF16; odd integers up to 15, the codes of a 4-bit grid, in FP8 and INT8."""
    if dtype == BF16:
        return torch.randn(rows, columns, dtype=dtype, device=device)
    codes = 2 * torch.randint(-8, 8, (rows, columns), device=device, dtype=torch.int8) + 1
    return codes if dtype == torch.int8 else codes.to(BF16).to(dtype)


def pairs_of(first, second, dtype, device):
    """Sets of two matrices of these (rows, columns)."""
    size = torch.empty((), dtype=dtype).element_size()
    count = sets_of(size * (first[0] * first[1] + second[0] * second[1]))
    return [(random_matrix(*first, dtype, device), random_matrix(*second, dtype, device)) for _ in range(count)]


def bf16_calls(direction, m, k, n, device):
    """Calls of one product of a layer with inputs x (m, k), weights w (n, k), output's gradient dy (m, n)."""
    if direction == "forward":
        return [functools.partial(torch.mm, x, w.t()) for x, w in pairs_of((m, k), (n, k), BF16, device)]
    if direction == "dX":
        return [functools.partial(torch.mm, dy, w) for dy, w in pairs_of((m, n), (n, k), BF16, device)]
    options = {"out_dtype": torch.float32} if direction == "dW, FP32 output" else {}
    return [functools.partial(torch.mm, dy.t(), x, **options) for dy, x in pairs_of((m, n), (m, k), BF16, device)]


def fp8_calls(direction, m, k, n, fast, device):
    """The same products with both operands quantized along the summed dimension, a scale for each row and column."""
    rows, columns, depth = {"forward": (m, n, k), "dX": (m, k, n), "dW": (n, k, m)}[direction]
    scales = torch.rand(rows, 1, device=device), torch.rand(1, columns, device=device)
    return [
        functools.partial(torch._scaled_mm, a, b.t(), *scales, out_dtype=BF16, use_fast_accum=fast)
        for a, b in pairs_of((rows, depth), (columns, depth), FP8, device)
    ]


def int8_calls(m, k, n, device):
    return [functools.partial(torch._int_mm, a, b.t()) for a, b in pairs_of((m, k), (n, k), torch.int8, device)]


class Floor:
    def __init__(self, a):
        self.meter, self.device, self.shrink = Meter(a), a.device, a.shrink
        c, f, vocabulary = MODEL.hidden // a.shrink, MODEL.mlp // a.shrink, VOCABULARY // a.shrink
        self.hidden, self.mlp, self.vocabulary, self.tokens = c, f, vocabulary, BATCH * SEQUENCE // a.shrink
        self.products = {"QKV": (c, 3 * c), "attention out": (c, c), "gate and up": (c, 2 * f), "down": (f, c)}

    def product(self, name, kind, direction, k, n, unit, calls):
        return self.meter.measure(f"{name} {k} x {n}, {kind} {direction}".rstrip(), 2 * self.tokens * k * n, unit, calls)

    def kinds(self, k, n):
        """(kind, direction, unit, calls) of the products of a layer k to n."""
        m, device = self.tokens, self.device
        for direction in ("forward", "dX", "dW", "dW, FP32 output"):
            yield "BF16", direction, "TFLOP/s", functools.partial(bf16_calls, direction, m, k, n, device)
        for fast in (False, True):
            for direction in ("forward", "dX", "dW"):
                kind = "FP8 fast accumulation" if fast else "FP8"
                yield kind, direction, "TFLOP/s", functools.partial(fp8_calls, direction, m, k, n, fast, device)
        yield "INT8", "forward", "TOP/s", functools.partial(int8_calls, m, k, n, device)

    def product_lines(self):
        """By kind, then layer, so that what is compared stands together."""
        columns = [[(name, k, n, *kind) for kind in self.kinds(k, n)] for name, (k, n) in self.products.items()]
        for same_kind in zip(*columns):
            for name, k, n, kind, direction, unit, calls in same_kind:
                yield self.product(name, kind, direction, k, n, unit, calls)
        k, n = self.hidden, self.vocabulary
        for kind, direction, unit, calls in self.kinds(k, n):
            if kind == "BF16":
                yield self.product("head", kind, direction, k, n, unit, calls)

    def attention_calls(self, backend, backward):
        """In the layout that a fused QKV product leaves: heads next to one another in a token's row."""
        head_size = MODEL.hidden // MODEL.heads
        heads, batch = self.hidden // head_size, BATCH // self.shrink
        make = lambda: torch.randn(batch, SEQUENCE, heads, head_size, dtype=BF16, device=self.device).transpose(1, 2)  # noqa: E731
        calls = []
        for _ in range(sets_of(8 * self.tokens * self.hidden)):
            q, k, v, grad = (make() for _ in range(4))
            inputs = [t.requires_grad_() for t in (q, k, v)]

            def forward(inputs=inputs):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(*inputs, is_causal=True)

            calls.append(functools.partial(torch.autograd.grad, forward(), inputs, grad, retain_graph=True) if backward else forward)
        return calls

    def attention_lines(self):
        forward = 4 * self.tokens * SEQUENCE * self.hidden / 2  # causal: half
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
            for direction, amount in (("forward", forward), ("backward", 2 * forward)):
                calls = functools.partial(self.attention_calls, backend, direction == "backward")
                yield self.meter.measure(f"attention, {name}, {direction}", amount, "TFLOP/s", calls)

    def parameters(self, with_embedding):
        c, f = self.hidden, self.mlp
        sizes = [(3 * c, c), (c, c), (2 * f, c), (c, f)] * MODEL.layers + [(self.vocabulary, c)] * (2 if with_embedding else 1)
        parameters = [torch.nn.Parameter(torch.randn(size, device=self.device)) for size in sizes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        return parameters

    def adamw_calls(self, with_embedding):
        optimizer = torch.optim.AdamW(self.parameters(with_embedding), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        return [optimizer.step]

    def clip_calls(self):
        parameters = self.parameters(True)
        return [functools.partial(torch.nn.utils.clip_grad_norm_, parameters, 1.0)]

    def copy_calls(self):
        make = lambda: torch.randn(2**29 // self.shrink**2, device=self.device).to(BF16)  # noqa: E731
        return [functools.partial(make().copy_, make()) for _ in range(2)]

    def memory_lines(self):
        head = self.vocabulary * self.hidden
        blocks = MODEL.layers * sum(k * n for k, n in self.products.values())
        count = lambda n: f"{n / 1e6:.0f}M"  # noqa: E731
        yield self.meter.measure("copy of 1 GiB, read and written", 4 * (2**29 // self.shrink**2), "TB/s", self.copy_calls)
        self.all_parameters = f"AdamW, all {count(blocks + 2 * head)} parameters"
        for name, n, with_embedding in (
            (f"AdamW, {count(blocks + head)} parameters of blocks and head", blocks + head, False),
            (self.all_parameters, blocks + 2 * head, True),
        ):
            yield self.meter.measure(name, 28 * n, "TB/s", functools.partial(self.adamw_calls, with_embedding))
        self.clip = f"gradient norm and clipping, {count(blocks + 2 * head)}"
        yield self.meter.measure(self.clip, 12 * (blocks + 2 * head), "TB/s", self.clip_calls)

    def sum_lines(self):
        """What these operations alone take of a step."""
        layer = lambda kind, direction: [(MODEL.layers, f"{name} {k} x {n}, {kind} {direction}") for name, (k, n) in self.products.items()]  # noqa: E731
        head = [(1, f"head {self.hidden} x {self.vocabulary}, BF16 {direction}") for direction in ("forward", "dX", "dW")]
        attention = [(MODEL.layers, [f"attention, {name}, {d}" for name in ("flash", "cuDNN")]) for d in ("forward", "backward")]
        rest = [*head, *attention, (1, self.all_parameters), (1, self.clip)]
        bf16_backward = layer("BF16", "dX") + layer("BF16", "dW")
        for name, blocks in (
            ("all products BF16", layer("BF16", "forward") + bf16_backward),
            ("blocks forward FP8", layer("FP8", "forward") + bf16_backward),
            ("blocks forward and backward FP8", layer("FP8", "forward") + layer("FP8", "dX") + layer("FP8", "dW")),
            ("blocks forward FP8, dX FP8, dW BF16", layer("FP8", "forward") + layer("FP8", "dX") + layer("BF16", "dW")),
        ):
            ms = self.meter.total(blocks + rest)
            yield f"| {name} | not measured | |" if ms is None else f"| {name} | {ms:.1f} | {1e3 * self.tokens / ms:.0f} tokens/s |"


def main():
    a = parse_arguments()
    floor = Floor(a)
    gpu = torch.cuda.get_device_name() if a.device == "cuda" else "none (CPU)"
    print(f"# Bare operations of a step, 800M, {floor.tokens} tokens\n")
    shrunk = f" All sizes are divided by {a.shrink}: the figures mean nothing." if a.shrink > 1 else ""
    print(f"{datetime.date.today().isoformat()}, {gpu}, torch {torch.__version__}.{shrunk}\n")
    print(*HEADER, sep="\n")
    for lines in (floor.product_lines(), floor.attention_lines(), floor.memory_lines()):
        for line in lines:
            print(line, flush=True)
    print("\nProducts are `inputs x outputs` of a layer. FP8 is e4m3 with a scale for each row and column and BF16 output; without")
    print("`fast accumulation` sums are promoted to FP32 every 128. Attention is causal, its backward counted as twice the forward.")
    print("AdamW is counted as 28 bytes a parameter, norm and clipping as 12.\n")
    print(f"Sums for a step of {MODEL.layers} blocks, the head, attention (the faster), norm, clipping and AdamW of all parameters, FP8 without fast accumulation:\n")
    print("| | ms | |", "|---|---|---|", *floor.sum_lines(), sep="\n")


if __name__ == "__main__":
    main()
