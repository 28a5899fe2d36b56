"""The README's blocks run as written, in order, in a folder as a person has it after `make`.

Only port numbers differ, so that tests can run side by side. What a test cannot run is named
below, with the reason.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.cli_support import environment, free_port
from tests.generator_support import csv_file, csv_row

ROOT = Path(__file__).resolve().parent.parent
LINE_S_MAX = 600.0
SEEN_S_MAX = 240.0

LEFT_OUT = {
    "make test": "it runs this test",
    "make kafka": "tests/servers start one with ports of its own",
    "export KAFKA_BOOTSTRAP_SERVERS": "it is for that Kafka",
    ".venv/bin/footfall init && .venv/bin/footfall run minute_buckets": "likewise",
    "docker compose": "there may be no Docker",
    "make test ARGS=tests/servers": "it runs tests that have run",
}
"""Reasons to leave a line out, by its beginning."""
NEEDS = {"unzip": "unzip", "curl": "curl"}
"""Programs that a line needs and that may be missing here, by its beginning."""
UNTIL = {
    "make demo": "http://",
    'make demo ARGS="--csv 2019-Oct.csv.gz --speed': "http://",
    "footfall generate tags --http": r"\d tags sent",
    "footfall generate csv 2019-Oct.csv.gz": r"\d rows",
    "footfall run store_metrics --workers": r"(?s)((begins|resumed) at.*){3}",
    "footfall run store_metrics --worker 0/3": "begins at|resumed at",
    "footfall run store_metrics --skip-removed": "begins at|resumed at",
    "footfall demo --no-generator": "http://",
    "footfall topics tail": "cookie",
}
"""Lines that go on until Ctrl-C, which comes once they have said this."""
ENDS = {"make demo": (-signal.SIGINT, "ended; ")}
"""Lines of UNTIL that do not end with 0: make waits for its command, and then ends by Ctrl-C, too.
That the command has ended in good order is in what it said last."""
BESIDE = {"footfall generate tags --http": "demo", "curl": "demo"}
"""Lines that talk to something that runs."""
EXIT_CODES = {
    "footfall doctor": {0, 1},
    "footfall status": {0, 1},
    "footfall dead-letters show": {0, 1},
    "footfall dead-letters retry": {0, 2},
}
"""Exit codes of lines that may answer no: about an example's place, about a home that was just
used, or to a question that is asked at a terminal alone."""
BEFORE = {
    "footfall verify minute_buckets": (
        "footfall generate tags --total 1_000_000 --fast --malformed 0.001"
        " && footfall run minute_buckets --once"
    ),
}
"""Lines to run before a line: for windows that are certain, and for the flow that wrote them."""
LISTING = re.compile(r"footfall (?:demo  |flows  |run FLOW|replay FLOW|verify FLOW|query SQL)")
"""A list of the commands, which tests/test_house.py holds against those there are."""


def blocks() -> list[tuple[str, list[str]]]:
    """Return (language, lines) of each block, in order; an indented one is of the shell."""
    found: list[tuple[str, list[str]]] = []
    fence: str | None = None
    was_blank = True
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line[3:]
            if fence is not None:
                found.append((fence, []))
        elif fence is not None:
            found[-1][1].append(line)
        elif line.startswith("    "):
            if was_blank:
                found.append(("sh", []))
            found[-1][1].append(line.strip())
        was_blank = fence is None and not line.strip()
    return found


def longest(table: Mapping[str, object], line: str) -> str | None:
    """Return the entry of the longest beginning of a line."""
    fitting = [begin for begin in table if line.startswith(begin)]
    return max(fitting, key=len) if fitting else None


def lines() -> list[str]:
    """Return the shell's lines that are run, in order."""
    return [
        line
        for language, block in blocks()
        if language == "sh" and not LISTING.match(block[0])
        for line in block
        if not longest(LEFT_OUT, line)
    ]


def test_every_line_left_out_is_there() -> None:
    written = [line for language, block in blocks() if language == "sh" for line in block]
    for table in (LEFT_OUT, UNTIL, ENDS, BESIDE, NEEDS, EXIT_CODES, BEFORE):
        for begin in table:
            assert any(line.startswith(begin) for line in written), begin
    assert [language for language, _ in blocks() if language != "sh"] == ["python"]
    assert len(lines()) > 30


def test_the_python_block_runs() -> None:
    (block,) = [block for language, block in blocks() if language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(block)],
        cwd=ROOT, timeout=SEEN_S_MAX, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


class Checkout:
    """A folder that looks like the project's own, with its environment and the files named."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, other = free_port(), free_port()
        self.ports = {"8080": str(self.port), "8090": str(other)}
        plain = {k: v for k, v in environment(folder).items() if k != "FOOTFALL_HOME"}
        path = f"{folder / '.venv' / 'bin'}{os.pathsep}{plain['PATH']}"
        self.environ = {**plain, "PATH": path, "FRONTEND_PORT": str(self.port)}
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
            (folder / name).symlink_to(ROOT / name)
        # As make leaves it, so that it sets up nothing.
        venv = folder / ".venv"
        venv.mkdir()
        (venv / "bin").symlink_to(Path(sys.executable).parent)
        for name in ("made", "runtime.lock", "dev.lock"):
            (venv / name).write_text(f"{folder}\n")
        rows = csv_file([csv_row(number) for number in range(1_500)])
        (folder / "2019-Oct.csv.gz").write_bytes(gzip.compress(rows))
        with zipfile.ZipFile(folder / "2019-Oct.zip", "w") as packed:
            packed.writestr("2019-Oct.csv", rows)
        (folder / "archive").mkdir()
        (folder / "archive" / "2019-Oct.csv").write_bytes(rows)

    def run(self, line: str) -> str:
        """Run a line; "" where it did well."""
        for port, free in self.ports.items():
            line = line.replace(port, free)
        began_s = time.monotonic()
        begin = longest(BESIDE, line)
        with self.demo() if begin else nullcontext():
            until = longest(UNTIL, line)
            # A demo that has an end is not the one that goes on.
            if until == "make demo" and "--once" in line:
                until = None
            wrong = self._until(line, UNTIL[until]) if until else self._ended(line)
        print(f"{time.monotonic() - began_s:6.1f} s  {line}  {wrong[-600:]}", flush=True)
        return wrong

    def _ended(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environ, timeout=LINE_S_MAX,
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        begin = longest(EXIT_CODES, line)
        known = EXIT_CODES[begin] if begin else {0}
        said = done.stdout[-1_000:] + done.stderr[-1_000:]
        return "" if done.returncode in known else f"exit code {done.returncode}: {said}"

    def _until(self, line: str, text: str) -> str:
        with self._started(line) as (process, said):
            until_s = time.monotonic() + SEEN_S_MAX
            while not re.search(text, said.read_text()) and time.monotonic() < until_s:
                if process.poll() not in (None, 0):
                    break
                time.sleep(0.1)
            if not re.search(text, said.read_text()):
                return f"never said {text}: {said.read_text()[-1_000:]}"
            os.killpg(process.pid, signal.SIGINT)
            wanted, last = ENDS[end] if (end := longest(ENDS, line)) else (0, "")
            code = process.wait(60)
            is_well = code == wanted and last in said.read_text()
            return "" if is_well else f"exit code {code}: {said.read_text()[-1_000:]}"

    @contextmanager
    def demo(self) -> Iterator[None]:
        """Yield a demo that answers."""
        with self._started("footfall demo --no-generator") as (process, said):
            until_s = time.monotonic() + SEEN_S_MAX
            while "http://" not in said.read_text() and time.monotonic() < until_s:
                assert process.poll() is None, said.read_text()
                time.sleep(0.1)
            yield

    @contextmanager
    def _started(self, line: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        said = self.folder / f"said-{time.monotonic_ns()}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environ, stdout=file,
                stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            yield process, said
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """Heed Ctrl-C, also in the background of a shell, where this process and make ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeding_ctrl_c")
def test_the_blocks_run_as_written(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    wrong = {}
    for line in lines():
        before, needs = longest(BEFORE, line), longest(NEEDS, line)
        if before:
            assert checkout.run(BEFORE[before]) == ""
        if needs and not shutil.which(NEEDS[needs]):
            continue
        if said := checkout.run(line):
            wrong[line] = said
    assert wrong == {}
