#!/usr/bin/env python3
"""A plain PyTorch program of the QuEST method (arXiv 2502.05003), to compare train_cpu with.

It trains the same Llama on random tokens: a dense product with the 128 x 128 Hadamard matrix,
autocast for BF16, F.scaled_dot_product_attention, torch.optim.AdamW, gradient clipping at norm 1;
eager or through torch.compile. QKV is one product. Two styles:
  authors (default)  the method as its authors compute it: every linear layer quantizes its own input
                     (gate and up are two layers), and quantized values and the gradient's path are
                     rotated back to the original basis by dense products, through autograd
  lean               as a careful reader would shorten it: quantizers are autograd functions that save
                     a mask, gate and up share one product and one quantized input, and nothing is
                     rotated back, since (x H)(w H)^T = x w^T

    python peer.py --quant w4a4 --dtype bf16 --compile --steps 5

Prints one JSON line: tokens/s (median, least, most of the timed steps), peak resident memory, losses.
glibc returns freed memory to the system by default, which costs this program 15 to 70 %: unless
--system-allocator is given it starts itself again with settings that keep the memory.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
# Clipping point of a b-bit uniform grid on N(0,1), in standard deviations (the paper's table).
OPTIMAL_SCALE = {
    1: 0.7978845587140913,
    2: 1.4935346200015913,
    3: 2.051068354131873,
    4: 2.513930578568423,
    5: 2.9160938834961225,
    6: 3.276597282593217,
    7: 3.6010497188221655,
    8: 3.884938678807525,
}
HADAMARD_BLOCK = 128
IGNORE = -100


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quant", default="w4a4", help="bf16 (not quantized) or w<b>a<b>, 2 to 8 bits; default w4a4")
    p.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"], help="bf16: autocast; default bf16")
    p.add_argument("--style", default="authors", choices=["authors", "lean"], help="default authors")
    p.add_argument("--compile", action="store_true", help="torch.compile the model (default: eager)")
    p.add_argument("--adamw", default="fused", choices=["fused", "default"], help="implementation; default fused")
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--hidden", type=int, default=640)
    p.add_argument("--heads", type=int, default=5)
    p.add_argument("--mlp", type=int, default=1792)
    p.add_argument("--vocabulary", type=int, default=32000)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--sequence", type=int, default=512)
    p.add_argument("--steps", type=int, default=5, help="timed steps")
    p.add_argument("--warmup", type=int, default=2, help="steps before (torch.compile compiles in the first)")
    p.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--system-allocator", action="store_true", help="leave glibc's allocator as it is")
    return p.parse_args()


def keep_freed_memory():
    """glibc reads its settings when a process starts: start again with them."""
    if any(os.environ.get(name) is None for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATOR, **os.environ})


ARGUMENTS = parse_arguments()
if not ARGUMENTS.system_allocator:
    keep_freed_memory()

import torch  # noqa: E402  (after the allocator is set)
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


def hadamard_matrix(size):
    """Orthonormal Sylvester matrix: symmetric, its own inverse."""
    h = torch.ones(1, 1)
    while h.shape[0] < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h / math.sqrt(size)


def grid_values(xh, bits):
    """Rotated rows on the centred uniform grid, and where rounding moved a value at most half a step."""
    rms = xh.pow(2).mean(-1, keepdim=True).sqrt()
    scale = OPTIMAL_SCALE[bits] * rms + 1e-8
    step = 2 * scale / (2**bits - 1)
    q = torch.round(torch.clamp(xh, -scale, scale) / step + 0.5) * step - step / 2
    return q, (q - xh).abs() <= OPTIMAL_SCALE[bits] / (2**bits - 1) * rms


def rotated(x, matrix):
    return (x.reshape(-1, HADAMARD_BLOCK) @ matrix.to(x.dtype)).view(x.shape)


class LeanQuantizer(torch.autograd.Function):
    """Quantized values in the rotated basis; the gradient passes through the mask and is rotated back."""

    @staticmethod
    def forward(ctx, x, matrix, bits):
        q, mask = grid_values((x.reshape(-1, HADAMARD_BLOCK) @ matrix).view(x.shape), bits)
        ctx.save_for_backward(mask, matrix)
        return q

    @staticmethod
    def backward(ctx, grad):
        mask, matrix = ctx.saved_tensors
        return rotated(grad * mask, matrix), None, None


def authors_quantizer(x, matrix, bits):
    """Quantized values in the original basis; the gradient goes through the masked path beside them."""
    xh = (x.reshape(-1, HADAMARD_BLOCK) @ matrix).view(x.shape)
    with torch.no_grad():
        q, mask = grid_values(xh, bits)
        q = rotated(q, matrix)
    path = rotated(xh * mask, matrix)
    return path + (q - path).detach()


class Linear(nn.Module):
    def __init__(self, inputs, outputs, deviation, style, weight_bits, activation_bits):
        super().__init__()
        self.quantizer = authors_quantizer if style == "authors" else LeanQuantizer.apply
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * deviation)
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        if weight_bits or activation_bits:
            self.register_buffer("matrix", hadamard_matrix(HADAMARD_BLOCK))

    def forward(self, x):
        weight = self.weight
        if self.activation_bits:
            x = self.quantizer(x, self.matrix, self.activation_bits)
        if self.weight_bits:
            weight = self.quantizer(weight, self.matrix, self.weight_bits)
        return F.linear(x, weight)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Block(nn.Module):
    def __init__(self, a, bits):
        super().__init__()
        output_deviation = 0.02 / math.sqrt(2 * a.layers)
        self.heads, self.head_size = a.heads, a.hidden // a.heads
        self.attention_norm, self.mlp_norm = RmsNorm(a.hidden), RmsNorm(a.hidden)
        self.qkv = Linear(a.hidden, 3 * a.hidden, 0.02, a.style, *bits)
        self.attention_out = Linear(a.hidden, a.hidden, output_deviation, a.style, *bits)
        widths = [a.mlp, a.mlp] if a.style == "authors" else [2 * a.mlp]
        self.gate_up = nn.ModuleList(Linear(a.hidden, width, 0.02, a.style, *bits) for width in widths)
        self.down = Linear(a.mlp, a.hidden, output_deviation, a.style, *bits)

    def attention(self, x, cos, sin):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attention_out(y.transpose(1, 2).reshape(b, t, c))

    def mlp(self, x):
        parts = [layer(x) for layer in self.gate_up]
        gate, up = parts if len(parts) == 2 else parts[0].chunk(2, -1)
        return self.down(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class Llama(nn.Module):
    def __init__(self, a, bits):
        super().__init__()
        self.embedding = nn.Embedding(a.vocabulary, a.hidden)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(a, bits) for _ in range(a.layers))
        self.norm = RmsNorm(a.hidden)
        self.head = Linear(a.hidden, a.vocabulary, 0.02, a.style, 0, 0)
        half = a.hidden // a.heads // 2
        angles = torch.outer(torch.arange(a.sequence).float(), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def make_optimizer(model, implementation):
    decayed = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.dim() == 2]
    others = [p for name, p in model.named_parameters() if not (name.startswith("blocks") and p.dim() == 2)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    fused = True if implementation == "fused" else None
    return torch.optim.AdamW(groups, lr=1.2e-3, betas=(0.9, 0.95), eps=1e-8, fused=fused)


def read_bits(name):
    if name == "bf16":
        return 0, 0
    parts = name[1:].split("a") if name.startswith("w") else []
    if len(parts) == 2 and all(part in map(str, range(2, 9)) for part in parts):
        return int(parts[0]), int(parts[1])
    sys.exit(f"peer.py: --quant is {name!r}, allowed are bf16 and w<b>a<b> with 2 to 8 bits")


def main(a):
    bits = read_bits(a.quant)
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    model = Llama(a, bits)
    optimizer = make_optimizer(model, a.adamw)
    forward = torch.compile(model) if a.compile else model
    tokens = torch.randint(a.vocabulary, (a.batch, a.sequence + 1))
    losses, seconds = [], []
    for _ in range(a.warmup + a.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    rates = [a.batch * a.sequence / s for s in seconds[a.warmup :]]
    print(
        json.dumps(
            {
                "program": ("lean-" if a.style == "lean" else "peer-") + ("compiled" if a.compile else "eager"),
                "quant": a.quant,
                "compute": a.dtype,
                "tokens_per_second": statistics.median(rates),
                "least": min(rates),
                "most": max(rates),
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "parameters": sum(p.numel() for p in model.parameters()),
                "batch": a.batch,
                "sequence": a.sequence,
                "steps": a.steps,
                "threads": torch.get_num_threads(),
                "first_loss": losses[0],
                "last_loss": losses[-1],
                "version": f"torch {torch.__version__}",
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(ARGUMENTS)
