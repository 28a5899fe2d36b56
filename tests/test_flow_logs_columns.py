"""Platform logs in, columns out: whatever shape an id has, and whatever is left out."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.flows import _logs
from footfall.schemas.platform_logs import is_failed
from footfall.schemas.times import iso_ms
from footfall.streams.batch import TIME_MS, Batch, Poll

NOW_MS = 1_700_000_000_000
START_MS = 1_647_951_300_000

TYPES = dict.fromkeys(_logs.COLUMNS, pl.String) | {
    "failed": pl.Boolean,
    "amount_cents": pl.Int64,
    "products": pl.List(pl.String),
}


def log(user: Any = 17, request: Any = "r1", data: Any = ..., time: str = "") -> bytes:
    common = {
        "time": time or iso_ms(START_MS),
        "userId": user,
        "requestId": request,
        "serverName": "Cart",
    }
    record = {"action": "CartReqAdd", "commonData": common}
    return msgspec.json.encode(record if data is ... else record | {"data": data})


def decode(*logs: bytes, columns: tuple[str, ...] = tuple(_logs.COLUMNS)) -> Batch:
    data = b"".join(line + b"\n" for line in logs)
    appended_ms = np.full(len(logs), NOW_MS)
    poll = Poll("platform_logs", 3, 100, data, len(logs), 0, NOW_MS, appended_ms=appended_ms)
    return _logs.records(*columns).decode("a_flow", poll)


def test_a_record_becomes_a_row() -> None:
    data = {
        "status": "Declined",
        "error": "no funds",
        "provider": "cardline",
        "productId": 5,
        "amount_cents": 1250,
        "products": [{"productId": 5}, {"productId": {"productId": "x"}}],
    }
    frame = decode(log(data=data)).frame
    assert frame.schema == {TIME_MS: pl.Int64, **TYPES}
    assert frame.to_dicts() == [
        {
            TIME_MS: START_MS,
            "user_id": "17",
            "request_id": "r1",
            "server": "Cart",
            "log": "CartReqAdd",
            "status": "Declined",
            "error": "no funds",
            "failed": True,
            "provider": "cardline",
            "product_id": "5",
            "amount_cents": 1250,
            "products": ["5", "x"],
        }
    ]


@pytest.mark.parametrize("data", [..., None, {}, {"products": []}])
def test_what_a_record_does_not_have_is_null(data: Any) -> None:
    frame = decode(log(data=data), log(data=data)).frame
    nullable = [name for name in [*_logs.COLUMNS][4:] if name != "failed"]
    assert not frame["failed"].any()
    assert frame.schema == {TIME_MS: pl.Int64, **TYPES}
    assert frame.select(nullable).null_count().row(0) == (2,) * len(nullable)


@pytest.mark.parametrize("status", [None, "", "Ok", "Valid", "Invalid", "Timeout", "other"])
@pytest.mark.parametrize("error", [None, "", "lost"])
def test_a_record_failed_where_its_status_or_its_error_says_so(
    status: str | None, error: str | None
) -> None:
    frame = decode(log(data={"status": status, "error": error}), columns=("failed",)).frame
    assert frame["failed"].to_list() == [is_failed(status, error)]


def test_only_the_columns_asked_for_are_made_in_that_order() -> None:
    assert decode(log(), columns=("log", "user_id")).frame.columns == [TIME_MS, "log", "user_id"]
    assert decode(log(), columns=()).frame.columns == [TIME_MS]
    with pytest.raises(KeyError, match="userId"):
        _logs.records("userId")


def nested(ids: st.SearchStrategy[Any], name: str) -> st.SearchStrategy[Any]:
    return ids.flatmap(lambda of: st.sampled_from((of, {name: of})))


bare_ids = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 20),
    st.integers(0, 20).map(str),
    st.sampled_from(("017", "-0", "1e3", " 5", "żółw", "a\nb", '"', "9" * 30)),
)
product_ids = nested(bare_ids, "productId")


def text_of(value: Any) -> Any:
    """Return the text of a value by the definition that the columns must meet."""
    if isinstance(value, dict):
        (value,) = value.values()
    return value if value is None else str(value)


def runs(ids: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Return ids mostly of one type, as services write them, with others among them."""
    some = st.lists(ids, min_size=1, max_size=4)
    return st.tuples(some, ids, st.integers(0, 6), some).map(
        lambda drawn: [*drawn[0], *[drawn[1]] * drawn[2], *drawn[3]]
    )


@settings(deadline=None, max_examples=60)
@given(runs(nested(bare_ids, "userId")), runs(nested(bare_ids, "requestId")), st.data())
def test_ids_are_in_their_normal_form_whatever_stands_beside_them(
    users: list[Any], requests: list[Any], more: st.DataObject
) -> None:
    count = min(len(users), len(requests))
    some_data = st.none() | st.fixed_dictionaries(
        {}, optional={"productId": product_ids, "products": st.lists(listed, max_size=3)}
    )
    datas = more.draw(st.lists(some_data, min_size=count, max_size=count))
    frame = decode(*map(log, users, requests, datas)).frame
    known = [data or {} for data in datas]
    assert frame["user_id"].to_list() == [text_of(user) for user in users[:count]]
    assert frame["request_id"].to_list() == [text_of(request) for request in requests[:count]]
    assert frame["product_id"].to_list() == [text_of(data.get("productId")) for data in known]
    assert frame["products"].to_list() == [
        [text_of(product["productId"]) for product in data.get("products", ())] or None
        for data in known
    ]


listed = product_ids.map(lambda of: {"productId": of})

BAD = {
    "no time": (log(time="soon"), "bad_time", "not a date and time: 'soon'"),
    "no such day": (log(time="2022-02-30T12:00:00"), "bad_time", "no such day"),
    "before 1970": (log(time="1970-01-01T00:00:00+01:00"), "bad_time", "before 1970"),
    "the future": (log(time="2090-01-01T00:00:00.000Z"), "future_time", "in the future"),
    "no id": (log(user=""), "wrong_field", "commonData.userId: is empty"),
    "wrong data": (log(data=[1]), "wrong_field", "data: "),
    "cut off": (log()[:-9], "not_json", "truncated"),
}


@pytest.mark.parametrize("copies", [1, 300])
def test_bad_records_among_times_of_all_layouts_are_dead_letters(copies: int) -> None:
    times = [
        "2022-03-22T12:15:00.000Z",
        "2022-03-22T12:15:00.000",
        "2022-03-22 12:15:00 UTC",
        "2022-03-22T13:15:00.000+01:00",
        "2022-03-22T12:15:00.000999Z",
        "2022-03-22T12:15:00",
        "2022-03-22T12:15Z",
    ]
    good = [log(user=n, time=time) for n, time in enumerate(times)] * copies
    for name, (record, code, reason) in BAD.items():
        batch = decode(*good[:3], record, *good[3:], columns=("user_id",))
        assert batch.frame[TIME_MS].to_list() == [START_MS] * len(good), name
        assert batch.frame["user_id"].to_list() == ["0", "1", "2", "3", "4", "5", "6"] * copies
        (letter,) = batch.dead
        assert (letter.offset, letter.code) == (103, code), name
        assert reason in letter.reason
        assert code != "bad_time" or letter.reason.startswith("commonData.time: ")


def test_nothing_but_bad_records_is_an_empty_frame_of_the_same_types() -> None:
    batch = decode(b"nope")
    assert len(batch.dead) == 1
    assert batch.frame.is_empty()
    assert batch.frame.schema == {TIME_MS: pl.Int64, **TYPES}
