"""Rows to insert through a FaultProxy, and minute_buckets as a worker process behind one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from footfall.generator.tags import TagWorld
from footfall.schemas.status import PartitionStatus, WorkerStatus, status_folder
from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.schemas.topic_files import records_path
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS, USER_TAGS
from footfall.schemas.versions import FINAL, version_of
from footfall.sinks.clickhouse import create_tables, query_rows
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import ROOT, environment, running
from tests.fault_proxy import PASSED, UPSTREAM_TIMEOUT_S, Exchange, Fault, FaultProxy

NOON = datetime(2022, 3, 22, 12, tzinfo=UTC)
PARTITIONS = 3
FINISH_S = 120.0
WORLD = TagWorld(seed=11, late=0.002, out_of_order=0.05, duplicate=0.01, malformed=0.002)


def until(holds: Callable[[], bool], within_s: float = FINISH_S) -> None:
    """Wait until it holds; asked seldom, as it may cost queries."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.1)


def kill_within_insert(
    number: int, home: Path, *arguments: str, done: bool, **settings: str
) -> None:
    """Run a command and kill it while it waits for the answer to its ``number``-th insert.

    With ``done`` the rows of that insert are written, otherwise they never are.
    """
    reached = threading.Event()

    def act(exchange: Exchange) -> bool:
        if done:
            exchange.forward()
        reached.set()
        exchange.wait(UPSTREAM_TIMEOUT_S)
        return False

    faults = [PASSED] * (number - 1) + [Fault("held", act)]
    with (
        FaultProxy(settings["CLICKHOUSE_URL"], *faults) as proxy,
        running(home, *arguments, **settings | {"CLICKHOUSE_URL": proxy.url}) as command,
    ):
        command.wait_until(reached.is_set, f"came to insert {number}")
        command.process.kill()
        command.process.wait()


def some_rows(first: int, count: int) -> pl.DataFrame:
    """Return rows of different keys; 20,000 are a block of some 300 kB, more than a reset
    leaves."""
    number = pl.int_range(first, first + count, eager=True)
    return pl.select(
        bucket=pl.lit(NOON).cast(pl.Datetime("ms", "UTC")) + pl.duration(minutes=number % 60),
        action=pl.lit("VIEW"),
        origin=pl.lit("o") + number.cast(pl.String),
        brand_id=pl.lit("b") + number.hash(1).cast(pl.String),
        category_id=pl.lit("c"),
        topic=pl.lit("tags"),
        topic_partition=pl.lit(0),
        count=pl.lit(1),
        sum_price=number,
        version=pl.lit(version_of(0, 1, FINAL)),
    )


def held(url: str) -> list[Any]:
    """Return [rows of the view, sum of their counts, sum of their prices, different rows
    stored]."""
    (view,) = query_rows(url, "SELECT count(), sum(count), sum(sum_price) FROM minute_buckets")[1]
    (stored,) = query_rows(url, "SELECT uniqExact(*) FROM minute_buckets_rows")[1]
    return [*view, *stored]


def expected(count: int) -> list[int]:
    """Return what ``held`` gives of ``some_rows(0, count)``."""
    return [count, count, count * (count - 1) // 2, count]


@dataclass(frozen=True)
class Shop:
    """A home with its topics, and a database of its own."""

    home: Path
    url: str
    """Address of the database, past any proxy."""

    @classmethod
    def made(cls, folder: Path, server_url: str) -> Shop:
        """Make an empty shop; the folder's name is its database's as well."""
        shop = cls(folder, f"{server_url}/{folder.name}")
        create_tables(shop.url, [ROWS, VIEW])
        topics = FileTopics(folder / "topics")
        for topic in (USER_TAGS, DEAD_LETTERS, LATE_EVENTS):
            topics.create(topic.name, PARTITIONS)
        topics.close()
        return shop

    def fill(self, first: int, count: int) -> None:
        """Append events of the world."""
        topics = FileTopics(self.home / "topics")
        for start in range(first, first + count, 10_000):
            batch = WORLD.batch(start, min(10_000, first + count - start))
            topics.write("user_tags", [one for one in batch if len(one[1]) < 100_000])
        topics.close()

    def rows(self) -> list[list[Any]]:
        """Return the table's rows in their newest version, but for append times and whether a
        window was revised."""
        sql = (
            "SELECT * EXCEPT (version, appended_ms), bitShiftRight(version, 2) AS events"
            " FROM minute_buckets_rows FINAL ORDER BY ALL"
        )
        return query_rows(self.url, sql)[1]

    def events(self) -> int:
        """Return the number of events that the view counts."""
        ((count,),) = query_rows(self.url, "SELECT sum(count) FROM minute_buckets")[1]
        return int(count)

    def letters(self) -> list[set[tuple[Any, ...]]]:
        """Return dead letters and late events, each once."""
        found = []
        for topic in (DEAD_LETTERS, LATE_EVENTS):
            letters = set()
            for partition in range(PARTITIONS):
                path = records_path(self.home / "topics", topic.name, partition)
                for line in path.read_bytes().splitlines() if path.exists() else ():
                    letter = json.loads(line[line.index(b"{") :])
                    letters.add((letter["partition"], letter["offset"]))
            found.append(letters)
        return found

    def status(self) -> list[PartitionStatus]:
        """Return the worker's partitions as it reported them last."""
        return [partition for found in self._reports() for partition in found.partitions]

    def reported_ms(self) -> int:
        """Return the time of the last report, in ms."""
        return max(found.updated_ms for found in self._reports())

    def _reports(self) -> list[WorkerStatus]:
        return [
            msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
            for path in sorted(status_folder(self.home).glob("minute_buckets.*.json"))
        ]

    def outcome(self) -> tuple[Any, ...]:
        """Return all that a run leaves; check that each event is accounted for."""
        status = self.status()
        for part in status:
            assert part.read == part.used + part.filtered + part.late + part.dead
        dead, late = self.letters()
        assert sum(part.dead for part in status) == len(dead)
        assert sum(part.late for part in status) == len(late)
        assert self.events() == sum(part.used for part in status)
        return self.rows(), dead, late

    @contextmanager
    def worker(
        self,
        url: str,
        *options: str,
        give_up_after_s: float | None = 30.0,
        answer_timeout_s: int = 60,
    ) -> Iterator[Worker]:
        """Run minute_buckets writing to ``url``; without a give-up time, by the plain command."""
        waits = [str(give_up_after_s), str(answer_timeout_s)]
        command = ["tests.clickhouse_worker_child", *waits]
        if give_up_after_s is None:
            command = ["footfall.cli.main", "run", "minute_buckets"]
        log = self.home / "worker.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                cwd=ROOT,
                env=environment(self.home, {"CLICKHOUSE_URL": url}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield Worker(process, log)
        finally:
            process.kill()
            process.wait()

    def finish(self, url: str = "") -> None:
        """Run to the end of the topic as it is now."""
        with self.worker(url or self.url, "--once") as worker:
            assert worker.process.wait(FINISH_S) == 0, worker.lines()


@dataclass(frozen=True)
class Worker:
    """A worker process and what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self) -> list[str]:
        """Return the lines of all workers of this home, in order."""
        said = []
        for line in self.log.read_text().splitlines():
            logged = json.loads(line) if line.startswith("{") else {"level": "", "message": line}
            # How it lives, and an error that is said as its last line as well, count as logs.
            if logged["level"] not in ("info", "error"):
                said.append(logged["message"])
        return said

    def waits(self) -> bool:
        """Tell whether it has said that it waits for its server."""
        assert self.process.poll() is None, self.lines()
        return any("trying again" in line for line in self.lines())

    def wait_until_it_waits(self) -> None:
        until(self.waits)

    def memory_bytes(self) -> int:
        """Return its resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
