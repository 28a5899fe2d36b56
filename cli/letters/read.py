"""Dead letters and late events as they are in their topics: each once, with its retry note.

Payloads stay in the topic: a letter here is small, and has the place of the whole one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from footfall.cli.errors import FailureError, UsageError

if TYPE_CHECKING:
    from footfall.schemas.dead_letters import DeadLetter, LateEvent, RetryNote

LETTERS_MAX = 2_000_000
"""Letters held at once, about 300 bytes each."""
REASON_CHARS_MAX = 300
LATE = "late"
"""Used in place of a late event's reason code."""

_PLACE = re.compile(r"(.+)/(\d{1,10}):(\d{1,18})")


class Place(NamedTuple):
    """The topic, partition and offset at which a record was first read."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}:{self.offset}"


def parse_place(text: str) -> Place:
    """Read a place, which ``ls`` prints as TOPIC/PARTITION:OFFSET. Raises UsageError."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no place of a record: takes TOPIC/PARTITION:OFFSET")
    return Place(found[1], int(found[2]), int(found[3]))


class Letter(NamedTuple):
    """One letter without its payload."""

    flow: str
    place: Place
    code: str
    reason: str
    payload_bytes: int
    kept_bytes: int
    """Bytes of the payload that the letter has; fewer than ``payload_bytes`` where it was cut."""
    stands: tuple[int, int]
    """Partition and offset of the letter in its own topic."""

    @property
    def is_cut(self) -> bool:
        """Tell whether the letter holds only the beginning of the record."""
        return self.kept_bytes < self.payload_bytes


class Read(NamedTuple):
    """A record of a topic of letters: its place and its bytes."""

    partition: int
    offset: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of letters; None or an empty set means any."""

    flow: str | None = None
    code: str | None = None
    topic: str | None = None
    places: frozenset[Place] = frozenset()

    def takes(self, letter: Letter) -> bool:
        """Tell whether this letter is chosen."""
        return (
            (self.flow is None or letter.flow == self.flow)
            and (self.code is None or letter.code == self.code)
            and (self.topic is None or letter.place.topic == self.topic)
            and (not self.places or letter.place in self.places)
        )


@dataclass(slots=True)
class Letters:
    """All letters by record and flow, and the retry notes of the records."""

    letters: dict[Place, dict[str, Letter]] = field(default_factory=dict)
    notes: dict[Place, RetryNote] = field(default_factory=dict)
    """Newest note of each record that has one: ``sent``, or an open intent."""
    count: int = 0

    def add(self, letter: Letter) -> None:
        """Add a letter; one that is there already changes nothing. Raises FailureError."""
        of_record = self.letters.setdefault(letter.place, {})
        if letter.flow in of_record:
            return
        of_record[letter.flow] = letter
        self.count += 1
        if self.count > LETTERS_MAX:
            raise FailureError(
                f"there are more than {LETTERS_MAX:,} letters: take fewer with --topic or --flow"
            )

    def note(self, note: RetryNote) -> None:
        """Add a note; those of one record come in the order in which they were written."""
        place = Place(note.topic, note.partition, note.offset)
        standing = self.notes.get(place)
        if standing is not None and standing.step == "sent":
            return
        if note.step == "not_sent":
            self.notes.pop(place, None)
        elif note.step == "sent" or standing is None or note.end_offset < standing.end_offset:
            self.notes[place] = note

    def was_sent(self, place: Place) -> bool:
        """Tell whether the record was sent again."""
        note = self.notes.get(place)
        return note is not None and note.step == "sent"

    def records(self, choice: Choice, *, sent_too: bool) -> list[list[Letter]]:
        """Return the letters of each record of which one letter is chosen, in order of place."""
        return [
            sorted(of_record.values(), key=lambda letter: letter.flow)
            for place, of_record in sorted(self.letters.items())
            if (sent_too or not self.was_sent(place))
            and any(map(choice.takes, of_record.values()))
        ]


def collect(
    reads: Iterable[Read], *, late: bool = False, keep: Callable[[Letter], bool] = lambda _: True
) -> Letters:
    """Collect the letters and notes among the records; others are ignored."""
    from footfall.schemas.dead_letters import dead_letter_of, late_event_of, retry_note_of

    found = Letters()
    for read in reads:
        note = None if late else retry_note_of(read.record)
        if note is not None:
            found.note(note)
            continue
        whole = late_event_of(read.record) if late else dead_letter_of(read.record)
        if whole is not None:
            letter = light(whole, (read.partition, read.offset))
            if keep(letter):
                found.add(letter)
    return found


def light(letter: DeadLetter | LateEvent, stands: tuple[int, int]) -> Letter:
    """Return the letter without its payload."""
    from footfall.schemas.dead_letters import LateEvent, payload_of

    if isinstance(letter, LateEvent):
        code, reason = LATE, f"event of {letter.time}, watermark at {letter.watermark}"
    else:
        code, reason = letter.code, letter.reason
    return Letter(
        flow=letter.flow,
        place=Place(letter.topic, letter.partition, letter.offset),
        code=code,
        reason=reason[:REASON_CHARS_MAX],
        payload_bytes=letter.payload_bytes,
        kept_bytes=len(payload_of(letter)),
        stands=stands,
    )


class Group(NamedTuple):
    """The letters of one flow, topic and reason code."""

    flow: str
    topic: str
    code: str
    letters: int
    first: Place
    last: Place
    example: str


def grouped(letters: Iterable[Letter]) -> list[Group]:
    """Return the letters counted, most first; first and last are by partition and offset."""
    groups: dict[tuple[str, str, str], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.flow, letter.place.topic, letter.code), []).append(letter)
    counted = [
        Group(
            *key,
            letters=len(found),
            first=min(letter.place for letter in found),
            last=max(letter.place for letter in found),
            example=min(found, key=lambda letter: letter.place).reason,
        )
        for key, found in groups.items()
    ]
    return sorted(counted, key=lambda group: (-group.letters, group[:3]))


def printable(text: str) -> str:
    """Return the text with control characters, which a terminal would obey, written out."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def chosen(records: Iterable[list[Letter]], choice: Choice) -> Iterator[Letter]:
    """Yield the letters of the records that are chosen themselves."""
    return (letter for record in records for letter in record if choice.takes(letter))
