"""Real stand-ins for the tests of generator/: topics in memory that can crash, a shop's file."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from footfall.generator.sources import Record, TopicView
from footfall.schemas.topic_files import partition_of, records_path

HEADER = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
)

END_OF_TIME_S = 100_000.0


class CrashError(Exception):
    """The process is gone."""


@dataclass
class MemoryTopics:
    """Topics of ``partitions`` partitions, each a list; may crash in the middle of a write.

    Other writers put ``strange`` as many records in between, all different from ours.
    """

    partitions: int = 3
    crash_after: int | None = None
    """Number of our records until the crash."""
    strange: float = 0.0
    random: Random = field(default_factory=lambda: Random(0))
    logs: dict[tuple[str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    writes: list[int] = field(default_factory=list)
    """Number of records of each write."""
    _strangers: int = 0

    def write(self, topic: str, records: Sequence[Record]) -> None:
        self.writes.append(len(records))
        slots: dict[int, list[bytes]] = defaultdict(list)
        for key, value in records:
            slots[self.partition_of(topic, key)].append(value)
        # A crash leaves some partitions of a batch whole, one cut and the others without it.
        for partition in self.random.sample(sorted(slots), len(slots)):
            for value in slots[partition]:
                self._strange(topic)
                if self.crash_after is not None:
                    if self.crash_after == 0:
                        raise CrashError
                    self.crash_after -= 1
                self.logs[topic, partition].append(value)
        self._strange(topic)

    def _strange(self, topic: str) -> None:
        while self.random.random() < self.strange / (1 + self.strange):
            self._strangers += 1
            slot = (topic, self.random.randrange(self.partitions))
            self.logs[slot].append(b"strange %d" % self._strangers)

    def partition_of(self, topic: str, key: bytes | None) -> int:
        return zlib.crc32(key or b"") % self.partitions

    def end_offsets(self, topic: str) -> list[int]:
        return [len(self.logs[topic, partition]) for partition in range(self.partitions)]

    def read_tail(self, topic: str, partition: int, from_offset: int) -> list[bytes]:
        return self.logs[topic, partition][from_offset:]

    @property
    def view(self) -> TopicView:
        return TopicView(self.end_offsets, self.read_tail, self.partition_of)

    def ours(self) -> dict[tuple[str, int], list[bytes]]:
        """Return what we wrote, by topic and partition, in order."""
        found = {
            slot: [value for value in log if not value.startswith(b"strange ")]
            for slot, log in self.logs.items()
        }
        return {slot: values for slot, values in found.items() if values}


@dataclass
class SimulatedClock:
    """Time that passes only while somebody sleeps, and a little with each look."""

    now_s: float = 100.0
    look_s: float = 0.0001
    on_sleep: Callable[[], None] = lambda: None
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        self.now_s += self.look_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        assert self.now_s < END_OF_TIME_S, "it would wait for ever"
        self.on_sleep()


def csv_row(number: int, *, second: int | None = None, price: str = "12.50") -> str:
    """Return one whole row; by default a row each second, of a few users."""
    at = number if second is None else second
    time = f"2019-10-01 {at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d} UTC"
    kind = ("view", "view", "cart", "remove_from_cart", "purchase")[number % 5]
    brand = ("", "aqua", "lenovo")[number % 3]
    return f"{time},{kind},{1000 + number},77,a.b,{brand},{price},{number % 17},s-{number}"


def csv_file(rows: Sequence[str], line_end: str = "\r\n") -> bytes:
    """Return the file of these rows, each ended."""
    return "".join(row + line_end for row in [HEADER, *rows]).encode()


def folder_view(folder: Path) -> TopicView:
    """Return a look at embedded topics, by reading their files whole."""

    def values(topic: str, partition: int) -> list[bytes]:
        try:
            return records_path(folder, topic, partition).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []

    return TopicView(
        lambda topic: [len(values(topic, partition)) for partition in range(10)],
        lambda topic, partition, from_offset: values(topic, partition)[from_offset:],
        lambda topic, key: partition_of(key, 10),
    )
