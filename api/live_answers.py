"""``/live.json`` on the wire: first a whole snapshot, then patches; compressed.

``?since=<tag>`` names the snapshot that the viewer has, by the ETag it came with. The answer is
``{"patch": ...}`` (see ``api.patches``), or a whole snapshot where that one is not known any more.
"""

from __future__ import annotations

import gzip
import secrets
from collections import OrderedDict
from typing import Any
from urllib.parse import parse_qs

import msgspec

from footfall.api.answers import PRIVATE, Answer, Scope, encode_json
from footfall.api.patches import patch_of
from footfall.api.snapshot import Snapshot

KEPT = 30
"""Snapshots kept: a viewer that has not asked for half a minute still gets a patch."""
COMPRESSED_FROM_BYTES = 200


class LiveAnswers:
    """Remembers the last snapshots, and answers each viewer by what it has seen."""

    def __init__(self) -> None:
        self._series = secrets.token_hex(3)
        self._number = 0
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._made: dict[tuple[str, bool], Answer] = {}

    def keep(self, snapshot: Snapshot) -> None:
        """Take the newest snapshot."""
        self._number += 1
        self._kept[f"{self._series}-{self._number}"] = msgspec.to_builtins(snapshot)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        self._made.clear()

    def answer(self, scope: Scope) -> Answer:
        """Return the answer to a request; 304 where there is nothing new for it."""
        tag, newest = next(reversed(self._kept.items()))
        headers = dict(scope["headers"])
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        since = asked.get("since", [""])[0]
        seen = headers.get(b"if-none-match", b"").decode("latin-1").strip('"')
        if tag in (since, seen):
            return Answer(304, headers=_headers(tag))
        is_packed = b"gzip" in headers.get(b"accept-encoding", b"")
        if (since, is_packed) not in self._made:
            if since in self._kept:
                body = encode_json({"patch": patch_of(self._kept[since], newest)})
            else:
                since, body = "", encode_json(newest)
            self._made[since, is_packed] = _packed(body, tag, is_packed)
        return self._made[since, is_packed]


def _headers(tag: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"etag", f'"{tag}"'.encode()), (b"vary", b"accept-encoding"), *PRIVATE)


def _packed(body: bytes, tag: str, is_packed: bool) -> Answer:
    if not is_packed or len(body) < COMPRESSED_FROM_BYTES:
        return Answer(200, body, headers=_headers(tag))
    packed = gzip.compress(body, mtime=0)
    return Answer(200, packed, headers=((b"content-encoding", b"gzip"), *_headers(tag)))
