#!/usr/bin/env python3
"""Writes GGUF files of random weights in the shapes of `quest-run bench --shape`: models for llama.cpp whose
speed is that of trained ones. Needs Python alone.

    python3 bench/peer_llama/random_gguf.py --shapes 800M --formats Q4_0 Q8_0 --out FOLDER

Blocks are random codes with scales that give weights of a standard deviation of about 0.02, some thousand of them
over and over; nothing is quantized. The type of each tensor is the one that llama.cpp's own quantizer chooses for that format without
importance matrix:

- blocks: the format; where a row is not whole blocks of TQ2_0, Q4_0 instead (the 135M's rows of 576). For Q1_0 the
  quantizer knows no such replacement and refuses the model; here it gets Q4_0 too.
- head (or embedding, if they are one tensor): Q8_0 for Q8_0 and where rows are not whole blocks of the format,
  else Q6_K.
- embedding of its own: Q4_K for TQ2_0, else the format.
- norms: F32.
"""

import argparse
import pathlib
import random
import struct
import sys

# As in quest/cli_run/bench_shapes.cpp: blocks, width, MLP, heads, key-value heads, head size, vocabulary, tied.
SHAPES = {
    "135M": (30, 576, 1536, 9, 3, 64, 49152, True),
    "800M": (16, 2048, 5632, 16, 16, 128, 32000, False),
    "3B": (28, 3072, 8192, 24, 8, 128, 128256, True),
}
FORMATS = ["Q8_0", "Q4_0", "TQ2_0", "Q1_0"]
# name: (number of the type in GGUF, weights of a block, bytes of a block)
TYPES = {
    "F32": (0, 1, 4),
    "Q4_0": (2, 32, 18),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "TQ2_0": (35, 256, 66),
    "Q1_0": (41, 128, 18),
}
FILE_TYPES = {"Q8_0": 7, "Q4_0": 2, "TQ2_0": 37, "Q1_0": 40}
# Where a block's FP16 scales are, in bytes, and a scale for weights of about 0.02.
SCALES = {
    "Q4_0": [(0, 0.02 / 4.6)],
    "Q8_0": [(0, 0.02 / 74)],
    "Q4_K": [(0, 0.02 / 150), (2, 0.02 / 20)],
    "Q6_K": [(208, 0.02 / 1400)],
    "TQ2_0": [(64, 0.02)],
    "Q1_0": [(0, 0.02)],
}
ALIGNMENT = 32
UINT32, FLOAT32, STRING = 4, 6, 8  # types of metadata
BLOCKS = 1 << 14  # that are made of a type


def block_type(name, columns):
    return name if columns % TYPES[name][1] == 0 else "Q4_0"


def head_type(name, columns):
    return "Q8_0" if name == "Q8_0" or columns % 256 != 0 or columns % TYPES[name][1] != 0 else "Q6_K"


def tensors_of(shape, name):
    """[(name, type, rows, columns)]; norms have no rows."""
    blocks, width, mlp, heads, kv_heads, head_size, vocabulary, tied = SHAPES[shape]
    embedding = head_type(name, width) if tied else ("Q4_K" if name == "TQ2_0" else block_type(name, width))
    tensors = [("token_embd.weight", embedding, vocabulary, width), ("output_norm.weight", "F32", None, width)]
    if not tied:
        tensors.append(("output.weight", head_type(name, width), vocabulary, width))
    for i in range(blocks):
        tensors.append((f"blk.{i}.attn_norm.weight", "F32", None, width))
        tensors.append((f"blk.{i}.ffn_norm.weight", "F32", None, width))
        for part, rows, columns in [
            ("attn_q", heads * head_size, width),
            ("attn_k", kv_heads * head_size, width),
            ("attn_v", kv_heads * head_size, width),
            ("attn_output", width, heads * head_size),
            ("ffn_gate", mlp, width),
            ("ffn_up", mlp, width),
            ("ffn_down", width, mlp),
        ]:
            tensors.append((f"blk.{i}.{part}.weight", block_type(name, columns), rows, columns))
    return tensors


def size_of(kind, rows, columns):
    _, weights, size = TYPES[kind]
    return (rows or 1) * columns // weights * size


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def metadata(shape, name):
    blocks, width, mlp, heads, kv_heads, head_size, vocabulary, _ = SHAPES[shape]
    numbers = {
        "general.file_type": FILE_TYPES[name],
        "general.alignment": ALIGNMENT,
        "llama.context_length": 2048,
        "llama.embedding_length": width,
        "llama.block_count": blocks,
        "llama.feed_forward_length": mlp,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.rope.dimension_count": head_size,
        "llama.attention.key_length": head_size,
        "llama.attention.value_length": head_size,
        "llama.vocab_size": vocabulary,
    }
    texts = {"general.architecture": "llama", "general.name": f"random {shape} {name}", "tokenizer.ggml.model": "no_vocab"}
    reals = {"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0}
    entries = [text(key) + struct.pack("<I", STRING) + text(value) for key, value in texts.items()]
    entries += [text(key) + struct.pack("<II", UINT32, value) for key, value in numbers.items()]
    entries += [text(key) + struct.pack("<If", FLOAT32, value) for key, value in reals.items()]
    return entries


def random_blocks(kind):
    """BLOCKS blocks of this type."""
    size = TYPES[kind][2]
    blocks = bytearray(random.Random(kind).randbytes(BLOCKS * size))
    if kind == "TQ2_0":  # codes are 0, 1, 2: of a 3 the low bit goes
        ternary = bytes(byte & ~((byte >> 1) & 0x55) for byte in range(256))
        blocks = blocks.translate(ternary)
    for offset, scale in SCALES[kind]:
        half = struct.pack("<e", scale)
        blocks[offset::size] = half[:1] * BLOCKS
        blocks[offset + 1 :: size] = half[1:] * BLOCKS
    return bytes(blocks)


def write_tensor(out, blocks, kind, rows, columns):
    if kind == "F32":
        out.write(struct.pack("<f", 1.0) * columns)
    else:
        tile = blocks[kind]
        whole, rest = divmod(size_of(kind, rows, columns), len(tile))
        for _ in range(whole):
            out.write(tile)
        out.write(tile[:rest])
    out.write(bytes(-out.tell() % ALIGNMENT))


def write_model(path, shape, name):
    tensors, entries = tensors_of(shape, name), metadata(shape, name)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries))
        offset = 0
        for tensor, kind, rows, columns in tensors:
            extents = [columns] if rows is None else [columns, rows]
            out.write(text(tensor) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, TYPES[kind][0], offset))
            offset += -(-size_of(kind, rows, columns) // ALIGNMENT) * ALIGNMENT
        out.write(bytes(-out.tell() % ALIGNMENT))
        blocks = {kind: random_blocks(kind) for kind in SCALES}
        for _, kind, rows, columns in tensors:
            write_tensor(out, blocks, kind, rows, columns)
    partial.replace(path)


def model_path(folder, shape, name):
    return pathlib.Path(folder) / f"{shape}-{name}.gguf"


def bytes_per_step(shape, name):
    """Bytes of weights that a step of writing reads: all but an embedding of its own."""
    tied = SHAPES[shape][-1]
    return sum(size_of(k, r, c) for t, k, r, c in tensors_of(shape, name) if tied or t != "token_embd.weight")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True, help="folder of the files; one that is there stays")
    p.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    p.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for shape in a.shapes:
        for name in a.formats:
            path = model_path(a.out, shape, name)
            if not path.exists():
                write_model(path, shape, name)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
