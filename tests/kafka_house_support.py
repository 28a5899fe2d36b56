"""Flows as worker processes on one set of servers, and all rows in their sinks afterwards.

Two houses that were given the same records, on whatever topics, must have the same ``Contents``
in the end: so a flow is checked of which these tests know nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import msgspec

from footfall.schemas.tables.store_metrics import EVENTS_NEWEST
from footfall.schemas.topic_files import partitions_of, records_path
from footfall.schemas.topics import APPENDED, DEAD_LETTERS, LATE_EVENTS, TOPICS
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import END_S_MAX, Running, environment
from tests.clickhouse_support import Server as ClickHouse
from tests.kafka_support import Server
from tests.laws.worlds import BAD_RECORDS, BASE_MS, Law

ASIDE = (DEAD_LETTERS.name, LATE_EVENTS.name)
RUN_S_MAX = 120.0
DISORDER_MS = 2_000
FAR_BACK_MS = 1_400_000
"""Further back than every window's lateness."""

Letter = tuple[str, str, int, int]
"""(flow, topic, partition, offset)"""


@dataclass
class Contents:
    """The content of the sinks; the same for equal inputs, however they came."""

    tables: dict[str, list[str]] = field(default_factory=dict)
    """The rows of each table as text, sorted."""
    aside: dict[str, dict[Letter, bytes]] = field(default_factory=dict)
    """The letters of each topic, each once."""


def check_same(found: Contents, expected: Contents) -> None:
    """Fail with the first few differences, of which there may be thousands."""
    told: list[str] = []
    for topic in ASIDE:
        pairs = found.aside[topic].items() ^ expected.aside[topic].items()
        told += [f"{topic} {key}: {value[:600]!r}" for key, value in sorted(pairs)]
    for name in found.tables.keys() | expected.tables.keys():
        rows, wanted = (set(side.tables.get(name, ())) for side in (found, expected))
        told += [f"{name} has {row}" for row in sorted(rows - wanted)]
        told += [f"{name} lacks {row}" for row in sorted(wanted - rows)]
        assert told or len(found.tables[name]) == len(expected.tables[name]), f"{name}: doubled"
    assert not told, f"{len(told)} differences: " + "\n".join(told[:8])
    assert any(expected.tables.values())


class House:
    """A home, a ClickHouse database of its own, and topics in a folder or in a Kafka.

    A flow of one topic may read it under any name, others read those of the catalogue.
    """

    def __init__(
        self,
        home: Path,
        clickhouse: ClickHouse,
        topic: str,
        kafka: Server | None = None,
        *,
        more_topics: Collection[str] = (),
        database: str = "",
    ) -> None:
        """Prepare a house. ``database`` is one that houses use in turn, each finding it empty.

        Without it, the house has one of its own, with the tables of all flows still to be made.
        """
        self.home = home
        self.topic = topic
        self.topics = {topic, *more_topics}
        self._flows: set[str] = set()
        """Flows that were started."""
        self.group = f"group-{topic}"
        self._kafka = kafka
        self._clickhouse = clickhouse
        own = "".join(c if c.isalnum() else "_" for c in f"{home.name}_{topic}")
        self._database = database or own
        clickhouse.rows(f"CREATE DATABASE IF NOT EXISTS {self._database}")
        self._empty()
        self.settings = {
            "CLICKHOUSE_URL": f"{clickhouse.url}/{self._database}",
            "KAFKA_GROUP": self.group,
        }
        if not more_topics:
            self.settings["KAFKA_TOPIC"] = topic
        if kafka is not None:
            self.settings["TOPICS_URL"] = kafka.url

    def init(self) -> None:
        """Run ``footfall init`` in this process, which is cheaper."""
        from footfall.cli.init import make_clickhouse_tables, make_store_tables, make_topics
        from footfall.schemas.settings import read_settings

        self.home.mkdir(parents=True, exist_ok=True)
        settings = read_settings(environment(self.home, self.settings))
        standing = self._clickhouse.rows(f"SHOW TABLES FROM {self._database}")
        for _ in (
            *make_topics(settings),
            *(() if standing else make_clickhouse_tables(settings)),
            *make_store_tables(settings),
        ):
            pass

    def fill(self, partitions: Sequence[Sequence[bytes]], topic: str = "") -> None:
        """Append records to the partitions of the topic, or of another one."""
        topic = topic or self.topic
        for number, records in enumerate(partitions):
            if not records:
                continue
            if self._kafka is not None:
                self._kafka.produce(topic, list(records), partition=number)
            else:
                topics = FileTopics(self.home / "topics")
                topics.write_each([(topic, number, records)])
                topics.close()

    def start(self, flow: str, *options: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a worker in the background; its output goes to a file in the home's folder."""
        self._flows.add(flow)
        with self._log(flow).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "footfall.cli.main", "run", flow, *options],
                env=environment(self.home, {**self.settings, **more}),
                cwd=self.home.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def finish(self, flow: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker has ended well."""
        try:
            code = process.wait(RUN_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{flow} does not end: {self.said(flow)}") from None
        assert code == 0, f"{flow} ended with {code}: {self.said(flow)}"

    def run_once(self, *flows: str) -> None:
        """Run workers beside each other to the ends of their topics."""
        with ended([self.start(flow, "--once") for flow in flows]) as processes:
            for flow, process in zip(flows, processes, strict=True):
                self.finish(flow, process)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this house in this process, which is cheaper."""
        from footfall.cli.main import main

        out, errors = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, environment(self.home, self.settings), clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), errors.getvalue())

    @contextmanager
    def running(self, flow: str, **more: str) -> Iterator[Running]:
        """Yield a worker that follows its topic."""
        process = self.start(flow, **more)
        with ended([process]):
            yield Running(process, self._log(flow))
            if process.poll() is None:
                process.terminate()
                assert process.wait(END_S_MAX) == 0, self.said(flow)

    def said(self, flow: str) -> str:
        """Return what the workers of a flow have printed."""
        return self._log(flow).read_text(errors="replace")

    def contents(self) -> Contents:
        """Return all tables of all sinks, and the letters about this house's topic."""
        return Contents(
            {**self._clickhouse_tables(), **self._sqlite_tables()},
            {topic: self._letters(topic) for topic in ASIDE},
        )

    def _empty(self) -> None:
        """Take all rows out of the database's tables."""
        filled = f"database = '{self._database}' AND total_rows > 0"
        for name in self._clickhouse.rows(f"SELECT name FROM system.tables WHERE {filled}"):
            self._clickhouse.rows(f"TRUNCATE TABLE {self._database}.`{name}`")

    def _clickhouse_tables(self) -> dict[str, list[str]]:
        found = {}
        listing = "SELECT name, engine FROM system.tables WHERE database = '{}' FORMAT TSV"
        for line in self._clickhouse.rows(listing.format(self._database)):
            name, engine = line.split("\t")
            final = "FINAL" if "Replacing" in engine else ""
            # Of folds the version tells how the topic was cut into batches. Equal records were
            # appended at other times.
            columns = f"* EXCEPT (version, {APPENDED})" if final else "*"
            select = f"SELECT {columns} FROM {self._database}.{name} {final} FORMAT JSONEachRow"
            found[f"ClickHouse {name}"] = sorted(self._clickhouse.rows(select))
        return found

    def _sqlite_tables(self) -> dict[str, list[str]]:
        found = {}
        for path in sorted(self.home.glob("*.sqlite")):
            connection = sqlite3.connect(path)
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (name,) in names.fetchall():
                if name == EVENTS_NEWEST.name:
                    continue
                rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
                found[f"{path.name} {name}"] = sorted(map(repr, rows))
            connection.close()
        return found

    def _letters(self, topic: str) -> dict[Letter, bytes]:
        if self._kafka is not None:
            values = [record.value or b"" for record in self._kafka.consume_all(topic)]
        else:
            values = list(_file_records(self.home / "topics", topic))
        found: dict[Letter, bytes] = {}
        for record in values:
            value, letter = record, msgspec.json.decode(record)
            if letter["topic"] not in self.topics or letter["flow"] not in self._flows:
                continue
            identity = (letter["flow"], letter["topic"], letter["partition"], letter["offset"])
            if letter.get("code") == "future_time":
                # Tells of the wall clock, by which it was decided.
                value = msgspec.json.encode({**letter, "reason": ""})
            # A letter that a crash had written twice says the same twice.
            assert found.setdefault(identity, value) == value, identity
        return found

    def _log(self, flow: str) -> Path:
        return self.home.parent / f"{self.home.name}-{flow}.out"


@contextmanager
def ended(
    processes: list[subprocess.Popen[bytes]],
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield these processes, and end them with the block."""
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def stream(law: Law, seed: int, count: int, partitions: int) -> list[list[bytes]]:
    """Return records of a flow's topic: in rough order, with late ones and broken ones among
    them."""
    chance = random.Random(seed)
    found: dict[int, list[bytes]] = defaultdict(list)
    for number in range(count):
        time_ms = BASE_MS + number * 700 - chance.randrange(DISORDER_MS)
        if number > count // 2 and chance.random() < 0.02:
            time_ms = max(BASE_MS, time_ms - FAR_BACK_MS)
        record = law.event(time_ms, chance.randrange(60))
        if chance.random() < 0.03:
            record = chance.choice(BAD_RECORDS)
        found[chance.randrange(partitions)].append(record)
    return [found[number] for number in range(partitions)]


def _file_records(folder: Path, topic: str) -> Iterator[bytes]:
    for partition in range(partitions_of(folder, topic) or 0):
        yield from records_path(folder, topic, partition).read_bytes().splitlines()


assert set(ASIDE) <= TOPICS.keys()
