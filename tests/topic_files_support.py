"""Small embedded topics: written, read to their end, and looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from footfall.schemas.topic_files import Append, Appends, segments
from footfall.sinks.topic_files import FileTopics
from footfall.streams.source import EARLIEST, Position
from footfall.streams.topic_files import FileReader, FileTopic

TOPIC = "t"


def write(
    folder: Path, *records: bytes, wall_ms: int = 0, writer: FileTopics | None = None
) -> None:
    """Append records without a key to the one partition of TOPIC."""
    topics = writer or FileTopics(folder, clock_ms=lambda: wall_ms)
    topics.create(TOPIC, 1)
    topics.write(TOPIC, [(None, record) for record in records])
    if writer is None:
        topics.close()


def reader(
    folder: Path,
    *,
    start: Position = EARLIEST,
    end: Position | None = None,
    state: Any = None,
    poll_bytes_max: int = 64,
    skipped: Callable[[str], None] | None = None,
) -> FileReader:
    """Return a reader of that partition, for the flow "f"."""
    topic = FileTopic(
        folder,
        TOPIC,
        start=start,
        end=end,
        poll_bytes_max=poll_bytes_max,
        flow="f",
        skipped=skipped,
    )
    return topic.open(0, state)


def read(found: FileReader) -> list[tuple[int, bytes]]:
    """Return (offset, record) of all that stands there now."""
    records: list[tuple[int, bytes]] = []
    while not found.finished() and (poll := found.poll(0)).count:
        lines = poll.data.split(b"\n")
        assert lines.pop() == b""
        assert len(lines) == poll.count
        assert poll.appended_ms is None or len(poll.appended_ms) == poll.count
        records += [(poll.offset_of(row), line) for row, line in enumerate(lines)]
    return records


def entries_of(folder: Path, topic: str = TOPIC, partition: int = 0) -> list[Append]:
    """Return the entries of the active segment."""
    appends = Appends(segments(folder, topic, partition)[-1].appends)
    entries = [appends.at(number) for number in range(appends.count)]
    appends.close()
    return entries
