"""A retry that is killed at any step and begun again has sent each record exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.cli.letters.read import Choice, Letter, Letters, Place, Read, collect
from footfall.cli.letters.retry import Outcome, Retry, TopicError
from footfall.schemas import dead_letters as written_as
from footfall.schemas.dead_letters import (
    Code,
    DeadLetter,
    RetryNote,
    dead_letter_of,
    encode,
    payload_fields,
    payload_of,
)
from footfall.schemas.records import TopicRecord

TOPIC = "user_tags"


class KilledError(Exception):
    """The process ends here."""


class World:
    """Topics in memory, and a process that is killed before its n-th effect on them."""

    def __init__(self, payloads: Mapping[int, Sequence[bytes]], cut_to: int | None = None) -> None:
        self.first_ends = {number: len(values) for number, values in payloads.items()}
        self.partitions_ = {number: list(values) for number, values in payloads.items()}
        self.removed_before = dict.fromkeys(payloads, 0)
        self.written = [
            encode(_letter(number, offset, payload, cut_to))
            for number, values in payloads.items()
            for offset, payload in enumerate(values)
        ]
        self.effects_left: int | None = None
        self.carried: dict[tuple[int, int], tuple[Any, ...]] = {}
        """Key, headers and time of records, by partition and offset."""

    def letters(self) -> Letters:
        return collect(Read(0, at, record) for at, record in enumerate(self.written))

    def run(
        self,
        *,
        killed_after: int | None = None,
        choice: Choice | None = None,
        batch_records: int = 3,
        force: bool = False,
    ) -> Outcome | None:
        """Run one command; return None where it was killed."""
        self.effects_left = killed_after
        letters = self.letters()
        retry = Retry(self, letters, lambda: 0, force=force, batch_records=batch_records)
        try:
            return retry.run(letters.records(choice or Choice(), sent_too=False))
        except KilledError:
            return None

    def sent(self, partition: int) -> list[bytes]:
        """Return what was appended to a partition, without the records of others."""
        after = self.partitions_[partition][self.first_ends[partition] :]
        return [value for value in after if not value.startswith(b"other")]

    def _effect(self) -> None:
        if self.effects_left == 0:
            raise KilledError
        if self.effects_left is not None:
            self.effects_left -= 1

    def partitions(self, topic: str) -> int:
        return len(self.partitions_)

    def end_offset(self, topic: str, partition: int) -> int:
        return len(self.partitions_[partition])

    def read(self, topic: str, partition: int, start: int) -> Iterator[tuple[int, bytes]]:
        values = self.partitions_[partition]
        if not self.removed_before[partition] <= start <= len(values):
            raise TopicError(f"offset {start} was removed by retention")
        yield from list(enumerate(values))[start:]

    def record_at(self, place: Place) -> TopicRecord:
        _, partition, offset = place
        if offset < self.removed_before[partition]:
            raise TopicError(f"offset {offset} was removed by retention")
        value = self.partitions_[partition][offset]
        return TopicRecord(value, *self.carried.get((partition, offset), ()))

    def payloads(self, letters: Sequence[Letter]) -> Mapping[Place, bytes]:
        found = {}
        for letter in letters:
            whole = dead_letter_of(self.written[letter.stands[1]])
            assert whole is not None
            found[letter.place] = payload_of(whole)
        return found

    def send(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        for value, *carried in records:
            self._effect()
            values = self.partitions_[partition]
            self.carried[partition, len(values)] = tuple(carried)
            values.append(value)

    def note(self, notes: Sequence[RetryNote]) -> None:
        for note in notes:
            self._effect()
            self.written.append(encode(written_as.Retry(note)))


def _letter(
    partition: int, offset: int, payload: bytes, cut_to: int | None, code: Code = "not_json"
) -> DeadLetter:
    fields = payload_fields(payload)
    if cut_to is not None:
        fields["payload"] = payload[:cut_to].decode()
    return DeadLetter("a", TOPIC, partition, offset, code, "no JSON", **fields)  # type: ignore[arg-type]


few_bytes = st.sampled_from([b"x", b"y", b"z"])
worlds = st.dictionaries(
    st.integers(0, 2), st.lists(few_bytes, min_size=1, max_size=7), min_size=1, max_size=3
)


@given(worlds, st.lists(st.integers(0, 40), max_size=4), st.integers(1, 4), st.booleans())
@settings(deadline=None, max_examples=300, print_blob=True)
def test_killed_anywhere_each_record_is_sent_once_and_in_order(
    payloads: dict[int, list[bytes]], kills: list[int], batch_records: int, others: bool
) -> None:
    world = World(payloads)
    for killed_after in kills:
        world.run(killed_after=killed_after, batch_records=batch_records)
        if others:
            for values in world.partitions_.values():
                values.append(b"other")
    assert world.run(batch_records=batch_records) is not None
    for partition, values in payloads.items():
        assert world.sent(partition) == values
    assert world.letters().records(Choice(), sent_too=False) == []
    before = len(world.written)
    again = world.run()
    assert again is not None and again.sent == again.stood == 0
    assert len(world.written) == before


@given(worlds, st.data(), st.integers(1, 4))
@settings(deadline=None, max_examples=300, print_blob=True)
def test_also_where_each_command_chooses_others(
    payloads: dict[int, list[bytes]], data: st.DataObject, batch_records: int
) -> None:
    world = World(payloads)
    places = sorted(world.letters().letters)
    for _ in range(data.draw(st.integers(1, 5))):
        chosen = frozenset(data.draw(st.sets(st.sampled_from(places), min_size=1)))
        killed_after = data.draw(st.integers(0, 30))
        world.run(
            killed_after=killed_after, choice=Choice(places=chosen), batch_records=batch_records
        )
    assert world.run(batch_records=batch_records) is not None
    for partition, values in payloads.items():
        assert Counter(world.sent(partition)) == Counter(values)


def test_every_single_step_by_itself() -> None:
    payloads = {0: [b"x", b"x", b"y", b"x"], 1: [b"x"]}
    steps = 0
    while True:
        world = World(payloads)
        whole = world.run(killed_after=steps) is not None
        world.run()
        assert (world.sent(0), world.sent(1)) == (payloads[0], payloads[1]), steps
        if whole:
            break
        steps += 1
    assert steps == 15  # of five records: an intent, the record, and that it was sent


def test_records_that_stood_already_are_told_of() -> None:
    world = World({0: [b"x", b"y"]})
    assert world.run(killed_after=3) is None  # two intents and a record
    outcome = world.run()
    assert outcome is not None and (outcome.sent, outcome.stood) == (1, 1)


def test_a_cut_payload_is_read_whole_from_its_topic() -> None:
    world = World({0: [b"long one", b"long two"]}, cut_to=4)
    outcome = world.run()
    assert outcome is not None and outcome.sent == 2
    assert world.sent(0) == [b"long one", b"long two"]


@pytest.mark.parametrize("instead", [b"another", b"LONG two", b"long is another record"])
def test_a_cut_payload_whose_record_is_gone_is_not_sent(instead: bytes) -> None:
    world = World({0: [b"long one", b"long two"]}, cut_to=4)
    world.partitions_[0][1] = instead
    outcome = world.run()
    assert outcome is not None and outcome.sent == 1
    (skipped,) = outcome.skipped
    assert str(skipped.place) == "user_tags/0:1" and "4 of its 8 bytes" in skipped.why


def test_what_cannot_be_told_any_more_is_sent_only_when_forced() -> None:
    world = World({0: [b"x", b"y"]})
    world.run(killed_after=3)
    world.removed_before[0] = 3
    outcome = world.run()
    assert outcome is not None and outcome.sent == 0
    assert all("removed by retention" in one.why for one in outcome.skipped)
    assert len(outcome.skipped) == 2
    forced = world.run(force=True)
    assert forced is not None and forced.sent == 2


def test_a_record_from_before_an_intent_is_not_the_one_it_meant() -> None:
    world = World({0: [b"x", b"x", b"y"]})
    world.note([RetryNote(TOPIC, 0, 0, "intent", 3, 0)])
    world.partitions_[0] += [b"x", b"other", b"other"]
    world.note([RetryNote(TOPIC, 0, 1, "intent", 5, 0)])
    outcome = world.run()
    assert outcome is not None and (outcome.stood, outcome.sent) == (1, 2)
    assert world.sent(0) == [b"x", b"x", b"y"]
    world = World({0: [b"x"]})
    world.note([RetryNote(TOPIC, 0, 0, "intent", 1, 0)])
    assert world.run() is not None and world.sent(0) == [b"x"]


def test_a_record_is_sent_with_all_that_its_topic_keeps_of_it() -> None:
    world = World({0: [b"x", b"y", b"z", b"w"]})
    kept = (b"key", (("trace", b"1"), ("none", None)), 5)
    world.carried = {(0, offset): kept for offset in range(4)}
    # One that came from the future is judged by when it is appended; one flow says so.
    world.written[1] = encode(_letter(0, 1, b"y", None, "future_time"))
    world.removed_before[0] = 1
    world.partitions_[0][3] = b"another, since its topic was made anew"
    outcome = world.run()
    assert outcome is not None
    assert outcome.sent == 4
    assert [world.carried[0, offset] for offset in range(4, 8)] == [
        (None, (), None),
        (*kept[:2], None),
        kept,
        (None, (), None),
    ]
    assert [(one.place.offset, one.why) for one in outcome.values_alone] == [
        (0, "offset 0 was removed by retention"),
        (3, "another record stands in its place: its topic was made anew"),
    ]


def test_a_record_of_several_lines_is_the_one_that_was_read_as_one() -> None:
    world = World({0: [b"x y"]})
    world.partitions_[0][0] = b"x\ny"
    world.carried[0, 0] = b"key", (), 1
    outcome = world.run()
    assert outcome is not None
    assert (outcome.sent, outcome.values_alone) == (1, [])
    assert world.sent(0) == [b"x\ny"]
