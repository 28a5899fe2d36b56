"""A worker's status file after a restart: no count of written rows goes backwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from footfall.schemas.status import PartitionStatus, WorkerStatus, status_folder, status_path
from footfall.streams.progress import Progress
from footfall.streams.reporting import Reporter, read_status
from footfall.streams.run import Run


def part(number: int, read: int) -> PartitionStatus:
    return PartitionStatus(
        topic="t", partition=number, read=read, used=read, filtered=0, late=0, dead=0,
        next_offset=read, lag=0, watermark_ms=5,
    )  # fmt: skip


def started(home: Path) -> tuple[Reporter, Progress]:
    status_folder(home).mkdir(exist_ok=True)
    run = Run()
    return Reporter("f", home, run), run.progress


def told(home: Path, reporter: Reporter) -> WorkerStatus:
    reporter.report()
    found = read_status(status_path(home, "f", 0))
    assert found is not None
    return found


def counts(status: WorkerStatus) -> dict[Any, int]:
    return {one.partition: one.read for one in status.partitions}


def test_rows_go_on_after_a_restart_and_are_no_rate(tmp_path: Path) -> None:
    reporter, progress = started(tmp_path)
    progress.wrote("table", 900)
    assert told(tmp_path, reporter).rows_written == 900
    again, progress = started(tmp_path)
    assert (told(tmp_path, again).rows_written, told(tmp_path, again).rows_per_s) == (900, 0)
    progress.wrote("table", 5)
    assert told(tmp_path, again).rows_written == 905


def test_partitions_that_were_not_read_since_the_restart_are_as_they_were(tmp_path: Path) -> None:
    reporter, progress = started(tmp_path)
    for number in range(3):
        progress.update(part(number, 100))
    told(tmp_path, reporter)
    again, progress = started(tmp_path)
    assert counts(told(tmp_path, again)) == {0: 100, 1: 100, 2: 100}
    # The snapshot that it resumes from is older than the last status.
    progress.update(part(1, 90))
    assert counts(told(tmp_path, again)) == {0: 100, 1: 90, 2: 100}


def test_partitions_of_another_topic_are_forgotten(tmp_path: Path) -> None:
    reporter, progress = started(tmp_path)
    progress.update(part(0, 100))
    told(tmp_path, reporter)
    again, progress = started(tmp_path)
    other = PartitionStatus(
        topic="u", partition=0, read=1, used=1, filtered=0, late=0, dead=0, next_offset=1, lag=0,
        watermark_ms=5,
    )  # fmt: skip
    progress.update(other)
    assert [one.topic for one in told(tmp_path, again).partitions] == ["u"]
