"""Connections that wait for their clients: how much and how long, and who gives way to whom."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from footfall.infra._clickhouse_metrics import ClickHouseMetrics
from footfall.infra.connections import HEAD_BYTES_MAX, Limits, config
from footfall.schemas.metrics import CLICKHOUSE_CONNECTIONS_REFUSED
from tests.api_process_support import WAIT_S, eventually
from tests.api_support import Client, MemoryProfiles, Shop, encoded, serving, tag

TAG = encoded(tag())
HEAD = b"POST /user_tags HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(TAG) + TAG
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SOON = Limits(head_s=0.4, body_s=0.8, idle_s=0.8, linger_s=0.4, look_every_s=0.05)


@contextmanager
def opened(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    """Yield a connection that has sent this much."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        connection.sendall(sent)
        yield connection


def answer(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    pieces = []
    try:
        while piece := connection.recv(65_536):
            pieces.append(piece)
    except ConnectionResetError:
        pieces.append(b"(reset)")
    return b"".join(pieces)


def status_of(connection: socket.socket) -> int:
    """Return the status of the one answer until the connection is closed; 0 where there is
    none."""
    found = re.findall(rb"HTTP/1.1 (\d+)", answer(connection))
    assert len(found) <= 1, found
    return int(found[0]) if found else 0


@pytest.fixture(scope="module")
def usual() -> Iterator[Client]:
    with serving(Shop()) as client:
        yield client


@pytest.fixture(scope="module")
def hasty() -> Iterator[Client]:
    with serving(Shop(), SOON) as client:
        yield client


FIELD = b"X-Some: " + b"x" * 1000 + b"\r\n"
TOO_LARGE = {
    "many headers": HEAD + FIELD * 70,
    "one header": HEAD + b"X-Some: " + b"x" * 70_000,
    "a name": HEAD + b"x" * 70_000,
    "the path": b"GET /" + b"x" * 70_000,
    "a whole request": HEAD + FIELD * 70 + b"\r\n",
    "trailers": CHUNKED + b"1\r\n{\r\n0\r\n" + FIELD * 200,
    "extensions of chunks": CHUNKED + b"1;" + b"x" * 200_000,
    "frames of chunks": CHUNKED + (b"1;" + b"x" * 30 + b"\r\n{\r\n") * 9000,
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE.keys())
@pytest.mark.parametrize("piece", [100_000_000, 900])
def test_headers_over_64_kb_in_all_are_refused(sent: bytes, piece: int, usual: Client) -> None:
    with opened(usual.port) as connection:
        for start in range(0, len(sent), piece):
            connection.sendall(sent[start : start + piece])
        reply = answer(connection)
    assert reply.startswith(b"HTTP/1.1 431 ")
    assert b'{"error":"the headers are over 65536 bytes in all"}' in reply
    assert usual.post("/user_tags", TAG).status == 204


def test_headers_of_almost_64_kb_are_taken(usual: Client) -> None:
    headers = {f"X-{number}": "x" * 1000 for number in range(63)}
    assert usual.get("/healthz", headers).status == 200
    with opened(usual.port) as connection:
        request = WHOLE.replace(b"\r\n", b"\r\n" + FIELD * 63, 1)
        for start in range(0, len(request), 500):
            connection.sendall(request[start : start + 500])
        assert connection.recv(100).startswith(b"HTTP/1.1 204 ")


def test_128_mb_of_headers_are_refused_at_once(usual: Client) -> None:
    started, cpu_s = time.monotonic(), time.process_time()
    with opened(usual.port, HEAD) as connection:
        try:
            for _ in range(2000):
                connection.sendall(FIELD * 65)
        except OSError:
            pass  # The server has stopped to listen.
        else:
            assert status_of(connection) == 431
    # The server runs in this process.
    assert time.process_time() - cpu_s < 5
    assert time.monotonic() - started < WAIT_S


def test_a_body_in_chunks_of_one_byte_is_taken(usual: Client) -> None:
    body = b"".join(b"1\r\n%c\r\n" % one for one in TAG + b" " * 1000) + b"0\r\n\r\n"
    with opened(usual.port, CHUNKED + body) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 204 ")


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_client_that_would_rather_speak_http_2_is_understood(pieces: int) -> None:
    shop = Shop()
    request = WHOLE.replace(b"\r\n", b"\r\n" + H2C, 1)
    middle = request.index(b"\r\n\r\n") if pieces == 2 else len(request)
    with serving(shop) as client, opened(client.port, request[:middle]) as connection:
        time.sleep(0.1)
        connection.sendall(request[middle:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 204 ")
        connection.sendall(WHOLE)
        assert connection.recv(1000).startswith(b"HTTP/1.1 204 ")
    assert [value for _, value in shop.topics.records["user_tags"]] == [TAG, TAG]


def test_a_body_is_never_left_out_in_silence(usual: Client) -> None:
    head = HEAD + b"Content-Length: %d\r\nConnection: Upgrade\r\nUpg" % len(TAG)
    with opened(usual.port, head) as connection:
        time.sleep(0.2)
        connection.sendall(b"rade: h2c\r\n\r\n" + TAG)
        assert b"no Upgrade is known here" in answer(connection)


ODD = {
    "a byte that is no ASCII in a path": (b"GET /user_profiles/\xe9 HTTP/1.1\r\n", 400),
    "a whole address": (b"GET http://localhost/healthz HTTP/1.1\r\n", 200),
    "no address": (b"GET http://[ HTTP/1.1\r\n", 400),
    "two lengths": (
        b"POST /user_tags HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
        400,
    ),
    "length and chunks": (
        b"POST /user_tags HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        400,
    ),
    "a length that is none": (b"POST /user_tags HTTP/1.1\r\nContent-Length: -5\r\n", 400),
    "a length without an end": (
        b"POST /user_tags HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n",
        400,
    ),
    "all": (b"OPTIONS * HTTP/1.1\r\n", 404),
    "a tunnel": (b"CONNECT localhost:80 HTTP/1.1\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", 400),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n", 200),
    "a name with a blank": (b"GET /healthz HTTP/1.1\r\nX : y\r\n", 400),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_have_their_answer(name: str, usual: Client) -> None:
    sent, status = ODD[name]
    with opened(usual.port, sent + b"Host: localhost\r\nConnection: close\r\n\r\n") as connection:
        assert status_of(connection) == status


def test_what_is_not_http_is_told_so(usual: Client) -> None:
    with opened(usual.port, b"\x16\x03\x01 hello\r\n\r\n") as connection:
        reply = answer(connection)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b'{"error":"the request is not HTTP/1.1 that can be read"}' in reply


@pytest.mark.parametrize("sent", [b"GET /", HEAD, HEAD + b"Content-Length: 5\r\n"])
def test_headers_that_do_not_come_to_an_end_are_not_waited_for(sent: bytes, hasty: Client) -> None:
    started = time.monotonic()
    with opened(hasty.port, sent) as connection:
        connection.settimeout(0.1)
        while time.monotonic() - started < WAIT_S:
            # Whoever sends a little now and then does not get more time by it.
            connection.sendall(b"x")
            try:
                reply = connection.recv(1000)
                break
            except TimeoutError:
                continue
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"the headers were not complete within 0.4 s" in reply


def test_a_connection_that_asks_nothing_is_closed_without_an_answer(hasty: Client) -> None:
    with opened(hasty.port) as connection:
        assert answer(connection) == b""


@pytest.mark.parametrize("path", [b"/user_tags", b"/events/user_tags"])
def test_a_body_that_stalls_is_408_and_nothing_is_stored(path: bytes) -> None:
    shop = Shop()
    with serving(shop, SOON) as client:
        half = WHOLE.replace(b"/user_tags", path)[:-5]
        with opened(client.port, half) as connection:
            reply = answer(connection)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"nothing of the body came for 0.8 s" in reply
        assert shop.topics.records == {}


def test_a_body_that_comes_slowly_is_taken(hasty: Client) -> None:
    with opened(hasty.port, WHOLE[: -len(TAG)]) as connection:
        for at in range(0, len(TAG), len(TAG) // 9):
            connection.sendall(TAG[at : at + len(TAG) // 9])
            time.sleep(0.2)
        assert connection.recv(100).startswith(b"HTTP/1.1 204 ")


def test_a_server_that_does_not_read_on_is_no_stalled_body() -> None:
    shop = Shop()

    class Slow(MemoryProfiles):
        def get(self, *asked: object) -> tuple[list[bytes], list[bytes]]:
            time.sleep(2)
            return [], []

    shop.profiles = Slow()
    query = b"/user_profiles/c?time_range=2022-03-22T12:15:00_2022-03-22T12:30:00"
    with serving(shop, SOON) as client:
        asked = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" % query
        with opened(client.port, asked + b"x" * 200_000) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_closed_and_one_in_use_is_not(hasty: Client) -> None:
    with opened(hasty.port, WHOLE) as idle, opened(hasty.port) as busy:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            busy.sendall(WHOLE)
            assert busy.recv(1000).startswith(b"HTTP/1.1 204 ")
            time.sleep(0.1)
        assert status_of(idle) == 204


LONG = encoded(tag(padding="x" * 1900))


def unread() -> Shop:
    """Return profiles that do not fit the buffers of a connection."""
    shop = Shop()
    shop.profiles.tags = [(1_647_951_300_000, "VIEW", "c", LONG)] * 4000
    return shop


ASK_LONG = (
    b"GET /user_profiles/c?limit=100000&time_range=2022-03-22T12:15:00_2022-03-22T12:30:00"
    b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
)


def test_a_client_that_does_not_read_is_cut_off_and_one_that_reads_slowly_is_not() -> None:
    with serving(unread(), SOON) as client, ExitStack() as stack:
        deaf, slow = (stack.enter_context(opened(client.port, ASK_LONG)) for _ in range(2))
        got = b""
        while not got.endswith(b'"buys":[]}') and (piece := slow.recv(400_000)):
            got += piece
            time.sleep(0.15)
        assert got.endswith(b'"buys":[]}')
        assert not answer(deaf).endswith(b'"buys":[]}')


WAITING = {
    "nothing": b"",
    "half a head": HEAD,
    "half a body": WHOLE[:-5],
    "nothing more": WHOLE,
    "no answer": ASK_LONG * 3,
}


@pytest.mark.parametrize("sent", WAITING.values(), ids=WAITING.keys())
def test_those_who_wait_longest_give_way_when_there_are_too_many(sent: bytes) -> None:
    limits = Limits(connections=40, look_every_s=0.05)
    with serving(unread(), limits) as first, ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(opened(first.port, sent))
        for _ in range(5):
            other = Client(first.port)
            assert other.post("/user_tags", TAG).status == 204
            other.close()


@pytest.mark.parametrize("sent", [HEAD, WHOLE[:-5]])
def test_the_first_to_give_way_is_the_oldest_and_is_told_so(sent: bytes) -> None:
    with serving(Shop(), Limits(connections=6)) as client, ExitStack() as stack:
        held = []
        for _ in range(6):
            held.append(stack.enter_context(opened(client.port, sent)))
            time.sleep(0.1)
        assert client.post("/user_tags", TAG).status == 204
        reply = answer(held[0])
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"this one waited longest: try again" in reply
        for one in held[1:]:
            one.settimeout(0.05)
            with pytest.raises(TimeoutError):
                one.recv(1)


def test_those_who_are_refused_are_counted() -> None:
    metrics = ClickHouseMetrics()
    limits = Limits(connections=2, look_every_s=0.05)
    server = uvicorn.Server(config(_endless, limits, refused=metrics.refused))

    def refused() -> float:
        return next(
            sample.value
            for family in metrics.collect()
            for sample in family.samples
            if sample.name == CLICKHOUSE_CONNECTIONS_REFUSED.exposed
        )

    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            held = [stack.enter_context(opened(port, HEAD)) for _ in range(2)]
            time.sleep(0.5)
            assert refused() == 0
            held += [stack.enter_context(opened(port, HEAD)) for _ in range(3)]
            eventually(lambda: refused() == 3)
        finally:
            server.should_exit = server.force_exit = True
            thread.join(WAIT_S)


async def _endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Wait for a body that never comes."""
    while (await receive())["type"] != "http.disconnect":
        pass


def test_requests_under_way_do_not_give_way() -> None:
    shop = Shop()
    with serving(shop, Limits(connections=20)) as client, ExitStack() as stack:
        shop.topics.gate.clear()
        busy = [stack.enter_context(opened(client.port, WHOLE)) for _ in range(10)]
        eventually(lambda: client.metric("footfall_api_records_waiting") == 10)
        for _ in range(50):
            stack.enter_context(opened(client.port, HEAD))
        shop.topics.gate.set()
        assert all(one.recv(1000).startswith(b"HTTP/1.1 204 ") for one in busy)


def test_a_refusal_does_not_stand_in_the_middle_of_another_answer() -> None:
    shop = Shop()
    with serving(shop, SOON) as client:
        shop.topics.gate.clear()
        with opened(client.port, WHOLE + b"GET /healthz HTTP/1.1\r\nX-Some") as connection:
            assert answer(connection) in (b"", b"(reset)")
        shop.topics.gate.set()


def test_an_early_answer_is_read_though_the_body_goes_on(usual: Client) -> None:
    size = 3_000_000
    asked = HEAD + b"Content-Length: %d\r\n\r\n" % size
    with opened(usual.port, asked) as connection:
        for _ in range(size // 100_000):
            connection.sendall(b"x" * 100_000)
        reply = b""
        while b"send less at a time" not in reply:
            reply += connection.recv(1000)
        assert reply.startswith(b"HTTP/1.1 413 ")
        connection.sendall(WHOLE)
        assert connection.recv(1000).startswith(b"HTTP/1.1 204 ")


def test_limits_are_what_is_promised() -> None:
    limits = Limits()
    assert (HEAD_BYTES_MAX, limits.head_s, limits.body_s) == (65_536, 10, 30)
