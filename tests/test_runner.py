"""Workers as processes: they stop when told, resume, and survive kill -9 at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from generator.tags import TagWorld
from schemas.status import WorkerStatus, status_folder
from schemas.tables.minute_buckets import ROWS
from sinks.topic_files import FileTopics

ROOT = Path(__file__).parent.parent
PARTITIONS = 3
WORLD = TagWorld(seed=7, late=0.002, out_of_order=0.05, duplicate=0.01, malformed=0.002)


def fill(home: Path, start: int, count: int) -> None:
    topics = FileTopics(home / "topics")
    topics.create("user_tags", PARTITIONS)
    for first in range(start, start + count, 10_000):
        batch = WORLD.batch(first, min(10_000, start + count - first))
        topics.write("user_tags", [(key, value) for key, value in batch if len(value) < 100_000])
    topics.close()


@contextmanager
def worker(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
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


def finish(home: Path) -> None:
    with worker(home, "--once") as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def status(home: Path) -> WorkerStatus | None:
    path = status_folder(home) / "minute_buckets.0.json"
    return msgspec.json.decode(path.read_bytes(), type=WorkerStatus) if path.exists() else None


def wait_for_rows(home: Path, size: int = 1) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (home / "rows").exists() and (home / "rows").stat().st_size >= size:
            return
        time.sleep(0.02)
    pytest.fail("the worker wrote nothing within 30 s")


def lines(path: Path) -> list[dict[str, Any]]:
    # A kill in the middle of an append leaves a part of a line, which no sink calls durable.
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for text in texts:
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def outcome(home: Path) -> tuple[Any, ...]:
    """Table, dead letters, late events and counts in the end."""
    newest: dict[Any, dict[str, Any]] = {}
    for row in lines(home / "rows"):
        key = tuple(row[name] for name in ROWS.order_by)
        if key not in newest or newest[key]["version"] <= row["version"]:
            newest[key] = row
    dead = {(x["partition"], x["offset"], x["code"]) for x in lines(home / "dead")}
    late = {(x["partition"], x["offset"], x["watermark"]) for x in lines(home / "late")}
    found = status(home)
    assert found is not None
    assert found.finished
    for part in found.partitions:
        assert part.read == part.used + part.filtered + part.late + part.dead
    assert sum(part.dead for part in found.partitions) == len(dead)
    assert sum(part.late for part in found.partitions) == len(late)
    return newest, dead, late, found.partitions


def test_after_kill_9_at_any_moment_all_is_as_without(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    fill(calm, 0, 60_000)
    finish(calm)
    for start in range(0, 60_000, 20_000):
        fill(disturbed, start, 20_000)
        size = (disturbed / "rows").stat().st_size if start else 0
        with worker(disturbed) as process:
            wait_for_rows(disturbed, size + 1)
            time.sleep(chance.random() * 0.4)
            process.send_signal(signal.SIGKILL)
    finish(disturbed)
    found, expected = outcome(disturbed), outcome(calm)
    assert found[1:] == expected[1:], f"seed {seed}"
    assert found[0] == expected[0], f"seed {seed}"
    assert expected[1], "the world has dead letters"
    assert expected[2], "the world has late events"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_stops_when_told_within_5_s_and_resumes(
    tmp_path: Path, number: signal.Signals
) -> None:
    fill(tmp_path, 0, 5_000)
    with worker(tmp_path) as process:
        wait_for_rows(tmp_path)
        process.send_signal(number)
        _, errors = process.communicate(timeout=5)
        assert (process.returncode, errors) == (0, "")
    before = status(tmp_path)
    assert before is not None
    assert not before.finished
    fill(tmp_path, 5_000, 5_000)
    finish(tmp_path)
    after = status(tmp_path)
    assert after is not None
    assert sum(part.read for part in after.partitions) == 10_000
    assert outcome(tmp_path)


def test_a_worker_that_a_sink_holds_up_stops_all_the_same_and_loses_nothing(
    tmp_path: Path,
) -> None:
    fill(tmp_path, 0, 3_000)
    with worker(tmp_path, "--stuck") as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "rows").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=6)
    assert process.returncode == 1
    assert "a sink does not answer" in errors
    finish(tmp_path)
    found = status(tmp_path)
    assert found is not None
    assert sum(part.read for part in found.partitions) == 3_000
    assert outcome(tmp_path)


def test_a_second_worker_of_the_same_flow_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1_000)
    with worker(tmp_path):
        wait_for_rows(tmp_path)
        with worker(tmp_path) as second:
            _, errors = second.communicate(timeout=20)
            assert second.returncode == 1
            assert "another worker runs minute_buckets" in errors


def test_running_once_more_reads_nothing_and_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 0, 3_000)
    finish(tmp_path)
    before = outcome(tmp_path)
    finish(tmp_path)
    assert outcome(tmp_path) == before


def test_a_recovery_store_that_a_kill_left_half_made_is_made_anew(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1_000)
    draft = tmp_path / "recovery" / "minute_buckets" / "draft"
    draft.mkdir(parents=True)
    (draft / "part-0.sqlite3").write_bytes(b"half of it")
    finish(tmp_path)
    assert outcome(tmp_path)


def test_what_goes_wrong_in_a_worker_is_said_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1_000)
    (tmp_path / "rows").mkdir()
    with worker(tmp_path, "--once") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.strip().splitlines() == [f"[Errno 21] Is a directory: '{tmp_path / 'rows'}'"]
    (tmp_path / "rows").rmdir()
    finish(tmp_path)
    assert outcome(tmp_path)
