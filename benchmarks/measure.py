"""Runs of the variants as processes: CPU seconds, wall seconds, peak memory, and the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.inputs import Input

RUN_TIMEOUT_S = 300
ROOT = Path(__file__).resolve().parent.parent


class BenchmarkError(Exception):
    """A run failed, or two variants disagree on the answer."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process from start to end."""

    cpu_s: float
    wall_s: float
    memory_mb: float
    answer: dict[str, int]


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians of the runs of a variant, start-up subtracted."""

    variant: str
    events: int
    cpu_s_per_million: float
    events_per_s: float
    memory_mb: float


def run_once(variant: str, flow: str, topic: Input) -> Run:
    """Run a variant over a topic. Raises BenchmarkError with the end of what it printed."""
    with tempfile.TemporaryDirectory(prefix="footfall-bench-") as home:
        command = [sys.executable, "-m", "benchmarks.child", variant, flow]
        output = Path(home) / "output"
        begun_s = time.monotonic()
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, str(topic.folder), str(_made(Path(home) / "state"))],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            # The kernel's own account of this child, and of no other.
            _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - begun_s
        process.returncode = os.waitstatus_to_exitcode(status)
        printed = output.read_text(errors="replace").strip().splitlines()
    if process.returncode != 0 or not printed:
        last = "\n".join(printed[-5:])
        raise BenchmarkError(f"{variant} of {flow} ended with {process.returncode}: {last}")
    return Run(
        usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss / 1024, json.loads(printed[-1])
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def figure_of(variant: str, events: int, runs: list[Run], empty: list[Run]) -> Figure:
    """The figure of some runs over ``events`` events and some over none."""
    cpu_s = median(run.cpu_s for run in runs) - median(run.cpu_s for run in empty)
    wall_s = median(run.wall_s for run in runs) - median(run.wall_s for run in empty)
    return Figure(
        variant,
        events,
        max(cpu_s, 1e-9) / events * 1e6,
        events / max(wall_s, 1e-9),
        median(run.memory_mb for run in runs),
    )


def check_same(flow: str, answers: dict[str, dict[str, int]]) -> None:
    """Raises BenchmarkError where variants over the same events have other answers."""
    expected = next(iter(answers.values()))
    for variant, answer in answers.items():
        if answer != expected:
            raise BenchmarkError(f"{flow}: {variant} answers {answer}, not {expected}")
