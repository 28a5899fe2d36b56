"""Rows that a worker and its Aerospike server lose, together or in turn, are written again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from bytewax.dataflow import Dataflow

from footfall.flows import minute_buckets, user_profiles
from footfall.flows._writers import TeeWriter
from footfall.generator.tags import TagWorld
from footfall.schemas.settings import read_settings
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.sinks import SinkUnavailableError
from footfall.sinks.aerospike_aggregates import AerospikeAggregates
from footfall.sinks.buffered import BufferedSink, ForgetfulWriter, RecentSink
from footfall.sinks.profiles.aerospike import AerospikeProfiles
from footfall.streams.engine import Outputs
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import Share
from footfall.streams.testing import ListSink, MemoryTopic, run_flow
from tests.aerospike_support import ModelServer, Place, model_place

RECORDS: list[list[bytes]] = [[] for _ in range(5)]
for number, found in enumerate(TagWorld(seed=3).tags(0, 2_000)):
    # So far apart that minutes are done, and forgotten by the flow, long before the end.
    time_ms = parse_time_ms("2022-03-22T12:00:00Z") + number * 3_000
    tag = found["tag"] | {"time": iso_ms(time_ms), "cookie": f"c{number % 150}"}
    RECORDS[number * 7 % 5].append(msgspec.json.encode(tag))
PARTS = [str(part) for part in range(5)]
LONG_S = 600.0
"""Longer than any test: whatever was written may be lost."""


class _Profiles:
    """A ForgetfulWriter of a store, as the flow's own."""

    def __init__(self, store: AerospikeProfiles) -> None:
        self._store = store
        self.recent, self.restore = store.recent, store.restore
        self.settle, self.close = store.settle, store.close

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        self._store.put(pl.concat(frames))


@dataclass
class _Table:
    """A table that never forgets."""

    rows: list[pl.DataFrame] = field(default_factory=list)

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        self.rows += frames

    def close(self) -> None:
        """Keep the table."""


@dataclass
class House:
    """A flow whose rows go to a server that is a dictionary."""

    flow: Any
    place: Place
    model: ModelServer
    table: _Table = field(default_factory=_Table)

    def sink(self, keep_s: float) -> RecentSink:
        """Return the sink of one process."""

        def opened() -> ForgetfulWriter:
            if self.flow is user_profiles:
                return _Profiles(self.place.profiles(3, set_name="s", keep_s=keep_s))
            aggregates: AerospikeAggregates = self.place.aggregates(1, set_name="s", keep_s=keep_s)
            return TeeWriter(self.table, aggregates)

        return RecentSink(opened, lambda: PARTS, rows_max=50)

    def build(self, source: Any, outputs: Outputs, progress: Any) -> Dataflow:
        settings = read_settings({"NUM_TAGS_TO_KEEP": "3"})
        made: Dataflow = self.flow.FLOW.dataflow(source, outputs, progress, settings=settings)
        return made

    @contextmanager
    def run(self, keep_s: float, recovery: Path, **options: Any) -> Iterator[RecentSink]:
        """Run a process to its end, or broken off after some polls; it is gone in the end."""
        sink = self.sink(keep_s)
        outputs = Outputs(sink, _nowhere(), _nowhere())
        run_flow(
            self.build, RECORDS, outputs=outputs, recovery=recovery, cuts=(30, 0, 70), **options
        )
        yield sink
        sink.release()


def _nowhere() -> ListSink:
    return ListSink(lambda _: None)


@pytest.fixture(params=[user_profiles, minute_buckets], ids=lambda flow: flow.FLOW.name)
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    model = ModelServer()
    with model_place(model) as place:
        yield House(request.param, place, model)


@pytest.fixture
def expected(house: House, tmp_path: Path) -> dict[Any, Any]:
    """Return the server's content after an undisturbed run."""
    recovery = tmp_path / "calm"
    recovery.mkdir()
    with house.run(LONG_S, recovery):
        pass
    found, house.model.records = house.model.records, {}
    house.model.undo.clear()
    assert len(found) > 100
    return found


def test_processes_killed_together_with_their_server_lose_nothing(
    house: House, expected: dict[Any, Any], tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    recovery = tmp_path / "killed"
    recovery.mkdir()
    for _ in range(4):
        with house.run(LONG_S, recovery, abort_after=chance.randrange(3, 25)):
            pass
        house.model.kill(LONG_S)
        # The next process comes when the node is long up.
        house.model.started_at_s = None
        assert not house.model.records
    with house.run(0.2, recovery) as last:
        last.settle()
    assert house.model.records == expected, f"seed {seed}"


def test_the_state_of_a_part_has_its_rows_that_may_be_lost(house: House, tmp_path: Path) -> None:
    with house.run(LONG_S, tmp_path) as sink:
        rows = [pl.concat(map(pl.read_ipc, sink.state_of(part) or ())) for part in PARTS]
        parts = [found["topic_partition"].unique().to_list() for found in rows]
        assert parts == [[0], [1], [2], [3], [4]]
        assert sink._writer is not None
        assert sum(map(len, rows)) == sum(map(len, sink._writer.recent()))


def worker(
    house: House, home: Path, sink: Callable[[], RecentSink], share: Share | None = None
) -> None:
    """Run ``footfall run FLOW --once`` on topics in memory."""

    def wire(run: Run) -> Dataflow:
        source = run.source(MemoryTopic(RECORDS))
        found = sink()
        found._partitions = source.list_parts
        run.settling.append(found)
        return house.build(source, Outputs(found, _nowhere(), _nowhere()), run.progress)

    contract = house.flow.FLOW
    assert contract.writes.keeps_state
    run_worker(contract.name, wire, home, once=True, share=share or Share(), steps=contract.steps)


def test_a_run_to_the_end_ends_when_nothing_can_be_lost(
    house: House, expected: dict[Any, Any], tmp_path: Path
) -> None:
    sink = house.sink(keep_s=3.0)
    settle = sink.settle

    def killed_and_settle() -> None:
        house.model.kill(2.5)
        assert house.model.records != expected
        settle()

    sink.settle = killed_and_settle  # type: ignore[method-assign]
    worker(house, tmp_path, lambda: sink)
    assert house.model.records == expected


def test_a_run_whose_server_went_away_fails_and_the_next_one_mends_it(
    house: House, expected: dict[Any, Any], tmp_path: Path
) -> None:
    sink = house.sink(LONG_S)

    def without_a_node() -> None:
        raise SinkUnavailableError("no node is left")

    sink.settle = without_a_node  # type: ignore[method-assign]
    with pytest.raises(SinkUnavailableError, match="no node is left"):
        worker(house, tmp_path, lambda: sink)
    house.model.kill(LONG_S)
    assert not house.model.records
    # There is nothing new to read, and more processes than before share what is to be mended.
    for index in range(3):
        worker(house, tmp_path, lambda: house.sink(keep_s=0.2), Share(index, 3))
    assert house.model.records == expected


def test_a_store_of_a_time_without_these_states_is_gone_on_with(
    house: House, tmp_path: Path
) -> None:
    topic = MemoryTopic([records for part in range(12) for records in [RECORDS[part % 5]]])

    def wire(sink: BufferedSink[pl.DataFrame]) -> Callable[[Run], Dataflow]:
        outputs = Outputs(sink, _nowhere(), _nowhere())
        return lambda run: house.build(run.source(topic), outputs, run.progress)

    # Partitions 3 and 10, of which the latter was in a part 0.
    share, name = Share(3, 7), house.flow.FLOW.name
    run_worker(name, wire(BufferedSink(_Table)), tmp_path, once=True, share=share)
    sink = RecentSink(lambda: TeeWriter(_Table(), None), lambda: ["3", "10"])
    run_worker(name, wire(sink), tmp_path, once=True, share=share)
    assert sink.list_parts() == ["0", "1", "10", *map(str, range(2, 10))]
