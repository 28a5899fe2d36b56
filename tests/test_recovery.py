"""States across layouts: whoever reads a partition next goes on with exactly what was known."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bytewax.recovery import init_db_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.flows import minute_buckets
from footfall.generator.tags import TagWorld
from footfall.schemas.status import PartitionStatus
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.streams import recovery as streams_recovery
from footfall.streams.engine import Outputs
from footfall.streams.progress import Progress
from footfall.streams.recovery import held_store, kept_layout, recovery_folder
from footfall.streams.runner import Run, WorkerError, run_worker
from footfall.streams.source import Share
from footfall.streams.testing import ListSink, MemoryReader, MemoryTopic, Result

FLOW = "minute_buckets"
NOW_MS = 1_900_000_000_000
WORLD = TagWorld(seed=3, late=0.02, out_of_order=0.1, duplicate=0.05, malformed=0.02)
RECORDS: list[list[bytes]] = [[] for _ in range(5)]
for number, (_key, tag) in enumerate(WORLD.batch(0, 3_000)):
    RECORDS[number * 7 % 5].append(tag[:2_000])
TOTAL = sum(map(len, RECORDS))


class BrokenOffTopic(MemoryTopic):
    """A topic in memory that stops the run cleanly after some polls."""

    stop: threading.Event | None = None
    given = 0

    def open(self, partition: int, state: int | None) -> MemoryReader:
        """Return a reader that counts polls."""
        topic = self

        class Reader(MemoryReader):
            def poll(self, now_ms: int) -> Any:
                if topic.polls >= 4 and topic.stop is not None:
                    topic.stop.set()
                poll = super().poll(now_ms)
                topic.given += poll.count
                return poll

        return Reader(self, partition, state or 0)


class House:
    """A home, and everything that its workers wrote."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.result = Result()
        self.partitions: dict[int, PartitionStatus] = {}
        self.read = 0
        """Records that were read, those that were read twice counted twice."""

    def run(self, share: Share, *, polls: int | None = None, clean: bool = True) -> None:
        """Run one process, to the end of the topic, or broken off after some polls."""
        topic = BrokenOffTopic(RECORDS, cuts=(40, 90, 0))
        if polls is not None and not clean:
            topic.abort_after = polls
        result = self.result
        outputs = Outputs(
            ListSink(result.items.extend),
            ListSink(lambda items: [result.dead.extend(item) for item in items]),
            ListSink(lambda items: [result.late.extend(item) for item in items]),
        )
        runs = []

        def wire(run: Run) -> Any:
            runs.append(run)
            if polls is not None and clean:
                topic.polls = 4 - max(1, polls)
                topic.stop = run.stop
            source = run.source(topic)
            source.clock_ms = lambda: NOW_MS
            return minute_buckets.FLOW.dataflow(source, outputs, run.progress)

        run_worker(FLOW, wire, self.home, once=True, snapshot_every_s=0.0, share=share)
        self.read += topic.given
        for part in runs[0].progress.read()[0]:
            self.partitions[part.partition] = part

    def outcome(self) -> tuple[Any, ...]:
        """Return the content of the tables in the end."""
        result = self.result
        dead = {(letter.partition, letter.offset, letter.code) for letter in result.dead}
        late = {(event.partition, event.offset, event.watermark) for event in result.late}
        counts = [
            (part.partition, part.read, part.used, part.late, part.dead, part.next_offset)
            for _, part in sorted(self.partitions.items())
        ]
        return result.upserts(*ROWS.order_by), dead, late, counts


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    house = House(tmp_path_factory.mktemp("calm"))
    house.run(Share())
    found = house.outcome()
    assert found[1] and found[2], "the world has dead letters and late events"
    return found


STAGES = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 12), st.booleans()), min_size=1, max_size=4
)
"""(number of processes, polls before each of them ends, whether it ends cleanly)."""


@given(stages=STAGES, last=st.integers(1, 6))
@settings(
    max_examples=12,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_the_layouts_the_outcome_is_that_of_the_undisturbed_run(
    tmp_path: Path,
    undisturbed: tuple[Any, ...],
    stages: list[tuple[int, int, bool]],
    last: int,
) -> None:
    home = tmp_path / f"{time.monotonic_ns()}"
    house = House(home)
    for count, polls, clean in stages:
        for index in range(count):
            house.run(Share(index, count), polls=polls, clean=clean)
    for index in range(last):
        house.run(Share(index, last))
    assert house.outcome() == undisturbed
    assert kept_layout(recovery_folder(home, FLOW)) == last
    if all(clean for _, _, clean in stages):
        assert house.read == TOTAL


def parts_of_the_way(home: Path) -> House:
    """Return the house of a flow that has read a part of each partition, as one process."""
    house = House(home)
    house.run(Share(), polls=7, clean=True)
    return house


def finish(house: House, count: int) -> tuple[Any, ...]:
    for index in range(count):
        house.run(Share(index, count))
    assert house.read == TOTAL, "nothing is read a second time"
    return house.outcome()


def test_a_store_of_the_time_before_layouts_is_taken_over(
    tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    house = parts_of_the_way(tmp_path)
    recovery = recovery_folder(tmp_path, FLOW)
    for file in (recovery / "of-1" / "0").glob("*.sqlite3*"):
        file.rename(recovery / file.name)
    shutil.rmtree(recovery / "of-1")
    (recovery / "layout").unlink()
    assert kept_layout(recovery) == 1
    assert finish(house, 3) == undisturbed
    assert sorted(path.name for path in recovery.iterdir()) == ["layout", "lock", "of-3"]


class Killed(BaseException):
    """The end of the process at this place."""


def killed_at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return function(*args, **options)

    return counted


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("make_store", 1), ("make_store", 3), ("read_states", 1), ("_write_to_disk", 1),
        ("_switch", 1), ("_remove_layouts_but", 1), ("_remove_layouts_but", 2),
    ],
)  # fmt: skip
def test_a_kill_in_the_middle_of_a_move_loses_nothing(
    tmp_path: Path,
    undisturbed: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    call: int,
) -> None:
    house = parts_of_the_way(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            streams_recovery, place, killed_at_call(call, getattr(streams_recovery, place))
        )
        with pytest.raises(Killed), held_store(tmp_path, FLOW, Share(0, 3)):
            pass
    # Another number than the one that was being made: nothing of the draft may be taken for it.
    assert finish(house, 2) == undisturbed
    kept = sorted(path.name for path in recovery_folder(tmp_path, FLOW).iterdir())
    assert kept == ["layout", "lock", "of-2"]


@pytest.mark.parametrize("moved", [0, 1])
def test_a_kill_while_an_old_store_is_taken_over_loses_nothing(
    tmp_path: Path, undisturbed: tuple[Any, ...], moved: int
) -> None:
    house = parts_of_the_way(tmp_path)
    recovery = recovery_folder(tmp_path, FLOW)
    files = sorted((recovery / "of-1" / "0").glob("*.sqlite3*"))
    for file in files[moved:]:
        file.rename(recovery / file.name)
    (recovery / "layout").write_text("1\n")
    (recovery / "of-1" / "0" / "lock").unlink()
    assert finish(house, 1) == undisturbed
    assert not list(recovery.glob("*.sqlite3*"))


def test_a_layout_is_not_changed_under_a_worker_that_runs(tmp_path: Path) -> None:
    with held_store(tmp_path, FLOW, Share(1, 3)):
        with pytest.raises(WorkerError, match=r"run as 2 processes .* its worker 1/3 \(process"):
            held(tmp_path, Share(0, 2))
        with pytest.raises(WorkerError, match=r"run as one process .* its worker 1/3 \(process"):
            held(tmp_path, Share())
        with pytest.raises(WorkerError, match=r"another worker runs minute_buckets as 1/3 on"):
            held(tmp_path, Share(1, 3))
        with held_store(tmp_path, FLOW, Share(0, 3)), held_store(tmp_path, "other", Share()):
            pass
    held(tmp_path, Share(0, 2))
    assert kept_layout(recovery_folder(tmp_path, FLOW)) == 2


def held(home: Path, share: Share) -> None:
    with held_store(home, FLOW, share, lock_wait_s=1.0):
        pass


def test_many_that_start_at_the_same_moment_move_the_states_once(
    tmp_path: Path, undisturbed: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = parts_of_the_way(tmp_path)
    moves: list[int] = []
    lay_out = streams_recovery._lay_out

    def slow(recovery: Path, flow: str, count: int) -> None:
        moves.append(count)
        time.sleep(0.2)
        lay_out(recovery, flow, count)

    monkeypatch.setattr(streams_recovery, "_lay_out", slow)
    together = threading.Barrier(6)
    failed: list[BaseException] = []

    def start(index: int) -> None:
        together.wait()
        try:
            with held_store(tmp_path, FLOW, Share(index, 6)):
                time.sleep(0.1)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (moves, failed) == ([6], [])
    assert finish(house, 6) == undisturbed


def test_a_move_that_takes_long_is_waited_for_and_then_told(tmp_path: Path) -> None:
    import fcntl

    recovery = recovery_folder(tmp_path, FLOW)
    recovery.mkdir(parents=True)
    with (recovery / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WorkerError, match=r"another worker holds .*/lock for long"):
            held(tmp_path, Share())


def test_a_layout_that_nobody_can_know_is_told(tmp_path: Path) -> None:
    recovery = recovery_folder(tmp_path, FLOW)
    held(tmp_path, Share(0, 2))
    (recovery / "layout").write_text("two\n")
    with pytest.raises(WorkerError, match="layout does not say for how many processes"):
        held(tmp_path, Share(0, 2))
    (recovery / "layout").unlink()
    assert kept_layout(recovery) == 2
    (recovery / "of-4").mkdir()
    with pytest.raises(WorkerError, match="layout does not say for how many processes"):
        held(tmp_path, Share(0, 2))


def test_states_of_partitions_that_the_topic_no_longer_has_are_told(tmp_path: Path) -> None:
    house = parts_of_the_way(tmp_path)
    short = MemoryTopic(RECORDS[:2])

    def wire(run: Run) -> Any:
        sinks = [ListSink(list[Any]().extend) for _ in range(3)]
        return minute_buckets.FLOW.dataflow(run.source(short), Outputs(*sinks), Progress())

    with pytest.raises(WorkerError, match="partitions that the topic does not have"):
        run_worker(FLOW, wire, house.home, once=True)


def overwritten(start: int, length: int) -> Callable[[Path], Any]:
    def damage(file: Path) -> None:
        with file.open("r+b") as store:
            store.seek(start)
            store.write(b"\xa5" * length)

    return damage


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut within its header": lambda file: os.truncate(file, 50),
    "cut after a page": lambda file: os.truncate(file, 4_096),
    "not a database": overwritten(0, 20_000),
    "a page of nonsense": overwritten(8_192, 4_096),
    "pages of nonsense": overwritten(4_096, 100_000),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a state of nonsense": lambda file: (
        (connection := sqlite3.connect(file)).execute("UPDATE snaps SET ser_change = x'0102'"),
        connection.commit(),
        connection.close(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("count", [1, 2])
def test_a_damaged_store_is_told_with_a_remedy(
    tmp_path: Path, undisturbed: tuple[Any, ...], damage: Callable[[Path], Any], count: int
) -> None:
    """By the same number of processes, or by another that is to take the states over."""
    house = parts_of_the_way(tmp_path)
    recovery = recovery_folder(tmp_path, FLOW)
    damage(recovery / "of-1" / "0" / "part-0.sqlite3")
    with pytest.raises(WorkerError, match=rf"the state in {recovery} is damaged .*move it away"):
        house.run(Share(0, count))
    recovery.rename(tmp_path / "away")
    for index in range(count):
        house.run(Share(index, count))
    assert house.outcome() == undisturbed


@pytest.mark.parametrize("count", [1, 2])
def test_a_store_of_an_older_version_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    house = parts_of_the_way(tmp_path)
    recovery = recovery_folder(tmp_path, FLOW)
    with sqlite3.connect(recovery / "of-1" / "0" / "part-0.sqlite3") as connection:
        connection.execute("UPDATE snaps SET ser_change = ?", (b"cstreams.source\nReadState\n.",))
    connection.close()
    # From the top of the repository there is a module of that name.
    monkeypatch.setitem(sys.modules, "streams", None)
    with pytest.raises(
        WorkerError,
        match=rf"the state in {recovery} was kept by an older version of Footfall: .*move it away",
    ):
        house.run(Share(0, count))


@pytest.mark.parametrize("what", ["", "of-1", "of-1/0", "of-1/0/part-0.sqlite3"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_store_that_others_may_write_is_not_loaded(
    tmp_path: Path, what: str, count: int
) -> None:
    house = parts_of_the_way(tmp_path)
    path = recovery_folder(tmp_path, FLOW) / what
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    with pytest.raises(WorkerError, match=f"others may write {path}, .*chmod -R go-w"):
        house.run(Share(0, count))
    if os.geteuid() == 0:
        os.chown(path, -1, 12_345)
        path.chmod(mode | 0o020)
        with pytest.raises(WorkerError, match=f"others may write {path}"):
            house.run(Share(0, count))
    path.chmod(mode)
    house.run(Share(0, count))


def test_a_store_is_as_the_engine_makes_it(tmp_path: Path) -> None:
    """The engine alone knows its format: a store that is made empty has the files it makes."""
    (tmp_path / "its").mkdir()
    init_db_dir(tmp_path / "its", 1)
    with held_store(tmp_path, FLOW, Share()) as store:
        names = {path.name for path in store.iterdir()} - {"lock"}
    assert names == {path.name for path in (tmp_path / "its").iterdir()}
