"""The topics that are measured: seeded worlds, written once into topic files and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from footfall.generator.shop_records import Disturbances
from footfall.generator.shop_world import ShopWorld
from footfall.generator.sources import Record, World
from footfall.generator.store import StoreWorld
from footfall.generator.tags import TagWorld
from footfall.schemas.topic_files import end_offset
from footfall.schemas.topics import PARTITIONS_DEFAULT, PLATFORM_LOGS, SHOP_EVENTS
from footfall.sinks.topic_files import FileTopics

SEED = 0
BATCH_ROWS = 10_000
STAMP_FILE = "made_of.json"
_ROOT = Path(__file__).resolve().parent.parent
_DECIDES_THE_BYTES = (
    "generator/*.py",
    "schemas/topic_files.py",
    "schemas/times.py",
    "schemas/topics.py",
    "schemas/platform_logs.py",
)

WORLDS: dict[str, World] = {
    world.topic: world for world in (StoreWorld(seed=SEED), TagWorld(seed=SEED))
}
"""Worlds by topic, for topics that have a world of their own."""
SHOP = ShopWorld(
    seed=SEED,
    disturbances=Disturbances(out_of_order=0.01, late=0.0005, malformed=0.0005),
    records_per_s=1_000,
    users=50_000,
)
"""The shop that the other topics are taken from."""
SHOP_TOPICS = (PLATFORM_LOGS.name, SHOP_EVENTS.name)


@dataclass(frozen=True, slots=True)
class Input:
    """A topic in a folder of its own."""

    folder: Path
    topic: str
    events: int

    @property
    def files(self) -> list[Path]:
        """Return the files of the partitions' records, as NDJSON."""
        return [self.folder / self.topic / f"{n}.jsonl" for n in range(PARTITIONS_DEFAULT)]

    @property
    def record_bytes(self) -> float:
        """Return the mean bytes of a record, its newline included; 0 without records."""
        return sum(path.stat().st_size for path in self.files) / max(1, self.events)


def make_input(
    cache: Path, topic: str, events: int, say: Callable[[str], None] = lambda _line: None
) -> Input:
    """Return the first ``events`` records of the topic's world, from the cache or made now.

    Files of the cache are used if they are whole and were made of the same world, size and code.
    """
    made = Input(cache / f"{topic}-{events}", topic, events)
    stamp = _stamp(topic, events)
    if _is_whole(made, stamp):
        return made
    shutil.rmtree(made.folder, ignore_errors=True)
    writer = FileTopics(made.folder)
    try:
        writer.create(topic, PARTITIONS_DEFAULT)
        written = 0
        for records in batches(topic, events):
            if written % (10 * BATCH_ROWS) == 0:
                say(f"making {topic}: {written:,} of {events:,} records")
            writer.write(topic, records)
            written += len(records)
    finally:
        writer.close()
    (made.folder / STAMP_FILE).write_text(stamp)
    return made


def batches(topic: str, events: int) -> Iterator[list[Record]]:
    """Yield the first ``events`` records of a topic, BATCH_ROWS at a time, the last ones fewer.

    Those of SHOP_TOPICS are what the shop sends to that topic; the other topics are left out.
    """
    if topic in WORLDS:
        for start in range(0, events, BATCH_ROWS):
            yield WORLDS[topic].batch(start, min(BATCH_ROWS, events - start))
        return
    assert topic in SHOP_TOPICS
    stream = SHOP.open(0)
    waiting: list[Record] = []
    left = events
    while left:
        waiting += dict(stream.take(BATCH_ROWS).writes).get(topic, [])
        rows = min(BATCH_ROWS, left)
        if len(waiting) >= rows:
            yield waiting[:rows]
            del waiting[:rows]
            left -= rows


def _stamp(topic: str, events: int) -> str:
    code = hashlib.sha256()
    for pattern in _DECIDES_THE_BYTES:
        for path in sorted(_ROOT.glob(pattern)):
            code.update(path.read_bytes())
    return json.dumps(
        {
            "topic": topic,
            "seed": SEED,
            "shop": SHOP.identity if topic in SHOP_TOPICS else "",
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
