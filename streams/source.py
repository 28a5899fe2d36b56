"""A topic as the engine's source: one part per partition, whole polls, marks when it is quiet."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from footfall.schemas.records import TopicRecord
from footfall.streams.batch import Poll
from footfall.streams.log_lines import log_begin
from footfall.streams.progress import Place

POLL_BYTES_MAX = 4_194_304
POLL_EVERY_S = 0.25
"""Seconds between looks at a partition that has been read to its end."""
MARK_EVERY_MS = 1_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SourceError(Exception):
    """A topic that cannot be read; the message says why and what to do."""


class NoTopicError(SourceError):
    """A topic that does not exist."""


class ReadState(NamedTuple):
    """The place and the topic at which a reader resumes a partition; plain data for a snapshot."""

    topic: str
    topic_id: str
    """Id that differs after the topic was deleted and made again; "" where the server has no
    ids."""
    offset: int
    """Offset of the next record."""
    position: int
    """The next record's byte in its segment of an embedded partition; or Kafka's leader epoch."""


def other_topic(state: ReadState, topic: str, topic_id: str, flow: str) -> str:
    """Return a text that shows that the state is of another topic; "" where it is of this one."""
    if state.topic != topic:
        return f"the state of {flow or 'this flow'} is of topic {state.topic}, not {topic}"
    if state.topic_id and topic_id and state.topic_id != topic_id:
        return f"topic {topic} was deleted and made again since {flow or 'this flow'} read it"
    return ""


def check_same_topic(state: ReadState, topic: str, topic_id: str, flow: str) -> None:
    """Raise SourceError where the state was saved while another topic was read."""
    what = other_topic(state, topic, topic_id, flow)
    if not what:
        return
    raise SourceError(
        f"{what}. Set TOPICS_URL and KAFKA_TOPIC to the topic that was read before; or, to read "
        f"this one from its beginning, stop the workers and move FOOTFALL_HOME/recovery/{flow} "
        "away (the demo: --fresh)"
    )


def pass_over(
    name: str,
    offset: int,
    low: int,
    flow: str,
    skipped: Callable[[str], None] | None,
    *,
    lost: bool = False,
) -> None:
    """Tell ``skipped`` that reading goes on at ``low``, because the records before are gone.

    ``name`` is that of the partition; ``lost`` says that it was not retention that removed them.
    Raises SourceError, with the remedy for ``flow``, where nobody asked to skip.
    """
    if skipped is not None:
        skipped(
            f"{name}: skipped offsets {offset} to {low - 1}, which "
            f"{'were lost' if lost else 'retention removed'}: {low - offset} offsets; goes on at "
            f"{low}"
        )
        return
    cause = "was lost with its file or disk" if lost else "was removed by retention"
    remedy = (
        f". `footfall run {flow} --skip-removed` goes on from there with the state it has, and "
        "says what it skipped"
    )
    raise SourceError(
        f"{name}: the next offset {offset} {cause}, the oldest left is {low}; nothing was skipped"
        + (remedy if flow else "")
    )


def made_anew_remedy(flow: str) -> str:
    """Return how to go on where a partition is not the one that ``flow`` has read."""
    return flow and (
        ". Point TOPICS_URL at the one that has the records; or, to read this one from its "
        f"beginning, stop the workers of {flow} and move FOOTFALL_HOME/recovery/{flow} away (the "
        "demo: --fresh)"
    )


@dataclass(frozen=True, slots=True)
class Position:
    """A start or end of reading: earliest, latest, an offset, or a wall-clock time.

    At a time means the first record that was appended at it or later. Where a topic keeps no time
    per record, a start at a time may give a few records before it, and an end a few after it.
    """

    at: Literal["earliest", "latest", "offset", "time"]
    value: int = 0
    """Offset, or milliseconds since 1970 UTC."""


EARLIEST = Position("earliest")
LATEST = Position("latest")


@dataclass(frozen=True, slots=True)
class Share:
    """The partitions of one process among ``count``: every ``count``-th, from ``index`` on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"no share {self.index} of {self.count}")

    def has(self, partition: int) -> bool:
        """Return True if this process reads the partition."""
        return partition % self.count == self.index


WHOLE = Share()


class Reader(Protocol):
    """A reader of one partition in order."""

    def poll(self, now_ms: int) -> Poll:
        """Return the next records; a poll without records if there are none yet. Never waits
        long."""

    def finished(self) -> bool:
        """Return True once all records up to the end that was asked for were given."""

    def state(self) -> Any:
        """Return what ``Topic.open`` needs to go on after the last poll; plain data."""

    def bounds(self) -> tuple[int, int]:
        """Return (the offset of the next record, the end that was asked for)."""

    def close(self) -> None:
        """Release the file or connection."""


class Topic(Protocol):
    """A topic that can be read, partition by partition."""

    name: str

    def partitions(self) -> int:
        """Return the number of partitions. Raises SourceError where there is no such topic."""

    def open(self, partition: int, state: Any | None, start: Position | None = None) -> Reader:
        """Return a reader that resumes at a state, or begins at ``start`` or as the topic was
        told."""


class KeptTopic(Topic, Protocol):
    """A topic whose records can be looked at one by one."""

    def kept(self, partition: int) -> tuple[int, int]:
        """Return (the oldest offset left, the end). Raises SourceError."""

    def records(self, partition: int, start: int, end: int) -> Iterator[tuple[int, TopicRecord]]:
        """Yield the records from offset ``start`` to before ``end`` that are there by now.

        Each comes with its offset and all that the topic keeps of it. Raises SourceError.
        """

    def record_at(self, partition: int, offset: int) -> TopicRecord:
        """Return one record with all that the topic keeps of it. Raises SourceError."""


def wall_clock_ms() -> int:
    """Return the present time in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class TopicSource(FixedPartitionedSource[Poll, Any]):
    """A source that gives the polls of a topic's partitions until it is stopped or at its end.

    Setting ``grown`` ends it as ``stop`` does: its snapshot is taken, and another source goes on.
    """

    def __init__(
        self,
        topic: Topic,
        stop: threading.Event,
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
        poll_every_s: float = POLL_EVERY_S,
        share: Share = WHOLE,
        grown: threading.Event | None = None,
    ) -> None:
        self.topic = topic
        self.share = share
        self._stop = stop
        self._grown = grown or threading.Event()
        self.clock_ms = clock_ms
        self.poll_every = timedelta(seconds=poll_every_s)
        self._round = _Round()
        self._partitions: int | None = None
        self._begins: tuple[dict[Place, int], dict[Place, int]] | None = ({}, {})
        """Offsets at which parts resume, and at which those without a state begin, until they are
        logged."""
        self.mark_at_ms: defaultdict[int, int] = defaultdict(int)
        """Wall clock by partition before which its step has no use for a mark."""

    def list_parts(self) -> list[str]:
        self._partitions = self.topic.partitions()
        return [str(part) for part in range(self._partitions) if self.share.has(part)]

    def has_grown(self) -> bool:
        """Return True if the topic has more partitions than were listed. Raises SourceError."""
        return self._partitions is not None and self.topic.partitions() > self._partitions

    @property
    def ending(self) -> bool:
        """Return True once it was told to end."""
        return self._stop.is_set() or self._grown.is_set()

    def next_look(self) -> datetime:
        """Return when quiet partitions are looked at: all at once, because waking up is what
        costs."""
        now_us = time.time_ns() // 1_000
        every_us = self.poll_every // timedelta(microseconds=1)
        next_us = (now_us // every_us + 1) * every_us if every_us else now_us
        return EPOCH + timedelta(microseconds=next_us)

    def build_part(
        self, step_id: str, for_part: str, resume_state: Any | None
    ) -> StatefulSourcePartition[Poll, Any]:
        reader = self.topic.open(int(for_part), resume_state)
        if self._begins is not None:
            is_new = resume_state is None
            self._begins[is_new][self.topic.name, int(for_part)] = reader.bounds()[0]
        return _Partition(self, reader, for_part, self._round)

    def log_begin(self) -> None:
        """Log once where the parts begin; the engine makes all parts before it asks one."""
        if self._begins is not None:
            log_begin(*self._begins)
            self._begins = None


class _Round:
    """The turns of the partitions: the engine asks all of them in order, round after round.

    The polls of a round are all held at once. So a round gives about one full poll, and what was
    read is still in the processor's cache when it is decoded.
    """

    def __init__(self) -> None:
        self._asked = ""
        self._given_bytes = 0
        self._first = ""
        """First part in order whose turn it is."""

    def may_give(self, part: str) -> bool:
        """Return True if the part may read now."""
        if part <= self._asked:
            if self._given_bytes == 0:
                self._first = ""
            self._given_bytes = 0
        self._asked = part
        return part >= self._first and self._given_bytes < POLL_BYTES_MAX

    def gave(self, part: str, size_bytes: int) -> None:
        """Count the bytes that a part has read."""
        self._given_bytes += size_bytes
        if self._given_bytes >= POLL_BYTES_MAX // 2:
            self._given_bytes = POLL_BYTES_MAX
            # The part itself is before this text, every later one after it.
            self._first = part + "\0"


class _Partition(StatefulSourcePartition[Poll, Any]):
    def __init__(
        self, source: TopicSource, reader: Reader, part: str, engine_round: _Round
    ) -> None:
        self._source = source
        self._reader = reader
        self._part = part
        self._round = engine_round
        self._marked_ms = 0
        self._ended = False
        self._awake: datetime | None = None

    def next_batch(self) -> list[Poll]:
        if self._source.ending or self._ended:
            raise StopIteration
        if not self._round.may_give(self._part):
            self._awake = datetime.now(UTC)
            return []
        self._source.log_begin()
        now_ms = self._source.clock_ms()
        poll = self._reader.poll(now_ms)
        self._round.gave(self._part, len(poll.data))
        if self._reader.finished():
            # The end is a mark of its own, so that the poll is counted first.
            self._ended = True
            end = replace(
                poll,
                first_offset=poll.next_offset,
                data=b"",
                count=0,
                end=True,
                offsets=None,
                sent_again=(),
                appended_ms=None,
                tombstones=(),
            )
            return [poll, end] if poll.count else [end]
        if poll.lag > 0:
            self._awake = None
        else:
            self._awake = self._source.next_look()
        if poll.count:
            return [poll]
        due_ms = max(self._marked_ms + MARK_EVERY_MS, self._source.mark_at_ms[poll.partition])
        if poll.lag == 0 and now_ms >= due_ms:
            self._marked_ms = now_ms
            return [poll]
        return []

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> Any:
        state = self._reader.state()
        # The store would keep a class by its module's name, and be lost where that changes.
        return tuple(state) if isinstance(state, ReadState) else state

    def close(self) -> None:
        self._reader.close()
