#!/usr/bin/env python3
"""Real text in quantity: the documentation and source text of Debian 12 packages as JSON lines.

    scripts/debian_text.py [--debs FOLDER] [--any-version] corpus.jsonl         # 215 M characters, shuffled

Fetches the packages with `apt-get download` into FOLDER (default: corpus.jsonl.debs; what lies there
already is not fetched again), unpacks them, strips HTML, and takes C sources and documents of the
Linux kernel until there are 215 M characters. The same packages give the same file; with the versions
below its SHA-256 is f72c57e3d44c105d4db3e1038503d5f74c71f0caea352df77694013211bd9b42 (2026-11-26). Needs
dpkg-deb and, to fetch, apt of Debian 12.
"""

import argparse
import gzip
import hashlib
import html
import json
import pathlib
import random
import re
import subprocess
import sys
import tarfile
import tempfile

PACKAGES = {  # name: version
    "bible-kjv-text": "4.38",
    "debian-handbook": "11.20220922",
    "emacs-common": "1:28.2+1-15+deb12u4",
    "git-doc": "1:2.39.5-0+deb12u3",
    "linux-doc-6.1": "6.1.192-2",
    "linux-source-6.1": "6.1.192-2",
    "manpages": "6.03-2",
    "manpages-dev": "6.03-2",
    "perl-doc": "5.36.0-7+deb12u4",
    "postgresql-doc-15": "15.20-0+deb12u1",
    "python3.11-doc": "3.11.2-6+deb12u9",
}
SOURCE = "linux-source-6.1"
ENOUGH = 215e6  # characters
SCRIPT = re.compile(r"<(script|style)[^>]*>.*?</\1>", re.S | re.I)
TAG = re.compile(r"<[^>]+>")
DOCUMENT = re.compile(r"\.(html|xhtml|txt|rst|el|pod|dict\.dz|[1-9])$")


def fetch(folder, any_version):
    """The .deb of each package; apt escapes the colon of a version."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        wanted = missing if any_version else [f"{name}={PACKAGES[name]}" for name in missing]
        if subprocess.run(["apt-get", "download", *wanted], cwd=folder, check=False).returncode != 0:
            sys.exit("debian_text.py: error: apt-get could not download that (what it says is above). Newer versions than those named here: "
                     "--any-version takes what apt has, and the text is then another")
    return {name: next(folder.glob(f"{name}_*.deb")) for name in PACKAGES}


def text_of(path):
    """The path without .gz, and its text; None if it is no UTF-8."""
    data = path.read_bytes()
    try:
        if path.suffix == ".gz":
            data, path = gzip.decompress(data), path.with_suffix("")
        text = data.decode("utf-8")
    except (UnicodeDecodeError, OSError, EOFError):
        return None
    if path.suffix in (".html", ".htm", ".xhtml"):
        text = html.unescape(TAG.sub("", SCRIPT.sub("", text)))
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    head = text[:2000]
    if len(text) <= 400 or sum(c.isprintable() or c in "\n\t" for c in head) <= 0.98 * len(head):
        return None
    return text[:200000]


def files_below(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]


def documents(debs, work):
    for name, deb in sorted(debs.items()):
        subprocess.run(["dpkg-deb", "-x", deb, work / ("source" if name == SOURCE else "documents")], check=True)
    for path in files_below(work / "documents"):
        if DOCUMENT.search(path.name.removesuffix(".gz")):
            if (text := text_of(path)) is not None:
                yield text
    archive = next((work / "source").rglob("linux-source-*.tar.xz"))
    with tarfile.open(archive) as tar:
        tar.extractall(work / "kernel", filter="tar")
    sources = [p for p in files_below(work / "kernel") if p.suffix in (".c", ".h", ".rst", ".txt") and p.stat().st_size < 300000]
    random.shuffle(sources)
    for path in sources:
        if (text := text_of(path)) is not None:
            yield text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--debs", type=pathlib.Path, help="folder of the packages")
    parser.add_argument("--any-version", action="store_true", help="take the packages' versions that apt has now")
    parser.add_argument("out", type=pathlib.Path, metavar="corpus.jsonl")
    arguments = parser.parse_args()
    random.seed(1)
    try:
        debs = fetch(arguments.debs or arguments.out.with_name(arguments.out.name + ".debs"), arguments.any_version)
        with tempfile.TemporaryDirectory(dir=arguments.out.parent) as work:
            texts, size = [], 0
            for text in documents(debs, pathlib.Path(work)):
                texts.append(text)
                size += len(text)
                if size > ENOUGH:
                    break
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"debian_text.py: error: {error}")
    random.shuffle(texts)
    digest = hashlib.sha256()
    with open(arguments.out, "wb") as out:
        for text in texts:
            line = (json.dumps({"text": text}, ensure_ascii=False) + "\n").encode()
            digest.update(line)
            out.write(line)
    sys.stderr.write(f"{len(texts)} documents, {size / 1e6:.0f} M characters, sha256 {digest.hexdigest()}\n")


if __name__ == "__main__":
    main()
