"""Embedded topics under whatever happens to them at once: appends, hands, rolls, crashes, readers.

What a partition holds is told twice: by its files, and by a list that the test keeps. Readers
that resume from their states anywhere must give each record of the list once, in order, with the
append time that every other reader sees.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from footfall.schemas.records import TopicRecord
from footfall.schemas.topic_files import Appends, end_offset, first_offset, records_path, segments
from footfall.sinks import topic_files
from footfall.sinks.topic_files import FileTopics, Retention
from footfall.streams.batch import UNKNOWN_MS
from footfall.streams.source import LATEST, Position, ReadState, SourceError
from footfall.streams.topic_files import FileReader, FileTopic

TOPIC = "clicks"
SEGMENT_BYTES = 300
EXAMPLES = int(os.environ.get("FOOTFALL_EXAMPLES", "100"))


class Stood(NamedTuple):
    """A record as the test knows it."""

    value: bytes
    appended_ms: int
    key: bytes | None = None


class Partition(RuleBasedStateMachine):
    """One partition, two writers, a person and two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.folder = Path(self.home.name)
        self.path = records_path(self.folder, TOPIC, 0)
        self.now_ms = 1_000
        self.expected: list[Stood] = []
        self.torn = b""
        """The line that a person has left without its newline."""
        self.is_torn = False
        """A writer was killed in the middle of an append."""
        self.removed_to = 0
        """Records before this offset went with a file that was removed."""
        self.writers = [self.writer(), self.writer()]
        self.writers[0].create(TOPIC, 1)
        self.readers: list[FileReader] = []
        self.given: list[int] = []

    def writer(self) -> FileTopics:
        return FileTopics(
            self.folder, retention=Retention(1_000, 10**9), clock_ms=lambda: self.now_ms
        )

    def reader(self, state: ReadState | None = None, **options: Position) -> FileReader:
        topic = FileTopic(self.folder, TOPIC, poll_bytes_max=128, flow="f", **options)  # type: ignore[arg-type]
        return topic.open(0, state)

    @initialize()
    def begin(self) -> None:
        self.readers = [self.reader(), self.reader()]
        self.given = [0, 0]

    def teardown(self) -> None:
        for one in (*self.writers, *self.readers):
            one.close()
        self.home.cleanup()

    def may_use_hands(self) -> bool:
        """Tell whether a person may edit: after a kill, a torn line is cut off with all after
        it."""
        return self.path.exists() and not self.is_torn

    def finish(self) -> None:
        self.is_torn = False
        if self.torn:
            self.expected.append(Stood(self.torn, UNKNOWN_MS))
            self.torn = b""

    @rule(
        writer=st.integers(0, 1),
        lengths=st.lists(st.integers(0, 120), min_size=1, max_size=6),
        later_ms=st.sampled_from([0, 1, -5, 600_000_000]),
    )
    def append(self, writer: int, lengths: list[int], later_ms: int) -> None:
        self.now_ms += later_ms
        self.finish()
        records = [
            (b"%d" % n if n % 3 else None, b"%d" % (len(self.expected) + n) + b"x" * length)
            for n, length in enumerate(lengths)
        ]
        self.writers[writer].write(TOPIC, records)
        self.expected += [Stood(value, self.now_ms, key) for key, value in records]

    @rule(times=st.lists(st.integers(0, 3), min_size=1, max_size=4))
    def append_whole(self, times: list[int]) -> None:
        self.finish()
        records = [
            TopicRecord(b"whole %d" % ms, b"key", [("h", b"%d" % ms)], timestamp_ms=ms)
            for ms in times
        ]
        self.writers[0].write_to(TOPIC, 0, records)
        self.expected += [Stood(one.value, one.timestamp_ms or 0, b"key") for one in records]

    @precondition(may_use_hands)
    @rule(lines=st.lists(st.sampled_from([b"by hand", b"", b"\r", b"\xef\xbb\xbf{}"]), max_size=3))
    def append_by_hand(self, lines: list[bytes]) -> None:
        for line in lines:
            self.expected.append(Stood(self.torn + line, UNKNOWN_MS))
            self.torn = b""
        with self.path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    @precondition(may_use_hands)
    @rule()
    def leave_a_line_open(self) -> None:
        with self.path.open("ab") as file:
            file.write(b"open")
        self.torn += b"open"

    @rule(writer=st.integers(0, 1), cut_bytes=st.integers(1, 400))
    def kill_a_writer(self, writer: int, cut_bytes: int) -> None:
        """Kill a writer whose last append has its entry, and not all of its lines."""
        self.append(writer, [40, 40, 40], 0)
        active = segments(self.folder, TOPIC, 0)[-1]
        appends = Appends(active.appends)
        last = appends.last()
        appends.close()
        assert last is not None
        # What a reader has taken of it was there.
        taken = max(self.given)
        kept = self.path.read_bytes()[last.position :].split(b"\n")[: max(0, taken - last.first)]
        kept_bytes = sum(len(line) + 1 for line in kept)
        os.truncate(self.path, max(last.position + kept_bytes, last.end - cut_bytes))
        left = self.path.read_bytes()[last.position :].count(b"\n")
        del self.expected[last.first + left :]
        self.is_torn = True
        for one in self.writers:
            one.close()
        self.writers = [self.writer(), self.writer()]

    @rule(writer=st.integers(0, 1))
    def restart_a_writer(self, writer: int) -> None:
        self.writers[writer].close()
        self.writers[writer] = self.writer()

    @rule()
    def remove_the_file(self) -> None:
        """Remove the file after all of it was read."""
        self.append(0, [3], 0)
        for number in (0, 1):
            self.read_all(number)
        self.path.unlink()
        self.removed_to = len(self.expected)

    @rule(number=st.integers(0, 1), polls=st.integers(1, 3))
    def read(self, number: int, polls: int) -> None:
        for _ in range(polls):
            poll = self.readers[number].poll(0)
            lines = poll.data.split(b"\n")[:-1]
            assert len(lines) == poll.count
            times = [UNKNOWN_MS] * poll.count
            if poll.appended_ms is not None:
                times = poll.appended_ms.tolist()
            assert poll.first_offset == self.given[number]
            wanted = self.expected[self.given[number] : self.given[number] + poll.count]
            assert list(zip(lines, times, strict=True)) == [one[:2] for one in wanted]
            self.given[number] += poll.count
            # One that has read an older segment to its end does not know of the next one yet.
            left = len(self.expected) - self.given[number]
            assert poll.lag == left or (poll.lag > 0 and left == 0) or poll.lag <= left

    def read_all(self, number: int) -> None:
        while self.given[number] < len(self.expected):
            before = self.given[number]
            self.read(number, 1)
            assert self.given[number] > before

    @rule(number=st.integers(0, 1))
    def resume(self, number: int) -> None:
        state = self.readers[number].state()
        self.readers[number].close()
        self.readers[number] = self.reader(ReadState(*state))

    @rule()
    def read_to_the_end(self) -> None:
        if self.torn:
            os.utime(self.path, (0, 0))
            self.finish()
        for number in (0, 1):
            self.read_all(number)
        once = self.reader(end=LATEST, start=Position("offset", self.given[0]))
        assert once.finished()
        once.close()

    @rule(data=st.data())
    def look_at_one(self, data: st.DataObject) -> None:
        first = first_offset(self.folder, TOPIC, 0)
        if first < len(self.expected):
            offset = data.draw(st.integers(first, len(self.expected) - 1))
            wanted = self.expected[offset]
            ms = None if wanted.appended_ms == UNKNOWN_MS else wanted.appended_ms
            try:
                record = FileTopic(self.folder, TOPIC).record_at(0, offset)
            except SourceError:
                assert offset < self.removed_to
                return
            assert (record.value, record.timestamp_ms) == (wanted.value, ms)
            assert record.key == (wanted.key if ms is not None else None)

    @invariant()
    def the_end_is_known(self) -> None:
        assert end_offset(self.folder, TOPIC, 0) == len(self.expected)


def test_each_record_is_read_once_whatever_happens_to_the_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topic_files, "SEGMENT_BYTES_MIN", SEGMENT_BYTES)
    monkeypatch.setattr(topic_files, "SEGMENT_BYTES_MAX", SEGMENT_BYTES)
    run_state_machine_as_test(
        Partition, settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
    )
