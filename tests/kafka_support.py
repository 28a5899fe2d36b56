"""A real Kafka for tests, with what a client asks it and writes to it.

``kafka``       a server that runs, shared by all tests of the session: KAFKA_BOOTSTRAP_SERVERS
                where that is set when the suite starts, otherwise one of the suite's own. A test
                makes topics of its own (``kafka.topic("orders")``); nothing is asked of it that a
                server elsewhere could not do: it is never stopped.
``own_kafka``   a broker of the suite's own, which a test may kill, pause and start again, always;
                it runs when the test begins. Its topics outlive a test: name your own.
``fresh_kafka`` makes brokers on empty folders (3 s each), for what must find nothing there.

Both of ours start at their first use, in 2 s, with 290 MB. Without Java or Maven the tests are
skipped, which fails the run in CI.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from confluent_kafka import (
    Consumer,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from footfall.infra import kafka as infra_kafka
from footfall.infra.kafka.errors import MissingToolError
from footfall.infra.kafka.jars import cache_folder, find_jars, find_java
from tests.ports_support import free_port

T = TypeVar("T")
WITHIN_S = 60.0
"""Longest wait for an answer of a server that runs."""
EXTERNAL = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or None

SETTINGS = {
    # Retention and deletion show themselves within a test.
    "log.retention.check.interval.ms": "300",
    "log.initial.task.delay.ms": "300",
    "file.delete.delay.ms": "100",
    "log.cleaner.backoff.ms": "200",
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "200",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}

_PASSING = (
    "NOT_LEADER_FOR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "UNKNOWN_LEADER_EPOCH",
    "FENCED_LEADER_EPOCH",
    "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "_TRANSPORT",
)
_numbers = itertools.count()


@dataclass(frozen=True)
class Stored:
    """A record as it is in a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Server:
    """A Kafka that runs somewhere."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        """Return ``host:port``."""
        return self._bootstrap

    @property
    def url(self) -> str:
        """Return its TOPICS_URL."""
        return f"kafka://{self.bootstrap}"

    def name(self, about: str = "test") -> str:
        """Return a name that no other topic or group has, also on a server that outlives the
        suite."""
        return f"{about}-{os.getpid()}-{time.time_ns() // 1_000_000 % 10**9}-{next(_numbers)}"

    def topic(self, about: str = "test", partitions: int = 1, **config: str) -> str:
        """Make a topic with a name of its own; ``config`` with _ for each dot."""
        name = self.name(about)
        self.create_topic(name, partitions, **config)
        return name

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """Make a topic, unless it exists."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(name, partitions, replication_factor=1, config=settings)
        try:
            self.admin().create_topics([new])[name].result(WITHIN_S)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise
        # What a broker has promised its clients may see a moment later.
        self.eventually(lambda: len(self.partitions(name)) >= partitions)

    def partitions(self, topic: str) -> list[int]:
        """Return the partitions of a topic that have a leader, [] without the topic."""
        listing = self._patiently(lambda: self.admin().list_topics(timeout=WITHIN_S / 10))
        found = listing.topics.get(topic)
        if found is None:
            return []
        return sorted(n for n, about in found.partitions.items() if about.leader >= 0)

    def config(self, topic: str) -> dict[str, str]:
        """Return the settings of a topic, read back."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        found = self.admin().describe_configs([resource])[resource].result(WITHIN_S)
        return {name: entry.value for name, entry in found.items()}

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Grow a topic to that many."""
        self.admin().create_partitions([NewPartitions(topic, partitions)])[topic].result(WITHIN_S)
        self.eventually(lambda: len(self.partitions(topic)) == partitions)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        self.admin().delete_topics([topic])[topic].result(WITHIN_S)
        self.eventually(lambda: not self.partitions(topic))

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Remove the records of partitions before an offset, as retention does."""
        places = [TopicPartition(topic, part, offset) for part, offset in before.items()]
        self._patiently(
            lambda: [f.result(WITHIN_S) for f in self.admin().delete_records(places).values()]
        )

    def end_offsets(self, topic: str) -> list[int]:
        """Return the next offset of every partition."""
        return self._offsets(topic, OffsetSpec.latest())

    def first_offsets(self, topic: str) -> list[int]:
        """Return the oldest offset left in every partition."""
        return self._offsets(topic, OffsetSpec.earliest())

    def _offsets(self, topic: str, spec: Any) -> list[int]:
        def ask() -> list[int]:
            # Each time anew: what the client knew of leaders may be what stood in the way.
            asked = {TopicPartition(topic, part): spec for part in self.partitions(topic)}
            found = self.admin().list_offsets(asked)
            return [int(found[place].result(WITHIN_S).offset) for place in asked]

        return self._patiently(ask)

    @staticmethod
    def _patiently(ask: Callable[[], T]) -> T:
        """Return the answer, also of a server that has just made a topic or was started again."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                return ask()
            except KafkaException as error:
                passing = error.args[0].retriable() or error.args[0].name() in _PASSING
                if not passing or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def group_offsets(self, group: str, topic: str) -> list[int | None]:
        """Return the offset that a consumer group has committed for each partition, or None."""
        places = [TopicPartition(topic, part) for part in self.partitions(topic)]
        # Not list_consumer_group_offsets of an AdminClient: with librdkafka up to 2.16 the process
        # dies where the coordinator of the group is still being found.
        consumer = Consumer(self.client(group_id=group))
        try:
            found = self._patiently(lambda: consumer.committed(places, WITHIN_S))
        finally:
            consumer.close()
        return [p.offset if p.offset >= 0 else None for p in found]

    def lag(self, group: str, topic: str) -> int:
        """Return the number of a topic's records that a group has not committed yet."""
        pairs = zip(self.group_offsets(group, topic), self.end_offsets(topic), strict=True)
        return sum(end - (done or 0) for done, end in pairs)

    def produce(
        self,
        topic: str,
        values: Sequence[bytes | None],
        *,
        partition: int | None = None,
        keys: Sequence[bytes | None] | None = None,
        timestamp_ms: int = 0,
        headers: dict[str, bytes] | None = None,
        **settings: Any,
    ) -> None:
        """Write records with a plain client; ``settings`` with _ for each dot.

        An old ``timestamp_ms`` has retention remove them soon.
        """
        producer = Producer(self.client(**{"linger_ms": 5, **settings}))
        failed: list[str] = []
        for number, value in enumerate(values):
            producer.produce(
                topic,
                value,
                keys[number] if keys else None,
                **({} if partition is None else {"partition": partition}),
                timestamp=timestamp_ms,
                headers=headers,
                on_delivery=lambda error, _: failed.append(str(error)) if error else None,
            )
            producer.poll(0)
        assert producer.flush(WITHIN_S) == 0 and not failed, failed[:1]

    def transaction(
        self,
        topic: str,
        values: Sequence[bytes],
        *,
        partition: int = 0,
        commit: bool = True,
    ) -> None:
        """Write records within a transaction, commit or abort it, and wait for its marker."""
        producer = Producer(self.client(transactional_id=self.name("transaction")))
        producer.init_transactions(WITHIN_S)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=partition)
        assert producer.flush(WITHIN_S) == 0
        written = self.end_offsets(topic)[partition]
        (producer.commit_transaction if commit else producer.abort_transaction)(WITHIN_S)
        # The coordinator answers before the partition has the marker.
        self.eventually(lambda: self.end_offsets(topic)[partition] > written)

    def consume_all(self, topic: str, *, committed_only: bool = True) -> list[Stored]:
        """Return every record from the oldest left to the end as it is now, by partition and
        offset."""
        isolation = "read_committed" if committed_only else "read_uncommitted"
        settings = self.client(
            group_id="reads-all",
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level=isolation,
        )
        consumer = Consumer(settings)
        firsts = self.first_offsets(topic)
        consumer.assign([TopicPartition(topic, p, o) for p, o in enumerate(firsts)])
        found: list[Stored] = []
        open_ends = set(range(len(firsts)))
        deadline = time.monotonic() + WITHIN_S
        while open_ends:
            assert time.monotonic() < deadline, f"{topic}: no end of {open_ends}"
            for message in consumer.consume(10_000, timeout=0.1):
                if message.error() is not None:
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    open_ends.discard(message.partition())
                    continue
                found.append(
                    Stored(message.partition(), message.offset(), message.key(), message.value())
                )
        consumer.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def values(self, topic: str) -> Counter[bytes]:
        """Count how often each value is in a topic."""
        return Counter(record.value or b"" for record in self.consume_all(topic))

    def admin(self) -> AdminClient:
        """Return a client for questions; it finds a broker that was started again."""
        if self._admin is None:
            # One for all: a client that is let go of takes its open questions with it.
            self._admin = AdminClient(self.client(reconnect_backoff_max_ms=200))
        return self._admin

    def client(self, **settings: Any) -> dict[str, Any]:
        """Return settings of a confluent-kafka client; with _ for each dot."""
        given = {name.replace("_", "."): value for name, value in settings.items()}
        return {"bootstrap.servers": self.bootstrap, "log_level": 0, **given}

    @staticmethod
    def eventually(holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s:g} s"
            time.sleep(0.02)


class Broker(Server):
    """A broker of the suite's own on a folder; it keeps its port and its data.

    It ends with the thread that starts it: start it from the test's own thread.
    """

    def __init__(self, folder: Path, port: int | None = None, **settings: str) -> None:
        """Prepare a broker. ``port`` is any free one by default; ``settings`` have _ for each
        dot."""
        java, jars = tools()
        given = {name.replace("_", "."): value for name, value in settings.items()}
        port, controller = port or free_port(), free_port()
        # A port that the kernel chose may be given away before Java has started.
        ports = {
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        }
        self._process = infra_kafka.Broker(
            folder, java=java, jars=jars, port=port, settings={**SETTINGS, **ports, **given}
        )
        super().__init__("")

    @property
    def bootstrap(self) -> str:
        return self._process.bootstrap

    @property
    def folder(self) -> Path:
        """Return the folder of its data."""
        return self._process.folder

    @property
    def runs(self) -> bool:
        """Tell whether it was started, and neither stopped, killed nor ended by itself."""
        return self._process.pid is not None and self._process.died() is None

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid

    def start(self) -> None:
        """Return when it answers; harmless while it runs."""
        if not self.runs:
            self._process.kill()
            self._process.start()

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._process.kill()

    def stop(self) -> None:
        """Stop it (SIGTERM), and wait."""
        self._process.stop()

    def pause(self) -> None:
        """Pause it (SIGSTOP): connections stay open and nothing is answered."""
        self._process.pause()

    def go_on(self) -> None:
        """Resume it (SIGCONT)."""
        self._process.go_on()

    def restart(self, *, kill: bool = True) -> None:
        """End it and start it again on the same port and data."""
        self.kill() if kill else self.stop()
        self.start()


def tools() -> tuple[str, Path]:
    """Return Java and the jars; skip the test with the reason where one is missing."""
    try:
        return find_java(os.environ), find_jars(cache_folder(os.environ), os.environ)
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _kafka_folder() -> Iterator[Path]:
    # Not pytest's own folder: that keeps those of three runs, and these are large.
    with tempfile.TemporaryDirectory(prefix="footfall-kafka-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def kafka(_kafka_folder: Path) -> Iterator[Server]:
    """Yield a server that runs, for all tests; see above."""
    if EXTERNAL:
        yield Server(EXTERNAL)
        return
    broker = Broker(_kafka_folder / "shared")
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture(scope="session")
def _killable_kafka(_kafka_folder: Path) -> Iterator[Broker]:
    broker = Broker(_kafka_folder / "own")
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def own_kafka(_killable_kafka: Broker) -> Broker:
    """Return a broker that runs and may be killed; see above."""
    _killable_kafka.start()
    return _killable_kafka


@pytest.fixture
def fresh_kafka(_kafka_folder: Path) -> Iterator[Callable[..., Broker]]:
    """Yield a function that starts brokers on empty folders, with settings; see above."""
    made: list[Broker] = []

    def make(port: int | None = None, **settings: str) -> Broker:
        broker = Broker(_kafka_folder / f"fresh-{next(_numbers)}", port, **settings)
        made.append(broker)
        broker.start()
        return broker

    yield make
    for broker in made:
        broker.kill()
