"""The identity of a topic: one made again, another one, or one that was cut is a clear stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from footfall.streams.kafka import KafkaTopic
from footfall.streams.source import LATEST, Reader, ReadState, SourceError
from tests.kafka_support import Broker, Server
from tests.servers.test_kafka_workers import House, read_by, wait_until

READ_S_MAX = 60.0


def topic_of(kafka: Server, name: str) -> KafkaTopic:
    return KafkaTopic(kafka.bootstrap, name, group=kafka.name("reader"), flow="some_flow")


def read(reader: Reader, count: int) -> None:
    """Read so many records."""
    until_s = time.monotonic() + READ_S_MAX
    while count > 0:
        assert time.monotonic() < until_s
        count -= reader.poll(0).count


def stop_of(reader: Reader, meanwhile: Callable[[], object] = lambda: None) -> str:
    """Return the error that ends reading."""
    until_s = time.monotonic() + READ_S_MAX
    with pytest.raises(SourceError) as stopped:
        while time.monotonic() < until_s:
            meanwhile()
            reader.poll(0)
    return str(stopped.value)


def make_again(kafka: Server, name: str, records: int) -> None:
    kafka.delete_topic(name)
    kafka.create_topic(name, 1)
    kafka.produce(name, [b"other"] * records)


@pytest.mark.parametrize("records", [10, 100, 300])
def test_a_topic_that_was_made_again_is_a_stop(
    kafka: Server, tmp_path: Path, records: int
) -> None:
    house = House(kafka, tmp_path, 1)
    house.send(0, 0, 100)
    house.run()
    rows = list(house.rows)
    kafka.delete_topic(house.topic)
    kafka.create_topic(house.topic, 1)
    house.send(0, 0, records)
    for skip_removed in (False, True):
        with pytest.raises(SourceError) as stopped:
            house.run(skip_removed=skip_removed)
        assert str(stopped.value).startswith(
            f"topic {house.topic} was deleted and made again since user_profiles read it. Set "
        )
        assert "move FOOTFALL_HOME/recovery/user_profiles away" in str(stopped.value)
    assert house.said == []
    assert house.rows == rows


def test_a_topic_that_is_made_again_under_a_worker_is_a_stop(
    kafka: Server, tmp_path: Path
) -> None:
    house = House(kafka, tmp_path, 1)
    house.send(0, 0, 100)

    def make_again(run: object) -> None:
        wait_until(lambda: read_by(run) == 100)  # type: ignore[arg-type]
        kafka.delete_topic(house.topic)
        kafka.create_topic(house.topic, 1)
        house.send(0, 0, 300)
        # The worker ends by itself.
        threading.Event().wait(READ_S_MAX)

    with pytest.raises(SourceError, match="was deleted and made again since user_profiles"):
        house.run(once=False, meanwhile=make_again)


def test_a_reader_that_meets_the_empty_new_topic_stops_as_well(kafka: Server) -> None:
    name = kafka.topic("again")
    kafka.produce(name, [b"x"] * 100)
    reader = topic_of(kafka, name).open(0, None)
    read(reader, 100)
    kafka.delete_topic(name)
    kafka.create_topic(name, 1)
    # What the client says of the offset comes before anybody has looked at the topic.
    assert "was deleted and made again since some_flow read it" in stop_of(reader)


def test_a_reader_that_never_meets_an_error_stops_once_the_topic_was_looked_at(
    kafka: Server,
) -> None:
    name = kafka.topic("again")
    kafka.produce(name, [b"x"] * 100)
    topic = topic_of(kafka, name)
    reader = topic.open(0, None)
    read(reader, 100)
    make_again(kafka, name, 300)
    assert "was deleted and made again since some_flow read it" in stop_of(
        reader, topic.partitions
    )


def test_another_topic_on_the_same_home_is_a_stop(kafka: Server, tmp_path: Path) -> None:
    house = House(kafka, tmp_path, 1)
    house.send(0, 0, 50)
    house.run()
    before = house.topic
    house.topic = kafka.topic("tags", 1)
    house.send(0, 0, 90)
    with pytest.raises(SourceError) as stopped:
        house.run()
    assert f"user_profiles is of topic {before}, not {house.topic}" in str(stopped.value)
    house.topic = before
    house.send(0, 50, 10)
    house.run()
    assert house.counts() == [60]


def test_a_state_knows_its_topic_and_the_leaders_epoch(kafka: Server) -> None:
    name, other = kafka.topic("state"), kafka.topic("state")
    kafka.produce(name, [b"x"] * 5)
    reader = topic_of(kafka, name).open(0, None)
    read(reader, 5)
    state = reader.state()
    reader.close()
    assert state == ReadState(name, topic_of(kafka, name).topic_id, 5, 0)
    assert state.topic_id not in ("", topic_of(kafka, other).topic_id)
    # Of a topic without ids nothing else is known than its name.
    topic_of(kafka, name).open(0, state._replace(topic_id="")).close()
    # A state of old is an offset alone.
    resumed = topic_of(kafka, name).open(0, 3)
    assert resumed.state() == ReadState(name, state.topic_id, 3, -1)
    resumed.close()


def cut(broker: Broker, topic: str, keep: int) -> None:
    """Lose the newest bytes of a partition, as a disk does that is set back; restarts."""
    broker.stop()
    (data,) = {path.parent for path in broker.folder.rglob(f"{topic}-0/*.log")}
    (log,) = data.glob("*.log")
    with log.open("r+b") as file:
        file.truncate(keep)
    for path in (*data.glob("*index"), *data.glob("*.snapshot")):
        path.unlink()
    (data.parent / ".kafka_cleanshutdown").unlink()
    for name in ("recovery-point-offset-checkpoint", "replication-offset-checkpoint"):
        path = data.parent / name
        lines = path.read_text().splitlines()
        path.write_text(
            "\n".join(f"{topic} 0 0" if line.startswith(f"{topic} ") else line for line in lines)
            + "\n"
        )
    broker.start()


def test_a_log_that_was_cut_below_what_was_read_is_a_stop(own_kafka: Broker) -> None:
    name = own_kafka.topic("cut")
    own_kafka.produce(name, [b"first"] * 50)
    (log,) = own_kafka.folder.rglob(f"{name}-0/*.log")
    keep = log.stat().st_size
    own_kafka.produce(name, [b"second"] * 50)
    live = topic_of(own_kafka, name).open(0, None)
    read(live, 100)
    state = live.state()
    cut(own_kafka, name, keep)
    assert own_kafka.end_offsets(name) == [50]
    # It has grown past the offset again: nothing but the epoch tells.
    own_kafka.produce(name, [b"third"] * 200)
    wanted = "Kafka has lost records before the next offset 100, and has others in their place"
    assert wanted in stop_of(live)
    resumed = topic_of(own_kafka, name).open(0, state)
    text = stop_of(resumed)
    assert wanted in text and "move FOOTFALL_HOME/recovery/some_flow away" in text


def test_a_leaders_other_epochs_alone_stop_nobody(own_kafka: Broker) -> None:
    name = own_kafka.topic("epochs")
    own_kafka.produce(name, [b"x"] * 3)
    own_kafka.restart()
    # The last that stands there is a marker of a later epoch than that of the last record.
    own_kafka.transaction(name, [b"gone"], commit=False)
    topic = topic_of(own_kafka, name)
    topic.end = LATEST
    reader = topic.open(0, None)
    until_s = time.monotonic() + READ_S_MAX
    while not reader.finished():
        assert time.monotonic() < until_s
        reader.poll(0)
    state = reader.state()
    assert state.offset == 5
    reader.close()
    own_kafka.restart()
    own_kafka.produce(name, [b"y"] * 2)
    resumed = topic_of(own_kafka, name).open(0, state)
    read(resumed, 2)
    assert resumed.state().offset == 7
    assert resumed.state().position > 0
    resumed.close()
