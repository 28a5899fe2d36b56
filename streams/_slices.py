"""The slices that a poll is decoded in, and which of them must be read again line by line."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streams._decode_each import Bad
from streams.batch import Int64s, Poll
from streams.lines import Lines, newlines
from streams.times import BAD_TIME, parse_lines_ms

CUTS_MAX = 4
"""Where more lines of a slice are bad, all that are left are looked at more closely."""


@dataclass(slots=True)
class Slice:
    """Whole lines of a poll, from byte ``start`` to ``stop``, and what was made of them."""

    start: int
    stop: int
    lines: int = 0
    count: int = 0
    """Records that were lifted."""
    times: str = ""
    """Their event times, joined by newlines."""
    places: list[int] | None = None
    """Where they are among the lines; None where every line is one of them."""
    bad: Bad = field(default_factory=dict)
    """What the other lines are."""
    culprit: int | None = None
    """This line, or the one before, could not be decoded; None where that is not known."""
    is_suspect: bool = False
    """Whether one of its lines is bad, most likely."""
    again: bool = False
    """Whether it must be read line by line: what was lifted is not to be used."""

    def read(self, data: bytes) -> list[bytes]:
        """Its lines, without their newlines."""
        return data[self.start : self.stop].split(b"\n")[:-1]


def cut(data: bytes, start: int, stop: int, size: int) -> list[Slice]:
    """Slices of about ``size`` bytes, from start to stop; a longer line is one by itself."""
    slices = []
    while start < stop:
        end = data.rfind(b"\n", start, min(start + size, stop)) + 1
        slices.append(Slice(start, end or data.find(b"\n", start, stop) + 1 or stop))
        start = slices[-1].stop
    return slices


def cut_out(data: bytes, piece: Slice) -> list[Slice]:
    """The slice as several: what is before its culprit, that with the line before, and the rest.

    None at all where that leaves it as it is.
    """
    if piece.culprit is None:
        return []
    ends = newlines(data, piece.start, piece.stop) + 1
    starts = [piece.start, *ends.tolist()]
    first, last = max(piece.culprit - 1, 0), piece.culprit + 1
    if last >= len(starts) or (first == 0 and last == len(ends)):
        return []
    suspect = Slice(starts[first], starts[last], is_suspect=True)
    around = Slice(piece.start, suspect.start), suspect, Slice(suspect.stop, piece.stop)
    return [part for part in around if part.start < part.stop]


def has_longer(data: bytes, piece: Slice, bytes_max: int) -> bool:
    """Whether a line of the slice is longer; most lines are passed over without being found."""
    start = piece.start
    while piece.stop - start > bytes_max + 1:
        start = data.rfind(b"\n", start, start + bytes_max + 1) + 1
        if start == 0:
            return True
    return False


def lines_of(slices: list[Slice]) -> Lines:
    """What is known of the lines of a poll."""
    starts = [piece.start for piece in slices] or [0]
    return Lines(np.array(firsts(slices) or [0]), np.array(starts))


def read_times(slices: list[Slice]) -> Int64s:
    """The event time of each record that was lifted, BAD_TIME where a text is none.

    Marks the slices of which a text holds a newline: their texts cannot be told apart.
    """
    lifted = [piece for piece in slices if piece.count]
    count = sum(piece.count for piece in lifted)
    times = parse_lines_ms("\n".join([*(piece.times for piece in lifted), ""]), count)
    return np.concatenate([*map(_times_of, lifted)]) if times is None else times


def _times_of(piece: Slice) -> Int64s:
    times = parse_lines_ms(piece.times + "\n", piece.count)
    if times is None:
        piece.again = True
        times = np.full(piece.count, BAD_TIME, dtype=np.int64)
    return times


def mark_sent_again(poll: Poll, slices: list[Slice]) -> None:
    """Mark the slices of which a record was sent again."""
    if poll.sent_again:
        ends = np.cumsum([piece.lines for piece in slices])
        for place in np.searchsorted(ends, poll.sent_again, side="right"):
            slices[place].again = True


def firsts(slices: list[Slice]) -> list[int]:
    """The place in the poll of the first line of each slice."""
    return [0, *np.cumsum([piece.lines for piece in slices]).tolist()][:-1]


def rows_of(slices: list[Slice]) -> Int64s | None:
    """The place in the poll of each record that was lifted; None where every line is one."""
    if all(piece.places is None for piece in slices):
        return None
    return np.concatenate(
        [
            first + (np.arange(piece.lines) if piece.places is None else _places(piece.places))
            for first, piece in zip(firsts(slices), slices, strict=True)
        ]
    )


def _places(places: list[int]) -> Int64s:
    return np.array(places, dtype=np.int64)


def bad_of(slices: list[Slice]) -> Bad:
    """What the lines are that are no good records, by their place in the poll."""
    return {
        first + place: why
        for first, piece in zip(firsts(slices), slices, strict=True)
        for place, why in piece.bad.items()
    }
