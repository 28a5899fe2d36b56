"""The tables of a shop, counted again: slowly, from the records alone, as a reader gets them.

Shares nothing with the truth but the descriptions in schemas/. Each rule is written as its
definition says it, without the shortcuts that a stream needs.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import msgspec

from footfall.generator.shop_records import FUTURE_FROM_MS, PARTITIONS, TOPICS
from footfall.schemas.operations import missing_step, operation_of
from footfall.schemas.platform_logs import FAILED_STATUSES, PlatformLog
from footfall.schemas.shop_events import ShopEvent
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.times import BadTimeError, parse_time_ms
from footfall.schemas.topic_files import partition_of
from footfall.schemas.user_tags import UserTag
from tests.shop_event_recount import answers

Records = dict[str, list[tuple[bytes, bytes]]]
Row = tuple[Any, ...]

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "platform_logs": msgspec.json.Decoder(PlatformLog),
    "shop_events": msgspec.json.Decoder(ShopEvent),
    "store_events": msgspec.json.Decoder(StoreEvent),
    "user_tags": msgspec.json.Decoder(UserTag),
}
_TIMES = {"shop_events": "timestamp", "store_events": "event_time", "user_tags": "time"}
TIMEOUT_MS = 30 * 60 * 1000
MINUTE_MS = 60_000


@dataclass
class Read:
    """A topic as it was read: the records that can be decoded, and how many are what."""

    good: list[tuple[int, bool, dict[str, Any], bytes]] = field(default_factory=list)
    """(event time in ms, is it late, the record, its bytes), in the order of sending."""
    counts: Counter[str] = field(default_factory=Counter)
    behind_ms: list[int] = field(default_factory=list)
    """Milliseconds by which each record that is not late is behind the newest of its partition."""


def read(topic: str, records: Iterable[tuple[bytes, bytes]], delay_ms: int) -> Read:
    """Decode a topic as a flow does whose watermark trails by ``delay_ms``."""
    found = Read()
    newest_ms: dict[int, int] = defaultdict(int)
    for key, value in records:
        found.counts["records"] += 1
        try:
            value.decode()
            _DECODERS[topic].decode(value)
            record = json.loads(value)
            text = record[_TIMES[topic]] if topic in _TIMES else record["commonData"]["time"]
            time_ms = parse_time_ms(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadTimeError):
            found.counts["malformed"] += 1
            continue
        if time_ms >= FUTURE_FROM_MS:
            # Broken records are also sent with such times; they are told apart by their key.
            is_broken = time_ms > parse_time_ms("2098-01-01T00:00:00Z")
            found.counts["malformed" if is_broken else "future"] += 1
            continue
        slot = partition_of(key, PARTITIONS)
        behind_ms = newest_ms[slot] - time_ms
        is_late = behind_ms >= delay_ms
        newest_ms[slot] = max(newest_ms[slot], time_ms)
        found.counts["late"] += is_late
        if not is_late:
            found.behind_ms.append(behind_ms)
        found.good.append((time_ms, is_late, record, value))
    return found


def recount(records: Records, delay_ms: int) -> dict[str, list[Row]]:
    """Return all tables, each row a tuple in the order of the truth's columns; rows in any
    order."""
    reads = {topic: read(topic, records[topic], delay_ms) for topic in TOPICS}
    tables = _of_logs(reads["platform_logs"]) | _of_events(reads["shop_events"])
    tables |= _of_store(reads["store_events"]) | _of_tags(reads["user_tags"])
    views = list(_views(reads))
    tables["product_user_views_per_minute"] = _summed(views, 4)
    tables["product_views_per_minute"] = _summed([(*row[:3], *row[4:]) for row in views], 3)
    tables["accounts"] = [
        (
            topic,
            *(reads[topic].counts[what] for what in ("records", "malformed", "future", "late")),
        )
        for topic in TOPICS
    ]
    return tables


def _text(value: Any) -> str:
    return str(next(iter(value.values()))) if isinstance(value, dict) else str(value)


def _of_logs(logs: Read) -> dict[str, list[Row]]:
    trace, failed, valid, on_time = [], [], [], []
    for time_ms, is_late, record, _ in logs.good:
        common, data = record["commonData"], record["data"]
        user, request = _text(common["userId"]), _text(common["requestId"])
        server, action = common["serverName"], record["action"]
        trace.append((request, time_ms, server, action, user))
        is_answer = action == "LoginRep"
        if is_answer and data["status"] == "Invalid":
            failed.append((user, time_ms, request, is_late))
        if is_late:
            continue
        if is_answer and data["status"] == "Valid":
            valid.append((user, time_ms))
        bad = data.get("status") in FAILED_STATUSES or bool(data.get("error"))
        on_time.append((time_ms, user, request, server, action, bad, data.get("status")))
    on_time.sort()
    sessions = _sessions(
        [
            (user, time_ms, _what(action, status))
            for time_ms, user, _, _, action, _, status in on_time
        ],
        "timeout",
    )
    failures = [(user, time_ms) for user, time_ms, _, is_late in failed if not is_late]
    return {
        "request_trace": trace,
        "user_trace": trace,
        "failed_login": [row[:3] for row in failed],
        "online_user": valid,
        "users_spend_time_online": sessions,
        "online_users_per_minute": _minutes(on_time, sessions),
        "failed_logins_per_minute": _summed(
            [(time_ms // MINUTE_MS * MINUTE_MS, user, 1) for user, time_ms, *_ in failed], 2
        ),
        "login_alerts": list(_alerts(failures)),
    } | _requests(on_time)


def _what(action: str, status: str | None) -> str:
    if action == "LoginRep" and status == "Valid":
        return "login"
    return "logout" if action == "LogoutReq" else "record"


def _sessions(moments: list[tuple[str, int, str]], timeout: str) -> list[Row]:
    """Return the session of each login, looked at by itself."""
    by_user: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for user, time_ms, what in moments:
        by_user[user].append((time_ms, what))
    found = []
    for user, all_of in by_user.items():
        for place, (login_ms, what) in enumerate(all_of):
            if what != "login":
                continue
            end_ms, reason, last_ms = 0, "", login_ms
            for time_ms, then in all_of[place + 1 :]:
                if time_ms >= last_ms + TIMEOUT_MS:
                    break
                last_ms = time_ms
                if then != "record":
                    end_ms, reason = time_ms, {"login": "relogin"}.get(then, then)
                    break
            if not reason:
                end_ms, reason = last_ms + TIMEOUT_MS, timeout
            found.append((user, login_ms, end_ms, (end_ms - login_ms) / 1000, reason))
    return found


def _minutes(on_time: list[Row], sessions: list[Row]) -> list[Row]:
    active: dict[int, set[str]] = defaultdict(set)
    for time_ms, user, *_ in on_time:
        active[time_ms // MINUTE_MS].add(user)
    if not on_time:
        return []
    last_ms = max([on_time[-1][0], *(end_ms for _, _, end_ms, *_ in sessions)])
    found = []
    for minute in range(on_time[0][0] // MINUTE_MS, last_ms // MINUTE_MS + 1):
        at_ms = (minute + 1) * MINUTE_MS - 1
        online = sum(login_ms <= at_ms < end_ms for _, login_ms, end_ms, *_ in sessions)
        if active[minute] or online:
            found.append((minute * MINUTE_MS, len(active[minute]), online))
    return found


def _alerts(failures: list[tuple[str, int]]) -> Iterator[Row]:
    for user in {user for user, _ in failures}:
        times = sorted(time_ms for name, time_ms in failures if name == user)
        before = False
        for time_ms in times:
            second = time_ms // 1000
            inside = [t for t in times if t <= time_ms and t // 1000 > second - 30]
            if len(inside) > 3 and not before:
                yield user, time_ms, len(inside), inside
            before = len(inside) > 3


def _requests(on_time: list[Row]) -> dict[str, list[Row]]:
    by_request: dict[str, list[Row]] = defaultdict(list)
    for row in on_time:
        by_request[row[2]].append(row)
    summaries: list[Row] = []
    health: dict[tuple[int, str, str], list[tuple[int, bool]]] = defaultdict(list)
    for request, rows in by_request.items():
        steps = [(server, action) for _, _, _, server, action, _, _ in rows]
        operation = operation_of(steps)
        missing = missing_step(operation, Counter(steps))
        servers = [steps[0][0]]
        for server, _ in steps:
            if server != servers[-1]:
                servers.append(server)
        outcome = "failed" if any(row[5] for row in rows) else "ok"
        summaries.append((
            request, rows[0][1], rows[0][0], rows[-1][0] - rows[0][0], len(rows),
            len(servers) - 1, servers, operation, "incomplete" if missing else outcome,
            f"{missing[0]}.{missing[1]}" if missing else "",
        ))  # fmt: skip
        for server in set(servers):
            there = [row for row in rows if row[3] == server]
            key = (there[0][0] // MINUTE_MS * MINUTE_MS, server, operation)
            health[key].append((there[-1][0] - there[0][0], any(row[5] for row in there)))
    service_health = []
    for key, visits in health.items():
        durations = sorted(duration for duration, _ in visits)
        ranks = [math.ceil(p * len(durations) / 100) for p in (50, 95, 99)]
        errors = sum(error for _, error in visits)
        service_health.append(
            (*key, len(visits), errors, *(durations[rank - 1] for rank in ranks))
        )
    return {
        "request_summary": summaries,
        "service_health": service_health,
        "service_health_anomalies": list(_anomalies(service_health)),
    }


def _anomalies(health: list[Row]) -> Iterator[Row]:
    """Yield anomalies by comparing each minute with each other one, in fractions."""
    for minute_ms, server, operation, requests, errors, p50_ms, *_ in health:
        hour = [
            row
            for row in health
            if row[1:3] == (server, operation) and minute_ms - 3_600_000 <= row[0] < minute_ms
        ]
        served = sum(row[3] for row in hour)
        if requests < 10 or served < 100:
            continue
        rate, usual = Fraction(errors, requests), Fraction(1 + sum(r[4] for r in hour), served + 2)
        if (
            errors >= 3
            and rate > usual
            and (rate - usual) ** 2 > 16 * usual * (1 - usual) / requests
        ):
            yield minute_ms, server, operation, "errors", float(rate), float(usual)
        usual_ms = max(5, statistics.median_low(row[5] for row in hour))
        if p50_ms >= 2 * usual_ms:
            yield minute_ms, server, operation, "latency", float(p50_ms), float(usual_ms)


def _of_events(events: Read) -> dict[str, list[Row]]:
    on_time = sorted(
        (time_ms, str(record["user_id"]), "login" if record["event"] == "LoggingIn" else "record")
        for time_ms, is_late, record, _ in events.good
        if not is_late
    )
    moments = [(user, time_ms, what) for time_ms, user, what in on_time]
    counted = answers((time_ms, record) for time_ms, _, record, _ in events.good)
    return {**counted, "shop_sessions": _sessions(moments, "inactivity")}


def _of_store(store: Read) -> dict[str, list[Row]]:
    rows = []
    for time_ms, is_late, record, _ in store.good:
        if not is_late:
            kind, price = record["event_type"], round(record["price"] * 100)
            sold = kind == "purchase"
            rows.append(
                (time_ms, time_ms + 1000, 1, kind == "view", kind == "cart", sold, price * sold)
            )
    return {"events": _summed(rows, 2)}


def _of_tags(tags: Read) -> dict[str, list[Row]]:
    buckets = []
    profiles: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    for place, (time_ms, is_late, tag, value) in enumerate(tags.good):
        info = tag["product_info"]
        profiles[tag["cookie"], tag["action"]].append((time_ms, place, value.decode()))
        if not is_late:
            buckets.append((
                time_ms // MINUTE_MS * MINUTE_MS, tag["action"], tag["origin"],
                info["brand_id"], info["category_id"], 1, info["price"],
            ))  # fmt: skip
    newest = [
        (*key, time_ms, value)
        for key, kept in profiles.items()
        for time_ms, _, value in sorted(kept)[-200:]
    ]
    return {"minute_buckets": _summed(buckets, 5), "user_profiles": newest}


def _views(reads: dict[str, Read]) -> Iterator[Row]:
    for topic, found in reads.items():
        for time_ms, is_late, record, _ in found.good:
            if is_late:
                continue
            minute_ms = time_ms // MINUTE_MS * MINUTE_MS
            if topic == "platform_logs":
                user, data = _text(record["commonData"]["userId"]), record["data"]
                if record["action"] == "CatalogProductReq":
                    yield minute_ms, topic, _text(data["productId"]), user, 1, 0
                elif record["action"] == "CatalogDbRep":
                    for product in data.get("products", []):
                        yield minute_ms, topic, _text(product["productId"]), user, 0, 1
            elif topic == "store_events" and record["event_type"] == "view":
                yield minute_ms, topic, str(record["product_id"]), str(record["user_id"]), 1, 0
            elif topic == "user_tags" and record["action"] == "VIEW":
                product = record["product_info"]["product_id"]
                yield minute_ms, topic, product, record["cookie"], 1, 0


def _summed(rows: list[Row], keys: int) -> list[Row]:
    sums: dict[Row, list[int]] = {}
    for row in rows:
        old = sums.setdefault(row[:keys], [0] * (len(row) - keys))
        sums[row[:keys]] = [a + int(b) for a, b in zip(old, row[keys:], strict=True)]
    return [(*key, *values) for key, values in sums.items()]
