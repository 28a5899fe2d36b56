"""The plan of a retry: the records to send again, and why the others are not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from footfall.cli.letters.read import Letter, Letters, Place

Record = list[Letter]
"""The letters of one record, one per flow."""
Positions = Mapping[str, Mapping[tuple[str, int], int]]
"""The next offset that each flow reads, by flow and (topic, partition)."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is not sent, and why."""

    place: Place
    why: str


@dataclass(slots=True)
class Plan:
    """The records to send, and those that are not sent."""

    send: list[Record] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def plan(
    records: Iterable[Record],
    letters: Letters,
    positions: Positions,
    partitions: Callable[[str], int],
    has_ranges: Callable[[str], bool],
    *,
    force: bool = False,
) -> Plan:
    """Divide records into those to send and those not to. ``force`` ignores other flows.

    ``has_ranges`` tells whether ranges of a flow can be replayed instead.
    """
    found = Plan()
    counts: dict[str, int] = {}
    for record in records:
        place = record[0].place
        if place.topic not in counts:
            counts[place.topic] = partitions(place.topic)
        why = "it was sent again before" if letters.was_sent(place) else None
        why = why or why_never(record, counts[place.topic])
        if why is None and not force:
            why = why_not_twice(record, positions, has_ranges)
        if why is None:
            found.send.append(record)
        else:
            found.skipped.append(Skipped(place, why))
    return found


def why_never(record: Record, partitions: int) -> str | None:
    """Return why a record can never be sent again; None where it can."""
    codes, place = {letter.code for letter in record}, record[0].place
    if "bad_row" in codes:
        return "it is a row of a file and not of a topic: mend the file and replay that"
    if "empty" in codes:
        return "it is empty: no fix can read it"
    if "too_large" in codes:
        return "it is over the limit of a record, and would be again"
    if not partitions:
        return f"there is no topic {place.topic} here"
    if place.partition >= partitions:
        return f"topic {place.topic} has only {partitions} partitions: was it made anew?"
    return None


def why_not_twice(
    record: Record, positions: Positions, has_ranges: Callable[[str], bool]
) -> str | None:
    """Return why a flow without a letter for this record would count it twice, or None."""
    place, dead_in = record[0].place, {letter.flow for letter in record}
    for flow, read in sorted(positions.items()):
        next_offset = read.get((place.topic, place.partition))
        if flow in dead_in or next_offset is None:
            continue
        instead = " and ".join(
            f"`footfall replay {name} --from T --to T` around its time"
            for name in sorted(filter(has_ranges, dead_in))
        )
        if next_offset > place.offset:
            way = f"{instead} instead, or --force" if instead else "--force sends it all the same"
            return f"{flow} has used it and would count it twice: {way}"
        return (
            f"{flow} is at {next_offset}, has not read it yet and might count it twice: let "
            f"it catch up first, {f'or {instead}, ' if instead else ''}or --force"
        )
    return None
