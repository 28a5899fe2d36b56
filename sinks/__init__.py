"""Where results go. A writer is given rows and returns when they are durable.

SinkError                 a sink could not do its work
  SinkUnavailableError    tried again for the bounded time; the worker stops, loses nothing
  SinkRefusedError        the server will never take this; names the server's reason
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import polars as pl


class SinkError(Exception):
    """A sink could not do its work; the message names the server and what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        """``what`` is wrong where; ``remedy``: what to do about it, where that is known."""
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class SinkUnavailableError(SinkError):
    """Still failing after the bounded retries."""


class SinkRefusedError(SinkError):
    """The rows or the request can never succeed as they are."""


class RowWriter(Protocol):
    """Writes frames of rows as idempotent upserts."""

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the rows are durable. Raises SinkError."""

    def close(self) -> None:
        """Release connections. Never raises."""


Record = tuple[bytes | None, bytes]
"""(key, value) of a record of a topic."""
Place = tuple[str, int]
"""(topic, partition)"""
PartitionBatch = tuple[str, int, Sequence[bytes]]
"""(topic, partition, values)"""


class TopicWriter(Protocol):
    """Appends records to topics, embedded or in Kafka."""

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Return when all are acknowledged. Raises SinkError."""

    def close(self) -> None:
        """Release connections. Never raises."""


class TopicKeeper(TopicWriter, Protocol):
    """A TopicWriter that can also make topics and tell how far they go. All raise SinkError."""

    def topics(self) -> list[str]:
        """The names of all topics."""

    def partitions(self, topic: str) -> int | None:
        """How many partitions a topic has, or None where it does not exist."""

    def create(self, topic: str, partitions: int, retention_h: int) -> None:
        """Make a topic, or give it more partitions; harmless where it has as many."""

    def end_offsets(self, places: Sequence[Place]) -> list[int]:
        """The next offset of each partition."""

    def first_offset(self, topic: str, partition: int) -> int:
        """The offset of the oldest record left in a partition."""

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        """Append each batch to its partition, in order, without keys; return when all are."""
