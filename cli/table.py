"""A table on the terminal: plain text, columns aligned, numbers to the right."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import IO

GAP = "  "
_WIDTH_WITHOUT_TERMINAL = 10_000


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], out: IO[str] | None = None
) -> None:
    """Print rows under their column names.

    Lines are cut at the terminal's edge; without a terminal nothing is cut.
    """
    target = out if out is not None else sys.stdout
    width = shutil.get_terminal_size().columns if target.isatty() else _WIDTH_WITHOUT_TERMINAL
    for line in table_lines(columns, rows):
        print(line if len(line) <= width else line[: width - 1] + "…", file=target)


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table: names, a rule, rows."""
    texts = [[cell_text(value) for value in row] for row in rows]
    widths = [
        max([len(name), *(len(row[place]) for row in texts)]) for place, name in enumerate(columns)
    ]
    right = [
        bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        for place in range(len(columns))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        return GAP.join(padded).rstrip()

    return [line(columns), GAP.join("-" * width for width in widths), *map(line, texts)]


def cell_text(value: object) -> str:
    """Return a value as a table shows it: NULL for None, no line breaks."""
    if value is None:
        return "NULL"
    return " ".join(str(value).splitlines()) if isinstance(value, str) else str(value)
