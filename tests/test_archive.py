"""Parquet and lines of JSON as they come: what is a record of an archive, and what is told."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from footfall.schemas.dead_letters import payload_of
from footfall.schemas.platform_logs import PlatformLog
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.user_tags import UserTag
from footfall.streams import archive as archive_module
from footfall.streams.archive import Archive
from footfall.streams.replay import EARLIEST
from footfall.streams.source import SourceError
from tests.archive_support import EVENT, NOW_MS, ROWS_OF_STORE, read, reasons


def write_parquet(path: Path, *events: dict[str, Any], **columns: pl.Expr) -> Path:
    pl.DataFrame(events, infer_schema_length=None).with_columns(**columns).write_parquet(path)
    return path


@pytest.mark.parametrize("times", ["text", "us", "ns", "ms UTC", "us Europe/Berlin"])
def test_rows_of_parquet_with_times_and_nulls_are_records(tmp_path: Path, times: str) -> None:
    moment = datetime(2019, 10, 1, 0, 0, 1, 250_000, tzinfo=UTC)
    unit, _, zone = times.partition(" ")
    column = pl.lit("2019-10-01T00:00:01.250Z")
    if times != "text":
        column = pl.lit(moment).cast(pl.Datetime(unit, "UTC"))  # type: ignore[arg-type]
        column = column.dt.convert_time_zone(zone) if zone else column.dt.replace_time_zone(None)
    nulls = {**EVENT, "category_code": None, "brand": None}
    path = write_parquet(tmp_path / "a.parquet", EVENT, nulls, event_time=column)
    archive = Archive(path, "some_topic", StoreEvent).open(0, EARLIEST)
    batch = ROWS_OF_STORE.decode("some_flow", archive.poll(NOW_MS))
    assert batch.dead == []
    assert batch.frame["time_ms"].to_list() == [round(moment.timestamp() * 1000)] * 2
    assert batch.frame["brand"].to_list() == ["some", None]


def test_other_columns_of_parquet_are_not_read(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet",
        EVENT,
        value=pl.lit(3.5),
        payload=pl.lit("not JSON"),
        digest=pl.lit(b"\xff\x00"),
        times=pl.lit(["a"]).implode(),
        nested=pl.struct(pl.lit(b"\xff").alias("raw")),
    )
    records, letters = read(path)
    assert letters == []
    assert json.loads(records[0]) == EVENT


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("product_id", pl.lit("7")),
        ("price", pl.lit("1.5")),
        ("price", pl.lit("1.50").cast(pl.Decimal(10, 2))),
        ("price", pl.lit(1.5, dtype=pl.Float32)),
        ("event_type", pl.lit("view").cast(pl.Categorical)),
        ("brand", pl.lit(b"some")),
        ("event_time", pl.lit(b"2019-10-01T00:00:01Z")),
        ("user_session", pl.lit("session").cast(pl.Enum(["session"]))),
    ],
)
def test_columns_of_parquet_may_have_other_types(
    tmp_path: Path, name: str, column: pl.Expr
) -> None:
    records, letters = read(write_parquet(tmp_path / "a.parquet", EVENT, **{name: column}))
    assert letters == []
    assert json.loads(records[0]) == EVENT


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("price", pl.lit("1_000"), "row 1 has a bad price: '1_000' is not a decimal number"),
        ("price", pl.lit(float("nan")), "row 1 is no record: price: expected `float`, got `null`"),
        ("price", pl.lit(-2.5), "row 1 has a bad price: '-2.5' is negative"),
        ("product_id", pl.lit("1_7"), "row 1 is no record: product_id: expected `int`, got `str`"),
        ("brand", pl.lit(b"caf\xe9"), "row 1 has brand that is not UTF-8"),
    ],
)
def test_rows_of_parquet_that_are_no_records_are_told(
    tmp_path: Path, name: str, column: pl.Expr, reason: str
) -> None:
    records, letters = read(write_parquet(tmp_path / "a.parquet", EVENT, **{name: column}))
    assert records == []
    [letter] = letters
    assert letter.reason.startswith(reason)
    assert (letter.topic, letter.partition, letter.offset) == ("a.parquet", 0, 1)
    assert json.loads(payload_of(letter))["user_id"] == 9


def test_records_may_stand_in_a_column_of_parquet(tmp_path: Path) -> None:
    whole = json.dumps(EVENT, indent=1)
    for name in ("payload", "value"):
        for kind in (pl.String, pl.Binary):
            frame = pl.DataFrame({"offset": [1, 2], name: [whole, "no JSON"]})
            frame.with_columns(pl.col(name).cast(kind)).write_parquet(tmp_path / "a.parquet")
            records, letters = read(tmp_path / "a.parquet")
            assert [json.loads(record) for record in records] == [EVENT]
            assert reasons(letters)[0].startswith("row 2 is no record: JSON is malformed")


def test_parquet_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"event_time": ["x"], "price": [1.5]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a.parquet lacks the columns event_type, product_id"):
        read(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match=r"a.parquet cannot be read: "):
        read(tmp_path)


def test_rows_of_parquet_are_read_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "ROWS_MAX", 7)
    monkeypatch.setattr(archive_module, "PARQUET_ROWS", 20)
    frame = pl.DataFrame([{**EVENT, "user_id": n} for n in range(101)])
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=33)
    records, _ = read(tmp_path / "a.parquet")
    assert [json.loads(record)["user_id"] for record in records] == list(range(101))


TAG = {
    "time": "2022-03-22T12:15:00.000Z",
    "cookie": "17",
    "country": "PL",
    "device": "PC",
    "action": "BUY",
    "origin": 'a"b\\c',
    "product_info": {"product_id": "1", "brand_id": "b", "category_id": "c", "price": 100},
}
LOG = {
    "action": "CatalogDbRep",
    "commonData": {
        "time": "2022-03-22T12:15:00",
        "userId": {"userId": "17"},
        "requestId": "a1",
        "serverName": "Catalog",
    },
    "data": {"products": [{"productId": 5}, {"productId": 6}], "status": "Ok"},
}


def test_dotted_columns_are_fields_within_fields(tmp_path: Path) -> None:
    tag = {**TAG, **{f"product_info.{k}": v for k, v in TAG["product_info"].items()}}  # type: ignore[attr-defined]
    del tag["product_info"]
    pl.DataFrame([tag]).write_csv(tmp_path / "tags.csv")
    pl.DataFrame([tag]).write_parquet(tmp_path / "flat.parquet")
    pl.DataFrame([TAG]).write_parquet(tmp_path / "nested.parquet")
    for name in ("tags.csv", "flat.parquet", "nested.parquet"):
        records, letters = read(tmp_path / name, UserTag)
        assert letters == []
        assert json.loads(records[0]) == TAG, name
    pl.DataFrame([{**tag, "product_info": "{}"}]).write_csv(tmp_path / "tags.csv")
    with pytest.raises(SourceError, match="names product_info and a field within it"):
        read(tmp_path / "tags.csv", UserTag)
    pl.DataFrame([tag]).drop("product_info.price").write_csv(tmp_path / "tags.csv")
    with pytest.raises(SourceError, match=r"lacks the columns product_info\.price;"):
        read(tmp_path / "tags.csv", UserTag)


def test_fields_of_several_types_and_lists_are_read_too(tmp_path: Path) -> None:
    pl.DataFrame([LOG]).write_parquet(tmp_path / "a.parquet")
    records, letters = read(tmp_path / "a.parquet", PlatformLog)
    assert letters == []
    assert json.loads(records[0]) == LOG
    header = (
        "action,commonData.time,commonData.userId.userId,commonData.requestId,"
        "commonData.serverName,data.amount_cents"
    )
    (tmp_path / "a.csv").write_text(f"{header}\nBuyReq,2022-03-22T12:15:00,17,a1,Payment,99\n")
    records, letters = read(tmp_path / "a.csv", PlatformLog)
    assert letters == []
    assert json.loads(records[0])["commonData"]["userId"] == {"userId": "17"}
    assert json.loads(records[0])["data"]["amount_cents"] == 99
    (tmp_path / "a.csv").write_text(f"{header},commonData.userId\n")
    with pytest.raises(SourceError, match=r"names commonData\.userId and \S+, which is within it"):
        read(tmp_path / "a.csv", PlatformLog)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson", "a.json"])
def test_lines_of_json_are_records(tmp_path: Path, name: str, mark: bytes) -> None:
    line = json.dumps(EVENT).encode()
    data = mark + line + b"\r\nnot JSON\n\n" + line
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    records, letters = read(tmp_path)
    assert [json.loads(record) for record in records] == [EVENT, EVENT]
    assert [(letter.topic, letter.offset, letter.code) for letter in letters] == [
        (name, 2, "bad_row"),
        (name, 3, "bad_row"),
    ]
    assert reasons(letters)[0].startswith("line 2 is no record: JSON is malformed")
    assert payload_of(letters[0]) == b"not JSON"
