"""The api's door: pages of other origins, and names that lead here, change and learn nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from footfall.schemas.addresses import OwnHosts
from footfall.schemas.user_tags import UserTag
from tests.api_support import Client, Served, Shop, encoded, serving, tag
from tests.page_support import chromium, needs_chromium

TAG = encoded(tag())
SHOP = "https://shop.example"
WRITES = ["/user_tags", "/events/user_tags", "/api/visit/v1/", "/api/activity/v1/"]
FOREIGN: list[Mapping[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def client(shop: Shop) -> Iterator[Client]:
    with serving(shop) as client:
        yield client


@pytest.fixture
def shared(shop: Shop) -> Iterator[Client]:
    shop.origins = frozenset({SHOP})
    with serving(shop) as client:
        yield client


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_cannot_write(
    headers: Mapping[str, str], shop: Shop, client: Client
) -> None:
    for path in WRITES:
        reply = client.post(path, TAG, headers)
        assert reply.status == 403
        assert "ALLOWED_ORIGINS takes origins that may" in reply.error
        assert "access-control-allow-origin" not in reply.headers
    assert shop.topics.records == {}
    assert client.metric('footfall_api_requests_total{route="(door)",status="403"}') == len(WRITES)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
def test_whatever_the_method_and_the_route(method: str, client: Client) -> None:
    for path in ("/user_tags", "/user_profiles/c", "/", "/elsewhere"):
        assert client.ask(method, path, b"", {"Origin": "https://evil.example"}).status == 403


def test_our_own_pages_and_programs_can_write(shop: Shop, client: Client) -> None:
    own = f"http://127.0.0.1:{client.port}"
    for headers in (
        {},
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        # A proxy may have changed the host; the browser has seen where the page came from.
        {"Origin": "https://dashboard.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert client.post("/user_tags", TAG, headers).status == 204
    assert len(shop.topics.records["user_tags"]) == 5


def test_a_page_that_is_named_can_write_and_read(shop: Shop, shared: Client) -> None:
    headers = {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"}
    for path, body, status in (
        ("/user_tags", TAG, 204),
        ("/user_tags", b"{}", 400),
        ("/elsewhere", b"", 404),
    ):
        reply = shared.post(path, body, headers)
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == SHOP
        assert reply.headers["vary"] == "Origin"
    assert len(shop.topics.records["user_tags"]) == 1
    assert shared.post("/user_tags", TAG, {"Origin": "https://evil.example"}).status == 403


@pytest.mark.parametrize("path", ["/user_tags", "/api/visit/v1/", "/events/user_tags", "/x"])
def test_a_preflight_is_answered_for_those_who_are_named(path: str, shared: Client) -> None:
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,content-encoding",
    }
    reply = shared.ask("OPTIONS", path, headers={"Origin": SHOP, **asks})
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == SHOP
    assert reply.headers["access-control-allow-methods"] == "GET, POST"
    assert reply.headers["access-control-allow-headers"] == "content-type, content-encoding"
    assert reply.headers["access-control-max-age"] == "600"
    refused = shared.ask("OPTIONS", path, headers={"Origin": "https://evil.example", **asks})
    assert refused.status == 403
    assert "access-control-allow-origin" not in refused.headers


def test_any_page_may_be_named(shop: Shop) -> None:
    shop.origins = frozenset({"*"})
    with serving(shop) as client:
        reply = client.post("/user_tags", TAG, {"Origin": "https://x.example"})
        assert reply.status == 204
        assert reply.headers["access-control-allow-origin"] == "https://x.example"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/live.json", "/healthz", "/user_tags", "/elsewhere"])
def test_a_rebound_name_gets_no_answer(method: str, path: str, client: Client) -> None:
    reply = client.ask(method, path, b"", {"Host": f"evil.example:{client.port}"})
    assert reply.status == 421
    if method != "HEAD":
        assert reply.error == (
            f"this server is not 'evil.example:{client.port}': ALLOWED_HOSTS takes its other names"
        )


def test_names_that_are_allowed_are_answered(shop: Shop) -> None:
    shop.hosts = OwnHosts("127.0.0.1", ["shop.example"])
    with serving(shop) as client:
        assert client.get("/healthz", {"Host": "shop.example"}).status == 200
        assert client.get("/healthz", {"Host": "localhost:80"}).status == 200
        assert client.get("/healthz", {"Host": "evil.example"}).status == 421


@pytest.mark.parametrize(
    "path",
    ["/user_profiles/%E9", "/live/users/%ff", "/live/requests/a%C3", "/events/%80", "/static/%e9"],
)
def test_a_path_that_is_not_utf_8_is_refused_as_a_filter_is(path: str, client: Client) -> None:
    query = "time_range=2022-03-22T12:15:00_2022-03-22T12:16:00"
    reply = client.get(f"{path}?{query}")
    assert (reply.status, reply.error) == (400, "path: not percent-encoded UTF-8")
    aggregates = f"/aggregates?{query}&action=VIEW&aggregates=COUNT&origin=%E9"
    assert client.get(aggregates).error == "query: not percent-encoded UTF-8"
    assert client.get(f"/user_profiles/%C3%A9?{query}").json()["cookie"] == "\u00e9"


@pytest.mark.parametrize(
    "path",
    [
        "/user_profiles/c?time_range=2022-03-22T12:15:00_2022-03-22T12:16:00",
        "/user_profiles/c?time_range=soon",
        "/live/requests/a",
        "/live/users/17",
        "/live.json",
        "/",
    ],
)
def test_answers_that_tell_of_somebody_are_kept_nowhere(path: str, client: Client) -> None:
    headers = client.get(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_nothing_is_taken_for_another_type_and_pages_stand_alone(client: Client) -> None:
    for path in ("/", "/docs", "/static/page.js", "/openapi.json", "/metrics", "/elsewhere"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/docs"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == "same-origin"


# In a browser.

EVIL = "evil.example"
ATTACKS = """async ([api, tag]) => {
  const learned = [];
  const tried = async (name, attempt) => {
    try {
      const found = await attempt();
      if (found) learned.push(`${name}: ${found}`);
    } catch (error) {}
  };
  const loaded = (kind, path) => new Promise((resolve) => {
    const one = document.createElement(kind);
    one.onload = () => resolve(kind === "img" ? one.naturalWidth : "loaded");
    one.onerror = () => resolve(0);
    one[kind === "link" ? "href" : "src"] = api + path;
    if (kind === "link") one.rel = "stylesheet";
    document.body.append(one);
  });
  const profile = "user_profiles/c?time_range=2022-03-22T12:15:00_2022-03-22T12:16:00";
  for (const path of ["live.json", profile, "user_tags?" + encodeURIComponent(tag), "metrics"]) {
    for (const kind of ["img", "script", "link"]) {
      await tried(`${kind} ${path}`, () => loaded(kind, path));
    }
    await tried(`fetch ${path}`, async () => (await fetch(api + path)).text());
    await tried(`blind fetch ${path}`, async () =>
      (await fetch(api + path, { mode: "no-cors" })).text());
  }
  for (const path of ["user_tags", "events/user_tags"]) {
    const post = { method: "POST", body: tag };
    await tried(`blind post ${path}`, async () =>
      (await fetch(api + path, { ...post, mode: "no-cors" })).text());
    await tried(`post ${path}`, async () => (await fetch(api + path, post)).status);
    const headers = { "Content-Type": "application/json" };
    await tried(`json post ${path}`, async () => (await fetch(api + path, { ...post, headers })).status);
    navigator.sendBeacon(api + path, tag);
    await new Promise((resolve) => {
      const frame = document.createElement("iframe");
      frame.name = "target" + path.length;
      document.body.append(frame);
      const form = document.createElement("form");
      Object.assign(form, { method: "POST", action: api + path, enctype: "text/plain", target: frame.name });
      const input = document.createElement("input");
      // The form sends NAME=VALUE: together they are the JSON of a tag.
      const at = tag.lastIndexOf("}");
      input.name = tag.slice(0, at) + ',"x":"';
      input.value = '"}';
      form.append(input);
      document.body.append(form);
      frame.onload = resolve;
      form.submit();
      setTimeout(resolve, 2000);
    });
  }
  const frame = document.createElement("iframe");
  frame.src = api;
  await new Promise((resolve) => { frame.onload = resolve; document.body.append(frame); });
  await tried("iframe", () => frame.contentDocument.body.innerText);
  return learned;
}"""  # noqa: E501


class _Blank(BaseHTTPRequestHandler):
    """A page of somebody else."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><body>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def elsewhere() -> Iterator[int]:
    """Yield the port of a server of pages that are not ours."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Blank)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as browser:
        yield browser


@contextmanager
def served(shop: Shop) -> Iterator[Served]:
    server = Served(shop.services)
    yield server
    server.stop()


@needs_chromium
@pytest.mark.parametrize("host", [EVIL, "127.0.0.1", "localhost"])
def test_a_page_of_another_origin_changes_and_learns_nothing(host: str, browser: Any) -> None:
    shop = Shop()
    with served(shop) as server, elsewhere() as port:
        page = browser.new_page()
        page.goto(f"http://{host}:{port}/")
        learned = page.evaluate(ATTACKS, [f"http://127.0.0.1:{server.port}/", TAG.decode()])
        page.close()
    assert learned == []
    assert shop.topics.records == {}


@needs_chromium
def test_the_same_page_can_do_what_it_is_allowed_to(browser: Any) -> None:
    shop = Shop()
    with elsewhere() as port:
        shop.origins = frozenset({f"http://{EVIL}:{port}"})
        with served(shop) as server:
            page = browser.new_page()
            page.goto(f"http://{EVIL}:{port}/")
            learned = page.evaluate(ATTACKS, [f"http://127.0.0.1:{server.port}/", TAG.decode()])
            page.close()
    # It was the door that kept them out: each way to write works.
    assert {one.split(":")[0] for one in learned} >= {
        "post user_tags",
        "json post events/user_tags",
        "fetch live.json",
    }
    stored = [value for _, value in shop.topics.records["user_tags"]]
    assert len(stored) == 10
    assert sum(b'"x":"="' in value for value in stored) == 2


@needs_chromium
def test_a_name_that_leads_here_changes_and_learns_nothing(browser: Any) -> None:
    shop = Shop()
    with served(shop) as server:
        page = browser.new_page()
        for path in ("", "live.json", "user_profiles/c", "docs", "static/page.js"):
            reply = page.goto(f"http://{EVIL}:{server.port}/{path}")
            assert reply.status == 421
            assert page.inner_text("body").startswith('{"error":"this server is not ')
        # This page is of the very origin that it asks now, for the browser.
        said = page.evaluate(
            """async (tag) => {
              const texts = [];
              for (const [path, method] of [["/user_tags", "POST"], ["/live.json", "GET"]]) {
                const body = method === "POST" ? tag : undefined;
                texts.push(await (await fetch(path, { method, body })).text());
              }
              return texts;
            }""",
            TAG.decode(),
        )
        page.close()
    assert all(text.startswith('{"error":"this server is not ') for text in said)
    assert shop.topics.records == {}


def test_the_tag_of_the_attack_is_one_that_is_taken(shop: Shop, client: Client) -> None:
    assert set(UserTag.__struct_fields__) <= set(tag())
    assert client.post("/user_tags", TAG).status == 204
