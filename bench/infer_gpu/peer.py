#!/usr/bin/env python3
"""A plain PyTorch program that runs a Llama in BF16 on one GPU, compiled, to compare `quest bench prefill` and
`quest bench decode` with.

BF16 weights and residual stream, QKV and gate/up one product each, F.scaled_dot_product_attention; torch.compile of the
whole model as one graph, and a CUDA graph of that, so that the host does not count. Random weights and tokens.
  prefill  B x T tokens to the logits of each sequence's last token
  decode   one token for each of B sequences after T others, keys and values in a cache of T + 1 places; blocks and head
           timed apart

    python3 peer.py prefill --model 800M --batch 1,8,32
    python3 peer.py decode --model 7B --batch 1 --tokens 512

Prints one JSON line for each batch. Times are of CUDA events between replays.
"""

import argparse
import json
import pathlib
import statistics
import sys

import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE.parent / "train_gpu")]
from shapes import MODELS, VOCABULARY, Shape  # noqa: E402
from torch_peer import Parser, Timer, choose_attention, out_of_memory_text, rotary, rotary_tables  # noqa: E402

# Llama 2's 7B has the paper's rule for the MLP's width: 11008.
SHAPES = {**MODELS, "7B": Shape(32, 4096, 32, 0.0)}
COMPILE_MODES = ["default", "max-autotune-no-cudagraphs"]  # the CUDA graph is our own
WARMUP, LEAST_REPEATS, MOST_REPEATS = 5, 10, 1000


def numbers(text):
    found = [int(word) for word in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def parse_arguments():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("what", choices=["prefill", "decode"])
    p.add_argument("--model", choices=list(SHAPES), default="800M")
    p.add_argument("--batch", type=numbers, default=[1], metavar="B,...", help="sequences at once, one or more numbers; default 1")
    p.add_argument("--tokens", type=int, default=512, help="of a prompt, or before the one that is written; default 512")
    p.add_argument("--eager", action="store_true", help="without torch.compile (a CUDA graph all the same)")
    p.add_argument("--compile-mode", choices=COMPILE_MODES, default="default", help="of torch.compile; default: default")
    p.add_argument("--attention", choices=["default", "flash", "cudnn", "plain"], default="default", help="default: torch's choice; plain: two products and a softmax")
    p.add_argument("--seconds", type=float, default=0.5, help="of measuring; default 0.5")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try the program, without CUDA graphs")
    a = p.parse_args()
    if a.tokens < 1 or a.seconds <= 0:
        p.error("--tokens must be 1 or more, --seconds above 0")
    if a.device == "cuda" and not torch.cuda.is_available():
        p.error("torch sees no GPU (--device cpu tries the program on the CPU)")
    return a


def attention(q, k, v, causal, plain):
    """q (B, H, T, D), k and v (B, H, S, D)."""
    if not plain:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], float("-inf"), device=q.device).triu(1)
    return scores.softmax(-1).to(q.dtype) @ v


def linear(inputs, outputs, deviation):
    weight = torch.empty(outputs, inputs, dtype=torch.bfloat16).normal_(std=deviation)
    return nn.Parameter(weight, requires_grad=False)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-5).to(x.dtype)


class Block(nn.Module):
    def __init__(self, shape, plain):
        super().__init__()
        c = shape.hidden
        self.heads, self.plain = shape.heads, plain
        self.attention_norm, self.mlp_norm = RmsNorm(c), RmsNorm(c)
        self.qkv, self.attention_out = linear(c, 3 * c, c**-0.5), linear(c, c, c**-0.5)
        self.gate_up, self.down = linear(c, 2 * shape.mlp, c**-0.5), linear(shape.mlp, c, shape.mlp**-0.5)

    def heads_of(self, x, cos, sin):
        """q, k, v (B, H, T, D) of x (B, T, C)."""
        b, t, c = x.shape
        q, k, v = F.linear(x, self.qkv).view(b, t, 3, self.heads, c // self.heads).unbind(2)
        return [y.transpose(1, 2) for y in (rotary(q, cos, sin), rotary(k, cos, sin), v)]

    def finish(self, x, y):
        """x with attention's output y (B, H, T, D) and the MLP."""
        x = x + F.linear(y.transpose(1, 2).reshape(x.shape), self.attention_out)
        gate, up = F.linear(self.mlp_norm(x), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)

    def prefill(self, x, cos, sin):
        q, k, v = self.heads_of(self.attention_norm(x), cos, sin)
        return self.finish(x, attention(q, k, v, True, self.plain))

    def decode(self, x, cos, sin, position, keys, values):
        q, k, v = self.heads_of(self.attention_norm(x), cos, sin)
        keys[:, :, position] = k
        values[:, :, position] = v
        return self.finish(x, attention(q, keys, values, False, self.plain))


class Llama(nn.Module):
    def __init__(self, shape, places, plain):
        super().__init__()
        self.embedding = linear(shape.hidden, VOCABULARY, 1.0)
        self.blocks = nn.ModuleList(Block(shape, plain) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.hidden)
        self.head_weight = linear(shape.hidden, VOCABULARY, shape.hidden**-0.5)
        cos, sin = rotary_tables(places, shape.hidden // shape.heads)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def head(self, x):
        """Logits (B, V) of x (B, C)."""
        return F.linear(self.norm(x), self.head_weight)

    def prefill(self, tokens):
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blocks:
            x = block.prefill(x, cos, sin)
        return self.head(x[:, -1])

    def decode_blocks(self, tokens, position, caches):
        """x (B, C) of tokens (B, 1) at position (1)."""
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[position], self.sin[position]
        for block, (keys, values) in zip(self.blocks, caches):
            x = block.decode(x, cos, sin, position, keys, values)
        return x[:, -1]


class Meter:
    def __init__(self, a):
        self.device, self.seconds = a.device, a.seconds
        self.options = None if a.eager else {"mode": a.compile_mode, "dynamic": False, "fullgraph": True}

    def compiled(self, function):
        return function if self.options is None else torch.compile(function, **self.options)

    def recorded(self, call):
        """A replay of the call, whose graph outlives it, and what it returns."""
        for _ in range(3):
            out = call()
        if self.device != "cuda":
            return call, out
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = call()
        return graph.replay, out

    def times(self, call, repeats):
        timer = Timer(self.device)
        timer.mark()
        for _ in range(repeats):
            call()
            timer.mark()
        return timer.milliseconds()

    def milliseconds(self, replay):
        estimate = statistics.median(self.times(replay, WARMUP))
        repeats = max(LEAST_REPEATS, min(MOST_REPEATS, int(1e3 * self.seconds / max(estimate, 1e-3))))
        return self.times(replay, repeats)


def seconds_of(times):
    return {"seconds": 1e-3 * statistics.median(times), "least": 1e-3 * min(times), "most": 1e-3 * max(times)}


def measure_prefill(model, meter, a, batch):
    tokens = torch.randint(VOCABULARY, (batch, a.tokens), device=a.device)
    prefill = meter.compiled(model.prefill)
    replay, logits = meter.recorded(lambda: prefill(tokens))
    return seconds_of(meter.milliseconds(replay)), logits


def measure_decode(model, meter, a, batch):
    shape = SHAPES[a.model]
    tokens = torch.randint(VOCABULARY, (batch, 1), device=a.device)
    position = torch.tensor([a.tokens], device=a.device)
    place = (batch, shape.heads, a.tokens + 1, shape.hidden // shape.heads)
    caches = [[torch.randn(place, dtype=torch.bfloat16, device=a.device) for _ in range(2)] for _ in model.blocks]
    blocks, head = meter.compiled(model.decode_blocks), meter.compiled(model.head)
    replay_blocks, x = meter.recorded(lambda: blocks(tokens, position, caches))
    replay_head, logits = meter.recorded(lambda: head(x))

    def step():
        replay_blocks()
        replay_head()

    result = seconds_of(meter.milliseconds(step))
    result["block_seconds"] = seconds_of(meter.milliseconds(replay_blocks))["seconds"]
    result["head_seconds"] = seconds_of(meter.milliseconds(replay_head))["seconds"]
    result["cache_bytes"] = sum(t.nbytes for cache in caches for t in cache)
    return result, logits


def main(a):
    choose_attention(a.attention)
    torch.manual_seed(0)
    meter = Meter(a)
    with torch.no_grad():
        with torch.device(a.device):
            model = Llama(SHAPES[a.model], a.tokens + 1, a.attention == "plain")
        for batch in a.batch:
            torch.compiler.reset()  # no graph for any batch
            result, logits = (measure_prefill if a.what == "prefill" else measure_decode)(model, meter, a, batch)
            if not logits.isfinite().all():
                sys.exit("peer.py: logits are not finite")
            shown = {"program": "peer", "what": a.what, "model": a.model, "batch": batch, "tokens": a.tokens}
            shown.update(compile="eager" if a.eager else a.compile_mode, attention=a.attention, **result)
            shown["weight_bytes"] = sum(p.nbytes for p in model.parameters())
            shown["peak_memory_bytes"] = torch.cuda.max_memory_allocated() if a.device == "cuda" else 0
            shown["gpu"] = torch.cuda.get_device_name() if a.device == "cuda" else "none (CPU)"
            shown["torch"] = torch.__version__
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except torch.OutOfMemoryError as error:
        sys.exit(f"peer.py: {out_of_memory_text(error)}")
