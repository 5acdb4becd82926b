"""What the result files of bench/ say about the CPU."""

import pathlib
import platform
import re


def cpu_flags():
    try:
        found = re.search(r"^flags\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        return set()
    return set(found.group(1).split()) if found else set()


def cpu_model():
    """The name, and family and model numbers where a virtual machine hides the name."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    field = lambda name: (re.search(rf"^{name}\s*:\s*(.*)$", text, re.M) or [None, "?"])[1]  # noqa: E731
    return f"{field('model name')} (family {field('cpu family')}, model {field('model')})"


def instructions():
    """Those that count here, the widest first."""
    known = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512_vpopcntdq", "avx512f", "avx2")
    return ", ".join(f for f in known if f in cpu_flags()) or "no vector extension that counts here"


def file_name(model):
    """cpu_model() as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_")
