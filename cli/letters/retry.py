"""Sending the records of dead letters again, each exactly once, also through a crash.

Before records are appended an intent is noted that tells where their partition ends; after it,
that they were sent. An intent that is open was broken off: what was appended since is looked
through for the same bytes, so that it is known which of its records stand there.

Nothing here knows files or servers: topics are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from cli.letters.plan import Record, Skipped
from cli.letters.read import Letter, Letters, Place

if TYPE_CHECKING:
    from schemas.dead_letters import RetryNote, RetryStep
    from schemas.records import TopicRecord

BATCH_RECORDS = 500
BATCH_BYTES = 8_388_608
"""Of payloads, unless a single one is longer."""

Clock = Callable[[], int]


class TopicError(Exception):
    """What stood at an offset is not there any more."""


class Topics(Protocol):
    """What a retry needs of the topics."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 where there is no such topic."""

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset of the record that is appended next."""

    def read(self, topic: str, partition: int, start: int) -> Iterator[tuple[int, bytes]]:
        """(offset, record) from ``start`` on. Raises TopicError where that does not stand."""

    def payloads(self, letters: Sequence[Letter]) -> Mapping[Place, bytes]:
        """What the letters hold of their records, cut or whole."""

    def record_at(self, place: Place) -> TopicRecord:
        """Return the record with all that its topic keeps of it. Raises TopicError."""

    def send(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        """Append records in order; return when all are acknowledged."""

    def note(self, notes: Sequence[RetryNote]) -> None:
        """Append notes in order; return when all are acknowledged."""


@dataclass(slots=True)
class Outcome:
    """What a retry did."""

    sent: int = 0
    stood: int = 0
    """Records that an earlier retry, which was broken off, had sent."""
    skipped: list[Skipped] = field(default_factory=list)
    values_alone: list[Skipped] = field(default_factory=list)
    """Records that were sent without their key, headers and time, and why."""


class Retry:
    """Sends records again. One at a time works on the same topics."""

    def __init__(
        self,
        topics: Topics,
        letters: Letters,
        clock_ms: Clock,
        *,
        force: bool = False,
        batch_records: int = BATCH_RECORDS,
        sent: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """``force`` sends also where it cannot be told any more whether an earlier one did.

        ``sent`` is told of each batch how many records were sent.
        """
        self._topics = topics
        self._letters = letters
        self._clock_ms = clock_ms
        self._force = force
        self._batch_records = batch_records
        self._sent = sent
        self._outcome = Outcome()

    def run(self, records: Sequence[Record]) -> Outcome:
        """Send the records, in order of place; what was broken off before is settled first."""
        ordered = sorted(records, key=lambda record: record[0].place)
        for (topic, partition), group in groupby(ordered, key=_partition):
            wanted = list(group)
            unsure = self._settle(topic, partition, {record[0].place for record in wanted})
            wanted = [
                record
                for record in wanted
                if record[0].place not in unsure and not self._letters.was_sent(record[0].place)
            ]
            for batch in _batches(wanted, self._batch_records):
                self._send(topic, partition, batch)
        return self._outcome

    def _settle(self, topic: str, partition: int, wanted: set[Place]) -> set[Place]:
        """Note for each open intent of the partition whether its record was sent.

        All of them, chosen or not: what is sent next could not be told from what was meant
        then. Gives the places of which it cannot be told.
        """
        open_notes = {
            place: note
            for place, note in self._letters.notes.items()
            if place[:2] == (topic, partition) and note.step == "intent"
        }
        known = [
            self._letters.letters[place]
            for place in sorted(open_notes)
            if place in self._letters.letters
        ]
        if not known:
            return set()
        payloads = self._whole([list(of_record.values()) for of_record in known])
        missing = _Missing()
        for place, record in payloads.items():
            missing.add(place, open_notes[place].end_offset, _one_line(record.value))
        unsure = {next(iter(of.values())).place for of in known} - payloads.keys()
        try:
            start = min((open_notes[place].end_offset for place in payloads), default=0)
            for offset, value in self._topics.read(topic, partition, start) if payloads else ():
                missing.look_at(offset, value)
        except TopicError as error:
            if not self._force:
                why = f"an earlier retry of it was broken off, and {error}; --force sends it"
                self._skip(wanted & payloads.keys(), why)
                return unsure | payloads.keys()
            missing.forget()
        stood, not_sent = missing.divide()
        # In this order: were it broken off between, what was found would still be looked for.
        notes = [self._note(place, "not_sent", open_notes[place].end_offset) for place in not_sent]
        notes += [self._note(place, "sent", open_notes[place].end_offset) for place in stood]
        self._write(notes)
        self._outcome.stood += len(stood)
        return unsure

    def _send(self, topic: str, partition: int, batch: Sequence[Record]) -> None:
        alone: list[Skipped] = []
        records = self._whole(batch, alone.append)
        if not records:
            return
        end_offset = self._topics.end_offset(topic, partition)
        self._write([self._note(place, "intent", end_offset) for place in records])
        self._topics.send(topic, partition, list(records.values()))
        self._write([self._note(place, "sent", end_offset) for place in records])
        self._outcome.sent += len(records)
        self._outcome.values_alone += alone
        self._sent(len(records))

    def _whole(
        self, batch: Sequence[Record], alone: Callable[[Skipped], None] = lambda _one: None
    ) -> dict[Place, TopicRecord]:
        """Return the whole records, in the order of the batch; skip those that are lost.

        ``alone`` hears of those of which no more than the value is left.
        """
        from schemas.records import TopicRecord

        best = [min(record, key=lambda letter: letter.is_cut) for record in batch]
        kept = self._topics.payloads(best)
        found: dict[Place, TopicRecord] = {}
        for letter, record in zip(best, batch, strict=True):
            payload = kept.get(letter.place)
            if payload is None:
                self._skip([letter.place], "its letter is gone: retention removed it")
                continue
            try:
                whole = self._from_its_topic(letter, payload)
            except TopicError as error:
                if letter.is_cut:
                    of = f"{len(payload):,} of its {letter.payload_bytes:,} bytes"
                    self._skip([letter.place], f"its letter holds {of}, and {error}")
                    continue
                alone(Skipped(letter.place, str(error)))
                whole = TopicRecord(payload)
            if any(one.code == "future_time" for one in record):
                # It is judged by when it was appended: by now its time may have come.
                whole = whole._replace(timestamp_ms=None)
            found[letter.place] = whole
        return found

    def _from_its_topic(self, letter: Letter, kept: bytes) -> TopicRecord:
        record = self._topics.record_at(letter.place)
        value = _one_line(record.value)
        if len(value) == letter.payload_bytes and value.startswith(kept):
            return record
        raise TopicError("another record stands in its place: its topic was made anew")

    def _skip(self, places: Iterable[Place], why: str) -> None:
        self._outcome.skipped += [Skipped(place, why) for place in sorted(places)]

    def _note(self, place: Place, step: RetryStep, end_offset: int) -> RetryNote:
        from schemas.dead_letters import RetryNote

        return RetryNote(*place, step=step, end_offset=end_offset, noted_ms=self._clock_ms())

    def _write(self, notes: Sequence[RetryNote]) -> None:
        if notes:
            self._topics.note(notes)
            for note in notes:
                self._letters.note(note)


class _Missing:
    """Records that are looked for in a partition by their bytes, each from an offset on."""

    def __init__(self) -> None:
        self._wanted: dict[bytes, list[tuple[int, Place]]] = {}
        self._found: dict[bytes, list[int]] = {}

    def add(self, place: Place, start: int, payload: bytes) -> None:
        self._wanted.setdefault(_digest(payload), []).append((start, place))

    def look_at(self, offset: int, value: bytes) -> None:
        digest = _digest(value)
        if digest in self._wanted:
            self._found.setdefault(digest, []).append(offset)

    def forget(self) -> None:
        """None of them was found."""
        self._found.clear()

    def divide(self) -> tuple[list[Place], list[Place]]:
        """(those that stand there, those that do not); one that stands there counts for one."""
        stood: list[Place] = []
        not_there: list[Place] = []
        for digest, wanted in self._wanted.items():
            offsets = self._found.get(digest, [])
            # The last start has the least choice; of equal ones the first was sent first.
            for start, place in sorted(wanted, key=lambda one: (-one[0], one[1])):
                if offsets and offsets[-1] >= start:
                    offsets.pop()
                    stood.append(place)
                else:
                    not_there.append(place)
        return sorted(stood), sorted(not_there)


def _one_line(value: bytes) -> bytes:
    """Return a record as its letter has it: Kafka may hold it over several lines."""
    return value.replace(b"\n", b" ")


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=16).digest()


def _partition(record: Record) -> tuple[str, int]:
    return record[0].place[:2]


def _batches(records: Sequence[Record], records_max: int) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        more = record[0].payload_bytes
        if batch and (len(batch) >= records_max or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += more
    if batch:
        yield batch
