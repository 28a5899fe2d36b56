"""The topics as ``footfall dead-letters`` reads and writes them, embedded or in Kafka."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from footfall.cli.letters.read import Letter, Place, Read
from footfall.cli.letters.retry import TopicError
from footfall.cli.terminal import CLEARED, moves_cursor
from footfall.cli.topics import GROUP, end_of, polls, records
from footfall.schemas.settings import Settings
from footfall.schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from footfall.schemas.dead_letters import DeadLetter, LateEvent, RetryNote
    from footfall.schemas.records import TopicRecord
    from footfall.streams.source import KeptTopic

SHOW_EVERY_S = 0.5


def read_topic(
    settings: Settings, topic: str, *, progress: bool = True, until_s: float | None = None
) -> Iterator[Read]:
    """Yield all records of a topic of letters; on a terminal, show the progress.

    It ends early at ``until_s`` of the monotonic clock. Raises SourceError without such a topic.
    """
    shown = progress and moves_cursor(sys.stderr)
    next_s, count, said = time.monotonic() + SHOW_EVERY_S, 0, False
    try:
        for poll in polls(settings, topic):
            for row, record in enumerate(records(poll)):
                yield Read(poll.partition, poll.offset_of(row), record)
            count += poll.count
            now_s = time.monotonic()
            if until_s is not None and now_s > until_s:
                return
            if shown and now_s >= next_s:
                next_s, said = now_s + SHOW_EVERY_S, True
                left = f", {poll.lag:,} left in its partition {poll.partition}"
                sys.stderr.write(f"{CLEARED}reading {topic}: {count:,} records{left}")
                sys.stderr.flush()
    finally:
        if said:
            sys.stderr.write(CLEARED)
            sys.stderr.flush()


def whole_letters(
    settings: Settings, letters: Sequence[Letter], topic: str = DEAD_LETTERS.name
) -> dict[tuple[str, Place], DeadLetter | LateEvent]:
    """Return the letters with their payloads, by flow and place."""
    from footfall.schemas.dead_letters import dead_letter_of, late_event_of
    from footfall.streams.source import Position

    found: dict[tuple[str, Place], DeadLetter | LateEvent] = {}
    decode = dead_letter_of if topic == DEAD_LETTERS.name else late_event_of
    for partition in sorted({letter.stands[0] for letter in letters}):
        wanted = {letter.stands[1] for letter in letters if letter.stands[0] == partition}
        for poll in polls(
            settings,
            topic,
            start=Position("offset", min(wanted)),
            end=Position("offset", max(wanted) + 1),
            partitions=(partition,),
        ):
            for row, record in enumerate(records(poll)):
                letter = decode(record) if poll.offset_of(row) in wanted else None
                if letter is not None:
                    place = Place(letter.topic, letter.partition, letter.offset)
                    found[letter.flow, place] = letter
    return found


class RetryTopics:
    """The topics as a retry needs them (``cli.letters.retry.Topics``)."""

    def __init__(self, settings: Settings) -> None:
        from footfall.sinks.letters import LetterWriter
        from footfall.sinks.open import open_topics

        self._settings = settings
        self._records = open_topics(settings)
        self._notes = LetterWriter(open_topics(settings), DEAD_LETTERS.name)
        self._end_of = end_of(settings)
        self._read: dict[str, KeptTopic] = {}

    def partitions(self, topic: str) -> int:
        """Return the number of partitions; 0 where there is no such topic."""
        return self._records.partitions(topic) or 0

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the record that is appended next."""
        return self._end_of(topic, partition)

    def read(self, topic: str, partition: int, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, record) from ``start`` to the end. Raises TopicError."""
        from footfall.streams.source import Position, SourceError

        first = Position("offset", start)
        try:
            for poll in polls(self._settings, topic, start=first, partitions=(partition,)):
                for row, record in enumerate(records(poll)):
                    yield poll.offset_of(row), record
        except SourceError as error:
            raise TopicError(str(error)) from None

    def payloads(self, letters: Sequence[Letter]) -> dict[Place, bytes]:
        """Return what the letters hold of their records, cut or whole."""
        from footfall.schemas.dead_letters import payload_of

        whole = whole_letters(self._settings, letters)
        return {place: payload_of(letter) for (_, place), letter in whole.items()}

    def record_at(self, place: Place) -> TopicRecord:
        """Return the record with all that its topic keeps of it. Raises TopicError."""
        from footfall.streams.open import open_topic
        from footfall.streams.source import SourceError

        if place.topic not in self._read:
            self._read[place.topic] = open_topic(self._settings, place.topic, group=GROUP)
        try:
            return self._read[place.topic].record_at(place.partition, place.offset)
        except SourceError as error:
            raise TopicError(str(error)) from None

    def send(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        """Append to the partition; return when all are acknowledged. Raises SinkError."""
        self._records.write_to(topic, partition, records)

    def note(self, notes: Sequence[RetryNote]) -> None:
        """Append notes to the dead letters, in order; return when all are acknowledged."""
        from footfall.schemas.dead_letters import Retry

        self._notes.write([Retry(note) for note in notes])

    def close(self) -> None:
        """Release connections. Never raises."""
        self._records.close()
        self._notes.close()
