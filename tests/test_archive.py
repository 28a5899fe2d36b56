"""Files of an archive read as a topic: what each kind gives, and what cannot be read."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.store_metrics import ROWS_OF_STORE
from schemas.store_events import StoreEvent
from streams.archive import Archive
from streams.replay import EARLIEST
from streams.source import SourceError

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


def read(path: Path) -> tuple[list[bytes], list[Any]]:
    """The records under the path, and the dead letters among them."""
    reader = Archive(path, "store_events", StoreEvent).open(0, EARLIEST)
    lines: list[bytes] = []
    dead: list[Any] = []
    try:
        while not reader.finished():
            poll = reader.poll(1_700_000_000_000)
            lines += poll.data.splitlines()
            dead += ROWS_OF_STORE.decode("store_metrics", poll).dead
    finally:
        reader.close()
    return lines, dead


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
def test_a_byte_order_mark_is_no_part_of_a_record(tmp_path: Path, name: str, mark: bytes) -> None:
    if ".csv" in name:
        text = ",".join(EVENT) + "\n" + ",".join(str(value) for value in EVENT.values()) + "\n"
    else:
        text = json.dumps(EVENT) + "\n"
    data = mark + text.encode() * 1
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    lines, dead = read(tmp_path)
    assert len(lines) == 1
    assert not dead, dead


@pytest.mark.parametrize("times", ["text", "Datetime", "Datetime UTC"])
def test_rows_of_parquet_with_times_and_nulls_are_records(tmp_path: Path, times: str) -> None:
    rows = pl.DataFrame([EVENT, {**EVENT, "category_code": None, "brand": None}])
    if times != "text":
        zone = "UTC" if times.endswith("UTC") else None
        moment = datetime(2019, 10, 1, 0, 0, 1, 250_000, tzinfo=UTC if zone else None)
        rows = rows.with_columns(pl.lit(moment).cast(pl.Datetime("us", zone)).alias("event_time"))
    rows.write_parquet(tmp_path / "a.parquet")
    lines, dead = read(tmp_path / "a.parquet")
    assert len(lines) == 2
    assert not dead, dead


def test_what_cannot_be_read_is_told_with_its_file(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps({"n": n}).encode() + b"\n" for n in range(50_000)))
    wrong = {
        "cut.jsonl.gz": whole[: len(whole) // 2],
        "changed.jsonl.gz": whole[:5_000] + bytes(200) + whole[5_200:],
        "no.jsonl.gz": b"plain text\n",
        "long.csv": b"a,b\n1," + b"x" * 200_000 + b"\n",
        "latin.csv": "a,b\n1,caf\u00e9\n".encode("latin-1"),
        "no.parquet": b"PAR1 and no more",
    }
    for name, data in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=f"{name} cannot be read"):
            read(tmp_path / name)
