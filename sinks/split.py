"""Split a topic into one topic per kind, each record once.

Delivery    exactly once, if only this sink writes the targets. Its state is the number of records
            of each kind that it has taken from a partition. Where a target's partition is longer
            than that, a run that broke off has written more than it could note. Records come
            again in the same order, so the surplus is the next records of that kind: they are
            passed over. The same holds for reading from the very first record
Order       partition p of the source goes to partition p of the targets, in its order
Targets     are made when their kind first comes, with the partitions of the source, TARGETS_MAX
            at most; processes that start at once may each exceed that by one
Durability  rows are written when BYTES_MAX have gathered and at each snapshot, and a snapshot
            returns when all are acknowledged

Left open: where the leader of a Kafka partition dies while it holds records that its followers
lack, a worker that starts at this very moment may not see them yet, and writes them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from time import perf_counter

import polars as pl
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from footfall.sinks import PartitionBatch, Place, SinkRefusedError, TopicKeeper
from footfall.sinks.buffered import Wrote, tell_nobody

TARGETS_MAX = 200
BYTES_MAX = 16_777_216
NAME_MAX = 249
KIND, VALUE = "kind", "value"
"""Columns of the rows that the sink takes: String and Binary."""

# A dot is refused: Kafka takes no two names that differ only in dots and underscores.
_KIND = re.compile(r"[a-zA-Z0-9_-]+")

WhyNot = Callable[[str], str | None]
"""Reason why there is no topic for a kind; None where there is one."""
State = tuple[str, dict[str, int]]
"""The source, and the number of records taken by kind: the end of the target's partition."""


def target_of(source: str, kind: str) -> str:
    """Return the topic of a kind."""
    return f"{source}.{kind}"


class Targets:
    """The targets that exist, and those that are made."""

    def __init__(
        self,
        topics: TopicKeeper,
        source: str,
        *,
        partitions: int,
        retention_h: int,
        targets_max: int = TARGETS_MAX,
    ) -> None:
        """Take the number of the source's ``partitions``, which each target gets."""
        self._topics = topics
        self._source = source
        self._partitions = partitions
        self._retention_h = retention_h
        self._targets_max = targets_max
        self._standing: set[str] | None = None
        self._ready: set[str] = set()

    def why_not(self, kind: str) -> str | None:
        """Make sure that a kind has a target; return why there can be none, or None.

        The answer for a kind changes only where targets are deleted. Raises SinkError.
        """
        if kind in self._ready:
            return None
        if not self._names_topic(kind):
            longest = NAME_MAX - len(target_of(self._source, ""))
            return (
                f"kind {kind[:60]!r} cannot name a topic: takes 1 to {longest} of a-z A-Z 0-9 _ -"
            )
        if self._standing is None:
            prefix = target_of(self._source, "")
            names = [name for name in self._topics.topics() if name.startswith(prefix)]
            kinds = {name.removeprefix(prefix) for name in names}
            self._standing = {kind for kind in kinds if self._names_topic(kind)}
        if kind not in self._standing and len(self._standing) >= self._targets_max:
            return (
                f"kind {kind[:60]!r} would be one too many: {self._source} has "
                f"{self._targets_max} targets"
            )
        target = target_of(self._source, kind)
        if (self._topics.partitions(target) or 0) < self._partitions:
            self._topics.create(target, self._partitions, self._retention_h)
        self._standing.add(kind)
        self._ready.add(kind)
        return None

    def _names_topic(self, kind: str) -> bool:
        fits = len(target_of(self._source, kind)) <= NAME_MAX
        return fits and _KIND.fullmatch(kind) is not None


class SplitSink(FixedPartitionedSink[pl.DataFrame, State]):
    """A sink that writes rows of KIND and VALUE to the targets of a source.

    A part is a partition of the source. The parts of a process share a buffer, so that a snapshot
    of ten partitions is one write.
    """

    def __init__(
        self,
        open_topics: Callable[[], TopicKeeper],
        source: str,
        parts: Sequence[str],
        *,
        bytes_max: int = BYTES_MAX,
        wrote: Wrote = tell_nobody,
    ) -> None:
        """Take ``parts``, the numbers of the source's partitions that this process reads."""
        self._open_topics = open_topics
        self._source = source
        # The engine numbers them in this order.
        self._parts = sorted(parts)
        self._bytes_max = bytes_max
        self._wrote = wrote
        self._topics: TopicKeeper | None = None
        self._open: list[_Part] = []
        self._bytes = 0

    def list_parts(self) -> list[str]:
        return self._parts

    def part_fn(self, item_key: str) -> int:
        return self._parts.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> _Part:
        if resume_state is not None and resume_state[0] != self._source:
            raise SinkRefusedError(
                f"what was kept of this flow is of the topic {resume_state[0]}, not of "
                f"{self._source}: set another FOOTFALL_HOME for each topic that is split"
            )
        kept = resume_state[1] if resume_state else None
        part = _Part(self, self._source, int(for_part), kept)
        self._open.append(part)
        return part

    def add(self, rows_bytes: int) -> None:
        """Count bytes that wait in a part; may write."""
        self._bytes += rows_bytes
        if self._bytes >= self._bytes_max:
            self.flush()

    @property
    def topics(self) -> TopicKeeper:
        """Return the topics of targets and source, opened at the first use."""
        if self._topics is None:
            self._topics = self._open_topics()
        return self._topics

    def flush(self) -> None:
        """Return when all that the parts were given is durable."""
        if not any(part.waiting for part in self._open):
            return
        self._bytes = 0
        for part in self._open:
            part.gather()
        self._find_surplus()
        batches = [batch for part in self._open for batch in part.take()]
        began_s = perf_counter()
        self.topics.write_each(batches)
        self._wrote([values for _, _, values in batches], perf_counter() - began_s)

    def _find_surplus(self) -> None:
        asked = [(part, kind) for part in self._open for kind in part.unknown()]
        if not asked:
            return
        ends = self.topics.end_offsets([part.place(kind) for part, kind in asked])
        for (part, kind), end in zip(asked, ends, strict=True):
            part.stands_at(kind, end)

    def close(self, part: _Part) -> None:
        """Release the topics with the last part."""
        self._open.remove(part)
        if not self._open and self._topics is not None:
            self._topics.close()
            self._topics = None


class _Part(StatefulSinkPartition[pl.DataFrame, State]):
    def __init__(
        self,
        sink: SplitSink,
        source: str,
        partition: int,
        kept: dict[str, int] | None,
    ) -> None:
        self._sink = sink
        self._source = source
        self._partition = partition
        self._is_new = kept is None
        self._taken = dict(kept or {})
        self._surplus: dict[str, int] = {}
        """Number of the next records, of each kind looked at, that the target has already."""
        self.waiting: list[pl.DataFrame] = []
        self._gathered: dict[str, list[bytes]] = {}

    def write_batch(self, values: list[pl.DataFrame]) -> None:
        self.waiting += values
        self._sink.add(sum(int(rows[VALUE].bin.size().sum()) for rows in values))

    def snapshot(self) -> State:
        self._sink.flush()
        return self._source, dict(self._taken)

    def gather(self) -> None:
        """Bring what waits together by kind."""
        if self.waiting:
            by_kind = pl.concat(self.waiting).group_by(KIND, maintain_order=True).agg(VALUE)
            self._gathered = dict(by_kind.iter_rows())
            self.waiting = []

    def unknown(self) -> list[str]:
        """Return the gathered kinds whose targets' ends are not known yet."""
        return [kind for kind in self._gathered if kind not in self._surplus]

    def place(self, kind: str) -> Place:
        """Return the topic and partition that the records of a kind go to."""
        return target_of(self._source, kind), self._partition

    def stands_at(self, kind: str, end: int) -> None:
        """Note where the target of a kind ends. Raises SinkRefusedError where that cannot be."""
        surplus = end - self._taken.get(kind, 0)
        if surplus < 0:
            raise SinkRefusedError(
                f"{self._name(kind)} ends at {end}, and {self._taken[kind]} records were written "
                f"to it: it was made anew. {self._remedy()}"
            )
        if surplus and self._is_new:
            first = self._sink.topics.first_offset(self._source, self._partition)
            if first > 0:
                raise SinkRefusedError(
                    f"{self._name(kind)} holds {end} records, and which ones is not known: the "
                    f"state of this flow is new, and {self._source} begins at offset {first}. "
                    f"{self._remedy()}"
                )
        self._surplus[kind] = surplus

    def take(self) -> list[PartitionBatch]:
        """Return what must be written of what was gathered; it counts as written from here on."""
        batches: list[PartitionBatch] = []
        for kind, values in self._gathered.items():
            self._taken[kind] = self._taken.get(kind, 0) + len(values)
            passed = min(self._surplus[kind], len(values))
            self._surplus[kind] -= passed
            if passed < len(values):
                batches.append((*self.place(kind), values[passed:]))
        self._gathered = {}
        return batches

    def close(self) -> None:
        self._sink.close(self)

    def _name(self, kind: str) -> str:
        return f"partition {self._partition} of the topic {target_of(self._source, kind)}"

    def _remedy(self) -> str:
        return (
            f"To split {self._source} anew from what it holds, delete all topics "
            f"{target_of(self._source, '*')} and move the flow's recovery folder away"
        )
