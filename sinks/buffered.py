"""A writer as the engine's sink: rows are gathered, and written by number or snapshot.

A part is a topic partition. The parts of one process share a buffer, so that a snapshot of
ten partitions is one insert; what is in it is durable before any of them is snapshotted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from schemas.topics import PARTITIONS_DEFAULT

ROWS_MAX_DEFAULT = 50_000

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class Writer(Protocol[T_contra]):
    """Writes things that have a length, such as frames or lists of letters."""

    def write(self, items: Sequence[T_contra]) -> None:
        """Return when all are durable."""

    def close(self) -> None:
        """Release connections. Never raises."""


class BufferedSink(FixedPartitionedSink[T, None], Generic[T]):
    """Gives a writer its rows when ``rows_max`` have gathered and at each snapshot."""

    def __init__(
        self,
        open_writer: Callable[[], Writer[T]],
        *,
        rows_max: int = ROWS_MAX_DEFAULT,
        wrote: Callable[[int], None] = lambda _rows: None,
        parts: int = PARTITIONS_DEFAULT,
    ) -> None:
        self._open_writer = open_writer
        self._writer: Writer[T] | None = None
        self._rows_max = rows_max
        self._wrote = wrote
        self._parts = parts
        self._items: list[T] = []
        self._rows = 0

    def list_parts(self) -> list[str]:
        return [str(part) for part in range(self._parts)]

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _Part[T]:
        if self._writer is None:
            self._writer = self._open_writer()
        return _Part(self)

    def add(self, items: list[T]) -> None:
        """Take items; may write."""
        self._items += items
        self._rows += sum(map(len, items))  # type: ignore[arg-type]
        if self._rows >= self._rows_max:
            self.flush()

    def flush(self) -> None:
        """Return when all that was added is durable."""
        if not self._items or self._writer is None:
            return
        items, rows = self._items, self._rows
        self._items, self._rows = [], 0
        self._writer.write(items)
        self._wrote(rows)

    def close(self) -> None:
        """Release the writer."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Part(StatefulSinkPartition[T, None]):
    def __init__(self, sink: BufferedSink[T]) -> None:
        self._sink = sink

    def write_batch(self, values: list[T]) -> None:
        self._sink.add(values)

    def snapshot(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self._sink.close()
