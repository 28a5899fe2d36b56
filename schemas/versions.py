"""The version of a window's row: which of two writes of the same row wins.

version = generation, then events seen, then phase. A backfill with a higher generation wins
over what it corrects even where its counts are lower; within a generation a fuller row wins
over a partial one; and the final row of a closed window wins over the provisional one.
"""

from __future__ import annotations

GENERATION_SHIFT = 48
EVENTS_SHIFT = 2

PROVISIONAL, FINAL, REVISED = 0, 1, 2
GENERATION_MAX = 2**15 - 1
"""Highest generation, which keeps a version positive in 64 signed bits."""


def version_of(generation: int, events: int, phase: int) -> int:
    """Return the version of a row. Raises ValueError for a generation out of range."""
    if not 0 <= generation <= GENERATION_MAX:
        raise ValueError(f"generation {generation} is not within 0 to {GENERATION_MAX}")
    return (generation << GENERATION_SHIFT) | (events << EVENTS_SHIFT) | phase


def events_of(version: int) -> int:
    """Return the number of events that the row of this version has seen."""
    return (version & ((1 << GENERATION_SHIFT) - 1)) >> EVENTS_SHIFT


def phase_of(version: int) -> int:
    """Return the phase of a version: PROVISIONAL, FINAL or REVISED."""
    return version & 3
