"""Records in through sinks.kafka, records in a real Kafka out, whatever happens to the broker."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from aiokafka.partitioner import DefaultPartitioner

from footfall.schemas.topics import RECORD_BYTES_MAX, RECORD_BYTES_TAKEN_MAX
from footfall.sinks import Record, SinkRefusedError, SinkUnavailableError
from footfall.sinks import kafka as sinks_kafka
from footfall.sinks.kafka import KafkaTopics
from tests.kafka_support import Broker, Server
from tests.ports_support import free_port

BATCH = 200
GIVE_UP_AFTER_S = 5.0
"""Short, and yet long enough for a write to a broker that answers, on a machine that is busy."""


@contextmanager
def writer(kafka: Server, give_up_after_s: float = 60.0) -> Iterator[KafkaTopics]:
    topics = KafkaTopics(kafka.bootstrap, give_up_after_s=give_up_after_s)
    try:
        yield topics
    finally:
        topics.close()


class Load:
    """A thread that writes numbered batches, one after another, until it is told to end."""

    def __init__(self, topics: KafkaTopics, topic: str) -> None:
        self._topics = topics
        self._topic = topic
        self._stop = threading.Event()
        self.batches = 0
        """Batches that were acknowledged, from 0 on."""
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._topics.write(self._topic, records(self.batches))
                self.batches += 1
        except BaseException as error:
            self.error = error

    def wait_for(self, batches: int, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while self.batches < batches:
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"only {self.batches} of {batches} batches"
            time.sleep(0.005)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive()


def records(batch: int) -> list[Record]:
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    return [(b"%d" % (n % 53), b"%d" % n) for n in numbers]


def test_every_acknowledged_record_is_there_once_through_kill_9_of_the_broker(
    own_kafka: Broker,
) -> None:
    topic = own_kafka.topic("killed", partitions=4)
    with writer(own_kafka) as topics:
        load = Load(topics, topic)
        load.wait_for(20)
        own_kafka.restart()
        load.wait_for(load.batches + 20)
        load.end()
        assert load.error is None
    stored = own_kafka.consume_all(topic)
    assert Counter(r.value for r in stored) == {b"%d" % n: 1 for n in range(load.batches * BATCH)}
    for partition in range(4):
        numbers = [int(r.value or b"") for r in stored if r.partition == partition]
        assert numbers == sorted(numbers), "the order of writing"


class Forgetful:
    """A proxy before a broker; while it is ``deaf``, requests arrive there and no answer comes
    back."""

    def __init__(self, port: int) -> None:
        """Listen before the broker at ``port``, which may start later."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._broker = ("127.0.0.1", port)
        self.deaf = False
        self.swallowed = 0
        """Bytes of answers that the client never saw."""
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                try:
                    far = socket.create_connection(self._broker, timeout=30)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._ends += [near, far]
                for ends in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if answers and self.deaf:
                    self.swallowed += len(data)
                else:
                    sink.sendall(data)


def test_what_was_sent_again_for_want_of_an_answer_is_there_once(
    fresh_kafka: Callable[..., Broker],
) -> None:
    # It knows the broker before that starts: who waits for the broker is sent through it.
    port = free_port()
    between = Forgetful(port)
    kafka = fresh_kafka(port, advertised_listeners=f"PLAINTEXT://{between.address}")
    topic = kafka.topic("once", partitions=2)
    topics = KafkaTopics(between.address)
    load = Load(topics, topic)
    for _ in range(3):
        load.wait_for(load.batches + 10)
        seen = between.swallowed
        between.deaf = True
        kafka.eventually(lambda seen=seen: between.swallowed > seen)
        between.cut()
        between.deaf = False
    load.wait_for(load.batches + 10)
    load.end()
    topics.close()
    assert load.error is None
    assert kafka.values(topic) == {b"%d" % n: 1 for n in range(load.batches * BATCH)}
    between.close()


def test_a_broker_that_stays_away_is_an_error_and_nothing_comes_after_it(
    own_kafka: Broker,
) -> None:
    topic = own_kafka.topic("away")
    with writer(own_kafka, GIVE_UP_AFTER_S) as topics:
        topics.write(topic, [(None, b"before")])
        own_kafka.kill()
        with pytest.raises(SinkUnavailableError, match=f"{own_kafka.bootstrap}.*is it running"):
            topics.write(topic, [(None, b"lost-%d" % n) for n in range(1_000)])
        own_kafka.start()
        # What was told to be not acknowledged is not sent behind the caller's back.
        topics.write(topic, [(None, b"after")])
        assert own_kafka.values(topic) == {b"before": 1, b"after": 1}


def test_a_broker_that_hangs_is_an_error_within_the_bound(own_kafka: Broker) -> None:
    topic = own_kafka.topic("hangs")
    with writer(own_kafka, GIVE_UP_AFTER_S) as topics:
        topics.write(topic, [(None, b"before")])
        own_kafka.pause()
        started = time.monotonic()
        try:
            with pytest.raises(SinkUnavailableError):
                topics.write(topic, [(None, b"half-known")])
        finally:
            own_kafka.go_on()
        # The bound of a call with its grace, and not the clients' own, which are far longer.
        bound_s = GIVE_UP_AFTER_S + sinks_kafka._REPORTS_GRACE_S
        assert time.monotonic() - started < bound_s + 5
        topics.write(topic, [(None, b"half-known")])
        assert set(own_kafka.values(topic)) == {b"before", b"half-known"}


def test_a_topic_that_does_not_stand_is_refused_by_name(kafka: Server) -> None:
    absent = kafka.name("absent")
    with writer(kafka) as topics:
        with pytest.raises(SinkRefusedError, match=f"{absent}.*footfall init") as caught:
            topics.write(absent, [(b"k", b"v")])
        assert "\n" not in str(caught.value)
        assert kafka.partitions(absent) == []
        assert topics.partitions(absent) is None
        topics.create(absent, 3, retention_h=1)
        topics.write(absent, [(b"k", b"v")])
        assert kafka.values(absent) == {b"v": 1}


def test_a_record_is_taken_up_to_the_topic_s_limit_and_refused_above(kafka: Server) -> None:
    topic = kafka.name("large")
    with writer(kafka) as topics:
        topics.create(topic, 1, retention_h=1)
        too_large_to_read = b"x" * (RECORD_BYTES_TAKEN_MAX - 1_000)
        topics.write(topic, [(b"k", too_large_to_read)])
        with pytest.raises(SinkRefusedError, match="larger than the topic takes"):
            topics.write(topic, [(b"k", b"x" * RECORD_BYTES_TAKEN_MAX)])
        assert kafka.values(topic) == {too_large_to_read: 1}


def test_a_topic_of_others_with_a_lower_limit_refuses_what_it_does_not_take(kafka: Server) -> None:
    topic = kafka.topic("narrow", max_message_bytes="10000")
    with writer(kafka) as topics:
        with pytest.raises(SinkRefusedError, match="larger than the topic takes"):
            topics.write(topic, [(b"k", b"x" * 20_000)])
        topics.write(topic, [(b"k", b"small")])
    assert kafka.values(topic) == {b"small": 1}


def test_many_small_records_are_not_taken_for_a_large_one(kafka: Server) -> None:
    # A batch of the client must stay under the limit of a topic that nobody widened.
    topic = kafka.topic("batches")
    values = [(b"k", b"%06d" % n + b"x" * 994) for n in range(5_000)]
    with writer(kafka) as topics:
        topics.write(topic, values)
    assert sum(len(v) for _, v in values) > 4 * RECORD_BYTES_MAX
    assert kafka.values(topic) == {value: 1 for _, value in values}


def test_a_key_goes_where_every_other_client_sends_it(kafka: Server) -> None:
    topic = kafka.topic("keys", partitions=7)
    keys = [b"%d" % n for n in range(300)] + ["kéks-🍪".encode(), b"x" * 500, b"\x00\xff"]
    with writer(kafka) as topics:
        topics.write(topic, [(key, b"v") for key in keys])
    choose = DefaultPartitioner()
    stored = kafka.consume_all(topic)
    assert len(stored) == len(keys)
    for record in stored:
        assert record.partition == choose(record.key, list(range(7)), list(range(7)))


def test_a_topic_deleted_under_a_writer_is_refused_and_written_again_once_made(
    kafka: Server,
) -> None:
    topic = kafka.topic("deleted")
    with writer(kafka, GIVE_UP_AFTER_S) as topics:
        topics.write(topic, [(None, b"1")])
        kafka.delete_topic(topic)
        with pytest.raises((SinkRefusedError, SinkUnavailableError), match=topic):
            topics.write(topic, [(None, b"2")])
        kafka.create_topic(topic)
        topics.write(topic, [(None, b"3")])
    assert kafka.values(topic) == {b"3": 1}
