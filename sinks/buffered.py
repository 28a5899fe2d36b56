"""A writer as the engine's sink: rows are gathered, and written by number or at a snapshot.

A part is a topic partition. The parts of one process share a buffer, so that a snapshot of ten
partitions is one insert; what is in it is durable before any of them is snapshotted. Where a
server may forget what it acknowledged in the last seconds, the rows of these seconds are part of
the snapshots: a worker that was killed together with the server writes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

import polars as pl
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from footfall.schemas.topics import PARTITION, PARTITIONS_DEFAULT

ROWS_MAX_DEFAULT = 50_000

Wrote = Callable[[Sequence[Any], float], None]
"""Function that is given what was written, and the seconds that it took."""


def tell_nobody(_items: Sequence[Any], _seconds: float) -> None:
    """Do nothing with what was written."""


T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class Writer(Protocol[T_contra]):
    """A writer of things that have a length, such as frames or lists of letters."""

    def write(self, items: Sequence[T_contra]) -> None:
        """Return when all are durable."""

    def close(self) -> None:
        """Release connections. Never raises."""


class ForgetfulWriter(Writer[pl.DataFrame], Protocol):
    """A writer of rows with PARTITION to a server that may forget the last ones if it is
    killed."""

    def recent(self) -> Sequence[pl.DataFrame]:
        """Return the rows that it may still forget."""

    def restore(self, rows: pl.DataFrame) -> None:
        """Write soon what was ``recent`` when an earlier process ended."""

    def settle(self) -> None:
        """Return when it can forget nothing any more. Raises SinkError."""


class BufferedSink(FixedPartitionedSink[T, Any], Generic[T]):
    """A sink that gives a writer its rows when ``rows_max`` have gathered and at each snapshot."""

    def __init__(
        self,
        open_writer: Callable[[], Writer[T]],
        *,
        rows_max: int = ROWS_MAX_DEFAULT,
        wrote: Wrote = tell_nobody,
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
        return _Part(self, for_part)

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
        items = self._items
        self._items, self._rows = [], 0
        began_s = perf_counter()
        self._writer.write(items)
        self._wrote(items, perf_counter() - began_s)

    def state_of(self, part: str) -> Any:
        """Return what a part needs at the next start; asked for when all is written."""
        return None

    def close(self) -> None:
        """Release the writer."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class RecentSink(BufferedSink[pl.DataFrame]):
    """A sink of a ForgetfulWriter.

    When the flow has ended, ``settle`` waits until nothing can be lost, and ``release`` ends it.
    """

    _writer: ForgetfulWriter | None

    def __init__(
        self,
        open_writer: Callable[[], ForgetfulWriter],
        partitions: Callable[[], Iterable[str]],
        *,
        rows_max: int = ROWS_MAX_DEFAULT,
        wrote: Wrote = tell_nobody,
    ) -> None:
        """Take ``partitions``, which gives the numbers of the topic's partitions that this process
        reads."""
        super().__init__(open_writer, rows_max=rows_max, wrote=wrote)
        self._partitions = partitions
        self._places: dict[str, int] = {}
        self._states: dict[str, list[bytes]] | None = None
        self._encoded: dict[int, tuple[pl.DataFrame, dict[str, bytes]]] = {}
        """Encoded frames by the frame's id, as most of what is recent was so at the last
        snapshot."""

    def list_parts(self) -> list[str]:
        # Before this sink kept states it had the parts of any other sink, and stores still have
        # these.
        listed = sorted({*self._partitions(), *super().list_parts()})
        # The engine numbers them in this order.
        self._places = {part: place for place, part in enumerate(listed)}
        return listed

    def part_fn(self, item_key: str) -> int:
        # The part came after they were listed: the flow is about to be wired again.
        return self._places.get(item_key, 0)

    def build_part(
        self, step_id: str, for_part: str, resume_state: list[bytes] | None
    ) -> _Part[pl.DataFrame]:
        part = super().build_part(step_id, for_part, resume_state)
        if resume_state and self._writer is not None:
            self._writer.restore(pl.concat(map(pl.read_ipc, resume_state)))
            self._states = None
        return part

    def flush(self) -> None:
        """Return when all that was added is written."""
        if self._items:
            self._states = None
        super().flush()

    def state_of(self, part: str) -> list[bytes] | None:
        """Return the rows of a part that the server may still forget."""
        if self._states is None:
            self._states = self._recent()
        return self._states.get(part)

    def settle(self) -> None:
        """Return when the server can forget nothing any more. Raises SinkError."""
        if self._writer is not None:
            self._writer.settle()

    def close(self) -> None:
        """Do nothing: until it has settled, what was written may have to be written again."""

    def release(self) -> None:
        """Release the writer."""
        super().close()

    def _recent(self) -> dict[str, list[bytes]]:
        known, self._encoded = self._encoded, {}
        states: dict[str, list[bytes]] = {}
        for rows in self._writer.recent() if self._writer is not None else ():
            made = known.get(id(rows)) or (rows, _by_part(rows))
            self._encoded[id(rows)] = made
            for part, encoded in made[1].items():
                states.setdefault(part, []).append(encoded)
        return states


def _by_part(rows: pl.DataFrame) -> dict[str, bytes]:
    """Return the rows of each part, compressed."""
    found = {}
    for (part,), of_part in rows.partition_by(PARTITION, as_dict=True).items():
        buffer = BytesIO()
        of_part.write_ipc(buffer, compression="lz4")
        found[str(part)] = buffer.getvalue()
    return found


class _Part(StatefulSinkPartition[T, Any]):
    def __init__(self, sink: BufferedSink[T], part: str) -> None:
        self._sink = sink
        self._part = part

    def write_batch(self, values: list[T]) -> None:
        self._sink.add(values)

    def snapshot(self) -> Any:
        self._sink.flush()
        return self._sink.state_of(self._part)

    def close(self) -> None:
        self._sink.close()
