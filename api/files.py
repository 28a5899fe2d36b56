"""Files of the page, from memory: small, part of the package, with an ETag each."""

from __future__ import annotations

import hashlib
from importlib.resources.abc import Traversable

from footfall.api.answers import Answer, Handler, Headers, Receive, RequestError, Scope

CONTENT_TYPES = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
    "LICENSE": b"text/plain; charset=utf-8",
}
PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from another host, no inline script: the name of a brand can never run as code."""
DOCS_POLICY = PAGE_POLICY.replace(b"style-src 'self'", b"style-src 'self' 'unsafe-inline'")
"""Swagger UI sets styles in its markup."""


APART: Headers = (
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""No other site learns which page links to it, holds the page's window, or embeds its files."""


def read_files(folder: Traversable, prefix: str = "") -> dict[str, bytes]:
    """Return all files of known content types below a folder of a package, by relative path."""
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= read_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in CONTENT_TYPES:
            found[prefix + entry.name] = entry.read_bytes()
    return found


def file_answer(name: str, content: bytes, policy: bytes = PAGE_POLICY) -> Answer:
    """Return the file as an answer; its ETag is its digest.

    The browser keeps no copy of a page, not even to go back to: it shows personal data.
    """
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'.encode()
    headers: Headers = (
        (b"etag", etag),
        (b"cache-control", b"no-store" if name.endswith(".html") else b"no-cache"),
        (b"content-security-policy", policy),
        *APART,
    )
    return Answer(200, content, CONTENT_TYPES[name.rpartition(".")[2]], headers)


def unless_seen(answer: Answer, scope: Scope) -> Answer:
    """Return the answer, or 304 where the browser holds it already."""
    etag = answer.headers[0][1]
    if any(name == b"if-none-match" and value == etag for name, value in scope["headers"]):
        return Answer(304, headers=answer.headers)
    return answer


def serve_files(answers: dict[str, Answer]) -> Handler:
    """Return a handler for ``{path}`` below the route."""

    async def handle(scope: Scope, receive: Receive) -> Answer:
        answer = answers.get(scope["path_params"]["path"])
        if answer is None:
            raise RequestError(404, f"no such file: {scope['path'][:200]}")
        return unless_seen(answer, scope)

    return handle


def serve_one(answer: Answer) -> Handler:
    """Return a handler that always gives this file."""

    async def handle(scope: Scope, receive: Receive) -> Answer:
        return unless_seen(answer, scope)

    return handle
