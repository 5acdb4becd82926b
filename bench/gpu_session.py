"""What bench/train_gpu/run.py and bench/infer_gpu/run.py share: processes that are measured in rounds, their lines in a
raw file, and sessions that go on in pieces of a few minutes."""

import argparse
import datetime
import json
import re
import shlex
import subprocess
import sys
import time

# Of every line of a raw file, beside its result or error.
WRITTEN = ("session", "date", "round", "name", "model", "settings", "run")


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")

    def split_flags(self, arguments, *names):
        """Flags whose text is a program's own flags: into words."""
        for name in names:
            try:
                setattr(arguments, name, shlex.split(getattr(arguments, name)))
            except ValueError as error:
                self.error(f"--{name.replace('_', '-')}: {error}")


def fail(message):
    sys.stderr.write(f"run.py: {message}\n")
    sys.exit(2)


def gpu_and_driver():
    line = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "none (CPU)", "none"
    name, _, driver = printed.strip().splitlines()[0].rpartition(", ")
    return name, driver


def last_error(text):
    """The line that names an exception, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    line = (named or lines or ["it printed nothing"])[-1]
    return line if len(line) <= 200 else line[:197] + "..."


def run_process(line, timeout):
    """What the program printed and no error, or None and what went wrong."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None, f"took longer than {timeout:.0f} s"
    except OSError as error:
        return None, f"{error.strerror}: {line[0]}"
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        if done.returncode < 0:
            return None, f"ended by signal {-done.returncode}: {last_error(done.stderr or done.stdout)}"
        return None, last_error(done.stderr or done.stdout)
    return done.stdout, None


def read_records(path):
    if not path.is_file():
        fail(f"--raw: {path} does not exist")
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not all(isinstance(record, dict) and set(WRITTEN) <= set(record) for record in records):
            raise ValueError("a line of it is not of this script")
    except ValueError as error:
        fail(f"--raw: {path} cannot be read: {error}")
    return records


def records_of_session(path, name):
    """The records of --session, or of the newest one, and its name."""
    records = read_records(path)
    name = name or (records[-1]["session"] if records else "")
    records = [r for r in records if r["session"] == name]
    if not records:
        fail(f"--raw: {path} holds no measurement{f' of session {name}' if name else ''}")
    return records, name


def run_rounds(a, settings, models, programs, measure, script, more=lambda model: {}):
    """Adds a line to a.raw for each process and returns the session's name.

    programs(model): [(name, command)] of a round, every second round backwards. measure(command): (result, error, what to
    say of the result). more(model): further fields of a record.
    """
    session = a.session or datetime.datetime.now().isoformat(timespec="seconds")
    before = [r for r in read_records(a.raw) if r["session"] == session] if a.raw.is_file() else []
    for key in settings:
        if before and before[0]["settings"].get(key) != settings[key]:
            fail(f"session {session} was measured with {key} {before[0]['settings'].get(key)}, now it is {settings[key]}: leave --session out")
    done = {m: max((r["round"] for r in before if r["model"] == m), default=0) for m in models}
    a.raw.parent.mkdir(parents=True, exist_ok=True)
    start, failed = time.monotonic(), set()
    for number in range(1, a.rounds + 1):
        for model in models:
            order = programs(model)
            for name, line in order if number % 2 else reversed(order):
                if name in failed:
                    continue  # it would only fail again
                if a.minutes and time.monotonic() - start > 60 * a.minutes:
                    print(f"--minutes {a.minutes:g} are over in round {number} of {a.rounds}", flush=True)
                    return session
                result, error, said = measure(line)
                record = {"session": session, "date": datetime.date.today().isoformat(), "round": done[model] + number, "name": name}
                record.update(model=model, settings=settings, run=shown_command(script), command=shlex.join(line), **more(model))
                record.update({"error": error} if error else {"result": result})
                with open(a.raw, "a", encoding="utf-8") as out:
                    out.write(json.dumps(record) + "\n")
                if error:
                    failed.add(name)
                print(f"round {number}/{a.rounds}  {name:22} {f'failed: {error}' if error else said}", flush=True)
    return session


def shown_command(script):
    return shlex.join(["python3", script, *sys.argv[1:]])
