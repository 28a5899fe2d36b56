"""A page of another site, open in the user's browser: it changes and learns nothing here.

Each target is a port of this machine that the page knows all about, passwords too. A target is
added by a function that gives what the page may try on it, and what must not change.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from footfall.schemas.times import parse_time_ms
from tests.api_support import Shop, encoded, tag
from tests.api_support import serving as serving_api
from tests.clickhouse_support import serving
from tests.page_support import ARGUMENTS, CHROMIUM, WAIT_MS, needs_chromium

pytestmark = needs_chromium

KEPT = "kept-by-the-user"
"""A text in whatever a target would tell."""
RANGE = "time_range=2022-03-22T12:15:00.000_2022-03-22T12:16:00.000"
REBOUND = "rebound.example"
"""A name of the page's own, which the browser now finds at this machine."""


@dataclass(frozen=True)
class Target:
    """A port, and what a page tries on it."""

    url: str
    reads: tuple[str, ...]
    """Paths whose answers hold KEPT, for those who may ask."""
    sends: tuple[tuple[str, str], ...]
    """Paths that change something, each with a body to POST there."""
    state: Callable[[], object]
    """Returns what must stay as it is."""


@contextmanager
def clickhouse(folder: Path) -> Iterator[Target]:
    """Yield the embedded ClickHouse; the page knows its password, and tries with it and
    without."""
    out = folder / "out"
    with serving(folder / "data") as server:
        server.rows("CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s")
        server.rows(f"INSERT INTO t VALUES ('{KEPT}')")
        known = {"password": server.user.get("X-ClickHouse-Key", "")}

        def paths(sql: str) -> Iterator[str]:
            for more in ({}, known):
                yield "/?" + urlencode({"query": sql, **more})

        written = f"WITH 1 AS x INSERT INTO FUNCTION file('{out}', 'CSV', 'x Int8') SELECT x"
        inserts = "INSERT INTO t FORMAT TSV"
        yield Target(
            server.address,
            reads=tuple(paths("SELECT s FROM t")),
            sends=(
                *((path, "") for path in paths(written)),
                *((path, "by a page\n") for path in paths(inserts)),
                *((path, "") for path in paths("SELECT 1 INTO OUTFILE '" + str(out) + "'")),
            ),
            state=lambda: (server.rows("SELECT s FROM t"), out.exists()),
        )


@contextmanager
def api(_folder: Path) -> Iterator[Target]:
    """Yield the api, which needs no password on this machine."""
    shop = Shop()
    known = encoded(tag(origin=KEPT))
    shop.profiles.tags = [(parse_time_ms(tag()["time"]), "VIEW", tag()["cookie"], known)]
    with serving_api(shop) as client:
        profile = f"/user_profiles/{tag()['cookie']}?{RANGE}"
        assert KEPT in client.get(profile).body.decode()
        yield Target(
            f"http://127.0.0.1:{client.port}",
            reads=(profile, "/live.json", "/metrics"),
            sends=(
                ("/user_tags", encoded(tag()).decode()),
                ("/events/store_events", "{}"),
                ("/api/visit/v1/", "{}"),
                ("/api/activity/v1/", "{}"),
            ),
            state=lambda: {name: len(found) for name, found in shop.topics.records.items()},
        )


TARGETS: dict[str, Callable[[Path], AbstractContextManager[Target]]] = {
    "clickhouse": clickhouse,
    "api": api,
}

TRY_ALL = """async ({url, reads, sends}) => {
  const learned = [];
  const asked = async (path, options) => {
    try {
      const answer = await fetch(url + path, {cache: "no-store", ...options});
      learned.push(`${answer.type} ${answer.status} ${await answer.text()}`);
    } catch (error) {
      learned.push(String(error));
    }
  };
  const pictured = (path) => new Promise((resolve) => {
    const image = new Image();
    image.onload = image.onerror = resolve;
    image.src = url + path;
  });
  const posted = (path, body) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = "f" + Math.random();
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, {action: url + path, method: "post", target: frame.name});
    form.enctype = "text/plain";
    const field = document.createElement("input");
    field.name = body.trim();
    form.append(field);
    document.body.append(form);
    frame.onload = () => resolve();
    form.submit();
    setTimeout(resolve, 2000);
  });
  for (const path of [...reads, ...sends.map(([path]) => path)]) {
    await pictured(path);
    for (const mode of ["cors", "no-cors"]) await asked(path, {mode});
    await asked(path, {headers: {"X-ClickHouse-User": "default", "X-Write-Key": "x"}});
  }
  for (const [path, body] of sends) {
    for (const mode of ["cors", "no-cors"]) await asked(path, {mode, method: "POST", body});
    await asked(path, {method: "POST", body, headers: {"Content-Type": "application/json"}});
    navigator.sendBeacon(url + path, body);
    await posted(path, body);
  }
  return learned;
}"""


PAGE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<!doctype html><body>"
)


@contextmanager
def site_of_another(port: int) -> Iterator[int]:
    """Yield the port of a site of somebody else, which answers ``/page``.

    All else that is asked of it goes to ``port`` of this machine, as if its name had been given
    this machine's address since the page was read.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = self.request.recv(65_536)
            if head.startswith(b"GET /page"):
                self.request.sendall(PAGE)
                return
            with socket.create_connection(("127.0.0.1", port)) as behind:
                behind.sendall(head)
                threading.Thread(target=passed_on, args=(self.request, behind)).start()
                passed_on(behind, self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def passed_on(from_one: socket.socket, to_other: socket.socket) -> None:
    with suppress(OSError):
        while piece := from_one.recv(65_536):
            to_other.sendall(piece)
        to_other.shutdown(socket.SHUT_WR)


@contextmanager
def page_at(port: int) -> Iterator[Any]:
    """Yield a page of a browser that finds the rebound name at a port of this machine."""
    from playwright.sync_api import sync_playwright

    rule = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1:{port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, rule])
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        yield page
        browser.close()


@pytest.mark.parametrize("name", TARGETS)
def test_a_page_of_another_site_changes_and_learns_nothing(name: str, tmp_path: Path) -> None:
    with ExitStack() as open_ones:
        target = open_ones.enter_context(TARGETS[name](tmp_path))
        port = urlsplit(target.url).port
        assert port
        elsewhere = open_ones.enter_context(site_of_another(port))
        page = open_ones.enter_context(page_at(elsewhere))
        before = target.state()
        tried = {"reads": list(target.reads), "sends": [list(one) for one in target.sends]}
        learned: list[str] = []
        rebound = f"http://{REBOUND}:{port}"
        for site, url in ((f"http://127.0.0.1:{elsewhere}", target.url), (rebound, rebound)):
            page.goto(f"{site}/page")
            learned += page.evaluate(TRY_ALL, {"url": url, **tried})
        assert len(learned) == 2 * (3 * len(tried["reads"]) + 6 * len(tried["sends"]))
        assert [told for told in learned if KEPT in told] == []
        # What it tried arrived: the server turned it away, not the browser.
        assert any(told.startswith("opaque") for told in learned)
        assert any(told.startswith(("basic 403", "basic 421")) for told in learned)
        assert target.state() == before
