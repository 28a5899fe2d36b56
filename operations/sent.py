"""The sources that generators of this home have sent, simulated ones told from real ones."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Sent(msgspec.Struct, frozen=True):
    """One source: a file, or a simulated world."""

    name: str
    is_simulated: bool
    rows: int
    """Rows that were acknowledged when the progress was last saved."""
    topics: list[str]


class _Progress(msgspec.Struct):
    """The part of ``generator.progress.Progress`` that is needed here."""

    identity: str
    rows: int
    end_offsets: dict[str, list[int]]


_decode = msgspec.json.Decoder(_Progress).decode


def read_sent(home: Path) -> list[Sent]:
    """Return the sources that ever sent something, by name; unreadable files are skipped."""
    found = []
    for path in sorted((home / "generator").glob("*.json")):
        try:
            progress = _decode(path.read_bytes())
        except (OSError, msgspec.DecodeError):
            continue
        is_file = progress.identity.startswith("file ")
        found.append(Sent(path.stem, not is_file, progress.rows, sorted(progress.end_offsets)))
    return found
