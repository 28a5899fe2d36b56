"""HTTP in: what is stored, what is refused and why; never anything in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from footfall.api.records import INCOMING, read_records
from footfall.sinks import SinkUnavailableError
from tests.api_process_support import WAIT_S, eventually
from tests.api_support import Client, Shop, encoded, serving, tag


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Shop, Client]]:
    shop = Shop()
    with serving(shop) as client:
        yield shop, client


@pytest.fixture
def shop(served: tuple[Shop, Client]) -> Shop:
    shop, _ = served
    shop.topics.records.clear()
    shop.topics.failure = None
    return shop


@pytest.fixture
def client(served: tuple[Shop, Client]) -> Client:
    return served[1]


def test_a_tag_is_stored_as_it_was_sent_keyed_by_its_cookie(shop: Shop, client: Client) -> None:
    odd = tag(cookie="ż/1", product_info={"product_id": 17}, unknown={"kept": [1.50, "é"]})
    body = b"  " + json.dumps(odd, ensure_ascii=False, indent=1).encode() + b"\r\n"
    before = client.metric(WRITTEN)
    reply = client.post("/user_tags", body)
    assert (reply.status, reply.body) == (204, b"")
    stored = shop.topics.records["user_tags"]
    assert stored == [("ż/1".encode(), body.replace(b"\n", b" ").replace(b"\r", b" "))]
    assert client.metric(WRITTEN) == before + 1


WRITTEN = 'footfall_api_records_written_total{topic="user_tags"}'

NOW_MS = 1_900_000_000_000

WRONG_TAGS = [
    (encoded(tag(time="2199-01-01T00:00:00.000Z")), "time"),
    (b"", "body"),
    (b"not json", "body"),
    (b"[]", "body"),
    (b"null", "body"),
    (encoded(tag())[:-3], "body"),
    (encoded(tag()) + b" {}", "body"),
    (encoded(tag()).replace(b"ORIGIN_1", b"\xff\xfe"), "body"),
    (encoded(tag(extra=1)).replace(b'"extra": 1', b'"extra": "\xff"'), "body"),
    (encoded(tag(extra=1)).replace(b'"extra": 1', b'"extra": NaN'), "body"),
    (encoded(tag()).replace(b"ORIGIN_1", b"ORI\nGIN"), "body"),
    (encoded(tag(cookie=None)), "cookie"),
    (encoded(tag(cookie="")), "cookie"),
    (encoded(tag(cookie="c" * 600)), "cookie"),
    (encoded(tag(cookie=17)), "cookie"),
    (encoded(tag(time=None)), "time"),
    (encoded(tag(time=1647951300000)), "time"),
    (encoded(tag(time="yesterday")), "time"),
    (encoded(tag(time="2022-13-22T12:15:00.000Z")), "time"),
    (encoded(tag(time="1969-12-31T23:59:59.999Z")), "time"),
    (encoded(tag(time="9999-01-01T00:00:00.000Z")), "time"),
    (encoded(tag(device="FRIDGE")), "device"),
    (encoded(tag(action="view")), "action"),
    (encoded(tag(origin=None)), "origin"),
    (encoded(tag(country={})), "country"),
    (encoded(tag(product_info={"price": "12"})), "product_info.price"),
    (encoded(tag(product_info={"price": 12.5})), "product_info.price"),
    (encoded(tag(product_info={"price": 2**31})), "product_info.price"),
    (encoded(tag(product_info={"price": None})), "product_info.price"),
    (encoded(tag(product_info={"brand_id": True})), "product_info.brand_id"),
    (encoded(tag() | {"product_info": None}), "product_info"),
]


@pytest.mark.parametrize(("body", "field"), WRONG_TAGS)
def test_a_wrong_tag_is_refused_by_its_field_and_nothing_is_stored(
    body: bytes, field: str, shop: Shop, client: Client
) -> None:
    reply = client.post("/user_tags", body)
    assert reply.status == 400
    assert list(reply.json()) == ["error"]
    assert reply.error.startswith(field + ": "), reply.error
    assert shop.topics.records == {}
    # The connection and the next tag do not suffer.
    assert client.post("/user_tags", encoded(tag())).status == 204


def test_a_tag_that_no_profile_could_hold_is_refused(shop: Shop, client: Client) -> None:
    room = 2_048 - len(encoded(tag(padding="")))
    assert client.post("/user_tags", encoded(tag(padding="x" * room))).status == 204
    longer = encoded(tag(padding="x" * (room + 1)))
    reply = client.post("/user_tags", longer)
    assert reply.status == 413
    assert reply.error == "body: a record of 2049 bytes; user_tags takes at most 2048"
    reply = client.post("/events/user_tags", encoded(tag()) + b"\n" + longer)
    assert (reply.status, reply.error[:24]) == (413, "record 1: body: a record")
    assert len(shop.topics.records["user_tags"]) == 1


def test_a_body_over_1_mib_is_refused_and_one_of_1_mib_is_not(shop: Shop, client: Client) -> None:
    one = encoded(tag()) + b"\n"
    lines = one * (1_048_576 // len(one))
    body = lines + b"\n" * (1_048_576 - len(lines))
    assert client.post("/events/user_tags", body).status == 200
    for path, longer in (("/events/user_tags", body + b"\n"), ("/user_tags", b"x" * 3_000_000)):
        reply = client.post(path, longer)
        assert reply.status == 413
        assert "1048576" in reply.error
    assert len(shop.topics.records["user_tags"]) == 1_048_576 // len(one)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_refused(method: str, client: Client) -> None:
    reply = client.ask(method, "/user_tags")
    assert reply.status == 405
    assert reply.headers["allow"] == "POST"
    assert method in reply.error


def test_nothing_elsewhere(client: Client) -> None:
    assert client.get("/elsewhere").status == 404
    assert "/elsewhere" in client.get("/elsewhere").error


STORE_EVENT = {
    "event_time": "2019-10-01 00:00:00 UTC",
    "event_type": "view",
    "product_id": 44600062,
    "category_id": 2103807459595387724,
    "price": 35.79,
    "user_id": 541312140,
}
LOG = {
    "action": "CatalogReq",
    "commonData": {
        "time": "2022-03-22T12:15:00",
        "userId": 17,
        "requestId": {"requestId": "a1"},
        "serverName": "Catalog",
    },
}
SHOP_EVENT = {
    "event": "PageVisit",
    "timestamp": "2022-03-22T12:15:00Z",
    "user_id": 17,
    "page_id": 3,
}
REPORT = {"time": "2022-03-22T12:15:00Z", "client_id": "c1", "report": {"page": "/", "ms": 3}}


def log(**common: Any) -> dict[str, Any]:
    return LOG | {"commonData": LOG["commonData"] | common}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("shape", "content_type"),
    [
        (json.dumps, "application/json"),
        (lambda records: json.dumps(records, indent=2), "application/json"),
        (lambda records: "\n".join(map(json.dumps, records)), "application/x-ndjson"),
        (lambda records: "\r\n\r\n".join(map(json.dumps, records)) + "\r\n", ""),
    ],
)
def test_many_records_in_every_shape(
    shape: Any, content_type: str, shop: Shop, client: Client
) -> None:
    records = [STORE_EVENT | {"user_id": user} for user in (1, 2, 1)]
    headers = {"Content-Type": content_type} if content_type else {}
    reply = client.post("/events/store_events", shape(records).encode(), headers)
    assert (reply.status, reply.json()) == (200, {"stored": 3})
    stored = shop.topics.records["store_events"]
    assert [key for key, _ in stored] == [b"1", b"2", b"1"]
    assert [json.loads(value) for _, value in stored] == records
    assert not any(b"\n" in value for _, value in stored)


def test_one_record_over_several_lines(shop: Shop, client: Client) -> None:
    reply = client.post("/events/user_tags", json.dumps(tag(), indent=2).encode())
    assert reply.json() == {"stored": 1}
    assert json.loads(shop.topics.records["user_tags"][0][1]) == tag()


def test_steps_and_behaviour_of_a_user_are_keyed_by_the_user(shop: Shop, client: Client) -> None:
    logs = [log(userId=user) for user in (17, "17", {"userId": 17}, {"userId": "17"})]
    assert client.post("/events/platform_logs", encoded(logs)).json() == {"stored": 4}
    assert client.post("/events/shop_events", encoded(SHOP_EVENT)).json() == {"stored": 1}
    stored = shop.topics.records
    assert [key for key, _ in stored["platform_logs"]] == [b"17"] * 4
    assert [json.loads(value) for _, value in stored["platform_logs"]] == logs
    assert stored["shop_events"] == [(b"17", encoded(SHOP_EVENT))]


WRONG_EVENTS = [
    ("user_tags", [tag(), tag(device="FRIDGE"), tag(cookie=None)], "record 1: device: "),
    ("store_events", [STORE_EVENT, STORE_EVENT | {"price": 1.234}], "record 1: price: "),
    ("store_events", [STORE_EVENT | {"event_time": "soon"}], "record 0: event_time: "),
    ("store_events", [STORE_EVENT | {"event_type": "steal"}], "record 0: event_type: "),
    ("store_events", [STORE_EVENT | {"user_id": -1}], "record 0: user_id: "),
    ("platform_logs", [LOG, LOG | {"action": ""}], "record 1: action: "),
    ("platform_logs", [log(userId=[17])], "record 0: commonData.userId: "),
    ("platform_logs", [log(time="soon")], "record 0: commonData.time: "),
    ("shop_events", [SHOP_EVENT | {"event": "PageVisits"}], "record 0: event: "),
    ("shop_events", [SHOP_EVENT | {"page_id": "3"}], "record 0: page_id: "),
    ("shop_events", [SHOP_EVENT | {"timestamp": "soon"}], "record 0: timestamp: "),
    ("visits", [REPORT, 5], "record 1: body: "),
    ("activities", [REPORT | {"client_id": ""}], "record 0: client_id: "),
    ("activities", [], "body: "),
]


@pytest.mark.parametrize(("topic", "records", "error"), WRONG_EVENTS)
def test_one_bad_record_refuses_all_and_is_named(
    topic: str, records: list[Any], error: str, shop: Shop, client: Client
) -> None:
    reply = client.post(f"/events/{topic}", json.dumps(records).encode())
    assert reply.status == 400
    assert reply.error.startswith(error), reply.error
    if records:
        lines = "\n".join(map(json.dumps, records)).encode()
        ndjson = {"Content-Type": "application/x-ndjson"}
        assert client.post(f"/events/{topic}", lines, ndjson).error.startswith(error)
    assert shop.topics.records == {}


def priced(text: str) -> bytes:
    return encoded(STORE_EVENT).replace(b"35.79", text.encode())


@pytest.mark.parametrize("price", ["35.790", "12.5", "33", "0", "0.29", "99999999.990", "1e11"])
def test_every_whole_cent_passes(price: str, shop: Shop, client: Client) -> None:
    assert client.post("/events/store_events", priced(price)).status == 200
    assert shop.topics.records["store_events"][0][1] == priced(price)


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("12.345", "'12.345' is not a whole number of cents"),
        ("999999.995", "whole number of cents"),
        ("5000000.125", "whole number of cents"),
        ("12345678.905", "whole number of cents"),
        ("12345678905.120001", "whole number of cents"),
        ("-5", "'-5' is negative"),
        ("1e999", "'1e999' is more than 100000000000"),
        ('"12"', "is not a decimal number"),
        ("null", "'null' is not a decimal number"),
    ],
)
def test_a_price_that_is_not_whole_cents_is_refused_at_any_size(
    price: str, reason: str, shop: Shop, client: Client
) -> None:
    reply = client.post("/events/store_events", priced(price))
    assert reply.status == 400
    assert reply.error.startswith("record 0: price: ")
    assert reason in reply.error
    assert shop.topics.records == {}


@pytest.mark.parametrize(
    ("topic", "status"),
    [("dead_letters", 403), ("store_metrics_available", 403), ("no_such", 404), ("..%2Fx", 404)],
)
def test_other_topics_cannot_be_written(
    topic: str, status: int, shop: Shop, client: Client
) -> None:
    reply = client.post(f"/events/{topic}", b"{}")
    assert reply.status == status
    assert "user_tags" in reply.error or status == 404
    assert shop.topics.records == {}


@pytest.mark.parametrize(
    ("path", "topic"),
    [
        ("/api/visit/v1/", "visits"),
        ("/api/visit/v1", "visits"),
        ("/api/activity/v1/", "activities"),
    ],
)
def test_client_reports(path: str, topic: str, shop: Shop, client: Client) -> None:
    assert client.post(path, encoded(REPORT | {"user_id": 5})).status == 204
    assert shop.topics.records[topic] == [(b"c1", encoded(REPORT | {"user_id": 5}))]
    assert client.post(path, encoded(REPORT | {"report": "free"})).error.startswith("report: ")


def test_a_disk_that_is_full_acknowledges_nothing(shop: Shop, client: Client) -> None:
    before = client.metric(WRITTEN)
    shop.topics.failure = SinkUnavailableError("topic user_tags: the disk is full")
    reply = client.post("/user_tags", encoded(tag()))
    assert reply.status == 503
    assert "the disk is full" in reply.error
    assert reply.headers["retry-after"] == "1"
    assert client.metric(WRITTEN) == before
    shop.topics.failure = None
    assert client.post("/user_tags", encoded(tag())).status == 204


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    shop = Shop(commit={"records_waiting_max": 4})
    with serving(shop) as client:
        shop.topics.gate.clear()
        statuses: list[int] = []

        def send() -> None:
            other = Client(client.port)
            statuses.append(other.post("/user_tags", encoded(tag())).status)
            other.close()

        senders = [threading.Thread(target=send) for _ in range(12)]
        senders[0].start()
        # What comes while none is under way may be taken in one, and leave the queue empty.
        assert shop.topics.held.wait(WAIT_S)
        for sender in senders[1:]:
            sender.start()
        eventually(
            lambda: client.metric("footfall_api_records_waiting") + statuses.count(503) == 12
        )
        refused = client.post("/user_tags", encoded(tag()))
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        shop.topics.gate.set()
        for sender in senders:
            sender.join(WAIT_S)
        assert statuses.count(204) == len(shop.topics.records["user_tags"])
        assert statuses.count(204) == 4
        assert client.post("/user_tags", encoded(tag())).status == 204


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_one_line_is_the_same_json(extra: dict[str, Any], indent: Any) -> None:
    value = tag() | {f"x{name}": inner for name, inner in extra.items()}
    sent = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    [(_, stored)] = read_records(INCOMING["user_tags"], sent, NOW_MS)
    assert b"\n" not in stored
    assert len(stored) == len(sent)
    assert json.loads(stored) == value
