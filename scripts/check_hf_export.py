#!/usr/bin/env python3
"""Checks a folder of `quest export --format hf` with stock transformers.

    check_hf_export.py FOLDER TEXT [--quest build/bin/quest] [--prompt WORDS] [--limit 1e-5]

Loads model and tokenizer as anybody would (AutoModelForCausalLM, AutoTokenizer), compares token ids,
the mean loss over TEXT in FP32, and a greedy continuation with those of `quest eval` and `quest
generate`, and prints the differences. Exit status 1 if ids or the continuation differ, or the loss
by more than --limit of itself. Needs torch and transformers with sentencepiece, protobuf or tiktoken
(pip install torch transformers sentencepiece protobuf): none of them is a dependency of quest.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--quest", default="build/bin/quest", help="the program")
    parser.add_argument("--prompt", default="And God said", help="of the greedy continuation")
    parser.add_argument("--limit", type=float, default=1e-5, help="relative difference of the loss")
    return parser.parse_args()


def quest(arguments, *command):
    """What the program prints; its error ends the script."""
    done = subprocess.run([arguments.quest, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"check_hf_export: {' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def quest_loss(arguments):
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.json"
        quest(arguments, "eval", str(arguments.folder), str(arguments.text), "--compute", "fp32",
              "--json", str(result))
        return json.loads(result.read_text(encoding="utf-8"))


def quest_ids(arguments, text):
    lines = quest(arguments, "tokenizer", "encode", str(arguments.folder), text).splitlines()
    return [int(line.split()[0]) for line in lines[:-1]]


def transformers_loss(model, ids):
    """Mean loss over windows of the model's context that share a border token, as `quest eval`."""
    import torch

    context, total = model.config.max_position_embeddings, 0.0
    with torch.no_grad():
        for begin in range(0, len(ids) - 1, context):
            window = torch.tensor([ids[begin : begin + context + 1]])
            logits = model(window[:, :-1]).logits[0]
            total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    return total / (len(ids) - 1)


def main():
    arguments = parse_arguments()
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"check_hf_export: {error}: pip install torch transformers sentencepiece protobuf")
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    failed = False

    def report(name, good, text):
        nonlocal failed
        failed = failed or not good
        print(f"{name:<13} {'ok' if good else 'DIFFERS':<8} {text}")

    print(f"transformers  {transformers.__version__}, torch {torch.__version__}: "
          f"{type(model).__name__}, {type(tokenizer).__name__}")
    text = arguments.text.read_text(encoding="utf-8")
    ids = tokenizer(text)["input_ids"]
    samples = [text[:2000], "two  spaces", "line\n\nline", "123 45", "\u00fcn\u00ef \u4e2d \U0001f600"]
    wrong = [s[:40] for s in samples if tokenizer(s)["input_ids"] != quest_ids(arguments, s)]
    report("token ids", not wrong,
           f"{len(samples)} texts" + (f"; different for {wrong}" if wrong else ""))
    if tokenizer(" space")["input_ids"] != quest_ids(arguments, " space"):
        print(f"{'':<13} {'(known)':<8} a text that begins with a space: transformers puts none before it")
    back = tokenizer.decode(ids)
    report("decoding", back == text, f"{len(ids)} tokens")

    ours = quest_loss(arguments)
    if tokenizer.eos_token_id is not None:
        ids = ids + [tokenizer.eos_token_id]  # the end of a document, as `quest eval` reads files
    loss = transformers_loss(model, ids)
    difference = abs(loss - ours["loss"]) / ours["loss"]
    report("loss", len(ids) - 1 == ours["tokens"] and difference <= arguments.limit,
           f"{loss:.7f} on {len(ids) - 1} tokens, quest {ours['loss']:.7f} on {ours['tokens']}, "
           f"relative difference {difference:.1e}")

    prompt = torch.tensor([tokenizer(arguments.prompt)["input_ids"]])
    out = model.generate(prompt, max_new_tokens=32, do_sample=False,
                         attention_mask=torch.ones_like(prompt))
    written = tokenizer.decode(out[0], skip_special_tokens=True)
    expected = quest(arguments, "generate", str(arguments.folder), "--prompt", arguments.prompt,
                     "--max-tokens", "32", "--temperature", "0", "--compute", "fp32")
    report("greedy text", written.strip() == expected.strip(), repr(written))
    if written.strip() != expected.strip():
        print(f"{'':<13} {'quest':<8} {expected!r}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
