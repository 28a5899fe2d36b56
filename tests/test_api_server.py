"""Start-up and stop of the real process; health, metrics, description, files and logs."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from footfall.api.app import create_app
from footfall.api.endpoint import RequestLog
from footfall.api.openapi import openapi
from footfall.api.server import PortError, listen
from footfall.schemas.status import status_folder
from footfall.schemas.tables import minute_buckets
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks.clickhouse import create_tables
from tests.api_process_support import Process, eventually, free_port, project_root
from tests.api_support import Client, Shop, encoded, serving, status, tag
from tests.clickhouse_support import any_server

PID_MAX = 2**22
"""A process id that no process has: Linux gives lower numbers."""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(Shop()) as client:
        yield client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_in_good_order(number: int, tmp_path: Path) -> None:
    port = free_port()
    with Process(tmp_path, port) as server:
        client = Client(port)
        assert client.post("/user_tags", encoded(tag())).status == 204
        # An idle connection, and one in the middle of a request, must not hold it up.
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        code, out, err = server.stop(number)
        half.close()
        client.close()
    assert code == 0
    assert "Traceback" not in err
    assert out == f"listening on http://127.0.0.1:{port}/\n"


def test_readiness_names_what_does_not_answer(tmp_path: Path) -> None:
    port = free_port()
    nowhere = f"http://127.0.0.1:{free_port()}"
    with Process(tmp_path, port, CLICKHOUSE_URL=nowhere) as server:
        client = Client(port)
        reply = client.get("/readyz")
        assert reply.status == 503
        answer = reply.json()
        assert answer["ready"] is False
        assert answer["parts"]["topics"] == "ok"
        refused = f"ClickHouse at {nowhere}/ does not answer: Connection refused"
        assert answer["parts"]["clickhouse"] == refused
        query = "time_range=2022-03-22T12:25:00_2022-03-22T12:26:00&action=BUY&aggregates=COUNT"
        reply = client.get(f"/aggregates?{query}")
        assert reply.status == 503
        assert nowhere in reply.error
        # The page goes on, and says which panel is old.
        eventually(lambda: "minutes" in client.get("/live.json").json()["problems"])
        client.close()
        assert server.stop()[0] == 0


def test_a_flow_without_a_worker_leaves_the_api_ready_and_is_told_on_the_page(
    tmp_path: Path,
) -> None:
    """A load balancer must not take the door away because a worker behind it is dead."""
    pytest.importorskip("chdb", reason="chdb is not installed")
    gone = status(read=0, updated_ms=time.time_ns() // 1_000_000 - 60_000, pid=PID_MAX)
    status_folder(tmp_path).mkdir(parents=True)
    (status_folder(tmp_path) / "minute_buckets.0.json").write_bytes(msgspec.json.encode(gone))
    with any_server(tmp_path / "engine") as clickhouse:
        create_tables(clickhouse.url, [minute_buckets.ROWS, minute_buckets.VIEW])
        with Process(tmp_path, free_port(), CLICKHOUSE_URL=clickhouse.url) as server:
            client = Client(server.port)
            assert client.post("/user_tags", encoded(tag())).status == 204

            def is_told() -> bool:
                told = client.get("/live.json").json()["troubles"]
                return any(text.startswith("minute_buckets has no worker") for text in told)

            eventually(is_told)
            ready = client.get("/readyz")
            assert (ready.status, ready.json()["parts"]) == (
                200, {"topics": "ok", "clickhouse": "ok", "profiles": "ok"},
            )  # fmt: skip
            client.close()
            assert server.stop()[0] == 0


def test_a_taken_port_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Process(tmp_path, port, wait=False) as server:
            code, out, err = server.ended()
    assert code != 0
    assert out == ""
    assert err == f"port {port} is taken: choose another with --port or FRONTEND_PORT\n"


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(PortError, match="FRONTEND_HOSTNAME") as failure:
        listen(host, 0)
    assert "\n" not in str(failure.value)


def test_a_setting_that_is_nonsense_is_one_line(tmp_path: Path) -> None:
    with Process(tmp_path, free_port(), wait=False, DEFAULT_LIMIT="many") as server:
        code, _, err = server.ended()
    assert code != 0
    assert err.count("\n") == 1
    assert "DEFAULT_LIMIT" in err


@pytest.mark.parametrize("variable", ["PROFILES_URL", "POSTGRES_URL"])
def test_an_address_that_is_none_is_one_line(variable: str, tmp_path: Path) -> None:
    with Process(
        tmp_path, free_port(), wait=False, **{variable: "sqlite://two/slashes"}
    ) as server:
        code, out, err = server.ended()
    assert (code != 0, out) == (True, "")
    assert err.count("\n") == 1
    assert variable in err


def test_importing_the_server_reads_no_environment_and_connects_to_nothing() -> None:
    program = "import footfall.api.server; print('imported')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project_root(),
        env={"PATH": "", "FRONTEND_PORT": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_health_and_readiness(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {
        "ready": True,
        "parts": {"topics": "ok", "clickhouse": "ok", "profiles": "ok"},
    }


@pytest.mark.parametrize("part", ["topics", "clickhouse", "profiles"])
def test_each_part_makes_it_unready_by_name(part: str) -> None:
    shop = Shop()
    if part == "topics":
        shop.topics.failure = OSError(28, "No space left on device")
    elif part == "clickhouse":
        shop.aggregates.failure = SinkRefusedError("no table minute_buckets")
    else:
        shop.profiles.failure = SinkUnavailableError("the file is gone")
    with serving(shop) as client:
        reply = client.get("/readyz")
        assert reply.status == 503
        parts = reply.json()["parts"]
        assert {name for name, state in parts.items() if state != "ok"} == {part}


def test_metrics_count_requests_by_route_and_status_alone(client: Client) -> None:
    client.post("/user_tags", b"{}")
    client.get("/user_profiles/someone?time_range=x")
    text = client.get("/metrics").body.decode()
    assert 'footfall_api_requests_total{route="/user_tags",status="400"}' in text
    assert 'footfall_api_requests_total{route="/user_profiles/{cookie}",status="400"}' in text
    assert 'footfall_api_request_seconds_bucket{le="0.2",route="/user_tags"}' in text
    assert "someone" not in text


def test_every_route_is_described_and_every_description_is_a_route(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    described = {
        (path, method.upper())
        for path, operations in document["paths"].items()
        for method in operations
    }
    shop = Shop()
    served = set()
    for route in create_app_routes(shop):
        path = re.sub(r"{(\w+):path}", r"{\1}", route[0])
        served |= {(path, method) for method in route[1] if method != "HEAD"}
    files = {"/", "/docs", "/docs/{path}", "/static/{path}", "/openapi.json"}
    # The same without the last slash, for clients that leave it out.
    twins = {"/api/visit/v1", "/api/activity/v1"}
    assert described == {one for one in served if one[0] not in files | twins}


def create_app_routes(shop: Shop) -> list[tuple[str, set[str]]]:
    import asyncio

    async def run() -> list[tuple[str, set[str]]]:
        async with shop.services() as services:
            routes = create_app(services).routes
            return [(route.path, set(route.methods)) for route in routes]  # type: ignore[attr-defined]

    return asyncio.run(run())


def test_every_reference_of_the_description_leads_somewhere() -> None:
    document = openapi("1")
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references
    assert references <= document["components"]["schemas"].keys()


@pytest.mark.parametrize("example", ["/user_tags", "/api/visit/v1/", "/api/activity/v1/"])
def test_the_examples_of_the_description_are_accepted(example: str, client: Client) -> None:
    operation = client.get("/openapi.json").json()["paths"][example]["post"]
    body = operation["requestBody"]["content"]["application/json"]["example"]
    assert client.post(example, encoded(body)).status == 204


def test_files_of_the_page_are_cached_by_their_content_and_guarded(client: Client) -> None:
    for path in ("/", "/static/page.js", "/static/page.css", "/docs"):
        reply = client.get(path)
        assert reply.status == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        seen = {"If-None-Match": reply.headers["etag"]}
        assert client.get(path, seen).status == 304
        assert client.ask("HEAD", path).body == b""
    assert client.get("/static/../server.py").status == 404
    assert client.get("/static/none.js").status == 404
    assert b"Leon Sorokin" in client.get("/static/vendor/uPlot.LICENSE").body


def test_requests_are_logged_as_asked_and_secrets_never(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(request_log=RequestLog(requests=True, headers=True, body=True))
    headers = {"Authorization": "Basic secret", "X-Shop": "one\ttwo"}
    with serving(shop) as client, caplog.at_level(logging.INFO, "footfall.api"):
        client.post("/user_tags", encoded(tag(cookie="logged\u2028")), headers)
        client.get("/healthz")
        eventually(lambda: len(caplog.records) == 2)
    tagged, healthy = [one.getMessage() for one in caplog.records]
    assert tagged.startswith('POST "/user_tags" 204 ')
    assert "logged" in tagged
    assert '"x-shop": "one\\ttwo"' in tagged
    assert "secret" not in tagged
    assert "\n" not in tagged
    assert healthy.startswith('GET "/healthz" 200 ')


def test_nothing_is_logged_of_requests_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Shop()) as client, caplog.at_level(logging.INFO):
        client.post("/user_tags", encoded(tag()))
        client.post("/user_tags", b"{}")
    assert caplog.text == ""
