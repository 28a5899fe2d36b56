"""Many worker processes of one flow: shares, growth, stops, zombies, full disks. All exact."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from footfall.api.workers import WorkerMeter
from footfall.cli.summary import accounts, flow_line
from footfall.cli.supervise import TERM_WAIT_S
from footfall.operations.observer import Look, Observer
from footfall.operations.positions import read_statuses
from footfall.schemas.settings import read_settings
from footfall.schemas.status import WorkerStatus, status_folder, status_path
from footfall.sinks.topic_files import FileTopics
from footfall.streams.process import STOP_WITHIN_S
from tests.cli_support import footfall, one_line, processes_of, running
from tests.runner_support import (
    fill,
    finish,
    lines,
    newest_rows,
    outcome,
    partitions,
    read_count,
    rows_bytes,
    statuses,
    wait_for_rows,
    wait_until,
    worker,
)

TOTAL = 30_000


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Return the outcome when nothing goes wrong: one process, one run."""
    home = tmp_path_factory.mktemp("calm")
    fill(home, 0, TOTAL, partitions=5)
    finish(home)
    return outcome(home)


@contextlib.contextmanager
def workers(home: Path, count: int, *options: str) -> Iterator[list[subprocess.Popen[str]]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(worker(home, f"--share={index}/{count}", *options))
            for index in range(count)
        ]


def test_rescaled_1_to_3_to_2_with_kills_between_all_is_as_without(
    tmp_path: Path, calm: tuple[Any, ...]
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    third = TOTAL // 3
    for stage, count in enumerate((1, 3, 2)):
        fill(tmp_path, stage * third, third, partitions=5)
        size = rows_bytes(tmp_path)
        with workers(tmp_path, count) as processes:
            wait_for_rows(tmp_path, size + 1)
            time.sleep(chance.random() * 0.3)
            for process in processes:
                process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            for process in processes:
                process.wait(30)
    finish(tmp_path, 2)
    found = outcome(tmp_path)
    assert found[1:] == calm[1:], f"seed {seed}"
    assert found[0] == calm[0], f"seed {seed}"


def test_a_share_without_partitions_waits_and_takes_part_when_the_topic_grows(
    tmp_path: Path,
) -> None:
    fill(tmp_path, 0, 2_000, partitions=2)
    with workers(tmp_path, 3) as processes:
        wait_until(lambda: read_count(tmp_path) == 2_000, "both partitions were read")
        wait_until(lambda: len(statuses(tmp_path)) == 3, "all three say how they are")
        assert [len(status.partitions) for status in statuses(tmp_path)] == [1, 1, 0]
        assert all(process.poll() is None for process in processes)
        fill(tmp_path, 2_000, 8_000, partitions=13)
        wait_until(lambda: read_count(tmp_path) == 10_000, "the new partitions were read")
        shares = [[part.partition for part in of.partitions] for of in statuses(tmp_path)]
        assert shares == [[0, 3, 6, 9, 12], [1, 4, 7, 10], [2, 5, 8, 11]]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            assert process.communicate(timeout=30) == (None, "")
            assert process.returncode == 0
    finish(tmp_path, 3)
    rows = newest_rows(lines(tmp_path / "rows"))
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "topics", whole / "topics")
    finish(whole)
    assert {key: row["count"] for key, row in rows.items()} == {
        key: row["count"] for key, row in outcome(whole)[0].items()
    }
    assert outcome(tmp_path)[1:] == outcome(whole)[1:]


def test_what_grows_is_read_on_by_the_same_process(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1_000, partitions=1)
    with worker(tmp_path) as process:
        wait_until(lambda: read_count(tmp_path) == 1_000, "the topic was read")
        for count in (2, 4):
            fill(tmp_path, 1_000 * count, 1_000, partitions=count)
            wait_until(lambda count=count: len(partitions(tmp_path)) == count, "it noticed")
        wait_until(lambda: read_count(tmp_path) == 3_000, "all was read")
        assert statuses(tmp_path)[0].pid == process.pid


def test_a_sink_that_takes_5_s_is_waited_for_and_what_it_took_is_kept(tmp_path: Path) -> None:
    fill(tmp_path, 0, 500, partitions=1)
    with worker(tmp_path, "--slow=5") as process:
        wait_until((tmp_path / "held").exists, "the sink held it up")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    assert rows_bytes(tmp_path) > 0
    before = (tmp_path / "rows").read_bytes()
    finish(tmp_path)
    assert (tmp_path / "rows").read_bytes().startswith(before)
    assert read_count(tmp_path) == 500


def test_the_limits_of_a_stop_fit_together() -> None:
    assert STOP_WITHIN_S < TERM_WAIT_S < 9.5


def test_a_zombie_that_comes_back_changes_nothing(tmp_path: Path, calm: tuple[Any, ...]) -> None:
    zombie_home, twin_home = tmp_path / "zombie", tmp_path / "twin"
    fill(tmp_path, 0, TOTAL // 2, partitions=5)
    with worker(zombie_home, f"--data={tmp_path}") as zombie:
        wait_for_rows(tmp_path)
        zombie.send_signal(signal.SIGSTOP)
        with worker(zombie_home, f"--data={tmp_path}") as second:
            _, errors = second.communicate(timeout=60)
            assert second.returncode == 1
            assert f"another worker runs minute_buckets on {zombie_home}" in errors
            assert f"(process {zombie.pid}): stop it" in errors
        shutil.copytree(zombie_home, twin_home)
        fill(tmp_path, TOTAL // 2, TOTAL - TOTAL // 2, partitions=5)
        finish(twin_home, 1, f"--data={tmp_path}")
        size = rows_bytes(tmp_path)
        zombie.send_signal(signal.SIGCONT)
        wait_for_rows(tmp_path, size + 1)
        wait_until(lambda: read_count(zombie_home) == TOTAL, "the zombie has read all as well")
        zombie.send_signal(signal.SIGTERM)
        zombie.wait(30)
    assert rows_bytes(tmp_path) > size
    assert outcome(twin_home, tmp_path) == calm


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of 512 KiB, by a mount of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_at_the_recovery_store_is_told_and_nothing_is_lost(
    tmp_path: Path, tiny_disk: Path, calm: tuple[Any, ...]
) -> None:
    fill(tmp_path, 0, TOTAL, partitions=5)
    home = tmp_path / "home"
    home.mkdir()
    (home / "recovery").symlink_to(tiny_disk, target_is_directory=True)
    with worker(home, "--once", f"--data={tmp_path}") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines() == [
        f"the disk of {home}/recovery/minute_buckets is full, so the state could not be kept: "
        "free some space and start again; what was not kept is read again"
    ]
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    finish(home, 1, f"--data={tmp_path}")
    assert outcome(home, tmp_path) == calm


@pytest.mark.parametrize("free_kib", [4, 24, 60])
def test_a_store_that_cannot_be_made_on_a_full_disk_is_told(
    tmp_path: Path, tiny_disk: Path, calm: tuple[Any, ...], free_kib: int
) -> None:
    fill(tmp_path, 0, TOTAL, partitions=5)
    home = tmp_path / "home"
    home.mkdir()
    (home / "recovery").symlink_to(tiny_disk, target_is_directory=True)
    (tiny_disk / "in the way").write_bytes(bytes((512 - free_kib) * 1024))
    with worker(home, "--once", f"--data={tmp_path}") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.strip().splitlines()
    assert line.startswith(f"the disk of {home}/recovery/minute_buckets is full")
    (tiny_disk / "in the way").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    finish(home, 1, f"--data={tmp_path}")
    assert outcome(home, tmp_path) == calm


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--worker", "3/3"], "argument --worker: '3/3' is not one of N processes"),
        (["--worker", "1"], "argument --worker: '1' is not one of N processes"),
        (["--worker=-1/3"], "argument --worker: '-1/3' is not one of N processes"),
        (["--worker", "0/1000"], "(at most 256)"),
        (["--workers", "0"], "argument --workers: '0' is not a whole number from 1 to 256"),
        (["--workers", "2", "--worker", "0/2"], "not allowed with argument"),
    ],
)
def test_a_share_that_is_none_is_told(tmp_path: Path, options: list[str], told: str) -> None:
    result = footfall(tmp_path / "home", "run", "store_metrics", *options)
    assert result.returncode == 2
    assert told in one_line(result)


def store_house(home: Path) -> None:
    """Make topics and tables of store_metrics on a new home."""
    from footfall.schemas.tables import store_metrics
    from footfall.schemas.topics import TOPICS
    from footfall.sinks.sql import create_tables

    topics = FileTopics(home / "topics")
    for topic in TOPICS.values():
        topics.create(topic.name, topic.partitions)
    topics.close()
    create_tables(f"sqlite:///{home}/store.sqlite", store_metrics.EVENTS.metadata)


def buy(home: Path, start: int, count: int) -> None:
    """Append store events, ten per second, 1.50 each."""
    topics = FileTopics(home / "topics")
    events = [
        {
            "event_time": f"2019-10-01 00:{second // 60:02d}:{second % 60:02d} UTC",
            "event_type": "purchase",
            "product_id": 1,
            "category_id": 2,
            "price": 1.5,
            "user_id": number,
        }
        for number in range(start, start + count)
        for second in [number // 10]
    ]
    topics.write(
        "store_events",
        [(str(one["user_id"]).encode(), msgspec.json.encode(one)) for one in events],
    )
    topics.close()


def sold(home: Path) -> list[Any]:
    from footfall.sinks.sql import query_rows

    sql = "SELECT count(*), sum(nr_items_sold), sum(value_items_sold_in_cent) FROM events"
    return query_rows(f"sqlite:///{home}/store.sqlite", sql)[1][0]


def test_the_command_runs_many_keeps_them_running_and_ends_them_together(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store_house(home)
    buy(home, 0, 3_000)
    once = footfall(home, "run", "store_metrics", "--once")
    assert once.returncode == 0, once.stderr
    buy(home, 3_000, 3_000)
    with running(home, "run", "store_metrics", "--workers", "3") as command:
        command.wait_until(lambda: store_read(home) == 6_000, "read all")
        killed = pid_of(home, 1)
        os.kill(killed, signal.SIGKILL)
        command.wait_for_text("store_metrics.1 ended (killed by SIGKILL); starting it again")
        command.wait_until(lambda: pid_of(home, 1) != killed, "started it again")
        other = footfall(home, "run", "store_metrics")
        assert other.returncode == 1
        assert "store_metrics is to run as one process" in one_line(other)
        same = footfall(home, "run", "store_metrics", "--worker", "2/3")
        assert "another worker runs store_metrics as 2/3" in one_line(same)
        buy(home, 6_000, 3_000)
        command.wait_until(lambda: store_read(home) == 9_000, "read on")
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(10) == 0, command.output()
    assert processes_of(home) == {}
    last = footfall(home, "run", "store_metrics", "--workers", "2", "--once")
    assert last.returncode == 0, last.stderr
    assert sold(home) == [900, 9_000, 9_000 * 150]
    found = read_statuses(home)
    assert [(status.worker, status.workers, status.finished) for status in found] == [
        (0, 2, True), (1, 2, True),
    ]  # fmt: skip
    assert accounts(found, ["store_metrics"]) == []
    assert flow_line("store_metrics", found).split(None, 1)[1] == "9,000 events read: 9,000 used"
    meter = WorkerMeter()
    meter.observe(Observer(read_settings({"FOOTFALL_HOME": str(home)})).look_again(Look(0)))
    (flow,) = meter.flows()
    assert (flow.read, flow.used, len(flow.workers)) == (9_000, 9_000, 2)


def test_processes_that_a_sink_holds_up_end_within_10_s_and_lose_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store_house(home)
    buy(home, 0, 1_000)
    with (
        contextlib.closing(sqlite3.connect(home / "store.sqlite", isolation_level=None)) as other,
        running(home, "run", "store_metrics", "--workers", "2") as command,
    ):
        other.execute("BEGIN IMMEDIATE")
        command.wait_until(lambda: store_read(home) == 1_000, "read all")
        time.sleep(1)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(10) == 1, command.output()
        assert "store_metrics.0, store_metrics.1 did not end well" in command.output()
        assert "store_metrics.1: store_metrics 1/2: told to stop" in command.output()
        assert processes_of(home) == {}
    last = footfall(home, "run", "store_metrics", "--once")
    assert last.returncode == 0, last.stderr
    assert sold(home) == [100, 1_000, 1_000 * 150]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_processes_that_still_start_end_well_when_they_are_told_to(
    tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    with running(home, "run", "store_metrics", "--workers", "2") as command:
        command.wait_for_text("store_metrics runs as 2 processes")
        assert command.end(number) == 0, command.output()
        assert len(command.output().splitlines()) == 1
        assert processes_of(home) == {}


def store_read(home: Path) -> int:
    return sum(part.read for status in read_statuses(home) for part in status.partitions)


def pid_of(home: Path, index: int) -> int:
    path = status_path(home, "store_metrics", index)
    return msgspec.json.decode(path.read_bytes(), type=WorkerStatus).pid


def test_a_command_whose_processes_cannot_run_ends_with_the_reason(tmp_path: Path) -> None:
    home = tmp_path / "home"
    result = footfall(home, "run", "store_metrics", "--workers", "2", "--once")
    assert result.returncode == 1
    assert "failed: there is no topic store_events" in result.stderr.splitlines()[-1]
    assert processes_of(home) == {}


def test_a_worker_of_a_layout_that_said_nothing_is_missed(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1_000)
    finish(tmp_path, 2)
    assert accounts(statuses(tmp_path), ["minute_buckets"]) == []
    (status_folder(tmp_path) / "minute_buckets.1.json").unlink()
    assert accounts(statuses(tmp_path), ["minute_buckets"]) == [
        "minute_buckets said nothing of what it did"
    ]
