"""What the plain PyTorch programs of bench/train_gpu and bench/infer_gpu share."""

import argparse
import time

import torch

COMPILE_MODES = ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def rotary(x, cos, sin):
    """x (B, T, H, D), cos and sin (T, 1, D/2): turns the pairs (i, i + D/2)."""
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def rotary_tables(positions, head_size):
    """cos and sin (T, 1, D/2)."""
    half = head_size // 2
    angles = torch.outer(torch.arange(positions).float(), 10000.0 ** (-torch.arange(half) / half))
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def choose_attention(name):
    """flash or cudnn alone; anything else: torch's choice."""
    if name in ("flash", "cudnn"):
        torch.backends.cuda.enable_flash_sdp(name == "flash")
        torch.backends.cuda.enable_cudnn_sdp(name == "cudnn")
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)


class Timer:
    """Marks between steps, read when all steps are done."""

    def __init__(self, device):
        self.on_gpu = device == "cuda"
        self.marks = []

    def mark(self):
        if self.on_gpu:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def milliseconds(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if self.on_gpu:
            torch.cuda.synchronize()
            return [start.elapsed_time(end) for start, end in pairs]
        return [1e3 * (end - start) for start, end in pairs]


def out_of_memory_text(error):
    return f"out of GPU memory: {str(error).removeprefix('CUDA out of memory. ').partition('. ')[0]}"
