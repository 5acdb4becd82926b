"""Tests of the helper scripts: the list of skipped tests and the demo's table."""

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


if __name__ == "__main__":
    unittest.main()
