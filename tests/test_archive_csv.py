"""Rows of CSV as they come: each line is one record, or one dead letter that says why.

The same for ``generate csv`` and for an archive that is replayed.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.schemas.dead_letters import payload_of, record_of
from footfall.schemas.store_events import CSV_COLUMNS
from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.streams import archive_files
from tests.archive_support import EVENT, both, csv_of, prices, read, reasons, row
from tests.generator_support import HEADER


@pytest.mark.parametrize("stray", ['"bolt', 'b"olt', '"bolt" x', 'bolt"'])
def test_a_stray_quote_swallows_no_row(tmp_path: Path, stray: str) -> None:
    rows = [row(n) for n in range(8)]
    rows[2], rows[6] = row(2, brand=stray), row(6, brand=stray)
    records, letters = both(csv_of(tmp_path, *rows))
    assert len(records) == 8 - len(letters) >= 6
    if letters:
        assert [letter.offset for letter in letters] == [4, 8]
        assert reasons(letters)[0].startswith("line 4 has a wrong quote: ")
        assert payload_of(letters[0]).decode() == rows[2]
    else:
        assert json.loads(records[2])["brand"] == stray


def test_a_row_that_is_not_utf_8_costs_itself_alone(tmp_path: Path) -> None:
    rows: list[str | bytes] = [row(n) for n in range(5)]
    rows[3] = row(3, brand="caf\u00e9").encode("latin-1")
    records, letters = both(csv_of(tmp_path, *rows))
    assert len(records) == 4
    assert reasons(letters) == ["line 5 is not UTF-8"]
    assert payload_of(letters[0]) == rows[3]


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace(",", ", "),
        HEADER.upper(),
        '"' + HEADER.replace(",", '","') + '"',
        "\ufeff" + HEADER,
    ],
    ids=["blanks", "upper case", "quoted", "byte-order mark"],
)
def test_a_header_may_be_written_otherwise(tmp_path: Path, header: str) -> None:
    records, letters = both(csv_of(tmp_path, row(1), row(2), header=header))
    assert (len(records), letters) == (2, [])


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_seen_in_the_header(tmp_path: Path, separator: str) -> None:
    lines = [line.replace(",", separator) for line in (HEADER, row(1), row(2, brand='"a,b"'))]
    records, letters = both(csv_of(tmp_path, *lines[1:], header=lines[0]))
    assert (len(records), letters) == (2, [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("ended", [True, False])
def test_encodings_and_line_ends(
    tmp_path: Path, encoding: str, line_end: str, ended: bool
) -> None:
    lines = [HEADER, row(1, brand="caf\u00e9 \U0001f600"), "broken", row(2)]
    data = line_end.join(lines) + (line_end if ended else "")
    (tmp_path / "shop.csv").write_bytes(data.encode(encoding))
    records, letters = both(tmp_path / "shop.csv")
    assert [json.loads(record)["brand"] for record in records] == [
        "caf\u00e9 \U0001f600",
        "lenovo",
    ]
    assert reasons(letters) == ["line 3 has 1 fields instead of 9"]
    assert payload_of(letters[0]) == b"broken"


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    names = ["a.b", "value", "payload", "", "", "note", "note", "price.more", "^event.*$"]
    path = csv_of(
        tmp_path,
        row(1) + "," * len(names),
        row(2) + ",1,2,3,,,x,y,z,w",
        header=f"{HEADER},{','.join(names)}",
    )
    records, letters = both(path)
    assert (len(records), letters) == (2, [])
    assert json.loads(records[1]).keys() == set(CSV_COLUMNS)


def test_columns_may_stand_in_another_order_and_some_be_missing(tmp_path: Path) -> None:
    expected, _ = both(csv_of(tmp_path, row(4, category_code="", user_session="")))
    names = ["note", *reversed(CSV_COLUMNS)]
    fields = dict(zip(CSV_COLUMNS, row(4).split(","), strict=True))
    fields |= {"note": "x", "category_code": "", "user_session": ""}
    line = ",".join(fields[name] for name in names)
    assert both(csv_of(tmp_path, line, header=",".join(names))) == (expected, [])
    some = [name for name in names if name not in ("category_code", "user_session")]
    line = ",".join(fields[name] for name in some)
    records, _ = both(csv_of(tmp_path, line, header=",".join(some)))
    given = [{k: v for k, v in json.loads(one).items() if v is not None} for one in expected]
    assert list(map(json.loads, records)) == given


@pytest.mark.parametrize(
    "text",
    ["1_000", "\uff11\uff12", "\u0663", "1 000", " 5", "5 ", "+5", "0x1", "1e", "", "NaN"],
)
def test_what_only_some_take_for_a_number_is_none(tmp_path: Path, text: str) -> None:
    path = csv_of(tmp_path, row(1, price=text), row(2, product_id=text), row(3, user_id=text))
    records, letters = both(path)
    assert (records, [letter.offset for letter in letters]) == ([], [2, 3, 4])
    shown = repr(text) if text else "has price ''"
    assert shown in letters[0].reason
    assert letters[1].reason.startswith(f"line 3 has product_id {text!r}: ")


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("35.79", 3579),
        ("35.790", 3579),
        ("33", 3300),
        ("12.5", 1250),
        ("0.00", 0),
        ("99999999999.99", 9_999_999_999_999),
        ("5000000.120000000000000000000", 500_000_012),
    ],
)
def test_a_price_is_exact_and_keeps_its_text(tmp_path: Path, text: str, cents: int) -> None:
    records, letters = both(csv_of(tmp_path, row(1, price=text)))
    assert letters == []
    assert f'"price":{text},'.encode() in records[0]
    assert Decimal(prices(records)[0]) * 100 == cents


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12.345", "not a whole number of cents"),
        ("999999.995", "not a whole number of cents"),
        ("5000000.125", "not a whole number of cents"),
        ("12345678.905", "not a whole number of cents"),
        ("-1.00", "is negative"),
        ("999999999999.00", "is more than 100000000000"),
    ],
)
def test_a_price_that_is_none_says_why(tmp_path: Path, text: str, reason: str) -> None:
    frame = pl.DataFrame([{**EVENT, "price": text}])
    frame.write_parquet(tmp_path / "rows.parquet")
    frame.with_columns(pl.col("price").cast(pl.Decimal(38, 3))).write_parquet(
        tmp_path / "decimals.parquet"
    )
    for records, letters in (
        both(csv_of(tmp_path, row(1, price=text))),
        read(tmp_path / "rows.parquet"),
        read(tmp_path / "decimals.parquet"),
    ):
        assert records == []
        assert reason in letters[0].reason


def test_digits_with_zeros_before_them_are_a_number(tmp_path: Path) -> None:
    records, _ = both(csv_of(tmp_path, row(1, product_id="007"), row(2, user_id="000")))
    assert json.loads(records[0])["product_id"] == 7
    assert json.loads(records[1])["user_id"] == 0


def test_a_line_that_is_too_long_is_one_letter_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_files, "LINE_BYTES_MAX", 300)
    path = csv_of(tmp_path, row(1), "x" * 1_000, row(2), "x" * 1_000)
    for block_bytes in (7, 64, 300):
        monkeypatch.setattr(archive_files, "BLOCK_BYTES", block_bytes)
        records, letters = both(path)
        assert len(records) == 2
        assert [(letter.offset, letter.payload_bytes) for letter in letters] == [
            (3, 1_000),
            (5, 1_000),
        ]
        assert reasons(letters)[0] == "line 3 has 1,000 bytes, too many for a row"
        assert payload_of(letters[0]) == b"x" * 300


def test_a_letter_of_zeros_fits_a_record(tmp_path: Path) -> None:
    _, letters = both(csv_of(tmp_path, row(1), b"\0" * 600_000))
    [letter] = letters
    assert letter.payload_bytes == 600_000
    assert len(record_of(letter)[1]) < RECORD_BYTES_MAX


lines_of_any_kind = st.one_of(
    st.integers(0, 99).map(lambda n: row(n).encode()),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30).map(
        lambda brand: row(1, brand='"' + brand.replace('"', '""') + '"').encode()
    ),
    st.sampled_from(list("\",\\'\t\0x5\u00e9")).map(lambda mark: row(2, brand=mark).encode()),
    st.text(st.sampled_from(list('",;\t\\-0159.eE \u00e9\ufeff')), max_size=30).map(str.encode),
    st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"")),
    st.tuples(
        st.sampled_from(CSV_COLUMNS),
        st.text(st.sampled_from(list("0123456789.eE+-_ ")), max_size=24),
    ).map(lambda field: row(3, **{field[0]: field[1]}).encode()),
)


@given(lines=st.lists(lines_of_any_kind, min_size=1, max_size=25), block=st.integers(1, 2_000))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_line_is_one_record_or_one_letter_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int
) -> None:
    path = csv_of(tmp_path_factory.mktemp("csv"), *lines)
    records, letters = both(path)
    assert len(records) + len(letters) == len(lines)
    assert all(b"\n" not in record for record in records)
    for letter in letters:
        assert payload_of(letter) == lines[letter.offset - 2]
        assert letter.reason.startswith(f"line {letter.offset} ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_files, "BLOCK_BYTES", block)
        assert both(path) == (records, letters)
    # Alone a line is what it is among others.
    for place, line in enumerate(lines[:3]):
        alone, _ = read(csv_of(path.parent, line))
        dead = {letter.offset for letter in letters}
        assert len(alone) == (place + 2 not in dead)
