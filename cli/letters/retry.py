"""Sends the records of dead letters again, each exactly once, also through a crash.

Before records are appended, an intent is noted with the end of their partition; afterwards, a
note that they were sent. An open intent means that a retry was broken off: the records appended
since then are searched for the same bytes, to find out which of its records are there.

Nothing here knows files or servers: topics are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from footfall.cli.letters.plan import Record, Skipped
from footfall.cli.letters.read import Letter, Letters, Place

if TYPE_CHECKING:
    from footfall.schemas.dead_letters import RetryNote, RetryStep
    from footfall.schemas.records import TopicRecord

BATCH_RECORDS = 500
BATCH_BYTES = 8_388_608
"""Payload bytes per batch, unless a single payload is longer."""

Clock = Callable[[], int]


class TopicError(Exception):
    """The record at an offset is not there any more."""


class Topics(Protocol):
    """The topics as a retry needs them."""

    def partitions(self, topic: str) -> int:
        """Return the number of partitions; 0 where there is no such topic."""

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the record that is appended next."""

    def read(self, topic: str, partition: int, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, record) from ``start`` on. Raises TopicError where that is not there."""

    def payloads(self, letters: Sequence[Letter]) -> Mapping[Place, bytes]:
        """Return what the letters hold of their records, cut or whole."""

    def record_at(self, place: Place) -> TopicRecord:
        """Return the record with all that its topic keeps of it. Raises TopicError."""

    def send(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        """Append records in order; return when all are acknowledged."""

    def note(self, notes: Sequence[RetryNote]) -> None:
        """Append notes in order; return when all are acknowledged."""


@dataclass(slots=True)
class Outcome:
    """The result of a retry."""

    sent: int = 0
    stood: int = 0
    """Records that an earlier retry, which was broken off, had sent."""
    skipped: list[Skipped] = field(default_factory=list)
    values_alone: list[Skipped] = field(default_factory=list)
    """Records that were sent without their key, headers and time, and why."""


class Retry:
    """Sends records again. Only one at a time may work on the same topics."""

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
        """Prepare a retry. ``force`` also sends records that an earlier retry may have sent.

        ``sent`` is called with the number of records sent, once per batch.
        """
        self._topics = topics
        self._letters = letters
        self._clock_ms = clock_ms
        self._force = force
        self._batch_records = batch_records
        self._sent = sent
        self._outcome = Outcome()

    def run(self, records: Sequence[Record]) -> Outcome:
        """Send the records, in order of place; first settle what was broken off before."""
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

        All of them, chosen or not: new records could not be told from those that were meant then.
        Returns the places for which this cannot be found out.
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
        # In this order: if it is broken off in between, found records are searched for again.
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

        ``alone`` is called for those of which only the value is left.
        """
        from footfall.schemas.records import TopicRecord

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
                # "Future" is judged by the append time: by now the event's time may have come.
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
        from footfall.schemas.dead_letters import RetryNote

        return RetryNote(*place, step=step, end_offset=end_offset, noted_ms=self._clock_ms())

    def _write(self, notes: Sequence[RetryNote]) -> None:
        if notes:
            self._topics.note(notes)
            for note in notes:
                self._letters.note(note)


class _Missing:
    """Records that are searched for in a partition by their bytes, each from an offset on."""

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
        """Forget what was found, as if nothing had been."""
        self._found.clear()

    def divide(self) -> tuple[list[Place], list[Place]]:
        """Return (places found, places not found); each record there counts for one place."""
        stood: list[Place] = []
        not_there: list[Place] = []
        for digest, wanted in self._wanted.items():
            offsets = self._found.get(digest, [])
            # The latest start has the fewest candidates; of equal starts the first was sent first.
            for start, place in sorted(wanted, key=lambda one: (-one[0], one[1])):
                if offsets and offsets[-1] >= start:
                    offsets.pop()
                    stood.append(place)
                else:
                    not_there.append(place)
        return sorted(stood), sorted(not_there)


def _one_line(value: bytes) -> bytes:
    """Return a record as its letter has it: in Kafka it may span several lines."""
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
