"""Sinks of results. A writer is given rows and returns when they are durable.

SinkError                 a sink could not do its work
  SinkUnavailableError    tried again for the bounded time; the worker stops, loses nothing
  SinkRefusedError        the server will never take this; names the server's reason
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import polars as pl


class SinkError(Exception):
    """A failure of a sink; the message names the server and what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        """Take ``what`` is wrong where, and the ``remedy`` where one is known."""
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class SinkUnavailableError(SinkError):
    """A failure that lasted through the bounded retries."""


class SinkRefusedError(SinkError):
    """Rows or a request that can never succeed as they are."""


class RowWriter(Protocol):
    """A writer of frames of rows as idempotent upserts."""

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the rows are durable. Raises SinkError."""

    def close(self) -> None:
        """Release connections. Never raises."""


Record = tuple[bytes | None, bytes]
"""Record of a topic: (key, value)."""
Place = tuple[str, int]
"""Key of a partition: (topic, partition)."""
PartitionBatch = tuple[str, int, Sequence[bytes]]
"""Records without keys for one partition: (topic, partition, values)."""


class TopicWriter(Protocol):
    """A writer that appends records to topics, embedded or in Kafka."""

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Return when all are acknowledged. Raises SinkError."""

    def close(self) -> None:
        """Release connections. Never raises."""


class TopicKeeper(TopicWriter, Protocol):
    """A TopicWriter that can also make topics and give their offsets. All raise SinkError."""

    def topics(self) -> list[str]:
        """Return the names of all topics."""

    def partitions(self, topic: str) -> int | None:
        """Return the number of a topic's partitions; None where it does not exist."""

    def create(self, topic: str, partitions: int, retention_h: int) -> None:
        """Make a topic, or give it more partitions; harmless where it has as many."""

    def end_offsets(self, places: Sequence[Place]) -> list[int]:
        """Return the next offset of each partition."""

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record left in a partition."""

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        """Append each batch to its partition, in order, without keys; return when all are
        appended."""
