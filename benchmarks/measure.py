"""Runs of the variants as processes: CPU seconds, wall seconds, peak memory, and the answer."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from footfall.benchmarks.inputs import Input

SHORT_BESIDE_START = 0.25
"""Share of its start-up by which a run must be longer to give a speed."""
RUN_TIMEOUT_S = 300
"""A process that runs longer is killed, and the run has failed."""
ROOT = Path(__file__).resolve().parent.parent


class BenchmarkError(Exception):
    """A run that failed, or variants that disagree on the answer."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run from start to end, of one process or of several at the same time."""

    cpu_s: float
    wall_s: float
    memory_mb: float
    answer: dict[str, int]


Launch = Callable[[str, Sequence[Sequence[str]], Path], Run]
"""Runs modules with their arguments at the same time:
(name, modules, folder for their output) -> the figures of all together."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians of the runs of a variant, start-up subtracted."""

    variant: str
    events: int
    cpu_s_per_million: float
    events_per_s: float
    """NaN where the runs were too short beside their start-up to give a speed."""
    memory_mb: float


def run_children(name: str, modules: Sequence[Sequence[str]], folder: Path) -> Run:
    """Run ``python -m`` for each list of a module and its arguments, all at the same time.

    CPU, memory and answers are added up; output goes to ``folder``. Raises BenchmarkError with the
    last lines of a process that failed.
    """
    outputs = [folder / f"output-{number}" for number in range(len(modules))]
    children: list[subprocess.Popen[bytes]] = []
    begun_s = time.monotonic()
    try:
        for arguments, output in zip(modules, outputs, strict=True):
            with output.open("wb") as file:
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *arguments],
                        cwd=ROOT,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        parts = [
            _ended(name, child, output) for child, output in zip(children, outputs, strict=True)
        ]
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                child.wait()
    answer: Counter[str] = Counter()
    for part in parts:
        answer.update(part.answer)
    return Run(
        sum(part.cpu_s for part in parts),
        time.monotonic() - begun_s,
        sum(part.memory_mb for part in parts),
        dict(answer),
    )


def run_once(variant: str, flow: str, topic: Input, launch: Launch = run_children) -> Run:
    """Run a variant over a topic. Raises BenchmarkError with the last lines that it printed."""
    with tempfile.TemporaryDirectory(prefix="footfall-bench-") as home:
        state = Path(home) / "state"
        state.mkdir()
        arguments = ("footfall.benchmarks.child", variant, flow, str(topic.folder), str(state))
        return launch(f"{variant} of {flow}", [arguments], Path(home))


def _ended(name: str, child: subprocess.Popen[bytes], output: Path) -> Run:
    killer = threading.Timer(RUN_TIMEOUT_S, child.kill)
    killer.start()
    try:
        # The kernel counts this child alone.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        killer.cancel()
    printed = output.read_text(errors="replace").strip().splitlines()
    if child.returncode != 0 or not printed:
        last = "\n".join(printed[-5:])
        raise BenchmarkError(f"{name} ended with {child.returncode}: {last}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(cpu_s, 0.0, usage.ru_maxrss / 1024, json.loads(printed[-1]))


def figure_of(variant: str, events: int, runs: list[Run], empty: list[Run]) -> Figure:
    """Return the figure of runs over ``events`` events and of runs over no events."""
    cpu_s = median(run.cpu_s for run in runs) - median(run.cpu_s for run in empty)
    start_s = median(run.wall_s for run in empty)
    wall_s = median(run.wall_s for run in runs) - start_s
    return Figure(
        variant,
        events,
        max(cpu_s, 1e-9) / events * 1e6,
        events / wall_s if wall_s > start_s * SHORT_BESIDE_START else math.nan,
        median(run.memory_mb for run in runs),
    )


def check_same(flow: str, answers: dict[str, dict[str, int]]) -> None:
    """Raise BenchmarkError where variants over the same events have different answers."""
    expected = next(iter(answers.values()))
    for variant, answer in answers.items():
        if answer != expected:
            raise BenchmarkError(f"{flow}: {variant} answers {answer}, not {expected}")


def check_read(name: str, run: Run, topic: Input) -> Run:
    """Return the run without its count of records. Raises BenchmarkError if that is not right."""
    answer = dict(run.answer)
    read = answer.pop("read")
    if read != topic.events:
        raise BenchmarkError(f"{name} read {read:,} of {topic.events:,} events")
    return replace(run, answer=answer)
