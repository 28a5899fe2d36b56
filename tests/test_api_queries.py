"""HTTP out: profiles and aggregates, against a brute-force recomputation from the tags."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.schemas.times import datetime_of
from footfall.sinks import SinkUnavailableError
from footfall.sinks.profiles.sqlite import SqliteProfiles
from tests.api_support import Client, Shop, encoded, serving, tag

START_MS = 1_647_951_300_000
"""2022-03-22T12:15:00.000Z"""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Shop, Client]]:
    shop = Shop()
    with serving(shop) as client:
        yield shop, client


@pytest.fixture
def shop(served: tuple[Shop, Client]) -> Shop:
    shop, _ = served
    shop.profiles.tags = []
    shop.aggregates.tags = []
    return shop


@pytest.fixture
def client(served: tuple[Shop, Client]) -> Client:
    return served[1]


def ms_text(time_ms: int) -> str:
    return datetime_of(time_ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}"


def minute_text(time_ms: int) -> str:
    return datetime_of(time_ms).strftime("%Y-%m-%dT%H:%M:%S")


def profile_target(cookie: str, from_ms: int, to_ms: int, **more: Any) -> str:
    query = {"time_range": f"{ms_text(from_ms)}_{ms_text(to_ms)}", **more}
    return f"/user_profiles/{quote(cookie, safe='')}?{urlencode(query)}"


def test_tags_come_back_as_the_bytes_that_were_sent(shop: Shop, client: Client) -> None:
    odd = b'{ "cookie":"a/b ?","price":1.50,"big":123456789012345678901234567890,"e":"\\u00e9" }'
    shop.profiles.tags = [(START_MS, "VIEW", 'a/b ?"', odd), (START_MS, "BUY", 'a/b ?"', b"{}")]
    reply = client.post(profile_target('a/b ?"', START_MS, START_MS + 1))
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.body == b'{"cookie":"a/b ?\\"","views":[' + odd + b'],"buys":[{}]}'


def test_an_unknown_cookie_has_two_empty_lists(shop: Shop, client: Client) -> None:
    reply = client.get(profile_target("nobody", START_MS, START_MS + 1))
    assert reply.json() == {"cookie": "nobody", "views": [], "buys": []}


def test_200_of_each_kind_unless_asked_otherwise(shop: Shop, client: Client) -> None:
    shop.profiles.tags = [
        (START_MS + at, action, "c", encoded({"at": at}))
        for at in range(300)
        for action in ("VIEW", "BUY")
    ]
    for more, wanted in (({}, 200), ({"limit": 7}, 7), ({"limit": 0}, 0), ({"limit": 999}, 300)):
        answer = client.post(profile_target("c", START_MS, START_MS + 300, **more)).json()
        newest = [{"at": at} for at in range(299, 299 - wanted, -1)]
        assert (answer["views"], answer["buys"]) == (newest, newest)


COOKIES = st.sampled_from(["a", "b", "ü/ö"])
TAGS = st.lists(
    st.tuples(
        st.integers(START_MS, START_MS + 240_000),
        st.sampled_from(["VIEW", "BUY"]),
        COOKIES,
        st.sampled_from(["o1", "o2"]),
        st.sampled_from(["b1", "b&=2"]),
        st.sampled_from(["c1", "c 3"]),
        st.integers(-(2**31), 2**31 - 1),
    ),
    max_size=30,
    unique_by=lambda made: made[0],
)
QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(
    tags=TAGS,
    cookie=COOKIES,
    span=st.tuples(st.integers(-1000, 241_000), st.integers(-1000, 241_000)).map(sorted),
    limit=st.integers(0, 12),
    method=st.sampled_from(["GET", "POST"]),
)
def test_profiles_equal_brute_force(
    *,
    shop: Shop,
    client: Client,
    tags: list[Any],
    cookie: str,
    span: list[int],
    limit: int,
    method: str,
) -> None:
    shop.profiles.tags = [
        (time_ms, action, owner, encoded(tag(time=ms_text(time_ms), origin=origin)))
        for time_ms, action, owner, origin, *_ in tags
    ]
    from_ms, to_ms = (START_MS + offset for offset in span)
    answer = client.ask(method, profile_target(cookie, from_ms, to_ms, limit=limit), b"x").json()
    assert answer["cookie"] == cookie
    for action, kind in (("VIEW", "views"), ("BUY", "buys")):
        expected = sorted(
            (
                made[0]
                for made in tags
                if made[1] == action and made[2] == cookie and from_ms <= made[0] < to_ms
            ),
            reverse=True,
        )[:limit]
        assert [found["time"] for found in answer[kind]] == [ms_text(at) for at in expected]


def test_profiles_of_the_real_store_come_back_as_they_were_sent(tmp_path: Path) -> None:
    sent = [
        encoded(tag(cookie=f"c{at % 3}", time=ms_text(START_MS + at), action=action, at=at))
        for at in range(900)
        for action in ("VIEW", "BUY")
    ]
    store = SqliteProfiles(tmp_path / "profiles.sqlite")
    found = [json.loads(one) for one in sent]
    store.put(
        pl.DataFrame(
            {
                "cookie": [one["cookie"] for one in found],
                "action": [one["action"] for one in found],
                "time_ms": [START_MS + one["at"] for one in found],
                "topic": ["user_tags"] * len(found),
                "topic_partition": [0] * len(found),
                "offset": list(range(len(found))),
                "tag": sent,
            }
        )
    )
    with serving(Shop(profiles=store)) as client:
        answer = client.get(profile_target("c1", START_MS, START_MS + 800)).body
        for action, kind in (("VIEW", b'"views":['), ("BUY", b'"buys":[')):
            newest = [
                one
                for one, tag_ in zip(sent, found, strict=True)
                if tag_["cookie"] == "c1" and tag_["action"] == action
            ][-200:]
            before = [one for one in newest if json.loads(one)["at"] < 800]
            assert kind + b",".join(before[::-1]) + b"]" in answer
    store.close()


@QUICK
@given(
    tags=TAGS,
    first=st.integers(-2, 4),
    minutes=st.integers(0, 10),
    action=st.sampled_from(["VIEW", "BUY"]),
    aggregates=st.permutations(["COUNT", "SUM_PRICE"]).flatmap(
        lambda both: st.sampled_from([both, both[:1]])
    ),
    filters=st.lists(
        st.sampled_from(
            [("origin", "o1"), ("origin", "zz"), ("brand_id", "b&=2"), ("category_id", "c 3")]
        ),
        unique_by=lambda pair: pair[0],
    ),
    method=st.sampled_from(["GET", "POST"]),
)
def test_aggregates_equal_brute_force(
    *,
    shop: Shop,
    client: Client,
    tags: list[Any],
    first: int,
    minutes: int,
    action: str,
    aggregates: list[str],
    filters: list[tuple[str, str]],
    method: str,
) -> None:
    names = ("origin", "brand_id", "category_id")
    rows = [
        (time_ms, kind, dict(zip(names, fields, strict=True)), price)
        for time_ms, kind, _, *fields, price in tags
    ]
    shop.aggregates.tags = rows
    from_ms = START_MS + first * 60_000
    to_ms = from_ms + minutes * 60_000
    pairs = [("time_range", f"{minute_text(from_ms)}_{minute_text(to_ms)}"), ("action", action)]
    pairs += [*filters, *(("aggregates", name) for name in aggregates)]
    answer = client.ask(method, f"/aggregates?{urlencode(pairs)}", b"ignored").json()
    asked = {name: value for name in names for given, value in filters if given == name}
    expected = []
    for minute_ms in range(from_ms, to_ms, 60_000):
        prices = [
            price
            for time_ms, kind, fields, price in rows
            if minute_ms <= time_ms < minute_ms + 60_000
            and kind == action
            and all(fields[name] == value for name, value in asked.items())
        ]
        sums = {"COUNT": str(len(prices)), "SUM_PRICE": str(sum(prices))}
        expected.append(
            [minute_text(minute_ms), action, *asked.values(), *(sums[name] for name in aggregates)]
        )
    lower = {"COUNT": "count", "SUM_PRICE": "sum_price"}
    assert answer == {
        "columns": ["1m_bucket", "action", *asked, *(lower[name] for name in aggregates)],
        "rows": expected,
    }


def test_the_shape_of_an_answer_to_the_letter(shop: Shop, client: Client) -> None:
    fields = {"origin": "o", "brand_id": "b", "category_id": "c"}
    shop.aggregates.tags = [(1_646_093_101_000, "BUY", fields, 250)]
    reply = client.post(
        "/aggregates?time_range=2022-03-01T00:05:00_2022-03-01T00:07:00&category_id=c&action=BUY"
        "&aggregates=SUM_PRICE&aggregates=COUNT&origin=o"
    )
    assert reply.body == (
        b'{"columns":["1m_bucket","action","origin","category_id","sum_price","count"],"rows":'
        b'[["2022-03-01T00:05:00","BUY","o","c","250","1"],'
        b'["2022-03-01T00:06:00","BUY","o","c","0","0"]]}'
    )


RANGE = "time_range=2022-03-22T12:25:00_2022-03-22T12:30:00"
BAD_AGGREGATES = [
    ("action=VIEW&aggregates=COUNT", "time_range: required"),
    ("time_range=2022-03-22T12:25:00&action=VIEW&aggregates=COUNT", "time_range: takes"),
    ("time_range=a_b&action=VIEW&aggregates=COUNT", "time_range: takes"),
    (f"{RANGE}Z&action=VIEW&aggregates=COUNT", "time_range: takes"),
    (f"{RANGE}_&action=VIEW&aggregates=COUNT", "time_range: takes"),
    (f"{RANGE.replace('12:30:00', '12:36:00')}&action=VIEW&aggregates=COUNT", "time_range: spans"),
    (f"{RANGE.replace('12:30:00', '12:30:01')}&action=VIEW&aggregates=COUNT", "time_range: "),
    (f"{RANGE.replace('12:25:00', '12:25:00.001')}&action=VIEW&aggregates=COUNT", "time_range: "),
    (f"{RANGE.replace('12:25:00', '12:31:00')}&action=VIEW&aggregates=COUNT", "time_range: ends"),
    (f"{RANGE.replace('03-22T12:25', '02-30T12:25')}&action=BUY&aggregates=COUNT", "time_range: "),
    (f"{RANGE}&{RANGE}&action=VIEW&aggregates=COUNT", "time_range: given 2 times"),
    (f"{RANGE}&aggregates=COUNT", "action: "),
    (f"{RANGE}&action=view&aggregates=COUNT", "action: "),
    (f"{RANGE}&action=VIEW&action=BUY&aggregates=COUNT", "action: given 2 times"),
    (f"{RANGE}&action=VIEW", "aggregates: required"),
    (f"{RANGE}&action=VIEW&aggregates=MAX", "aggregates: "),
    (f"{RANGE}&action=VIEW&aggregates=COUNT,SUM_PRICE", "aggregates: "),
    (f"{RANGE}&action=VIEW&aggregates=COUNT&aggregates=COUNT", "aggregates: "),
    (f"{RANGE}&action=VIEW&aggregates=COUNT&origin=a&origin=b", "origin: given 2 times"),
    (f"{RANGE}&action=VIEW&aggregates=COUNT&brand=a", "brand: no such parameter"),
    (f"{RANGE}&action=VIEW&aggregates=COUNT&origin=%FF", "query: "),
]


@pytest.mark.parametrize(("query", "error"), BAD_AGGREGATES)
def test_a_bad_parameter_of_aggregates_is_named(query: str, error: str, client: Client) -> None:
    reply = client.post(f"/aggregates?{query}")
    assert reply.status == 400
    assert reply.error.startswith(error), reply.error


GOOD = "time_range=2022-03-22T12:15:00.000_2022-03-22T12:30:00.000"
BAD_PROFILES = [
    ("", "time_range: required"),
    ("limit=5", "time_range: required"),
    ("time_range=2022-03-22T12:15:00.000Z_2022-03-22T12:30:00.000Z", "time_range: takes"),
    ("time_range=2022-03-22 12:15:00_2022-03-22T12:30:00", "time_range: takes"),
    ("time_range=2022-03-22T12:15:00.0000_2022-03-22T12:30:00", "time_range: takes"),
    ("time_range=2022-03-22T12:30:00_2022-03-22T12:15:00", "time_range: ends"),
    ("time_range=1022-03-22T12:30:00_2022-03-22T12:15:00", "time_range: year 1022"),
    (f"{GOOD}&limit=-1", "limit: "),
    (f"{GOOD}&limit=many", "limit: "),
    (f"{GOOD}&limit=1.5", "limit: "),
    (f"{GOOD}&limit=", "limit: "),
    (f"{GOOD}&limit=²", "limit: "),
    (f"{GOOD}&limit=99999999999999999999999", "limit: "),
    (f"{GOOD}&limits=1", "limits: no such parameter"),
]


@pytest.mark.parametrize(("query", "error"), BAD_PROFILES)
def test_a_bad_parameter_of_profiles_is_named(query: str, error: str, client: Client) -> None:
    reply = client.get(f"/user_profiles/c?{quote(query, safe='=&_:')}")
    assert reply.status == 400
    assert reply.error.startswith(error), reply.error


@pytest.mark.parametrize(
    "ends", ["12:15:00_2022-03-22T12:30:00", "12:15:00.5_2022-03-22T12:15:01"]
)
def test_a_fraction_may_be_left_out(ends: str, client: Client) -> None:
    assert client.get(f"/user_profiles/c?time_range=2022-03-22T{ends}").status == 200


def test_a_store_that_is_down_is_a_503_that_names_it() -> None:
    shop = Shop()
    shop.profiles.failure = SinkUnavailableError("the profiles' file is gone")
    shop.aggregates.failure = SinkUnavailableError("ClickHouse at http://x/ does not answer")
    with serving(shop) as client:
        reply = client.get(f"/user_profiles/c?{GOOD}")
        assert (reply.status, "file is gone" in reply.error) == (503, True)
        reply = client.get(f"/aggregates?{RANGE}&action=VIEW&aggregates=COUNT")
        assert (reply.status, "ClickHouse at" in reply.error) == (503, True)


def test_a_store_that_fails_in_an_unknown_way_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    shop.profiles.failure = ZeroDivisionError("oops")
    with serving(shop) as client:
        reply = client.get(f"/user_profiles/c?{GOOD}")
        assert reply.status == 500
        assert "oops" not in reply.error
        assert client.get("/healthz").status == 200
    assert "oops" in caplog.text


DIFFERENCES = 'footfall_api_answer_differences_total{route="/user_profiles/{cookie}"}'


def test_debug_answers_log_and_count_what_differs(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(debug_answers=True)
    given = [tag(time=ms_text(START_MS + at)) for at in range(2)]
    shop.profiles.tags = [
        (START_MS + at, "VIEW", "c", encoded(found)) for at, found in enumerate(given)
    ]
    right = {"cookie": "c", "views": given[::-1], "buys": []}
    target = profile_target("c", START_MS, START_MS + 10)
    with serving(shop) as client, caplog.at_level(logging.WARNING):
        plain = client.post(target)
        assert client.post(target, encoded(right)).body == plain.body
        assert client.metric(DIFFERENCES) == 0
        wrong = json.loads(json.dumps(right))
        wrong["views"][0]["product_info"]["price"] = 7
        wrong["views"][1]["more"] = True
        del wrong["views"][1]["country"]
        wrong["buys"] = [given[0]]
        assert client.post(target, encoded(wrong)).body == plain.body
        assert client.metric(DIFFERENCES) == 4
        for line in (
            "$.views[0].product_info.price: expected 7, got 100",
            "$.views[1].more: expected True, got nothing",
            "$.views[1].country: expected nothing, got 'PL'",
            "$.buys: expected 1 elements, got 0",
        ):
            assert line in caplog.text
        client.post(target, b"{not json")
        assert client.metric(DIFFERENCES) == 5
        query = f"/aggregates?{RANGE}&action=VIEW&aggregates=COUNT"
        answer = client.post(query).json()
        answer["rows"][2][2] = "9"
        client.post(query, encoded(answer))
        counted = 'footfall_api_answer_differences_total{route="/aggregates"}'
        assert client.metric(counted) == 1


def test_without_debug_answers_the_body_is_ignored(shop: Shop, client: Client) -> None:
    for body in (b"{not json", b"x" * 2_000_000):
        assert client.post(profile_target("c", START_MS, START_MS), body).status == 200
    assert client.metric(DIFFERENCES) == 0
