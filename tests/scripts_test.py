"""Tests of the helper scripts: the list of skipped tests, the demo's table, the comparison with llama.cpp."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / "scripts"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True, check=False
    )


class ListSkipped(unittest.TestCase):
    def listed(self, log):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "LastTest.log"
            path.write_text(log, encoding="utf-8")
            result = run("list_skipped.py", path)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_names_and_reasons(self):
        log = (
            "[ RUN      ] A.Works\n[       OK ] A.Works (0 ms)\n"
            "[ RUN      ] A.Drawn\nx_test.cpp:2: Skipped\nno gnuplot:\ninstall it\n\n"
            "[  SKIPPED ] A.Drawn (0 ms)\n"
            "[ RUN      ] B.Bare\nb.cpp:3: Skipped\n\n[  SKIPPED ] B.Bare (1 ms)\n"
            "[  SKIPPED ] 2 tests, listed below:\n[  SKIPPED ] A.Drawn\n[  SKIPPED ] B.Bare\n"
        )
        self.assertEqual(
            self.listed(log),
            "SKIPPED (2):\n  A.Drawn: no gnuplot: install it\n  B.Bare: no reason given\n",
        )

    def test_none(self):
        self.assertEqual(self.listed("[       OK ] A.Works (0 ms)\n"), "SKIPPED: none\n")

    def test_missing_log_is_an_error(self):
        self.assertNotEqual(run("list_skipped.py", "/nonexistent/log").returncode, 0)


class DemoTable(unittest.TestCase):
    def test_rows(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, loss in (("bf16", 3.0), ("w1a1", 4.0)):
                run_folder = pathlib.Path(folder) / name
                run_folder.mkdir()
                summary = {"recipe": name, "validation_loss": loss, "tokens_per_second": 12345.6}
                (run_folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
            result = run("demo_table.py", f"{folder}/bf16", f"{folder}/w1a1")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [line.split() for line in result.stdout.splitlines()]
        self.assertEqual(rows[2], ["BF16", "16", "16", "3.0000", "20.09", "12,346"])
        self.assertEqual(rows[3], ["W1A1", "1", "1", "4.0000", "54.60", "12,346"])

    def test_unfinished_run_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            result = run("demo_table.py", folder)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("not finished", result.stderr)


class CompareWithLlama(unittest.TestCase):
    BENCH = SCRIPTS.parent / "bench"
    # tokens/s of two rounds; the machine was half as fast in the second.
    RATES = {"W4A4": (30.0, 15.0), "Q4_0": (20.0, 10.0), "Q8_0": (10.0, 5.0), "W1A1": (70.0, 35.0)}

    def table(self, rates, kind="decode", shape="800M"):
        sys.path.insert(0, str(self.BENCH))
        import machine  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            raw, out = pathlib.Path(folder) / "runs.jsonl", pathlib.Path(folder) / "table.md"
            lines = []
            for name, speeds in rates.items():
                for i, speed in enumerate(speeds):
                    record = {"session": "s", "date": "2026-01-01", "round": i + 1, "shape": shape, "format": name}
                    record.update(amx=False, threads=2, prompt=512, tokens=64, cpu=machine.cpu_model(), version="v", detail="d")
                    record.update({"bytes_per_step": 500_000_000, kind: speed})
                    if name.startswith("W"):
                        record.update(memory_bytes_per_second=20e9, int8_operations_per_second=1e12, int8_instructions="x")
                    lines.append(json.dumps(record))
            raw.write_text("\n".join(lines) + "\n", encoding="utf-8")
            script = self.BENCH / f"{kind}_cpu" / "run.py"
            command = [sys.executable, script, "--table-only", "--raw", raw, "--out", out]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, out.read_text(encoding="utf-8") if out.exists() else done.stderr

    def test_ratios_are_of_the_rounds_and_targets_are_judged(self):
        code, text = self.table(self.RATES)
        self.assertEqual(code, 0, text)
        self.assertIn("| 800M | 2 | 64 | quest | W4A4 | 22.5 | 15.0 to 30.0 | 1.50 | 1.50 | 500 | 11.2 | 56 % |", text)
        self.assertIn("| 800M | 2 | 64 | llama.cpp | **Q4_0** | 15.0 | 10.0 to 20.0 | 1.00 |", text)
        self.assertIn("| 800M | W4A4 | 1.15 (Q4_0) | 1.50 | met |", text)
        self.assertIn("| 800M | W2A2 | 2.0 |  | not measured |", text)

    def test_a_missed_target(self):
        code, text = self.table({**self.RATES, "W1A1": (50.0, 25.0)})
        self.assertEqual(code, 1, text)
        self.assertIn("| 800M | W1A1 | 3.0 (Q4_0) | 2.50 | **missed** |", text)

    def test_prefill(self):
        code, text = self.table(self.RATES, kind="prefill")
        self.assertEqual(code, 0, text)
        self.assertIn("| 800M | W1A1 | 1.5 (Q4_0) | 3.50 | met |", text)

    def test_a_missing_program_is_a_failure(self):
        command = [sys.executable, self.BENCH / "decode_cpu" / "run.py", "--quest-run", "/nonexistent/quest-run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("does not exist", done.stderr)

    def test_random_gguf(self):
        sys.path.insert(0, str(self.BENCH / "peer_llama"))
        import random_gguf  # noqa: PLC0415

        random_gguf.SHAPES["tiny"] = (1, 256, 512, 4, 2, 64, 300, False)
        with tempfile.TemporaryDirectory() as folder:
            for name in random_gguf.FORMATS:
                path = random_gguf.model_path(folder, "tiny", name)
                random_gguf.write_model(path, "tiny", name)
                data = path.read_bytes()
                self.assertEqual(data[:8], b"GGUF\x03\0\0\0")
                sizes = [-(-random_gguf.size_of(k, r, c) // 32) * 32 for _, k, r, c in random_gguf.tensors_of("tiny", name)]
                self.assertLess(0, len(data) - sum(sizes), "the head of the file")
                self.assertEqual((len(data) - sum(sizes)) % 32, 0)


if __name__ == "__main__":
    unittest.main()
