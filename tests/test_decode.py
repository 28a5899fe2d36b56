"""Polls in, frames and dead letters out: a bad record never costs a good one beside it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.flows import product_views
from footfall.flows._logs import COLUMNS
from footfall.flows._logs import records as logs
from footfall.flows._shop_events import EVENTS as SHOP_EVENTS
from footfall.flows.minute_buckets import TAGS
from footfall.flows.store_metrics import ROWS_OF_STORE
from footfall.schemas.dead_letters import DeadLetter, payload_of
from footfall.schemas.prices import cents_of
from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.streams import decode as streams_decode
from footfall.streams.batch import ROW, UNKNOWN_MS, Batch, Poll
from footfall.streams.columns import integer
from footfall.streams.decode import Records
from tests.laws.worlds import BAD_RECORDS, EVENTS

NOW_MS = 1_700_000_000_000

GOOD: dict[str, Any] = {
    "event_time": "2019-10-01 00:00:00 UTC",
    "event_type": "purchase",
    "product_id": 1,
    "category_id": 2,
    "price": 35.79,
    "user_id": 3,
}


def poll_of(*records: bytes, first_offset: int = 100) -> Poll:
    data = b"".join(record + b"\n" for record in records)
    appended = np.full(len(records), NOW_MS)
    return Poll(
        "store_events", 7, first_offset, data, len(records), 0, NOW_MS, appended_ms=appended
    )


def event(**changes: Any) -> bytes:
    fields = {**GOOD, **changes}
    return msgspec.json.encode({k: v for k, v in fields.items() if v is not ...})


def decode(*records: bytes, by: Records = ROWS_OF_STORE) -> Batch:
    return by.decode("a_flow", poll_of(*records))


@pytest.mark.parametrize(
    ("price", "cents"),
    [(35.79, 3579), (12.5, 1250), (33, 3300), (33.20, 3320), (0, 0), (0.29, 29), (1e9, 10**11)],
)
def test_prices_become_whole_cents(price: float, cents: int) -> None:
    assert decode(event(price=price)).frame["price_cents"].to_list() == [cents]


def priced(text: str) -> bytes:
    return event(price=...)[:-1] + b',"price":' + text.encode() + b"}"


@given(st.integers(0, 10**13))
def test_every_whole_number_of_cents_is_exact(cents: int) -> None:
    record = priced(f"{cents // 100}.{cents % 100:02d}")
    assert decode(record).frame["price_cents"].to_list() == [cents]


@given(st.integers(0, 10**11 - 1), st.integers(0, 9_999), st.integers(3, 4))
def test_what_is_past_the_second_decimal_is_refused_at_any_size(
    units: int, decimals: int, places: int
) -> None:
    text = f"{units}.{decimals % 10**places:0{places}d}"
    batch = decode(priced(text))
    if decimals % 10 ** (places - 2) == 0:
        assert batch.frame["price_cents"].to_list() == [cents_of(text)]
    else:
        (letter,) = batch.dead
        assert "not a whole number of cents" in letter.reason


BAD: dict[str, tuple[bytes, str, str]] = {
    "not JSON": (b"nope", "not_json", "malformed"),
    "cut off": (event()[:-20], "not_json", "truncated"),
    "two values": (event() + b" {}", "not_json", "trailing"),
    "empty": (b"", "empty", "empty"),
    "blank": (b" \t ", "empty", "empty"),
    "null": (b"null", "wrong_field", "expected `object`, got `null`"),
    "no object": (b"[1,2]", "wrong_field", "expected `object`, got `array`"),
    "missing field": (event(user_id=...), "wrong_field", "user_id: required, and missing"),
    "null field": (event(price=None), "wrong_field", "price: expected `float`, got `null`"),
    "wrong type": (event(user_id="x"), "wrong_field", "user_id: expected `int`, got `str`"),
    "text price": (event(price="35.79"), "wrong_field", "price: expected `float`"),
    "unknown kind": (
        event(event_type="steal"),
        "wrong_field",
        "event_type: takes cart, purchase,",
    ),
    "NaN": (event(price=...)[:-1] + b',"price":NaN}', "not_json", "NaN and Infinity"),
    "infinite": (event(price=...)[:-1] + b',"price":1e999}', "wrong_field", "out of range"),
    "huge price": (event(price=1e12), "wrong_field", "price: expected `float` <="),
    "negative price": (event(price=-1), "wrong_field", "price: is negative"),
    "huge id": (event(user_id=2**64), "wrong_field", "user_id: expected `int` <="),
    "digits": (b'{"price":' + b"9" * 5_000 + b"}", "wrong_field", "out of range"),
    "half a cent": (event(price=1.005), "wrong_field", "not a whole number of cents"),
    "no date": (event(event_time="soon"), "bad_time", "not a date and time"),
    "no such day": (event(event_time="2019-02-30 00:00:00 UTC"), "bad_time", "event_time"),
    "year 0001": (event(event_time="0001-01-01 00:00:00 UTC"), "bad_time", "year 1"),
    "year 9999": (event(event_time="9999-01-01 00:00:00 UTC"), "bad_time", "year 9999"),
    "future": (event(event_time="2023-11-14 23:13:21 UTC"), "future_time", "in the future"),
    "invalid UTF-8": (event(brand="\u00ff").replace(b"\xc3\xbf", b"\xff"), "not_json", "byte"),
    "the same where nobody looks": (event()[:-1] + b',"x":"\xff"}', "not_json", "not UTF-8 (byte"),
    "deep": (b'{"x":' * 50_000, "not_json", "nested too deeply"),
    "deep arrays": (event()[:-1] + b',"x":' + b"[" * 50_000, "not_json", "nested too deeply"),
    "byte-order mark": (b"\xef\xbb\xbf" + event(), "not_json", "begins with a byte-order mark"),
    "Confluent's head": (b"\0\0\0\0\7" + event(), "not_json", "KAFKA_WIRE_FORMAT=CONFLUENT"),
    "2 MB": (event(brand="x" * 2_000_000), "too_large", str(RECORD_BYTES_MAX)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_a_dead_letter_with_a_reason(name: str) -> None:
    record, code, reason = BAD[name]
    batch = decode(event(price=1), record, event(price=2))
    assert batch.frame["price_cents"].to_list() == [100, 200]
    assert batch.offsets().tolist() == [100, 102]
    assert batch.payloads() == [event(price=1), event(price=2)]
    (letter,) = batch.dead
    assert (letter.flow, letter.topic, letter.partition) == ("a_flow", "store_events", 7)
    assert (letter.offset, letter.code, letter.payload_bytes) == (101, code, len(record))
    assert reason in letter.reason
    assert record.startswith(payload_of(letter))
    assert msgspec.json.decode(msgspec.json.encode(letter), type=DeadLetter) == letter


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.integers(120, 150))
def test_a_limit_of_its_own_is_exact_to_the_byte(overs: list[int], bytes_max: int) -> None:
    by = Records(ROWS_OF_STORE.struct, "event_time", {}, bytes_max=2 * bytes_max)
    room = 2 * bytes_max - len(event(brand=""))
    records = [event(brand="x" * (room + over)) if room + over > 0 else b"{" for over in overs]
    batch = decode(*records, by=by)
    expected = [
        "not_json" if record == b"{" else "too_large"
        for record in records
        if record == b"{" or len(record) > 2 * bytes_max
    ]
    assert [letter.code for letter in batch.dead] == expected


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_bad_records_among_good_ones_are_told_apart(chance: random.Random) -> None:
    kinds = [None, None, *BAD]
    drawn = [chance.choice(kinds) for _ in range(chance.randrange(12))]
    records = [event(price=n) if kind is None else BAD[kind][0] for n, kind in enumerate(drawn)]
    batch = decode(*records)
    good = [n for n, kind in enumerate(drawn) if kind is None]
    assert batch.frame["price_cents"].to_list() == [n * 100 for n in good]
    assert batch.offsets().tolist() == [100 + n for n in good]
    assert [(letter.offset, letter.code) for letter in batch.dead] == [
        (100 + n, BAD[kind][1]) for n, kind in enumerate(drawn) if kind is not None
    ]


READS = {
    "platform_logs": replace(logs(*COLUMNS), parts=product_views.LOGS.parts),
    "shop_events": SHOP_EVENTS,
    "store_events": replace(ROWS_OF_STORE, bytes_max=400),
    "user_tags": TAGS,
}
ASIDE = (
    # A record that goes on in the next line, a time of two lines, lines that are too long.
    *(b'{"event_time":"2019-10-01 00:00:00 UTC",', event()[1:]),
    *(event(event_time=time) for time in ("2019-10-01\n00:00:00", "\n", "")),
    event(price=1.005),
    event(brand="x" * 300),
    event(brand="x" * 3_000),
    *(event() + space for space in (b" ", b"\r", b"\t\r")),
)


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(READS)))
def test_a_poll_gives_what_each_of_its_records_gives_alone(
    data: st.DataObject, topic: str
) -> None:
    by = READS[topic]
    good = st.builds(EVENTS[topic], st.just(1_569_888_000_000), st.integers(0, 60))
    bad = st.sampled_from((*BAD_RECORDS, *ASIDE))
    records = data.draw(st.lists(st.one_of(good, good, bad), max_size=40), "records")
    poll = poll_of(*records)
    again = data.draw(
        st.sets(st.sampled_from(range(poll.count)), max_size=3) if records else st.just(set()),
        "sent again",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams_decode, "BLOCK_LINES", data.draw(st.integers(1, 50), "block"))
        batch = by.decode("a_flow", replace(poll, sent_again=tuple(sorted(again))))
    alone = [
        by.decode(
            "a_flow",
            replace(poll_of(record, first_offset=100 + n), sent_again=(0,) * (n in again)),
        )
        for n, record in enumerate(records)
    ]
    assert batch.frame.rows() == [row for one in alone for row in one.frame.rows()]
    assert batch.offsets().tolist() == [at for one in alone for at in one.offsets().tolist()]
    payloads = [record for one in alone for record in one.payloads()]
    assert batch.payloads() == batch.payloads_of(np.arange(len(payloads))) == payloads
    assert batch.dead == [letter for one in alone for letter in one.dead]
    assert parts_of(batch) == [part for one in alone for part in parts_of(one)]


def parts_of(batch: Batch) -> list[tuple[Any, ...]]:
    """Return each part of a record: its time, the record's offset, its values."""
    if batch.parts is None:
        return []
    parts = batch.counted()
    assert parts[ROW].is_sorted()
    return parts.with_columns(pl.Series(ROW, batch.offsets()[parts[ROW]])).rows()


def test_parts_of_records_that_are_not_in_the_frame_do_not_count() -> None:
    def shown(action: str, data: Any, time: str = "2022-03-22T12:15:00.000Z") -> bytes:
        common = {"time": time, "userId": 1, "requestId": 2, "serverName": "Catalog"}
        return msgspec.json.encode({"action": action, "commonData": common, "data": data})

    listed = {"products": [{"productId": 5}, {"productId": {"productId": "x"}}]}
    batch = decode(
        shown("CatalogDbRep", listed, time="soon"),
        shown("CatalogReq", listed),
        b"nope",
        shown("CatalogDbRep", listed),
        shown("CatalogProductReq", {"productId": 6}),
        by=product_views.LOGS,
    )
    assert parts_of(batch) == [
        (1_647_951_300_000, 103, "1", 0, "5"),
        (1_647_951_300_000, 103, "1", 0, "x"),
        (1_647_951_300_000, 104, "1", 1, "6"),
    ]
    # As a replay does with what is outside its range.
    assert batch.rows is not None
    some = replace(batch, frame=batch.frame[2:], rows=batch.rows[2:])
    assert parts_of(some) == [(1_647_951_300_000, 104, "1", 1, "6")]


@pytest.mark.parametrize("block_lines", [1, 7, 1_000])
@pytest.mark.parametrize("between", [b"", b" ", b",", b"\t"])
@pytest.mark.parametrize(
    "fewer",
    [
        [b""],
        [b" "],
        [b"\r"],
        [event()[:-1], b"}"],
        [event().replace(b"}", b',"other":[{}'), b"{}]}"],
        [event().replace(b"}", b',"other":{"a":{}'), b'"b":{}}}'],
        [event().replace(b"}", b',"other":"{}'), b'{}"}'],
        [b"[%b" % event(), b"%b]" % event()],
    ],
)
def test_lines_without_a_record_do_not_make_up_for_one_with_two(
    fewer: list[bytes], between: bytes, block_lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_decode, "BLOCK_LINES", block_lines)
    lines = [event()] * 40
    lines[10] = event() + between + event()
    lines[20 : 20 + len(fewer)] = fewer
    bad = [110, *range(120, 120 + len(fewer))]
    batch = ROWS_OF_STORE.decode("f", poll_of(*lines))
    assert [letter.offset for letter in batch.dead] == bad
    assert {letter.code for letter in batch.dead} <= {"empty", "not_json", "wrong_field"}
    assert batch.offsets().tolist() == [at for at in range(100, 140) if at not in bad]


def test_large_records_are_read() -> None:
    batch = decode(event(), event(brand="x" * 900_000), event())
    assert len(batch.frame) == 3
    assert not batch.dead


def tag(brand_id: int | str, category_id: int | str) -> bytes:
    product = {"product_id": 1, "brand_id": brand_id, "category_id": category_id, "price": 5}
    fields = {
        "time": "2022-03-22T12:15:00.000Z",
        "cookie": "c",
        "country": "PL",
        "device": "PC",
        "action": "BUY",
        "origin": "o",
        "product_info": product,
    }
    return msgspec.json.encode(fields)


def test_ids_that_come_as_integers_are_text_in_the_frame() -> None:
    batch = decode(tag(17, "x"), by=TAGS)
    assert batch.frame.to_dicts() == [
        {
            "time_ms": 1_647_951_300_000,
            "action": "BUY",
            "origin": "o",
            "brand_id": "17",
            "category_id": "x",
            "price": 5,
        }
    ]


HUGE_ID = 10**39


@given(
    st.lists(
        st.sampled_from((17, -1, "x", "017", 2**63 - 1, 2**63, 2**64 - 1, HUGE_ID)), min_size=1
    )
)
def test_ids_of_mixed_types_are_text_each(ids: list[int | str]) -> None:
    frame = decode(*(tag(one, ids[0]) for one in ids), by=TAGS).frame
    assert frame["brand_id"].to_list() == [str(one) for one in ids]
    assert frame["category_id"].to_list() == [str(ids[0])] * len(ids)


def test_a_value_that_its_column_cannot_hold_is_a_dead_letter_and_harms_no_other() -> None:
    class Counted(msgspec.Struct):
        time: str
        count: int

    counted = Records(
        Counted, "time", {"count": integer(lambda all_: [one.count for one in all_])}
    )
    records = [b'{"time":"2022-03-22T12:15:00Z","count":%d}' % n for n in (1, HUGE_ID, 3)]
    batch = decode(*records, by=counted)
    assert batch.frame["count"].to_list() == [1, 3]
    (letter,) = batch.dead
    assert (letter.offset, letter.code) == (101, "wrong_field")
    assert letter.reason == f"{HUGE_ID} cannot be held as count"


def test_a_tombstone_is_no_row_and_no_dead_letter() -> None:
    poll = replace(poll_of(event(price=1), b"", event(price=2), b""), tombstones=(1,))
    batch = ROWS_OF_STORE.decode("a_flow", poll)
    assert batch.frame["price_cents"].to_list() == [100, 200]
    assert batch.offsets().tolist() == [100, 102]
    assert [(letter.offset, letter.code) for letter in batch.dead] == [(103, "empty")]


def test_an_event_is_of_the_future_by_its_append_time_and_never_by_who_reads_it() -> None:
    poll = poll_of(*[event(event_time="2019-10-01 01:00:01 UTC")] * 3)
    at_ms = 1_569_888_000_000  # 2019-10-01T00:00:00Z
    appended = np.array([at_ms, UNKNOWN_MS, at_ms + 1_000])
    by = ROWS_OF_STORE.decode
    batch = by("a_flow", replace(poll, appended_ms=appended, polled_at_ms=at_ms))
    assert batch.offsets().tolist() == [101, 102]
    assert [(letter.offset, letter.code) for letter in batch.dead] == [(100, "future_time")]
    assert not by("a_flow", replace(poll, appended_ms=None, polled_at_ms=at_ms)).dead


def test_offsets_with_gaps_are_kept() -> None:
    data = event() + b"\nnope\n" + event() + b"\n"
    offsets = np.array([5, 9, 12], dtype=np.int64)
    batch = ROWS_OF_STORE.decode("f", Poll("t", 0, 5, data, 3, 0, NOW_MS, offsets=offsets))
    assert batch.offsets().tolist() == [5, 12]
    assert [letter.offset for letter in batch.dead] == [9]
    assert batch.poll.next_offset == 13


def test_a_payload_that_is_cut_within_a_character_is_still_text() -> None:
    record = b"x" + "é".encode() * 600_000
    (letter,) = decode(record).dead
    assert letter.payload_base64 is None
    assert letter.payload_bytes == len(record)
    assert record.startswith(payload_of(letter))
