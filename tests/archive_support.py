"""Rows of files for tests of an archive: what comes of them, read as an archive and pushed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from footfall.generator.csv_replay import CsvReplay
from footfall.schemas.dead_letters import DeadLetter, dead_letter_of, record_of
from footfall.schemas.platform_logs import PlatformLog
from footfall.schemas.store_events import CSV_COLUMNS, StoreEvent
from footfall.schemas.topics import DEAD_LETTERS
from footfall.schemas.user_tags import UserTag
from footfall.streams.archive import Archive
from footfall.streams.columns import cents, text
from footfall.streams.decode import Records
from footfall.streams.replay import EARLIEST
from tests.generator_support import HEADER, csv_row

NOW_MS = 1_900_000_000_000
EVENT = {
    "event_time": "2019-10-01T00:00:01Z",
    "event_type": "view",
    "product_id": 7,
    "category_id": 8,
    "category_code": "electronics.phone",
    "brand": "some",
    "price": 1.5,
    "user_id": 9,
    "user_session": "session",
}
ROWS_OF_STORE = Records(
    StoreEvent,
    time="event_time",
    columns={
        "brand": text(lambda events: [event.brand for event in events]),
        "price_cents": cents(lambda events: [event.price for event in events]),
    },
)
ROWS_OF = {
    StoreEvent: ROWS_OF_STORE,
    UserTag: Records(UserTag, time="time", columns={}),
    PlatformLog: Records(PlatformLog, time="commonData.time", columns={}),
}


def read(path: Path, struct: Any = StoreEvent) -> tuple[list[bytes], list[DeadLetter]]:
    """Return the good records under the path, and the letters about all other rows."""
    archive = Archive(path, "some_topic", struct)
    reader = archive.open(0, EARLIEST)
    records: list[bytes] = []
    letters: list[DeadLetter] = []
    given = 0
    try:
        while not reader.finished():
            batch = ROWS_OF[struct].decode("some_flow", reader.poll(NOW_MS))
            records += batch.payloads()
            letters += [archive.letter(letter) for letter in batch.dead]
            given += batch.poll.count
    finally:
        reader.close()
    assert given == len(records) + len(letters) == reader.state()
    return records, letters


def generated(path: Path) -> tuple[list[bytes], list[DeadLetter]]:
    """Return what ``generate csv`` makes of the file: its records, and its letters."""
    stream = CsvReplay(path).open(0)
    records: list[bytes] = []
    letters: list[DeadLetter] = []
    while not stream.at_end:
        for topic, found in stream.take(3).writes:
            if topic != DEAD_LETTERS.name:
                records += [value for _, value in found]
                continue
            for _, value in found:
                letter = dead_letter_of(value)
                assert letter is not None
                letters.append(letter)
    stream.close()
    return records, letters


def both(path: Path) -> tuple[list[bytes], list[DeadLetter]]:
    """Return the records and letters of a CSV file, which are the same by either way."""
    records, letters = read(path)
    by_generator = generated(path)
    assert by_generator[0] == records
    ours = [msgspec.structs.replace(letter, flow="csv_replay") for letter in letters]
    assert by_generator[1] == [dead_letter_of(record_of(letter)[1]) for letter in ours]
    return records, letters


def prices(records: Sequence[bytes]) -> list[str]:
    """Return the prices as they are written in the records."""
    return [str(json.loads(record, parse_float=Decimal)["price"]) for record in records]


def reasons(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.reason for letter in letters]


def row(number: int, **fields: str) -> str:
    values = dict(zip(CSV_COLUMNS, csv_row(number).split(","), strict=True))
    return ",".join((values | fields).values())


def csv_of(folder: Path, *lines: str | bytes, header: str = HEADER) -> Path:
    path = folder / "shop.csv"
    data = [line if isinstance(line, bytes) else line.encode() for line in (header, *lines)]
    path.write_bytes(b"".join(line + b"\n" for line in data))
    return path
