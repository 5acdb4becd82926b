"""Tests of the helper scripts, the Makefile and the stamp of the version: the list of skipped tests, the demo's table, the filter of prose, the comparisons with llama.cpp and PyTorch."""

import json
import pathlib
import shutil
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


@unittest.skipUnless(shutil.which("make"), "no make")
class Makefile(unittest.TestCase):
    def made(self, preset):
        command = ["make", "-n", "build", f"PRESET={preset}", "JOBS=1"]
        return subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True, check=False)

    def test_each_preset_is_built_in_its_own_folder(self):
        presets = json.loads((SCRIPTS.parent / "CMakePresets.json").read_text(encoding="utf-8"))
        for preset in presets["configurePresets"]:
            if preset.get("hidden"):
                continue
            result = self.made(preset["name"])
            self.assertEqual(result.returncode, 0, result.stderr)
            folder = preset["binaryDir"].removeprefix("${sourceDir}/")
            self.assertIn(f"cmake --preset {preset['name']} ", result.stdout)
            self.assertIn(f"cmake --build {folder} ", result.stdout)

    def test_an_unknown_preset_lists_those_that_exist(self):
        result = self.made("foo")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("no PRESET 'foo'; there are cpu, cuda and asan", result.stderr)


@unittest.skipUnless(shutil.which("cmake") and shutil.which("git"), "no cmake or git")
class GitStamp(unittest.TestCase):
    def test_it_follows_commits_and_is_else_left_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            tree, header = pathlib.Path(folder) / "a tree", pathlib.Path(folder) / "stamp" / "git_describe.h"
            tree.mkdir()

            def git(*arguments):
                names = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
                command = ["git", "-C", tree, *names, *arguments]
                return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

            def stamp():
                values = ["-DGIT=git", f"-DSOURCE={tree}", f"-DOUTPUT={header}"]
                script = SCRIPTS.parent / "cmake" / "git_stamp.cmake"
                subprocess.run(["cmake", *values, "-P", script], check=True)
                return header.read_text(encoding="utf-8")

            self.assertEqual(stamp(), '#define QUEST_GIT_DESCRIBE ""\n')  # no repository
            git("init", "-q")
            for message in ("first", "second"):
                git("commit", "-q", "--allow-empty", "-m", message)
                text = stamp()
                self.assertEqual(text, f'#define QUEST_GIT_DESCRIBE "{git("rev-parse", "--short", "HEAD")}"\n')
            written = header.stat().st_mtime_ns
            self.assertEqual(stamp(), text)
            self.assertEqual(header.stat().st_mtime_ns, written)


class Prose(unittest.TestCase):
    SENTENCE = "The text of a page is kept if it reads like a sentence and was not seen in another, as page {} is."

    def kept(self, files, code=0):
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for name, text in files.items():
                paths.append(pathlib.Path(folder) / name)
                paths[-1].write_text(text, encoding="utf-8")
            result = run("prose.py", *paths)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stderr if code else [json.loads(line)["text"] for line in result.stdout.splitlines()]

    def test_code_repetition_and_other_languages_go(self):
        good = [self.SENTENCE.format(i) for i in ("one", "two", "three")]
        bad = [
            "if (the_text_of(a) == to_be_kept(in, the)) {\n  return of_the(page); }",
            "Home > Documents > The list of all pages that there are in this and the other books",
            "Der Text dieser Seite wird nicht behalten, denn er ist in einer anderen Sprache verfasst.",
            good[0].upper(),
        ]
        document = "\n\n".join([good[0], bad[0], good[1].replace(" page ", "\n  page "), *bad[1:], good[2]])
        again = "\n\n".join(good)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in (document, again))
        self.assertEqual(self.kept({"a.jsonl": lines}), ["\n".join(good)])

    def test_dictionaries_lose_their_marks(self):
        entry = "The {wheel} is a part of the machine that turns, and on which it is carried from here to there.\n   [1913 Webster]"
        texts = self.kept({"d.dict": "\n\n".join([entry, entry.replace("wheel", "axle"), entry.replace("here", "far")])})
        self.assertEqual(len(texts), 1)
        self.assertNotRegex(texts[0], r"[{}\[]")
        self.assertEqual(texts[0].count("\n"), 2)

    def test_wrong_input_is_named(self):
        self.assertRegex(self.kept({"a.jsonl": '{"text": "x"}\nnonsense\n'}, 1), r"a\.jsonl: line 2 is no JSON")
        self.assertRegex(run("prose.py", "/nonexistent/a.txt").stderr, "/nonexistent/a.txt")


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


FAKE_QUEST = """#!{python}
import json, sys
flag = lambda name: sys.argv[sys.argv.index(name) + 1]
kind, found = sys.argv[2], []
if kind == "layer":
    for rows in map(int, flag("--rows").split(",")):
        place = dict(n=4096, k=2048, rows=rows)
        found.append(dict(place, weights="bf16", work="product", seconds=8e-5))
        for work, seconds in (("product", 2e-5), ("quantize", 4e-5), ("hadamard_quantize", 6e-5)):
            found.append(dict(place, weights="packed", work=work, seconds=seconds))
            if rows > 64:
                found.append(dict(place, weights="int8", work=work, seconds=seconds / 1.5))
else:
    for recipe in flag("--quant").split(","):
        for batch in map(int, flag("--batch").split(",")):
            m = dict(recipe=recipe, batch=batch, seconds=2e-3 * batch, block_seconds=1e-3, head_seconds=1e-3, block_bytes=1e9)
            found.append(dict(m, weight_bytes=4e9, cache_bytes=3e8, scratch_bytes=1e8, device_bytes=4.7e9))
with open(flag("--json"), "w") as out:
    json.dump(dict(program="quest bench " + kind, gpu="NVIDIA H200", version="quest 1", measurements=found), out)
"""
FAKE_PYTORCH = """#!{python}
import json, sys
if sys.argv[1].endswith("train_gpu/peer.py"):
    print(json.dumps(dict(tokens_per_second=1e5, ms_per_step=160, peak_memory_bytes=2**30, loss_first=10.8, loss_last=9.9, gpu="NVIDIA H200")))
    sys.exit()
flag = lambda name: sys.argv[sys.argv.index(name) + 1]
if flag("--model") == "1.6B":
    sys.exit("RuntimeError: no room")
for batch in map(int, flag("--batch").split(",")):
    print(json.dumps(dict(program="peer", what=sys.argv[2], batch=batch, seconds=3e-3 * batch, block_seconds=5.5e-3, head_seconds=1e-3, gpu="NVIDIA H200", torch="2")))
"""


class CompareWithPyTorchOnAGpu(unittest.TestCase):
    BENCH = SCRIPTS.parent / "bench"

    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        self.folder = pathlib.Path(self.place.name)
        for name, text in (("quest", FAKE_QUEST), ("python", FAKE_PYTORCH)):
            (self.folder / name).write_text(text.replace("{python}", sys.executable), encoding="utf-8")
            (self.folder / name).chmod(0o755)

    def run_script(self, kind, *arguments):
        common = ["--raw", self.folder / "raw.jsonl", "--out", self.folder / "out.md", "--peer-python", self.folder / "python"]
        line = [sys.executable, self.BENCH / kind / "run.py", *common, *arguments]
        done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
        out = self.folder / "out.md"
        return done.returncode, out.read_text(encoding="utf-8") if out.exists() else "", done.stdout + done.stderr

    def test_tables_targets_and_figures(self):
        figures = self.folder / "figures"
        quest = ["--quest", self.folder / "quest", "--rounds", "2", "--session", "s"]
        code, text, said = self.run_script("infer_gpu", *quest, "--parts", "prefill", "layers", "--prefill-models", "800M")
        self.assertEqual(code, 0, said)
        self.assertIn("| prefill, 800M, 8 x 512 | 1.3 x | 1.50 | met |", text)
        self.assertIn("| layer 4096 x 2048, w4a4, 4096 rows | 1.5 x | 2.00 | met |", text)
        self.assertIn("| 4096 x 2048 | 64 | 80.0 | 20.0 (4.00) | 40.0 (2.00) | 60.0 (1.33) |  |", text)
        # The session goes on with other parts.
        code, text, said = self.run_script("infer_gpu", *quest, "--parts", "decode", "--figures", figures)
        self.assertEqual(code, 1, said)
        self.assertIn("| decode, 7B, w2a2, blocks | 5 x | 5.50 | met |", text)
        self.assertIn("| decode, 7B, w1a1, blocks | 8 x | 5.50 | **missed** |", text)
        self.assertIn("| memory without cache, 7B, w4a4 | 4.5 GB at most | 4.40 GB | met |", text)
        self.assertIn("| prefill, 800M, 1 x 512 | 1.2 x | 1.50 | met |", text)
        fig6 = json.loads((figures / "fig6.json").read_text(encoding="utf-8"))
        self.assertEqual(fig6["layers"]["4096x2048"][0], [1, 8e-5, 4e-5, 6e-5, None])
        fig7 = json.loads((figures / "fig7.json").read_text(encoding="utf-8"))
        self.assertEqual(fig7["batch_sizes"], [1, 8, 32])
        self.assertEqual(fig7["model_800M"][1], [0.024, 0.016, 0.016, 0.016])

    def test_what_fails_is_said_and_missed(self):
        code, text, said = self.run_script("infer_gpu", "--quest", self.folder / "quest", "--parts", "prefill", "--rounds", "1")
        self.assertEqual(code, 1, said)
        self.assertIn("- prefill 1.6B PyTorch: failed: RuntimeError: no room", text)
        self.assertIn("| prefill, 1.6B, 8 x 512 | 1.3 x |  | not measured |", text)
        code, _, said = self.run_script("infer_gpu", "--quest", self.folder / "missing")
        self.assertEqual(code, 2)
        self.assertIn("does not exist", said)

    def test_training(self):
        code, text, said = self.run_script("train_gpu", "--rounds", "2", "--rows", "30M bf16", "--session", "t")
        self.assertEqual(code, 0, said)
        self.assertIn("| 30M PyTorch compiled, 64 x 512 | 100000 | 100000 to 100000 | 160.0 | 1.000 | 1.0 |", text)
        code, _, said = self.run_script("train_gpu", "--rounds", "1", "--rows", "30M bf16", "--session", "t", "--seq", "64")
        self.assertEqual(code, 2, said)
        self.assertIn("leave --session out", said)


if __name__ == "__main__":
    unittest.main()
