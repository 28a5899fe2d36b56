"""The door: lets in requests that name this server as Host and come from no foreign page.

A page that is open in the same browser can send requests here, though it may not read the
answers; under a name of its own that leads to this machine it could read them as well. So:

Host    must be a name of this server (ALLOWED_HOSTS), else 421
Origin  a request that may change something comes from no page, from a page of this server, or
        from one of an origin that ALLOWED_ORIGINS names, which then may read answers too; else 403
Path    must be percent-encoded UTF-8, else 400: nothing is looked up that was not asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp

from footfall.api.answers import (
    Answer,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    error_answer,
    messages_of,
)
from footfall.api.metrics import ApiMetrics
from footfall.schemas.addresses import OwnHosts

ANY_ORIGIN = "*"
READS = frozenset({"GET", "HEAD"})
OWN_SITES = frozenset({b"same-origin", b"none"})
"""The words of a browser where its user, or a page of this server, sends a request."""
PREFLIGHT = Answer(
    204,
    headers=(
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"content-type, content-encoding"),
        (b"access-control-max-age", b"600"),
    ),
)
HOSTS_KEPT = 100
ROUTE = "(door)"
"""The route under which the metrics count requests that the door answers."""


class Door:
    """ASGI around the application: lets a request in, or answers it."""

    def __init__(
        self, app: ASGIApp, hosts: OwnHosts, origins: frozenset[str], metrics: ApiMetrics
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts
        self._is_any_origin = ANY_ORIGIN in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._seen: set[bytes] = set()
        """Values of Host that are known to be ours."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        is_named = origin is not None and (self._is_any_origin or origin in self._origins)
        refusal = self._refusal(scope, headers, is_named)
        if origin is not None and is_named:
            send = _shared(send, origin)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        self._metrics.requests.labels(ROUTE, str(refusal.status)).inc()
        for message in messages_of(refusal, scope["method"] == "HEAD"):
            await send(message)

    def _refusal(
        self, scope: Scope, headers: Mapping[bytes, bytes], is_named: bool
    ) -> Answer | None:
        """Return the answer to a request that does not come in, None for one that does."""
        host = headers.get(b"host")
        # A client that names no host is no browser.
        if host is not None and host not in self._seen and not self._is_own(host):
            return error_answer(
                421, f"this server is not {_shown(host)}: ALLOWED_HOSTS takes its other names"
            )
        if b"%" in scope["raw_path"] and not _is_utf8(unquote_to_bytes(scope["raw_path"])):
            return error_answer(400, "path: not percent-encoded UTF-8")
        method = scope["method"]
        if method in READS:
            return None
        is_preflight = method == "OPTIONS" and b"access-control-request-method" in headers
        if is_named:
            return PREFLIGHT if is_preflight else None
        if not is_preflight and not _is_foreign(headers):
            return None
        who = _shown(headers.get(b"origin", b"another site"))
        return error_answer(
            403, f"a page of {who} may not write here: ALLOWED_ORIGINS takes origins that may"
        )

    def _is_own(self, host: bytes) -> bool:
        is_own = self._hosts.know(host.decode("latin-1"))
        if is_own and len(self._seen) < HOSTS_KEPT:
            self._seen.add(host)
        return is_own


def _is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether the request comes from a page of another origin."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in OWN_SITES
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def _shared(send: Send, origin: bytes) -> Send:
    """Return a ``send`` whose answers pages of this origin may read."""
    shared: Headers = ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))

    async def send_shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *shared]
        await send(message)

    return send_shared


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(value: bytes) -> str:
    return repr(value[:200].decode("latin-1"))
