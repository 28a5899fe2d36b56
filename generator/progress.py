"""Progress of a push that may be stopped or killed, so that each row is sent once.

A progress file has the number of acknowledged rows of a source, and the topics' ends at that
moment. What a killed push wrote after the last save is behind those offsets: on the next start it
is found there and skipped. That works because

- rows are the same bytes each time they are read;
- one push writes a partition in the order of its rows, so of the rows not known to be
  written, the first few of each partition are there and the rest is not;
- never more than a window of rows is written past what the file says, so few
  are compared.

Other writers may put their records in between. Two pushes of one source at once are
refused by a lock on the file.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from footfall.generator.sources import Batch, GeneratorError, Record, Source, Stream, TopicView

WINDOW_ROWS = 50_000
"""Most rows that a push writes past its progress before it saves again: the most that a resume
compares, and holds in memory."""

Slot = tuple[str, int]
"""Key of a partition: (topic, partition)."""


class ProgressError(GeneratorError):
    """A progress file that does not fit what is pushed, cannot be kept, or is in use."""


class Progress(msgspec.Struct, frozen=True):
    """Content of a progress file."""

    identity: str
    target: str
    rows: int
    """Number of acknowledged rows, from the first row of the source on."""
    end_offsets: dict[str, list[int]]
    """Next offset of each partition, by topic, when ``rows`` were acknowledged."""
    window_rows: int
    """Most rows that were written after it was saved."""
    finished: bool = False
    """True if the source had no more rows."""
    mark: str = ""
    """Mark of the acknowledged rows; see Stream.mark."""


def standing(
    expected: Mapping[Slot, list[bytes]], tails: Mapping[Slot, Iterable[bytes]]
) -> Counter[Slot]:
    """Count, by partition, the first expected values that are in its tail, in order."""
    found: Counter[Slot] = Counter()
    for slot, values in expected.items():
        matched = 0
        for value in tails.get(slot, ()):
            if matched == len(values):
                break
            matched += value == values[matched]
        found[slot] = matched
    return found


class Skips:
    """Records that are already in the topics, to be left out of a push."""

    def __init__(self, found: Counter[Slot], view: TopicView) -> None:
        self._left = +found
        self._view = view

    @property
    def left(self) -> int:
        """Return the number of records that are still to be left out."""
        return self._left.total()

    def without(self, batch: Batch) -> Batch:
        """Return the batch without the records that are there; its rows count as before."""
        topics = {topic for (topic, _), left in self._left.items() if left}
        if not topics:
            return batch
        writes = []
        for topic, records in batch.writes:
            kept = records
            if topic in topics:
                kept = [record for record in records if not self._take(topic, record)]
            if kept:
                writes.append((topic, kept))
        return Batch(batch.rows, writes, batch.event_time_ms)

    def _take(self, topic: str, record: Record) -> bool:
        slot = (topic, self._view.partition_of(topic, record[0]))
        if not self._left[slot]:
            return False
        self._left[slot] -= 1
        return True


class Start(NamedTuple):
    """Beginning of a push."""

    rows: int = 0
    """Number of rows known to be acknowledged; the push goes on with the row after them."""
    skips: Skips | None = None
    """Records of the rows after them that are there already."""
    finished: bool = False
    mark: str = ""
    """Mark of the acknowledged rows; see Stream.mark."""


class ProgressFile:
    """The progress of one source into one target.

    ``path`` is the file, ``view`` gives access to the topics, ``target`` names them (their
    address): progress into one place says nothing about another. ``fresh`` forgets an earlier run.
    Raises ProgressError, with what to do.
    """

    def __init__(
        self,
        path: Path,
        view: TopicView,
        *,
        target: str = "",
        fresh: bool = False,
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        self.path = path
        self.window_rows = self._next_window_rows = window_rows
        """Window as the file has it; a changed one counts from the next save on."""
        self._view = view
        self._target = target
        self._fresh = fresh

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the progress for one push. Raises ProgressError when another push has it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.with_name(self.path.name + ".lock").open("wb")
        except OSError as error:
            raise self._cannot("keep", error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ProgressError(
                    f"{self.path} is in use: the same rows are being pushed by another process"
                ) from None
            yield

    def start(self, source: Source) -> Start:
        """Return where to go on. Do not save progress before all skips are used up."""
        saved = None if self._fresh else self._read()
        if saved is None:
            self.save(source, 0)
            return Start()
        for what, now, then in (
            ("source", source.identity, saved.identity),
            ("target", self._target, saved.target),
        ):
            if now != then:
                raise ProgressError(
                    f"{self.path} is about another {what}: {then!r}, not {now!r}; "
                    "start fresh to push this one from its beginning"
                )
        self.window_rows = saved.window_rows
        tails = dict(self._tails(source, saved))
        found: Counter[Slot] = Counter()
        # A file that was at its end may have grown since; a world cannot.
        if tails and (saved.mark or not saved.finished):
            found = standing(self._expected(source, saved.rows, tails.keys()), tails)
        return Start(saved.rows, Skips(found, self._view), saved.finished, saved.mark)

    def check_rows(self, start: Start, stream: Stream) -> None:
        """Raise ProgressError where the rows before the stream's are not those acknowledged."""
        if start.mark and stream.mark != start.mark:
            raise ProgressError(
                f"{self.path} is about another file of this name: its first {start.rows:,} rows "
                "were sent, and those of this one are others. Rows that are new can be sent from "
                "a file of another name; start fresh to send all rows of this one, also such as "
                "were sent before"
            )

    def save(self, source: Source, rows: int, *, finished: bool = False, mark: str = "") -> None:
        """Save that the first ``rows`` rows are acknowledged, and nothing after them is sent."""
        ends = {topic: self._view.end_offsets(topic) for topic in source.topics}
        progress = Progress(
            source.identity, self._target, rows, ends, self._next_window_rows, finished, mark
        )
        draft = self.path.with_name(self.path.name + ".new")
        try:
            with draft.open("wb") as file:
                file.write(msgspec.json.encode(progress))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except OSError as error:
            raise self._cannot("keep", error) from None
        self.window_rows = self._next_window_rows

    def _read(self) -> Progress | None:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Progress)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot("read", error) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ProgressError(
                f"{self.path} is no progress file; start fresh to push from the beginning"
            ) from None

    def _tails(self, source: Source, saved: Progress) -> Iterator[tuple[Slot, Iterable[bytes]]]:
        for topic in source.topics:
            ends = self._view.end_offsets(topic)
            # A topic that did not exist yet has no offsets.
            starts = saved.end_offsets.get(topic) or [0] * len(ends)
            if len(starts) != len(ends) or any(
                end < start for start, end in zip(starts, ends, strict=True)
            ):
                raise ProgressError(
                    f"topic {topic} is not the one that {self.path} speaks of: its partitions "
                    f"end at {ends}, and ended at {starts}; start fresh to push from the "
                    "beginning"
                )
            for partition, (start, end) in enumerate(zip(starts, ends, strict=True)):
                if end > start:
                    yield (topic, partition), self._view.read_tail(topic, partition, start)

    def _expected(
        self, source: Source, rows: int, slots: Iterable[Slot]
    ) -> dict[Slot, list[bytes]]:
        """Return the values that the push may have written past ``rows``, by partition."""
        wanted = frozenset(slots)
        topics = {topic for topic, _ in wanted}
        expected: dict[Slot, list[bytes]] = defaultdict(list)
        stream = source.open(rows)
        try:
            batch = stream.take(self.window_rows)
        finally:
            stream.close()
        for topic, records in batch.writes:
            for key, value in records if topic in topics else ():
                slot = (topic, self._view.partition_of(topic, key))
                if slot in wanted:
                    expected[slot].append(value)
        return expected

    def _cannot(self, do: str, error: OSError) -> ProgressError:
        return ProgressError(
            f"cannot {do} the progress of the push in {self.path}: {error.strerror or error}"
        )
