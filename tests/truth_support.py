"""The whole shop in memory: every flow over a world, its rows written by the real writers.

Flows are found by the catalogue. What they write is gathered in the order in which a store
would get it, crashes and repetitions and all, and then written to the real sinks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from bytewax.outputs import Sink

from footfall import flows
from footfall.cli.databases import ask_clickhouse
from footfall.cli.init import described, make_clickhouse_tables, make_store_tables, make_topics
from footfall.cli.truth_read import Truth
from footfall.cli.verify_all import Outcome, outcomes
from footfall.flows import Flow, split_topics
from footfall.generator.shop_records import Disturbances
from footfall.generator.shop_world import ShopWorld
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.status import PartitionStatus, WorkerStatus, status_path
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topic_files import partition_of
from footfall.schemas.topics import PARTITIONS_DEFAULT, SHOP_EVENTS
from footfall.sinks.buffered import BufferedSink, RecentSink
from footfall.sinks.open import open_topics
from footfall.sinks.split import SplitSink, Targets
from footfall.streams.engine import Outputs
from footfall.streams.run import Run
from footfall.streams.testing import NOW_MS, Build, run_flow
from tests.split_support import splitting
from tests.test_generator_shop import records_of

Partitions = list[list[bytes]]
Topics = dict[str, Partitions]
"""The records of each topic, by partition."""


@dataclass(frozen=True)
class Way:
    """A way of running the flows."""

    processes: int
    is_broken_off: bool
    agreeing: int = 1
    """Records that must agree on a time; with 1 every clock is believed: see streams.clock."""

    def __str__(self) -> str:
        return f"{self.processes} processes, {'broken off' if self.is_broken_off else 'straight'}"


WAYS = tuple(Way(processes, broken) for processes in (1, 3) for broken in (False, True))


def world_of(seed: int, disorder: float, records: int) -> ShopWorld:
    """Return a world with all that can be wrong in it, of a few users: a busy minute, or a quiet
    hour."""
    disturbances = Disturbances(
        out_of_order=disorder,
        late=0.02,
        malformed=0.02,
        clocks_a_little_off=0.1,
        clocks_far_off=0.03,
        late_after_records=0,
    )
    return ShopWorld(
        seed=seed,
        total=records,
        disturbances=disturbances,
        records_per_s=(1, 3, 10, 30)[seed % 4],
        users=60,
        odd_shapes=0.1,
    )


def topics_of(world: ShopWorld) -> Topics:
    """Return the records of the world, by topic and partition."""
    topics = {}
    for topic, records in records_of(world).items():
        partitions: Partitions = [[] for _ in range(PARTITIONS_DEFAULT)]
        for key, value in records:
            partitions[partition_of(key, PARTITIONS_DEFAULT)].append(value)
        topics[topic] = partitions
    return topics


def settings_of(home: Path, clickhouse_url: str) -> Settings:
    """Return embedded stores in ``home``, and those tables of ClickHouse, all of them empty."""
    settings = read_settings({"FOOTFALL_HOME": str(home), "CLICKHOUSE_URL": clickhouse_url})
    tables = described(Table)
    standing = ask_clickhouse(settings, "SHOW TABLES")[1]
    if [tables[0].name] in standing:
        for table in tables:
            ask_clickhouse(settings, f"TRUNCATE TABLE {table.name}")
    else:
        list(make_clickhouse_tables(settings))
    list(make_topics(settings))
    list(make_store_tables(settings))
    return settings


def run_all(settings: Settings, topics: Topics, way: Way, random: Random) -> None:
    """Run every flow of the catalogue over all topics, in some way, into the settings' stores."""
    for contract in flows.catalogue().values():
        items: list[Any] = []
        broken_off = random.randrange(way.processes) if way.is_broken_off else None
        for process in range(way.processes):
            statuses = []
            for topic in contract.topics:
                share = _share(topics[topic], process, way.processes)
                reader = _Reader(settings, contract, topic, share, way.agreeing)
                run = reader.broken_off if process == broken_off else reader.straight
                statuses += run(items, random)
            _write_status(settings, contract.name, process, way.processes, statuses)
        if items:
            write(settings, contract, items)


def _share(partitions: Partitions, process: int, processes: int) -> Partitions:
    return [
        records if number % processes == process else []
        for number, records in enumerate(partitions)
    ]


@dataclass(frozen=True)
class _Reader:
    """One process of a flow on one topic; a run gives how far each partition was read."""

    settings: Settings
    contract: Flow
    topic: str
    partitions: Partitions
    agreeing: int

    def straight(self, items: list[Any], random: Random) -> list[PartitionStatus]:
        """Run without a break."""
        return self._run(items, cuts=_cuts(random))

    def broken_off(self, items: list[Any], random: Random) -> list[PartitionStatus]:
        """Run, killed at random polls, each time begun again on what it had kept."""
        done: list[PartitionStatus] = []
        with TemporaryDirectory() as folder:
            ends = [random.randrange(1, 30) for _ in range(random.choice((1, 1, 2)))]
            for number, end in enumerate([*ends, None]):
                done = self._run(
                    items,
                    cuts=_cuts(random),
                    recovery=Path(folder),
                    abort_after=end,
                    # The wall clock goes on meanwhile.
                    now_ms=NOW_MS + number * random.randrange(30_000),
                )
        return done

    def _run(self, items: list[Any], **options: Any) -> list[PartitionStatus]:
        rows: Sink[Any] = _gathered(items)
        build: Any = self.contract.dataflow
        if self.contract.name == split_topics.FLOW.name:
            rows, build = _split_sink(self.settings), _split_build(self.settings)
        elif len(self.contract.topics) > 1:
            build = _of_topic(self.contract.dataflow, self.topic)
        outputs = Outputs(rows, _gathered([]), _gathered([]))
        options["agreeing"] = self.agreeing
        result = run_flow(build, self.partitions, outputs=outputs, **options)
        return [msgspec.structs.replace(part, topic=self.topic) for part in result.partitions]


def _of_topic(build: Any, topic: str) -> Build:
    return lambda source, outputs, progress: build({topic: source}, outputs, progress)


def _split_sink(settings: Settings) -> SplitSink:
    """Return the sink of split_topics: its state is part of the flow's, so the real one is
    used."""
    parts = [str(part) for part in range(PARTITIONS_DEFAULT)]
    return SplitSink(lambda: open_topics(settings, gapless=True), SHOP_EVENTS.name, parts)


def _split_build(settings: Settings) -> Build:
    targets = Targets(
        open_topics(settings),
        SHOP_EVENTS.name,
        partitions=PARTITIONS_DEFAULT,
        retention_h=SHOP_EVENTS.retention_h,
    )
    return splitting(split_topics.records(SHOP_EVENTS, targets.why_not)).dataflow


def _cuts(random: Random) -> Sequence[int]:
    """Return sizes of polls; some of none at all, which is a mark that nothing came."""
    return [*random.choices((0, 1, 10, 30, 60), k=random.randrange(1, 3)), 200]


class _Gathered:
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def write(self, items: Sequence[Any]) -> None:
        self._items += items

    def close(self) -> None:
        pass


def _gathered(items: list[Any]) -> BufferedSink[Any]:
    """Return a sink of a store that outlives the process; what it holds when that ends is lost."""
    return BufferedSink(lambda: _Gathered(items), rows_max=500)


def write(settings: Settings, contract: Flow, items: list[Any]) -> None:
    """Write rows by the writer that the flow has."""
    sink = contract.writes.open(settings, Run(), {})
    part = sink.build_part("write_rows", "0", None)
    part.write_batch(items)
    part.snapshot()
    part.close()
    if isinstance(sink, RecentSink):
        sink.release()


def _write_status(
    settings: Settings, flow: str, process: int, processes: int, parts: list[PartitionStatus]
) -> None:
    status = WorkerStatus(
        flow=flow,
        worker=process,
        pid=0,
        updated_ms=NOW_MS,
        cpu_s=0,
        memory_bytes=0,
        rows_written=0,
        finished=True,
        partitions=parts,
        workers=processes,
    )
    path = status_path(settings.footfall_home, flow, process)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(status))


def unequal(settings: Settings, truth: Path) -> Iterator[str]:
    """Yield one line per table that differs, by the code of ``footfall verify``."""
    for outcome in outcomes(settings, Truth(truth)):
        if not outcome.is_equal:
            yield told(outcome)


def told(outcome: Outcome) -> str:
    """Return a table in words, with the first of what differs."""
    comparison = outcome.comparison
    if comparison is None:
        return f"{outcome.name}: {outcome.why_not}"
    return f"{outcome.name}: {comparison.counts()}, such as {comparison.lines(2)}"
