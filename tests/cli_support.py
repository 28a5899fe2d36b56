"""Runs ``footfall`` as its user does: as a process, on a home of its own, bounded in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.ports_support import free_port  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
COMMAND_S_MAX = 120.0
END_S_MAX = 30.0
_OURS = ("FOOTFALL_", "KAFKA_", "AEROSPIKE_", "PRODUCER_", "FRONTEND_", "LOG_")
_OURS_WHOLE = {
    "TOPICS_URL", "CLICKHOUSE_URL", "POSTGRES_URL", "PROFILES_URL", "INPUT_FILE_NAME",
    "PRINT_PRODUCER_LOGS", "NUM_TAGS_TO_KEEP", "MAX_PARALLEL_WRITES", "DEFAULT_LIMIT",
    "USE_LOGGER",
}  # fmt: skip


def environment(home: Path, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without settings of ours, and those given."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name not in _OURS_WHOLE
    }
    path = os.pathsep.join(filter(None, (str(ROOT), plain.get("PYTHONPATH"))))
    return {**plain, "PYTHONPATH": path, "FOOTFALL_HOME": str(home), **(settings or {})}


def footfall(
    home: Path, *arguments: str, timeout_s: float = COMMAND_S_MAX, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "footfall.cli.main", *arguments],
        env=environment(home, settings),
        cwd=next(folder for folder in home.parents if folder.is_dir()),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def faulty(
    module: str, *arguments: str, home: Path, settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a worker with faults, a module of the tests; it is ended in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.{module}", *arguments],
        env=environment(home, settings),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(END_S_MAX) == 0


def run_faulty(module: str, *arguments: str, home: Path, settings: Mapping[str, str]) -> None:
    """Run such a worker to the ends of its topics."""
    with faulty(module, *arguments, "--once", home=home, settings=settings) as process:
        assert process.wait(COMMAND_S_MAX) == 0


class Running:
    """A command that runs; what it prints is collected in a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def output(self) -> str:
        """Return what it has printed by now."""
        return self._output.read_text(errors="replace")

    def wait_for_text(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until it has printed a text."""
        self.wait_until(lambda: text in self.output(), f"printed {text!r}", timeout_s)

    def wait_until(self, done: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait until a condition holds; fail with its output when it ends or takes too long."""
        until_s = time.monotonic() + timeout_s
        while not done():
            code = self.process.poll()
            assert code is None, f"ended with {code} before it {what}:\n{self.output()}"
            assert time.monotonic() < until_s, f"never {what}:\n{self.output()}"
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; the exit code once it ended."""
        self.process.send_signal(number)
        return self.process.wait(END_S_MAX)


@contextmanager
def running(home: Path, *arguments: str, **settings: str) -> Iterator[Running]:
    """Yield a command in the background, and leave nothing of it behind."""
    output = home.parent / f"{home.name}-{arguments[0]}-{time.monotonic_ns()}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "footfall.cli.main", *arguments],
            env=environment(home, settings),
            cwd=home.parent,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield Running(process, output)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def processes_of(home: Path) -> dict[int, str]:
    """Return the command lines of processes whose environment names this home, by id."""
    found = {}
    wanted = f"FOOTFALL_HOME={home}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if wanted in environ and command:
            found[int(folder.name)] = command.strip()
    return found


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of a command that failed, without its log."""
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("{")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("footfall: "), lines
    assert "Traceback" not in result.stderr
    return lines[0]
