"""Workers of minute_buckets for tests: topics of a seeded world, processes, what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from footfall.generator.tags import TagWorld
from footfall.schemas.status import PartitionStatus, WorkerStatus, status_folder
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.topics import APPENDED
from footfall.sinks.topic_files import FileTopics

ROOT = Path(__file__).parent.parent
PARTITIONS = 3
WORLD = TagWorld(seed=7, late=0.002, out_of_order=0.05, duplicate=0.01, malformed=0.002)


def fill(folder: Path, start: int, count: int, partitions: int = PARTITIONS) -> None:
    """Append records ``start`` to ``start + count`` of the world to the folder's topic."""
    topics = FileTopics(folder / "topics")
    topics.create("user_tags", partitions)
    for first in range(start, start + count, 10_000):
        batch = WORLD.batch(first, min(10_000, start + count - first))
        topics.write("user_tags", [(key, value) for key, value in batch if len(value) < 100_000])
    topics.close()


@contextmanager
def worker(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a worker process (tests/worker_child.py), killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker_child", str(home), *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(home: Path, workers: int = 1, *options: str) -> None:
    """Run to the end of the topic, all processes at once."""
    shares = [f"--share={index}/{workers}" for index in range(workers)]
    processes = [worker(home, "--once", share, *options) for share in shares]
    running = [process.__enter__() for process in processes]
    try:
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for one in processes:
            one.__exit__(None, None, None)


def statuses(home: Path) -> list[WorkerStatus]:
    """Return the workers' statuses, by number."""
    found = [
        msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
        for path in status_folder(home).glob("minute_buckets.*.json")
    ]
    return sorted(found, key=lambda status: status.worker)


def partitions(home: Path) -> list[PartitionStatus]:
    """Return the partitions of all workers, in order."""
    found = [part for status in statuses(home) for part in status.partitions]
    return sorted(found, key=lambda part: part.partition)


def read_count(home: Path) -> int:
    """Return the number of records read, by the status files."""
    return sum(part.read for part in partitions(home))


def wait_until(holds: Any, what: str, within_s: float = 60) -> None:
    """Wait until ``holds()`` is true."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.02)
    pytest.fail(f"not within {within_s:g} s: {what}")


def wait_for_rows(folder: Path, size: int = 1) -> None:
    """Wait until the workers have written so many bytes of rows."""
    rows = folder / "rows"
    wait_until(lambda: rows.exists() and rows.stat().st_size >= size, "the worker wrote rows")


def rows_bytes(folder: Path) -> int:
    """Return the number of bytes of rows written."""
    rows = folder / "rows"
    return rows.stat().st_size if rows.exists() else 0


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file of rows or letters."""
    # A kill in the middle of an append leaves a part of a line, which no sink calls durable.
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for text in texts:
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def newest_rows(rows: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return the rows as a table holds them in the end: the highest version of each key.

    Without their append times: equal records were appended at other times.
    """
    newest: dict[Any, dict[str, Any]] = {}
    for whole in rows:
        row = {name: value for name, value in whole.items() if name != APPENDED}
        key = tuple(row[name] for name in ROWS.order_by)
        if key not in newest or newest[key]["version"] <= row["version"]:
            newest[key] = row
    return newest


def outcome(home: Path, folder: Path | None = None) -> tuple[Any, ...]:
    """Return table, dead letters, late events and counts in the end; rows are in ``folder``."""
    folder = folder or home
    dead = {(x["partition"], x["offset"], x["code"]) for x in lines(folder / "dead")}
    late = {(x["partition"], x["offset"], x["watermark"]) for x in lines(folder / "late")}
    workers = statuses(home)
    assert [status.worker for status in workers] == list(range(workers[0].workers))
    assert all(status.finished for status in workers)
    parts = partitions(home)
    for part in parts:
        assert part.read == part.used + part.filtered + part.late + part.dead
    assert sum(part.dead for part in parts) == len(dead)
    assert sum(part.late for part in parts) == len(late)
    return newest_rows(lines(folder / "rows")), dead, late, parts
