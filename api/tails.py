"""The newest records of a topic, for people to look at. Blocking: call it in a thread."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from footfall.schemas.topic_files import Segment, records_path, segments

TAIL_BYTES_FIRST = 65_536
TAIL_BYTES_MAX = 2_097_152
"""Room for at least one dead letter with the longest payload."""
KAFKA_WITHIN_S = 2.0
PARTITIONS_MAX = 256
_ROUND_S = 0.05
"""A call returns with all that was asked for, or after this."""


class Tail(Protocol):
    """Reads the end of a topic."""

    def newest(self, topic: str, records_max: int) -> list[bytes]:
        """Return up to that many records per partition, newest first as far as can be told.

        It is empty for a topic that does not exist. Raises OSError.
        """

    def close(self) -> None:
        """Release connections. Never raises."""


class FileTail:
    """The end of embedded topics. A file that did not change is not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[Path, int], tuple[tuple[int, int], list[bytes]]] = {}

    def newest(self, topic: str, records_max: int) -> list[bytes]:
        parts: list[tuple[float, list[bytes]]] = []
        for partition in range(PARTITIONS_MAX):
            path = records_path(self._folder, topic, partition)
            try:
                stat = path.stat()
            except FileNotFoundError:
                if partition == 0 and not path.parent.exists():
                    return []
                continue
            now = stat.st_ino, stat.st_size
            then, found = self._read.get((path, records_max), ((0, 0), []))
            if now != then:
                found = _newest(segments(self._folder, topic, partition), records_max)
                self._read[path, records_max] = now, found
            parts.append((stat.st_mtime, found))
        parts.sort(key=lambda part: -part[0])
        return [record for _, found in parts for record in reversed(found)]

    def close(self) -> None:
        self._read.clear()


def _newest(of_partition: Sequence[Segment], records_max: int) -> list[bytes]:
    """Return the last records of a partition, oldest first."""
    found: list[bytes] = []
    for segment in reversed(of_partition):
        # Retention may have removed the segment meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found = _last_lines(segment.records, records_max - len(found)) + found
        if len(found) >= records_max:
            break
    return found


def _last_lines(path: Path, lines_max: int) -> list[bytes]:
    """Return the last whole lines of a file, oldest first; one still being written is left out."""
    length = TAIL_BYTES_FIRST
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while True:
            start = max(0, size - length)
            file.seek(start)
            data = file.read(size - start)
            lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
            if start > 0:
                lines = lines[1:]  # its beginning was not read
            if len(lines) >= lines_max or start == 0 or length >= TAIL_BYTES_MAX:
                return lines[-lines_max:]
            length *= 4


class KafkaTail:
    """The end of Kafka's topics, through a consumer that commits no offsets."""

    def __init__(self, bootstrap: str) -> None:
        # Panels ask at once, each in a thread, and an assignment is one for the whole consumer.
        self._lock = Lock()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "footfall-live-page",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "latest",
                "log_level": 0,
            }
        )

    def newest(self, topic: str, records_max: int) -> list[bytes]:
        try:
            with self._lock:
                return self._newest(topic, records_max)
        except KafkaException as error:
            raise OSError(f"Kafka: {error}") from None

    def _newest(self, topic: str, records_max: int) -> list[bytes]:
        described = self._consumer.list_topics(topic, timeout=KAFKA_WITHIN_S).topics[topic]
        if described.error is not None:
            return []  # no such topic yet
        wanted = 0
        starts = []
        for partition in sorted(described.partitions)[:PARTITIONS_MAX]:
            place = TopicPartition(topic, partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=KAFKA_WITHIN_S)
            place.offset = max(low, high - records_max)
            if high > place.offset:
                wanted += high - place.offset
                starts.append(place)
        if not starts:
            return []
        self._consumer.assign(starts)
        messages: list[Any] = []
        # Transactions leave gaps, so that there may be fewer than the offsets promise.
        unread = {place.partition for place in starts}
        until_s = time.monotonic() + KAFKA_WITHIN_S
        while unread and len(messages) < wanted and time.monotonic() < until_s:
            got = self._consumer.consume(wanted - len(messages), timeout=_ROUND_S)
            unread -= {message.partition() for message in got if _is_end(message.error())}
            messages += [message for message in got if message.error() is None]
        self._consumer.unassign()
        messages.sort(key=lambda message: message.timestamp()[1], reverse=True)
        return [message.value() or b"" for message in messages]

    def close(self) -> None:
        with contextlib.suppress(KafkaException, RuntimeError):
            self._consumer.close()


def _is_end(error: KafkaError | None) -> bool:
    return error is not None and error.code() == KafkaError._PARTITION_EOF
