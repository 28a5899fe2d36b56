"""Workers as processes: they stop when told, resume, and survive kill -9 at any moment."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.runner_support import (
    fill,
    finish,
    outcome,
    read_count,
    rows_bytes,
    statuses,
    wait_for_rows,
    wait_until,
    worker,
)


def test_after_kill_9_at_any_moment_all_is_as_without(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    fill(calm, 0, 60_000)
    finish(calm)
    for start in range(0, 60_000, 20_000):
        fill(disturbed, start, 20_000)
        size = rows_bytes(disturbed)
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
    assert not statuses(tmp_path)[0].finished
    fill(tmp_path, 5_000, 5_000)
    finish(tmp_path)
    assert read_count(tmp_path) == 10_000
    assert outcome(tmp_path)


def test_a_worker_that_a_sink_holds_up_stops_all_the_same_and_loses_nothing(
    tmp_path: Path,
) -> None:
    fill(tmp_path, 0, 3_000)
    with worker(tmp_path, "--slow=60", "--stop-within=2") as process:
        wait_until((tmp_path / "held").exists, "the sink held it up")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a sink does not answer" in errors
    finish(tmp_path)
    assert read_count(tmp_path) == 3_000
    assert outcome(tmp_path)


def test_a_second_worker_of_the_same_flow_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1_000)
    with worker(tmp_path):
        wait_for_rows(tmp_path)
        with worker(tmp_path) as second:
            _, errors = second.communicate(timeout=60)
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
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines() == [f"[Errno 21] Is a directory: '{tmp_path / 'rows'}'"]
    (tmp_path / "rows").rmdir()
    finish(tmp_path)
    assert outcome(tmp_path)
