"""Progress of a command that reads a topic: a line that is rewritten, or one now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO

from footfall.cli.terminal import CLEARED, moves_cursor

REWRITE_EVERY_S = 0.2
LINE_EVERY_S = 5.0


class Told:
    """Says on stderr how far the reading is. It is called with (records read, records left)."""

    def __init__(self, name: str, out: IO[str] | None = None) -> None:
        self._name = name
        self._out = out if out is not None else sys.stderr
        self._is_terminal = moves_cursor(self._out)
        self._said_s = time.monotonic()
        self._earlier = 0
        self._read = 0
        self._part = ""

    def __enter__(self) -> Told:
        return self

    def part(self, number: int, count: int) -> None:
        """Begin the next part, of so many."""
        self._earlier += self._read
        self._read = 0
        self._part = f"part {number + 1} of {count}"

    def __call__(self, read: int, left: int) -> None:
        self._read = read
        now_s = time.monotonic()
        if now_s - self._said_s < (REWRITE_EVERY_S if self._is_terminal else LINE_EVERY_S):
            return
        self._said_s = now_s
        line = f"{self._name}: {self._part}, {self._earlier + read:,} read, {left:,} left in it"
        self._out.write(f"{CLEARED}{line}" if self._is_terminal else f"{line}\n")
        self._out.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_terminal:
            self._out.write(CLEARED)
            self._out.flush()
