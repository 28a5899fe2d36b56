"""Bodies as clients send them: compressed, marked, cut, too large; each fault in its own words."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

import pytest
from backports import zstd

from tests.api_support import Client, Shop, encoded, serving, tag
from tests.test_api_collect import REPORT

TAG = encoded(tag())
LINES = b"\n".join([TAG] * 3)
MARK = b"\xef\xbb\xbf"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Shop, Client]]:
    shop = Shop()
    with serving(shop) as client:
        yield shop, client


@pytest.fixture
def shop(served: tuple[Shop, Client]) -> Shop:
    served[0].topics.records.clear()
    return served[0]


@pytest.fixture
def client(served: tuple[Shop, Client]) -> Client:
    return served[1]


def framed(data: bytes) -> bytes:
    """Return data as a client that streams sends it: in a frame that does not say its size."""
    compressor = zstd.ZstdCompressor()
    return compressor.compress(data) + compressor.flush()


ENCODED = {
    "gzip": ("gzip", gzip.compress),
    "members": ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "x-gzip": ("X-GZIP", gzip.compress),
    "zstd": ("zstd", zstd.compress),
    "frames": ("zstd", lambda data: framed(data[:9]) + framed(data[9:])),
    "identity": ("identity", bytes),
    "none": ("", bytes),
    "both": ("gzip, zstd", lambda data: zstd.compress(gzip.compress(data))),
}


@pytest.mark.parametrize("name", ENCODED)
def test_an_encoded_body_is_stored_as_it_was(name: str, shop: Shop, client: Client) -> None:
    encoding, encode = ENCODED[name]
    headers = {"Content-Encoding": encoding} if encoding else {}
    assert client.post("/user_tags", encode(TAG), headers).status == 204
    assert client.post("/events/user_tags", encode(LINES), headers).json() == {"stored": 3}
    assert [value for _, value in shop.topics.records["user_tags"]] == [TAG] * 4


@pytest.mark.parametrize("encoding", ["br", "deflate", "compress", "gzip, br", "x" * 500])
def test_another_encoding_is_415_and_named(encoding: str, shop: Shop, client: Client) -> None:
    reply = client.post("/user_tags", gzip.compress(TAG), {"Content-Encoding": encoding})
    assert reply.status == 415
    assert reply.error.startswith("Content-Encoding: ")
    assert "gzip, zstd" in reply.error
    assert len(reply.error) < 300
    assert shop.topics.records == {}


ZEROS = bytes(1 << 28)
BOMBS = {
    "gzip": lambda: gzip.compress(ZEROS),
    "zstd": lambda: zstd.compress(ZEROS),
    "members": lambda: gzip.compress(bytes(900_000)) * 1000,
    "in a bomb": lambda: gzip.compress(gzip.compress(ZEROS)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_body_that_grows_too_large_is_413(name: str, shop: Shop, client: Client) -> None:
    encoding = {"zstd": "zstd", "in a bomb": "gzip, gzip"}.get(name, "gzip")
    body = BOMBS[name]()
    assert len(body) < 1_048_576
    for path in ("/user_tags", "/events/user_tags"):
        reply = client.post(path, body, {"Content-Encoding": encoding})
        assert (reply.status, reply.error) == (
            413,
            "the body is over 1048576 bytes: send less at a time",
        )
    assert shop.topics.records == {}


def test_a_body_of_1_mib_may_be_compressed(shop: Shop, client: Client) -> None:
    body = TAG + b" " * (1_048_576 - len(TAG))
    for encoding, encode in (("gzip", gzip.compress), ("zstd", zstd.compress)):
        headers = {"Content-Encoding": encoding}
        assert client.post("/events/user_tags", encode(body), headers).status == 413
        assert client.post("/events/user_tags", encode(LINES), headers).status == 200
        assert client.post("/events/user_tags", encode(body + b" "), headers).status == 413


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", TAG),
        ("gzip", gzip.compress(TAG)[:-9]),
        ("gzip", gzip.compress(TAG) + b"more"),
        ("gzip", gzip.compress(TAG)[:20] + b"\0" + gzip.compress(TAG)[21:]),
        ("gzip", zlib.compress(TAG)),
        ("gzip", zstd.compress(TAG)),
        ("zstd", TAG),
        ("zstd", zstd.compress(TAG)[:-3]),
        ("zstd", gzip.compress(TAG)),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(
    encoding: str, body: bytes, shop: Shop, client: Client
) -> None:
    reply = client.post("/user_tags", body, {"Content-Encoding": encoding})
    assert reply.status == 400
    assert reply.error.startswith(f"Content-Encoding: the body is not whole {encoding}: ")
    assert shop.topics.records == {}


def test_a_frame_that_asks_for_much_memory_is_refused(client: Client) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    body = compressor.compress(TAG) + compressor.flush()
    reply = client.post("/user_tags", body, {"Content-Encoding": "zstd"})
    assert reply.status == 400
    assert "memory" in reply.error


def test_a_byte_order_mark_is_no_part_of_the_text(shop: Shop, client: Client) -> None:
    assert client.post("/user_tags", MARK + TAG).status == 204
    assert client.post("/events/user_tags", MARK + LINES).json() == {"stored": 3}
    assert client.post("/events/user_tags", MARK + b"[" + TAG + b"]").json() == {"stored": 1}
    headers = {"Content-Encoding": "gzip"}
    assert client.post("/user_tags", gzip.compress(MARK + TAG), headers).status == 204
    assert {value for _, value in shop.topics.records["user_tags"]} == {TAG}
    joined = client.post("/events/user_tags", TAG + b"\n" + MARK + TAG)
    assert joined.error.startswith("record 1: body: begins with a byte-order mark")


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/user_tags", b"", "body: empty"),
        ("/user_tags", b" \n", "body: empty"),
        ("/user_tags", MARK, "body: empty"),
        ("/events/user_tags", b"", "body: empty"),
        ("/events/user_tags", b"[]", "body: holds no record"),
        ("/api/visit/v1/", b"", "body: empty"),
        ("/user_tags", TAG.decode().encode("utf-16"), "body: UTF-16 text, where JSON is UTF-8"),
        ("/user_tags", TAG.replace(b"PC", b"Desktop"), "device: takes MOBILE, PC or TV, not 'D"),
        (
            "/api/visit/v1/",
            encoded(REPORT).replace(b'"/"', rb'"\ud83d"'),
            r"body: half of a surrogate pair, \ud83d: a character beyond U+FFFF takes two",
        ),
        (
            "/api/visit/v1/",
            encoded(REPORT).replace(b'"/"', b"[" * 50_000 + b"]" * 50_000),
            "body: nested too deeply",
        ),
        (
            "/user_tags",
            TAG.replace(b"00.000Z", b"00.000Z\\u0000"),
            "time: not a date and time: '2022-03-22T12:15:00.000Z\\x00' (takes ISO 8601",
        ),
        (
            "/user_tags",
            TAG.replace(b"2022-03-22T12:15:00.000Z", b"2016-12-31T23:59:60Z"),
            "time: not a date and time: '2016-12-31T23:59:60Z' (second 60: leap seconds",
        ),
        (
            "/user_tags",
            TAG.replace(b"00.000Z", b"00+24:00"),
            "time: not a date and time: '2022-03-22T12:15:00+24:00' (offset +24:00 is a day",
        ),
    ],
)
def test_each_fault_has_its_own_words(
    path: str, body: bytes, error: str, shop: Shop, client: Client
) -> None:
    reply = client.post(path, body)
    assert reply.status == 400
    assert reply.error.startswith(error)
    assert shop.topics.records == {}


def test_times_in_small_letters_are_taken(shop: Shop, client: Client) -> None:
    body = TAG.replace(b"2022-03-22T12:15:00.000Z", b"2022-03-22t12:15:00.000z")
    assert client.post("/user_tags", body).status == 204
    assert shop.topics.records["user_tags"][0][1] == body


RANGE = "time_range=2022-03-22T12:15:00_2022-03-22T12:16:00"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/user_tags", TAG, 204),
        ("POST", "/events/user_tags", LINES, 200),
        ("POST", "/api/visit/v1", encoded(REPORT), 204),
        ("POST", "/api/activity/v1", encoded(REPORT), 204),
        ("GET", f"/aggregates?{RANGE}&action=VIEW&aggregates=COUNT", b"", 200),
        ("GET", "/live.json", b"", 200),
        ("GET", "/healthz", b"", 200),
        ("GET", "/readyz", b"", 200),
        ("GET", "/metrics", b"", 200),
        ("GET", "/openapi.json", b"", 200),
        ("GET", "/docs", b"", 200),
    ],
)
def test_a_slash_at_the_end_makes_no_difference(
    method: str, path: str, body: bytes, status: int, client: Client
) -> None:
    start, mark, query = path.partition("?")
    for target in (path, f"{start}/{mark}{query}"):
        assert client.ask(method, target, body).status == status, target


def test_the_slash_of_a_cookie_is_its_own(client: Client) -> None:
    assert client.get(f"/user_profiles/c/?{RANGE}").json()["cookie"] == "c/"
    assert client.get("/user_tags/x").status == 404
    assert json.loads(client.get("/user_tagsx").body)["error"].startswith("nothing at")
