"""Replay of a shop's file: each whole row one event, each broken one exactly one dead letter."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.generator.csv_replay import CsvReplay
from footfall.generator.sources import Batch
from footfall.schemas.dead_letters import DeadLetter, payload_of
from footfall.schemas.store_events import CSV_COLUMNS, StoreEvent
from footfall.schemas.times import parse_time_ms
from footfall.streams.archive_files import LINE_BYTES_MAX
from footfall.streams.source import SourceError
from tests.generator_support import HEADER, csv_file, csv_row

WHOLE = "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d7"
CUT = (
    "2019-10-01 02:50:00 UTC,view,10900305,2053013555069845885,appliances,elenberg,25.71,52040330"
)

decode_event = msgspec.json.Decoder(StoreEvent).decode
decode_letter = msgspec.json.Decoder(DeadLetter).decode


def replayed(path: Path, row: int = 0, rows_max: int = 100) -> list[tuple[str, bytes, bytes]]:
    """Return all records from a row on, as (topic, key, value)."""
    stream = CsvReplay(path).open(row)
    found = []
    while not stream.at_end:
        for topic, records in stream.take(rows_max).writes:
            found += [(topic, key or b"", value) for key, value in records]
    stream.close()
    return found


def record_of_line(folder: Path, line: bytes, header: str = HEADER) -> tuple[str, bytes, bytes]:
    """Return the record that line 7 of a file becomes."""
    before = [csv_row(n) for n in range(5)] if header == HEADER else [header] * 5
    lines = [text.encode() for text in (header, *before)]
    (folder / "shop.csv").write_bytes(b"\n".join([*lines, line]) + b"\n")
    [record] = replayed(folder / "shop.csv", row=5)
    return record


def letter_of(folder: Path, line: bytes) -> DeadLetter:
    topic, key, value = record_of_line(folder, line)
    assert (topic, key) == ("dead_letters", b"shop.csv")
    letter = decode_letter(value)
    assert (letter.flow, letter.topic, letter.partition, letter.offset, letter.code) == (
        "csv_replay", "shop.csv", 0, 7, "bad_row",
    )  # fmt: skip
    assert payload_of(letter) == line
    assert letter.reason.startswith("line 7 ")
    assert "\n" not in letter.reason
    return letter


def test_a_row_becomes_one_json_event_keyed_by_user(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_file([WHOLE]))
    [(topic, key, value)] = replayed(tmp_path / "a.csv")
    assert (topic, key) == ("store_events", b"541312140")
    assert value == (
        b'{"event_time":"2019-10-01 00:00:00 UTC","event_type":"view","product_id":44600062,'
        b'"category_id":2103807459595387724,"price":35.79,"user_id":541312140,'
        b'"category_code":null,"brand":"shiseido","user_session":"72d7"}'
    )
    assert decode_event(value).brand == "shiseido"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_cut_last_line_is_one_dead_letter(tmp_path: Path, packed: bool, line_end: str) -> None:
    content = csv_file([WHOLE, csv_row(1)], line_end) + CUT.encode()
    path = tmp_path / ("head.csv.gz" if packed else "head.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    *events, (topic, key, value) = replayed(path)
    assert [topic for topic, _, _ in events] == ["store_events"] * 2
    letter = decode_letter(value)
    assert (topic, key) == ("dead_letters", path.name.encode())
    assert letter.reason == "line 4 has 8 fields instead of 9"
    assert (letter.offset, letter.payload) == (4, CUT)


def test_a_last_line_without_its_end_is_whole_when_it_has_every_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_file([csv_row(0)]) + csv_row(1).encode())
    assert [topic for topic, _, _ in replayed(tmp_path / "a.csv")] == ["store_events"] * 2


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("event_time", "yesterday", "event_time 'yesterday'"),
        ("event_time", "2019-13-01 00:00:00 UTC", "event_time '2019-13-01 00:00:00 UTC'"),
        ("event_time", "", "event_time ''"),
        ("event_type", "steal", "event_type 'steal'"),
        ("product_id", "", "product_id ''"),
        ("product_id", "12a", "product_id '12a'"),
        ("category_id", "9223372036854775808", "expected `int` <= 9223372036854775807"),
        ("category_id", "1" * 500, "..."),
        ("price", "1,5", "has 10 fields instead of 9"),
        ("price", "NaN", "price: 'NaN' is not a decimal number"),
        ("price", "-1.00", "price: '-1.00' is negative"),
        ("price", "1.005", "price: '1.005' is not a whole number of cents"),
        ("price", "999999999999.00", "price"),
        ("price", "", "price ''"),
        ("user_id", "-5", "user_id '-5'"),
        ("user_id", "\u0661", "user_id"),
        ("brand", '"open', "wrong quote"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, field: str, text: str, reason: str) -> None:
    fields = csv_row(1).split(",")
    fields[CSV_COLUMNS.index(field)] = text
    assert reason in letter_of(tmp_path, ",".join(fields).encode()).reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "line 7 is empty"),
        (b"\xff\xfe,view", "line 7 is not UTF-8"),
        (b"\x00" * 30, "line 7 has 1 fields instead of 9"),
        (b"," * 20, "line 7 has 21 fields instead of 9"),
    ],
)
def test_a_line_that_is_no_row_is_one_dead_letter(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    assert letter_of(tmp_path, line).reason == reason


def test_a_line_longer_than_any_row_is_one_dead_letter(tmp_path: Path) -> None:
    long = b"x" * (2 * LINE_BYTES_MAX + 5)
    (tmp_path / "a.csv").write_bytes(csv_file([csv_row(0), long.decode(), csv_row(1)]))
    found = replayed(tmp_path / "a.csv")
    assert sorted(topic for topic, _, _ in found) == ["dead_letters"] + ["store_events"] * 2
    [letter] = [decode_letter(value) for topic, _, value in found if topic == "dead_letters"]
    assert (letter.offset, letter.payload_bytes) == (3, len(long))
    assert letter.payload == "x" * 524_288


@given(
    cents=st.integers(0, 10**13 - 1),
    brand=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
    session=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
    user=st.integers(0, 2**63 - 1),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_value_comes_out_exactly(
    tmp_path_factory: pytest.TempPathFactory, cents: int, brand: str, session: str, user: int
) -> None:
    price = f"{cents // 100}.{cents % 100:02d}"
    row = ["2019-10-01 00:00:09 UTC", "cart", "7", "8", "", brand, price, str(user), session]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(row)
    folder = tmp_path_factory.mktemp("csv")
    topic, key, value = record_of_line(folder, line.getvalue().encode())
    assert (topic, key) == ("store_events", str(user).encode())
    event = json.loads(value, parse_float=Decimal)
    assert event["price"] * 100 == cents
    assert (event["brand"], event["user_session"]) == (brand or None, session or None)
    assert decode_event(value).user_id == user
    assert b"\n" not in value


@pytest.mark.parametrize(("text", "sent"), [("33", b"33"), ("12.5", b"12.5"), ("0.00", b"0.00")])
def test_a_price_keeps_its_decimal_text(tmp_path: Path, text: str, sent: bytes) -> None:
    _, _, value = record_of_line(tmp_path, csv_row(1, price=text).encode())
    assert b'"price":' + sent + b"," in value


def test_columns_may_stand_in_another_order_beside_others(tmp_path: Path) -> None:
    names = ["note", *reversed(CSV_COLUMNS)]
    fields = dict(zip(CSV_COLUMNS, csv_row(4).split(","), strict=True)) | {"note": "x"}
    line = ",".join(fields[name] for name in names).encode()
    expected = record_of_line(tmp_path, csv_row(4).encode())
    assert record_of_line(tmp_path, line, "\ufeff" + ",".join(names)) == expected


@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=10), start=st.integers(0, 30))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_rows_are_the_same_bytes_wherever_reading_begins(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], start: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    rows = [csv_row(n) if n % 7 else "broken" for n in range(30)]
    path.write_bytes(csv_file(rows))
    stream = CsvReplay(path).open(start)
    batches = [stream.take(count) for count in cuts]
    stream.close()
    assert sum(batch.rows for batch in batches) == min(sum(cuts), 30 - start)
    found = [value for batch in batches for value in values_of(batch)]
    whole = replayed(path, rows_max=1)
    assert sorted(found) == sorted(value for _, _, value in whole[start : start + sum(cuts)])


def values_of(batch: Batch) -> list[bytes]:
    return [value for _, records in batch.writes for _, value in records]


def test_rows_are_taken_up_to_an_event_time(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(csv_file([csv_row(0), "broken", csv_row(2), csv_row(9), csv_row(3)]))
    stream = CsvReplay(path).open(0)
    start_ms = parse_time_ms("2019-10-01 00:00:00 UTC")
    assert stream.next_time_ms() == start_ms
    batch = stream.take(100, start_ms + 1_999)
    assert (batch.rows, batch.event_time_ms) == (2, start_ms)
    assert stream.take(100, start_ms + 1_999).rows == 0
    assert stream.take(100, start_ms + 8_999).rows == 1
    assert stream.next_time_ms() == start_ms + 9_000
    # The last row is older than the one before it: it does not wait, and time goes not back.
    batch = stream.take(100, start_ms + 9_000)
    assert (batch.rows, batch.event_time_ms, stream.at_end) == (2, start_ms + 9_000, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"event_time,event_type\n", "lacks the columns product_id, category_id, "),
        (HEADER.replace("price", "cost").encode() + b"\n", "lacks the columns price; it must be"),
        (WHOLE.encode() + b"\n", "lacks the columns event_time"),
        (b"\x00\xff" * 100, "lacks the columns"),
        (b"\x1f\x8bnot gzip at all", "cannot be read: "),
    ],
)
def test_a_file_that_is_no_export_is_refused_at_once(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        CsvReplay(tmp_path / "a.csv")
    assert "a.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        CsvReplay(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="Is a directory"):
        CsvReplay(tmp_path)


def test_a_gzip_file_cut_in_the_middle_gives_its_rows_and_then_an_error(tmp_path: Path) -> None:
    rows = [csv_row(n, price=f"{n * 7919 % 9000}.{n % 100:02d}") for n in range(5_000)]
    packed = gzip.compress(csv_file(rows))
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    stream = CsvReplay(tmp_path / "a.csv.gz").open(0)
    taken = 0
    with pytest.raises(SourceError, match="cannot be read past line") as caught:
        while not stream.at_end:
            taken += stream.take(400).rows
    assert taken > 1_000
    assert f"past line {taken + 1}" in str(caught.value)


def test_rows_have_a_mark_that_tells_them_from_others(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def mark(content: bytes, row: int) -> str:
        path.write_bytes(content)
        stream = CsvReplay(path).open(row)
        try:
            return stream.mark
        finally:
            stream.close()

    rows = [csv_row(n) for n in range(9)]
    first = mark(csv_file(rows), 3)
    assert mark(csv_file(rows[:3]), 3) == first
    assert mark(csv_file(rows[:3])[:-2], 3) == first
    assert mark(gzip.compress(csv_file([*rows, "more"])), 3) == first
    assert mark(csv_file([rows[0], rows[2], rows[1]]), 3) != first
    assert mark(csv_file(rows), 4) != first
    stream = CsvReplay(path).open(0)
    for count in (1, 2):
        stream.take(count)
    assert stream.mark == first
    stream.close()
    with pytest.raises(SourceError, match="has 9 rows, not the 10 done already"):
        mark(csv_file(rows), 10)
