#!/usr/bin/env python3
"""A plain PyTorch program that trains a Llama on one GPU, to compare train_gpu with.

FP32 master weights under BF16 autocast, residual stream in BF16 as in quest (--residual fp32: as autocast
leaves it), QKV and gate/up one product each, F.scaled_dot_product_attention, fused AdamW, gradient clipping
at norm 1; random tokens, the same in every step. Nothing waits for the GPU between steps.
  --method bf16  not quantized: with --compile the baseline of the promises
  --method w4a4  the method's fake quantization as its authors compute it (arXiv 2502.05003): dense products
                 with the 128 x 128 Hadamard matrix, values and gradient's path rotated back, weights
                 quantized in every forward pass; only that gate and up share one quantized input

    python3 peer.py --model 800M --batch 32 --compile

Prints one JSON line. Times are of CUDA events recorded after each step; peak memory is of the timed steps.
"""

import argparse
import json
import math
import pathlib
import resource
import statistics
import sys

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))
from shapes import MODELS, VOCABULARY  # noqa: E402
from torch_peer import COMPILE_MODES, Parser, Timer, choose_attention, out_of_memory_text, rotary, rotary_tables  # noqa: E402

CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
HADAMARD_BLOCK = 128
BITS = 4
OPTIMAL_SCALE = 2.513930578568423  # clipping point of the 4-bit uniform grid on N(0,1), in standard deviations
LEAST_WARMUP = 3


def parse_arguments():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--model", choices=list(MODELS), default="800M")
    p.add_argument("--batch", type=int, default=32, help="sequences of a step; default 32")
    p.add_argument("--micro-batch", type=int, default=0, help="sequences of a forward pass; 0 (default): the whole batch")
    p.add_argument("--seq", type=int, default=512, help="tokens of a sequence; default 512")
    p.add_argument("--method", choices=["bf16", "w4a4"], default="bf16")
    p.add_argument("--residual", choices=list(TYPES), default="bf16", help="type of the stream between blocks; default bf16")
    p.add_argument("--attention", choices=["default", "flash", "cudnn"], default="default", help="default: torch's choice")
    p.add_argument("--compile", action="store_true", help="torch.compile of the whole model with its loss (default: eager)")
    p.add_argument("--compile-mode", choices=COMPILE_MODES, help="of torch.compile; default: default")
    p.add_argument("--lr", type=float, help="default: that of configs/")
    p.add_argument("--steps", type=int, default=20, help="timed steps; default 20")
    p.add_argument("--warmup", type=int, default=5, help=f"steps before, {LEAST_WARMUP} or more; the first compiles; default 5")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try the program")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    a.micro_batch = a.micro_batch or a.batch
    if min(a.batch, a.micro_batch, a.seq, a.steps) < 1:
        p.error("--batch, --micro-batch, --seq and --steps must be 1 or more")
    if a.batch % a.micro_batch:
        p.error(f"--micro-batch {a.micro_batch} does not divide --batch {a.batch}")
    if a.warmup < LEAST_WARMUP:
        p.error(f"--warmup is {a.warmup}, must be {LEAST_WARMUP} or more")
    if a.compile_mode and not a.compile:
        p.error("--compile-mode needs --compile")
    a.compile_mode = a.compile_mode or "default"
    if a.compile_mode in CUDA_GRAPH_MODES and a.micro_batch != a.batch:
        p.error(f"--compile-mode {a.compile_mode} uses CUDA graphs, which cannot accumulate gradients: leave --micro-batch out")
    if a.device == "cuda" and not torch.cuda.is_available():
        p.error("torch sees no GPU (--device cpu tries the program on the CPU)")
    return a


def hadamard_matrix(size):
    """Orthonormal Sylvester matrix: symmetric, its own inverse."""
    h = torch.ones(1, 1)
    while h.shape[0] < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h / math.sqrt(size)


def rotated(x, matrix):
    return (x.reshape(-1, HADAMARD_BLOCK) @ matrix.to(x.dtype)).view(x.shape)


def fake_quantized(x, matrix):
    """Values of the 4-bit grid, in the original basis; the gradient passes where rounding moved a value at most half a step."""
    xh = rotated(x, matrix)
    with torch.no_grad():
        rms = xh.float().pow(2).mean(-1, keepdim=True).sqrt()
        scale = OPTIMAL_SCALE * rms + 1e-8
        step = 2 * scale / (2**BITS - 1)
        q = torch.round(torch.clamp(xh, -scale, scale) / step + 0.5) * step - step / 2
        trusted = (q - xh).abs() <= OPTIMAL_SCALE / (2**BITS - 1) * rms
        q = rotated(q.to(xh.dtype), matrix)
    path = rotated(xh * trusted, matrix)
    return path + (q - path).detach()


class Linear(nn.Module):
    def __init__(self, inputs, outputs, deviation, quantized):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * deviation)
        self.quantized = quantized
        if quantized:
            self.register_buffer("matrix", hadamard_matrix(HADAMARD_BLOCK))

    def forward(self, x):
        if not self.quantized:
            return F.linear(x, self.weight)
        return F.linear(fake_quantized(x, self.matrix), fake_quantized(self.weight, self.matrix))


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-5)


class Block(nn.Module):
    def __init__(self, shape, quantized):
        super().__init__()
        output_deviation = 0.02 / math.sqrt(2 * shape.layers)
        self.heads = shape.heads
        self.attention_norm, self.mlp_norm = RmsNorm(shape.hidden), RmsNorm(shape.hidden)
        self.qkv = Linear(shape.hidden, 3 * shape.hidden, 0.02, quantized)
        self.attention_out = Linear(shape.hidden, shape.hidden, output_deviation, quantized)
        self.gate_up = Linear(shape.hidden, 2 * shape.mlp, 0.02, quantized)
        self.down = Linear(shape.mlp, shape.hidden, output_deviation, quantized)

    def attention(self, x, cos, sin):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).unbind(2)  # (B, T, H, D) each
        q, k = rotary(q, cos, sin), rotary(k, cos, sin)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return self.attention_out(y.transpose(1, 2).reshape(b, t, c))

    def mlp(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """Tokens and targets (B, T) to their mean loss."""

    def __init__(self, shape, sequence, quantized, residual):
        super().__init__()
        self.residual = residual
        self.embedding = nn.Embedding(VOCABULARY, shape.hidden)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(shape, quantized) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.hidden)
        self.head = Linear(shape.hidden, VOCABULARY, 0.02, False)
        cos, sin = rotary_tables(sequence, shape.hidden // shape.heads)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, tokens, targets):
        x = self.embedding(tokens).to(self.residual)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_optimizer(model, lr):
    """Weight decay on the blocks' matrices only."""
    named = [(p, name.startswith("blocks") and p.dim() == 2) for name, p in model.named_parameters()]
    groups = [
        {"params": [p for p, decayed in named if decayed], "weight_decay": 0.1},
        {"params": [p for p, decayed in named if not decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=True)


class Trainer:
    def __init__(self, a):
        shape = MODELS[a.model]
        self.device, self.micro_batches = a.device, a.batch // a.micro_batch
        self.uses_graphs = a.compile and a.compile_mode in CUDA_GRAPH_MODES
        torch.manual_seed(a.seed)
        with torch.device(a.device):
            self.model = Llama(shape, a.seq, a.method == "w4a4", TYPES[a.residual])
            tokens = torch.randint(VOCABULARY, (a.batch, a.seq + 1))
        self.inputs = tokens[:, :-1].contiguous().split(a.micro_batch)
        self.targets = tokens[:, 1:].contiguous().split(a.micro_batch)
        self.optimizer = make_optimizer(self.model, shape.learning_rate if a.lr is None else a.lr)
        self.forward = torch.compile(self.model, mode=a.compile_mode, dynamic=False, fullgraph=True) if a.compile else self.model

    def step(self):
        """The loss, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for inputs, targets in zip(self.inputs, self.targets):
            if self.uses_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(self.device, torch.bfloat16):
                loss = self.forward(inputs, targets) / self.micro_batches
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return total


def peak_memory(device):
    """Allocated and reserved bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return resident, resident


def main(a):
    choose_attention(a.attention)
    trainer = Trainer(a)
    losses = [trainer.step() for _ in range(a.warmup)]
    if a.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()  # what compiling took is not the steps'
    timer = Timer(a.device)
    timer.mark()
    for _ in range(a.steps):
        losses.append(trainer.step())
        timer.mark()
    times = timer.milliseconds()
    allocated, reserved = peak_memory(a.device)
    result = {
        "program": "peer",
        "model": a.model,
        "batch": a.batch,
        "micro_batch": a.micro_batch,
        "seq": a.seq,
        "method": a.method,
        "compile": a.compile_mode if a.compile else "eager",
        "residual": a.residual,
        "attention": a.attention,
        "steps": a.steps,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "ms_per_step": statistics.median(times),
        "ms_least": min(times),
        "ms_most": max(times),
        "tokens_per_second": 1e3 * a.batch * a.seq / statistics.median(times),
        "peak_memory_bytes": allocated,
        "peak_reserved_bytes": reserved,
        "loss_first": losses[0].item(),
        "loss_last": losses[-1].item(),
        "gpu": torch.cuda.get_device_name() if a.device == "cuda" else "none (CPU)",
        "torch": torch.__version__,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except torch.OutOfMemoryError as error:
        sys.exit(f"peer.py: {out_of_memory_text(error)}")
