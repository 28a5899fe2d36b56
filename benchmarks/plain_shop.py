"""Analytics of the simulated shop as plain Python loops: msgspec and dicts, one pass.

They take the records that a flow takes: records that cannot be read are left out, and late ones
too. Where the order matters, events wait in a heap until the watermark has passed them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import msgspec

from footfall.benchmarks.folders import topic_in
from footfall.schemas.operations import (
    OUTCOME_FAILED,
    OUTCOME_INCOMPLETE,
    OUTCOME_OK,
    missing_step,
    operation_of,
    outcome_of,
)
from footfall.schemas.platform_logs import (
    SESSION_TIMEOUT_S,
    VALID,
    PlatformLog,
    id_text,
    is_failed,
)
from footfall.schemas.shop_events import STRUCTS, ShopEvent
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.times import FUTURE_MAX_MS
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS
from footfall.schemas.user_tags import UserTag

Answer = dict[str, int]
BLOCK_BYTES = 1 << 16
"""Bytes that are decoded at once; a block with a bad record is decoded line by line."""
DELAY_MS = 5_000
WINDOW_LATENESS_MS = 600_000 + 60_000
STEP_LATENESS_MS = 120_000
TIMEOUT_MS = SESSION_TIMEOUT_S * 1_000
_NEVER = -(2**62)
_NOT_DECODED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

Timed = tuple[int, Any]
"""(event time in ms, record)"""


def _records(path: Path, kind: Any, time_of: Callable[[Any], str]) -> Iterator[Timed]:
    """Yield the good records of a partition."""
    decoder = msgspec.json.Decoder(kind)
    future_ms = time.time() * 1_000 + FUTURE_MAX_MS
    with path.open("rb") as file:
        while lines := file.readlines(BLOCK_BYTES):
            try:
                found = decoder.decode_lines(b"".join(lines))
            except _NOT_DECODED:
                found = _one_by_one(decoder, lines)
            for record in found:
                try:
                    moment = datetime.fromisoformat(time_of(record))
                except ValueError:
                    continue
                if moment.tzinfo is None:
                    moment = moment.replace(tzinfo=UTC)
                time_ms = round(moment.timestamp() * 1_000_000) // 1_000
                if 0 <= time_ms <= future_ms:
                    yield time_ms, record


def _one_by_one(decoder: Any, lines: Iterable[bytes]) -> list[Any]:
    found = []
    for line in lines:
        with suppress(*_NOT_DECODED):
            found.append(decoder.decode(line))
    return found


def _on_time(records: Iterable[Timed], lateness_ms: int) -> Iterator[Timed]:
    newest_ms = _NEVER
    for time_ms, record in records:
        if time_ms >= newest_ms - DELAY_MS - lateness_ms:
            yield time_ms, record
            newest_ms = max(newest_ms, time_ms)


_RECORD, _LOGOUT, _LOGIN = range(3)
Act = tuple[int, int, str]
"""(time in ms, kind of act, user)"""


def _ordered(acts: Iterable[Act]) -> Iterator[Act]:
    """Yield acts in order of time; late ones are left out."""
    newest_ms = _NEVER
    held: list[Act] = []
    for act in acts:
        if act[0] < newest_ms - DELAY_MS:
            continue
        heappush(held, act)
        if act[0] > newest_ms:
            newest_ms = act[0]
            while held[0][0] < newest_ms - DELAY_MS:
                yield heappop(held)
    while held:
        yield heappop(held)


def _log_acts(path: Path) -> Iterator[Act]:
    for time_ms, log in _records(path, PlatformLog, lambda log: log.commonData.time):
        what = _RECORD
        if log.action == "LogoutReq":
            what = _LOGOUT
        elif log.action == "LoginRep" and log.data is not None and log.data.status == VALID:
            what = _LOGIN
        yield time_ms, what, id_text(log.commonData.userId)


def _event_acts(path: Path) -> Iterator[Act]:
    logging_in = STRUCTS["LoggingIn"]
    for time_ms, event in _records(path, ShopEvent, lambda event: event.timestamp):
        yield time_ms, _LOGIN if type(event) is logging_in else _RECORD, str(event.user_id)


_ACTS = {PLATFORM_LOGS.name: _log_acts, SHOP_EVENTS.name: _event_acts}


def time_online(topic: str, paths: list[Path]) -> Answer:
    """Return the number of sessions, and their length in all."""
    sessions = spent_ms = 0
    for path in paths:
        online: dict[str, tuple[int, int]] = {}
        for time_ms, what, user in _ordered(_ACTS[topic](path)):
            login_ms, last_ms = online.get(user, (_NEVER, _NEVER))
            if login_ms != _NEVER and time_ms - last_ms >= TIMEOUT_MS:
                sessions += 1
                spent_ms += last_ms + TIMEOUT_MS - login_ms
                del online[user]
                login_ms = _NEVER
            if what == _LOGIN:
                if login_ms != _NEVER:
                    sessions += 1
                    spent_ms += time_ms - login_ms
                online[user] = time_ms, time_ms
            elif login_ms == _NEVER:
                continue
            elif what == _LOGOUT:
                sessions += 1
                spent_ms += time_ms - login_ms
                del online[user]
            else:
                online[user] = login_ms, time_ms
        sessions += len(online)
        spent_ms += sum(last + TIMEOUT_MS - login for login, last in online.values())
    return {"sessions": sessions, "spent_ms": spent_ms}


def request_trace(_topic: str, paths: list[Path]) -> Answer:
    """Return the number of requests by outcome."""
    outcomes: Counter[str] = Counter()
    forms: dict[Any, tuple[str, Any]] = {}
    for path in paths:
        requests: dict[str, list[Any]] = defaultdict(list)
        logs = _records(path, PlatformLog, lambda log: log.commonData.time)
        for time_ms, log in _on_time(logs, STEP_LATENESS_MS):
            common, data = log.commonData, log.data
            requests[id_text(common.requestId)].append(
                (
                    time_ms,
                    (common.serverName, log.action),
                    data is not None and is_failed(data.status, data.error),
                )
            )
        for found in requests.values():
            found.sort()
            steps = tuple(step for _, step, _ in found)
            form = forms.get(steps)
            if form is None:
                operation = operation_of(steps)
                form = forms[steps] = operation, missing_step(operation, Counter(steps))
            failed = any(one[2] for one in found)
            outcomes[outcome_of(form[1], failed=failed)] += 1
    return {name: outcomes[name] for name in (OUTCOME_OK, OUTCOME_FAILED, OUTCOME_INCOMPLETE)}


Look = tuple[int, str, str, int, int]
"""(minute, product, user, views, impressions)"""


def _log_looks(path: Path) -> Iterator[Look]:
    logs = _records(path, PlatformLog, lambda log: log.commonData.time)
    for time_ms, log in _on_time(logs, WINDOW_LATENESS_MS):
        if log.data is None:
            continue
        if log.action == "CatalogProductReq" and log.data.productId is not None:
            product = id_text(log.data.productId)
            yield time_ms // 60_000, product, id_text(log.commonData.userId), 1, 0
        elif log.action == "CatalogDbRep":
            user = id_text(log.commonData.userId)
            for listed in log.data.products or ():
                yield time_ms // 60_000, id_text(listed.productId), user, 0, 1


def _store_looks(path: Path) -> Iterator[Look]:
    events = _records(path, StoreEvent, lambda event: event.event_time.removesuffix(" UTC"))
    for time_ms, event in _on_time(events, WINDOW_LATENESS_MS):
        if event.event_type == "view":
            yield time_ms // 60_000, str(event.product_id), str(event.user_id), 1, 0


def _tag_looks(path: Path) -> Iterator[Look]:
    tags = _records(path, UserTag, lambda tag: tag.time)
    for time_ms, tag in _on_time(tags, WINDOW_LATENESS_MS):
        if tag.action == "VIEW":
            yield time_ms // 60_000, str(tag.product_info.product_id), tag.cookie, 1, 0


_LOOKS = {
    PLATFORM_LOGS.name: _log_looks,
    STORE_EVENTS.name: _store_looks,
    USER_TAGS.name: _tag_looks,
}


def product_views(topic: str, paths: list[Path]) -> Answer:
    """Sum views and impressions by minute, product and user."""
    groups: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for path in paths:
        for *key, views, impressions in _LOOKS[topic](path):
            group = groups[tuple(key)]
            group[0] += views
            group[1] += impressions
    return {
        "views": sum(group[0] for group in groups.values()),
        "impressions": sum(group[1] for group in groups.values()),
    }


FLOWS: dict[str, Callable[[str, list[Path]], Answer]] = {
    "product_views": product_views,
    "request_trace": request_trace,
    "time_online": time_online,
}


def run(flow: str, folder: Path, _home: Path) -> Answer:
    """Return what the loop counts."""
    return FLOWS[flow](topic_in(folder), sorted(folder.glob("*/*.jsonl")))
