"""The topics that are measured: seeded worlds, written once into topic files and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from generator.sources import World
from generator.store import StoreWorld
from generator.tags import TagWorld
from schemas.topic_files import end_offset
from schemas.topics import PARTITIONS_DEFAULT
from sinks.topic_files import FileTopics

SEED = 0
BATCH_ROWS = 10_000
STAMP_FILE = "made_of.json"
_ROOT = Path(__file__).resolve().parent.parent
_DECIDES_THE_BYTES = ("generator/*.py", "schemas/topic_files.py", "schemas/times.py")

WORLDS: dict[str, Callable[[], World]] = {
    world.topic: lambda world=world: world  # type: ignore[misc]
    for world in (StoreWorld(seed=SEED), TagWorld(seed=SEED))
}
"""By topic."""


@dataclass(frozen=True, slots=True)
class Input:
    """A topic in a folder of its own."""

    folder: Path
    topic: str
    events: int

    @property
    def files(self) -> list[Path]:
        """The records of each partition, as NDJSON."""
        return [self.folder / self.topic / f"{n}.jsonl" for n in range(PARTITIONS_DEFAULT)]

    @property
    def record_bytes(self) -> float:
        """Mean size of a record, its newline included; 0 where there is none."""
        return sum(path.stat().st_size for path in self.files) / max(1, self.events)


def make_input(
    cache: Path, topic: str, events: int, say: Callable[[str], None] = lambda _line: None
) -> Input:
    """The first ``events`` records of the topic's world, from the cache or made now.

    What lies there is used again if it is whole and was made of the same world, size and code.
    """
    world = WORLDS[topic]()
    made = Input(cache / f"{topic}-{events}", topic, events)
    stamp = _stamp(topic, events)
    if _is_whole(made, stamp):
        return made
    shutil.rmtree(made.folder, ignore_errors=True)
    writer = FileTopics(made.folder)
    try:
        writer.create(topic, PARTITIONS_DEFAULT)
        for start, count in _batches(events):
            say(f"making {topic}: {start:,} of {events:,} records")
            writer.write(topic, world.batch(start, count))
    finally:
        writer.close()
    (made.folder / STAMP_FILE).write_text(stamp)
    return made


def _batches(events: int) -> Iterator[tuple[int, int]]:
    for start in range(0, events, BATCH_ROWS):
        yield start, min(BATCH_ROWS, events - start)


def _stamp(topic: str, events: int) -> str:
    code = hashlib.sha256()
    for pattern in _DECIDES_THE_BYTES:
        for path in sorted(_ROOT.glob(pattern)):
            code.update(path.read_bytes())
    return json.dumps(
        {
            "topic": topic,
            "seed": SEED,
            "events": events,
            "partitions": PARTITIONS_DEFAULT,
            "generator": code.hexdigest()[:16],
        }
    )


def _is_whole(made: Input, stamp: str) -> bool:
    try:
        if (made.folder / STAMP_FILE).read_text() != stamp:
            return False
    except OSError:
        return False
    ends = (end_offset(made.folder, made.topic, n) for n in range(PARTITIONS_DEFAULT))
    return sum(ends) == made.events
