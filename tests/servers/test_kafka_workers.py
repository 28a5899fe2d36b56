"""Workers on a real Kafka: what retention removed, partitions that come, other numbers of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from footfall.flows import user_profiles
from footfall.generator.tags import TagWorld
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.status import PartitionStatus
from footfall.streams.engine import Outputs
from footfall.streams.kafka import KafkaTopic
from footfall.streams.open import open_source
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import LATEST, Reader, Share, SourceError
from footfall.streams.testing import ListSink
from tests.kafka_support import Server

TAGS = [tag for _, tag in TagWorld(seed=5).batch(0, 6_000)]


class House:
    """A home of user_profiles on a topic in Kafka."""

    def __init__(self, kafka: Server, home: Path, partitions: int) -> None:
        self.kafka = kafka
        self.topic = kafka.topic("tags", partitions)
        environ = {"TOPICS_URL": kafka.url, "FOOTFALL_HOME": str(home)}
        self.settings: Settings = read_settings({**environ, "KAFKA_GROUP": kafka.name("group")})
        self.rows: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.parts: dict[int, PartitionStatus] = {}

    def send(self, partition: int, first: int, count: int) -> None:
        """Send records of the world into a partition."""
        self.kafka.produce(self.topic, TAGS[first : first + count], partition=partition)

    def run(
        self,
        share: Share | None = None,
        *,
        once: bool = True,
        skip_removed: bool = False,
        meanwhile: Callable[[Run], None] | None = None,
    ) -> None:
        """Run a worker to the end of the topic, or until ``meanwhile`` returns."""
        runs: list[Run] = []

        def take(frames: list[Any]) -> None:
            for frame in frames:
                self.rows += frame.select("topic_partition", "offset").rows()

        def wire(run: Run) -> Any:
            first = not runs
            runs.append(run)
            source = open_source(self.settings, self.topic, "user_profiles", run)
            if first and meanwhile is not None:
                threading.Thread(target=lambda: stop_after(meanwhile, run)).start()
            ignored = [ListSink(list[Any]().extend) for _ in range(2)]
            return user_profiles.FLOW.dataflow(
                source, Outputs(ListSink(take), *ignored), run.progress
            )

        run_worker(
            "user_profiles",
            wire,
            self.settings.footfall_home,
            once=once,
            snapshot_every_s=0.1,
            share=share or Share(),
            skip_removed=skip_removed,
            say=self.said.append,
            look_every_s=0.3,
        )
        for part in runs[0].progress.read()[0]:
            self.parts[part.partition] = part

    def counts(self) -> list[int]:
        """Return the number of records read of each partition in the flow's whole life."""
        return [self.parts[number].read for number in sorted(self.parts)]


def stop_after(act: Callable[[Run], None], run: Run) -> None:
    try:
        act(run)
    finally:
        run.stop.set()


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.02)


def read_by(run: Run) -> int:
    return sum(part.read for part in run.progress.read()[0])


def test_what_retention_removed_stops_the_flow_and_is_skipped_when_asked(
    kafka: Server, tmp_path: Path
) -> None:
    house = House(kafka, tmp_path, 2)
    for part in (0, 1):
        house.send(part, 0, 100)
    house.run()
    for part in (0, 1):
        house.send(part, 100, 100)
    kafka.delete_records(house.topic, {0: 150})
    before = list(house.rows)
    with pytest.raises(SourceError) as stopped:
        house.run()
    assert str(stopped.value) == (
        f"{house.topic}/0: the next offset 100 was removed by retention, the oldest left is 150; "
        "nothing was skipped. `footfall run user_profiles --skip-removed` goes on from there with "
        "the state it has, and says what it skipped"
    )
    assert house.rows == before
    house.run(skip_removed=True)
    assert house.said == [
        f"{house.topic}/0: skipped offsets 100 to 149, which retention removed: 50 offsets; goes "
        "on at 150"
    ]
    assert sorted(house.rows) == [
        *((0, offset) for offset in (*range(100), *range(150, 200))),
        *((1, offset) for offset in range(200)),
    ]
    assert house.counts() == [150, 200]
    house.send(0, 200, 10)
    house.run()
    assert house.counts() == [160, 200]


@pytest.mark.parametrize("skip", [False, True])
def test_records_removed_under_a_reader(kafka: Server, skip: bool) -> None:
    name = kafka.topic("tags", 1)
    kafka.produce(name, [b"%05d" % n + b"x" * 2_000 for n in range(5_000)], partition=0)
    said: list[str] = []
    topic = KafkaTopic(
        kafka.bootstrap, name, group=kafka.name("group"), poll_records_max=100, end=LATEST,
        flow="f", skipped=said.append if skip else None,
    )  # fmt: skip
    topic._config |= {"queued.max.messages.kbytes": 64, "fetch.message.max.bytes": 20_000}
    reader = topic.open(0, 0)
    try:
        first = read_until(reader, lambda found: len(found) >= 100)
        kafka.delete_records(name, {0: 4_900})
        if not skip:
            with pytest.raises(SourceError, match=r"was removed by retention.* --skip-removed"):
                read_until(reader, lambda _: False)
            return
        rest = read_until(reader, lambda _: reader.finished())
        offsets = first + rest
        gap = next(n for n, offset in enumerate(offsets) if offset == 4_900)
        assert offsets == [*range(gap), *range(4_900, 5_000)]
        assert len(said) == 1
        assert f"skipped offsets {gap} to 4899" in said[0]
        assert reader.state().offset == 5_000
    finally:
        reader.close()


def read_until(reader: Reader, done: Callable[[list[int]], bool]) -> list[int]:
    """Return the offsets read until the condition holds."""
    found: list[int] = []
    until_s = time.monotonic() + 60
    while not done(found):
        assert time.monotonic() < until_s
        poll = reader.poll(0)
        found += [poll.offset_of(row) for row in range(poll.count)]
    return found


def test_partitions_that_come_are_read_by_the_running_worker(
    kafka: Server, tmp_path: Path
) -> None:
    house = House(kafka, tmp_path, 1)
    house.send(0, 0, 100)

    def grow(run: Run) -> None:
        wait_until(lambda: read_by(run) == 100)
        kafka.add_partitions(house.topic, 12)
        for part in range(12):
            house.send(part, 100 * part, 50)
        wait_until(lambda: read_by(run) == 700)

    house.run(once=False, meanwhile=grow)
    assert house.counts() == [150, *[50] * 11]
    assert len(house.rows) == len(set(house.rows)) == 700


def test_other_numbers_of_processes_read_each_record_once(kafka: Server, tmp_path: Path) -> None:
    house = House(kafka, tmp_path, 4)
    total = 0
    for count in (1, 3, 2, 6, 1):
        for part in range(4):
            house.send(part, total, 40)
        total += 40
        for index in range(count):
            house.run(Share(index, count))
    assert sorted(house.rows) == [(part, offset) for part in range(4) for offset in range(total)]
    assert house.counts() == [total] * 4
    group = f"{house.settings.kafka_group}-user_profiles"
    kafka.eventually(lambda: kafka.group_offsets(group, house.topic) == [total] * 4)
