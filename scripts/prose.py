#!/usr/bin/env python3
"""Keeps the English prose of documents, by rules like C4's (arXiv 1910.10683, section 2.2).

    scripts/prose.py [--seed N] FILE.jsonl|FILE... >prose.jsonl

Of every paragraph (set apart by an empty line or a list mark) those stay that end in a sentence's
mark, have no braces and little else of code, are English by their commonest words, and did not
occur before. What stays of a document is a line of {"text": ...} if it is 200 characters or more;
documents come shuffled. Text files (dictionaries of Debian's dict-* are) are cut at empty lines into
documents of about 4000 characters, and lose the braces of cross references and names of sources.
"""

import argparse
import hashlib
import json
import random
import re
import sys

COMMON = set("the of and to in a is that for it as with be on by this are or not from an which if "
             "can you".split())
PARAGRAPHS = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)])\s)|(?<=[.!?])\n(?=\t)")
CODE = re.compile(r"[{};=<>\\|_]{2}|[{}]|;\s*$|/\*|\*/")
REFERENCE = re.compile(r"\{([^{}]*)\}")
SOURCE = re.compile(r"\[(1913 Webster|PJC|WordNet 1\.5|Webster 1913 Suppl\.)( \+PJC)?\]")
MARKS = ".!?\"”:"


def is_prose(paragraph):
    words = paragraph.lower().split()
    return (len(paragraph) >= 60 and len(words) >= 8 and paragraph[-1] in MARKS
            and not CODE.search(paragraph)
            and sum(w in COMMON for w in words) >= 0.15 * len(words)
            and sum(c.isalpha() or c == " " for c in paragraph) >= 0.85 * len(paragraph))


def documents(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        if path.endswith(".jsonl"):
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)["text"]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f'line {number} is no JSON object with a "text"') from None
            return
        document = ""
        text = SOURCE.sub("", REFERENCE.sub(r"\1", file.read()))
        for paragraph in re.split(r"\n\s*\n", text):
            document += paragraph + "\n\n"
            if len(document) >= 4000:
                yield document
                document = ""
        yield document


def new_prose(document, seen):
    """The paragraphs that stay; `seen` keeps what occurred, whatever its case and spacing."""
    for paragraph in PARAGRAPHS.split(document):
        paragraph = " ".join(paragraph.split())
        if not is_prose(paragraph):
            continue
        letters = re.sub(r"\W+", "", paragraph.lower()).encode()
        key = hashlib.blake2b(letters, digest_size=8).digest()
        if key not in seen:
            seen.add(key)
            yield paragraph


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the documents' order")
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    seen, kept = set(), []
    try:
        for path in arguments.files:
            for document in documents(path):
                text = "\n".join(new_prose(document, seen))
                if len(text) >= 200:
                    kept.append(text)
    except (OSError, ValueError) as error:
        sys.exit(f"prose.py: error: {path}: {error}")
    random.Random(arguments.seed).shuffle(kept)
    for text in kept:
        sys.stdout.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    sys.stderr.write(f"kept {len(kept)} documents, {sum(map(len, kept)) / 1e6:.1f} M characters\n")


if __name__ == "__main__":
    main()
