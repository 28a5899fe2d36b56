"""Random draws without state: every draw is a function of (seed, lane, index).

A world drawn this way can be entered at any index and cut into batches anywhere. Only whole
numbers are used, so that the same seed gives the same bytes on every machine.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[np.uint64]
Indices: TypeAlias = NDArray[np.int64]

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
"""Step between indexes, 2**64 divided by the golden ratio: its multiples spread evenly over 64
bits."""
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def mix(values: Bits) -> Bits:
    """Scramble 64-bit values; a bijection, so different values stay different."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(_MIX_1)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(_MIX_2)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def stream_of(seed: int, lane: int) -> int:
    """Return the 64-bit start of a lane: lanes of one seed are independent of each other."""
    start = np.array([(seed * _STEP + lane * _MIX_2 + 1) & _MASK], dtype=np.uint64)
    return int(mix(mix(start))[0])


def draw(seed: int, lane: int, index: Indices) -> Bits:
    """Return 64 random bits for each index."""
    values = index.astype(np.uint64)
    values *= np.uint64(_STEP)
    values += np.uint64(stream_of(seed, lane))
    return mix(values)


def low(bits: Bits) -> Bits:
    """Return the lower 32 bits: half a draw, independent of the other half."""
    return bits & _LOW_32


def high(bits: Bits) -> Bits:
    """Return the upper 32 bits."""
    return bits >> _32


def pick(half: Bits, choices: int) -> Indices:
    """Return a number from 0 to ``choices`` - 1, all equally likely, from half a draw."""
    return ((half * np.uint64(choices)) >> _32).astype(np.int64)


def threshold(share: float) -> np.uint64:
    """Return the bound below which half a draw is with this probability."""
    return np.uint64(round(share * 2**32))


class Weighted:
    """A choice among 0 to n - 1 with whole-number weights."""

    def __init__(self, weights: NDArray[np.uint64]) -> None:
        self._ends = np.cumsum(weights, dtype=np.uint64)
        self._total = self._ends[-1]

    def pick(self, bits: Bits) -> Indices:
        """Return one choice from each whole draw."""
        chosen: Indices = np.searchsorted(self._ends, bits % self._total, side="right")
        return chosen


def zipf(choices: int, flatten: int = 0) -> Weighted:
    """Return popularity by rank: the n-th is 1 / (n + ``flatten``) as likely as rank 0 would
    be."""
    ranks = np.arange(1 + flatten, choices + 1 + flatten, dtype=np.uint64)
    return Weighted(np.uint64(2**32) // ranks)
