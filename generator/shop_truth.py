"""The truth about a simulated shop: the content that every table must have in the end.

Counted by the world itself, from what it knows of each record that it sent, in the order in
which things happened: no record is decoded, there is no watermark, nothing comes out of order.

Which records count
    event time    is the time in the record, also of a user whose clock is wrong
    dead          a record that cannot be decoded, or that is in the future (see shop_records):
                  counts only in ``accounts``
    late          counts in the tables of single rows (ROWS_KEEP_LATE), and in no table of
                  windows, sessions or requests
    the end       after the last record event time goes on without records: each session that
                  is still open ends by its timeout

Sessions (``time_online``, ``online_users``)
    A user is online from a LoginRep whose status is Valid to a LogoutReq (``logout``), the next
    such LoginRep (``relogin``), or SESSION_TIMEOUT_S after the user's last record
    (``timeout``), whichever is first. Every record of platform_logs with that user id continues
    the session, whatever its action; a record that is SESSION_TIMEOUT_S or more after the one
    before finds it ended. The moment of the end is no longer part of the session. A LogoutReq
    without a session, and records outside of sessions, start no session.
    ``active`` users of a minute have a record of any action in it, online or not; a user is
    ``online`` at its end whose session holds its last millisecond. A minute without active and
    online users has no row.
    In shop_events a session begins with LoggingIn; it ends by the next one (``relogin``) or
    SESSION_TIMEOUT_S after the last event of any kind (``inactivity``).

Failed logins
    A LoginRep whose status is Invalid; those of a minute are counted however late they come. A
    failure raises an alert if it finds more than LOGIN_FAILURES_MAX failures of the user, itself
    included, in the LOGIN_WINDOW_S whole seconds that end with its own second, and the failure
    before it did not find as many: one alert per burst.

Requests
    All records of a request id that are on time. ``duration_ms``: from the first to the last;
    ``steps``: their number; ``servers``: in order, without repetition in a row; ``hops``: the
    number of changes of server. ``operation``, ``missing`` and ``outcome``: by
    ``schemas.operations``, where a step failed if ``platform_logs.is_failed`` says so.

Service health
    A request counts once at each server that logged a step of it, in the minute of its first
    step there. Its duration there is from the first to the last step there; it is an error if
    a step there failed. A percentile p of n durations is the one at rank ceil(p * n / 100) in
    order of size, counted from 1.

Shop events (the views of ``schemas.tables.shop_events``)
    See ``shop_answers``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from footfall.generator.shop_anomalies import anomalies
from footfall.generator.shop_answers import Answers
from footfall.generator.shop_records import EVENTS as EVENTS_TOPIC
from footfall.generator.shop_records import (
    FUTURE,
    LATE,
    LOGS,
    ON_TIME,
    STORE,
    TAGS,
    TOPICS,
    StoreProduct,
    TagFacts,
    User,
)
from footfall.generator.shop_records import Step as Logged
from footfall.generator.shop_sessions import Alerts, Minutes, Sessions
from footfall.generator.shop_tables import SHOP_ANSWERS, TABLES, Rows, write_tables
from footfall.generator.shop_world import ShopStream, ShopWorld
from footfall.schemas.operations import missing_step, operation_of, outcome_of
from footfall.schemas.platform_logs import INVALID, VALID, is_failed
from footfall.schemas.profiles import NUM_TAGS_TO_KEEP_DEFAULT

MINUTE_MS = 60_000
ROWS_KEEP_LATE = frozenset({
    "request_trace", "user_trace", "failed_login", "failed_logins_per_minute", "user_profiles",
    *SHOP_ANSWERS,
})  # fmt: skip
"""Tables in which late records count."""
_TAKE_ROWS = 10_000

Moment = tuple[int, Logged]


class Truth:
    """An observer that counts. Its memory is its tables, of which profiles keep their newest."""

    def __init__(self) -> None:
        self._rows = {name: Rows(columns) for name, columns in TABLES.items()}
        self._accounts = [Counter[str]() for _ in TOPICS]
        self._minutes = Minutes()
        self._online = Sessions("timeout", self._ended)
        self._shop_online = Sessions("inactivity", self._shop_ended)
        self._alerts = Alerts()
        self._failures: Counter[tuple[int, str]] = Counter()
        self._views: dict[tuple[int, int, int, str], list[int]] = defaultdict(lambda: [0, 0])
        self._health: dict[tuple[int, str, str], list[int]] = defaultdict(list)
        self._errors: Counter[tuple[int, str, str]] = Counter()
        self._answers = Answers()
        self._metrics: dict[int, list[int]] = defaultdict(lambda: [0] * 5)
        self._buckets: dict[tuple[int, str, str, str, str], list[int]] = defaultdict(
            lambda: [0, 0]
        )
        self._profiles: dict[tuple[bytes, str], list[tuple[int, int, bytes]]] = defaultdict(list)
        self._tags = 0

    def request(self, user: User, request_id: str, steps: list[tuple[int, int, Logged]]) -> None:
        """Count the steps of a request; see Observer."""
        user_id = user.key.decode()
        on_time = []
        for time_ms, rule, step in steps:
            if not self._counts(LOGS, rule):
                continue
            self._rows["request_trace"].add(
                (request_id, time_ms, step.server, step.action, user_id)
            )
            is_failure = step.action == "LoginRep" and step.status == INVALID
            if is_failure:
                self._rows["failed_login"].add((user_id, time_ms, request_id))
                self._failures[time_ms // MINUTE_MS * MINUTE_MS, user_id] += 1
            if rule == ON_TIME:
                on_time.append((time_ms, step))
                self._step(user_id, time_ms, step, is_failure=is_failure)
        if on_time:
            self._request(user_id, request_id, on_time)

    def _step(self, user_id: str, time_ms: int, step: Logged, *, is_failure: bool) -> None:
        minute_ms = time_ms // MINUTE_MS * MINUTE_MS
        self._minutes.active(user_id, minute_ms)
        if step.action == "LoginRep" and step.status == VALID:
            self._rows["online_user"].add((user_id, time_ms))
            self._online.login(user_id, time_ms)
        elif step.action == "LogoutReq":
            self._online.logout(user_id, time_ms)
        else:
            self._online.record(user_id, time_ms)
        if is_failure:
            times = self._alerts.failure(user_id, time_ms)
            if times:
                self._rows["login_alerts"].add((user_id, time_ms, len(times), times))
        if step.action == "CatalogProductReq" and step.product_id is not None:
            self._views[minute_ms, LOGS, step.product_id, user_id][0] += 1
        elif step.action == "CatalogDbRep":
            for product in step.products:
                self._views[minute_ms, LOGS, product, user_id][1] += 1

    def _request(self, user_id: str, request_id: str, moments: list[Moment]) -> None:
        steps = [(step.server, step.action) for _, step in moments]
        operation = operation_of(steps)
        missing = missing_step(operation, Counter(steps))
        failed = any(is_failed(step.status, step.error) for _, step in moments)
        servers = [server for server, _ in groupby(server for server, _ in steps)]
        started_ms = moments[0][0]
        self._rows["request_summary"].add((
            request_id, user_id, started_ms, moments[-1][0] - started_ms, len(steps),
            len(servers) - 1, servers, operation, outcome_of(missing, failed=failed),
            ".".join(missing or ()),
        ))  # fmt: skip
        for server in dict.fromkeys(servers):
            there = [(time_ms, step) for time_ms, step in moments if step.server == server]
            key = (there[0][0] // MINUTE_MS * MINUTE_MS, server, operation)
            self._health[key].append(there[-1][0] - there[0][0])
            self._errors[key] += any(is_failed(step.status, step.error) for _, step in there)

    def event(
        self, user: User, time_ms: int, rule: int, kind: str, facts: tuple[Any, ...]
    ) -> None:
        """Count a shop event; see Observer."""
        if not self._counts(EVENTS_TOPIC, rule):
            return
        self._answers.event(user.id, time_ms, kind, facts)
        if rule == ON_TIME:
            user_id = user.key.decode()
            if kind == "LoggingIn":
                self._shop_online.login(user_id, time_ms)
            else:
                self._shop_online.record(user_id, time_ms)

    def store(self, user: User, time_ms: int, rule: int, kind: str, product: StoreProduct) -> None:
        """Count a store event; see Observer."""
        if not self._counts(STORE, rule) or rule != ON_TIME:
            return
        metrics = self._metrics[time_ms]
        metrics[0] += 1
        if kind == "view":
            metrics[1] += 1
            key = (time_ms // MINUTE_MS * MINUTE_MS, STORE, product.id, user.key.decode())
            self._views[key][0] += 1
        elif kind == "cart":
            metrics[2] += 1
        elif kind == "purchase":
            metrics[3] += 1
            metrics[4] += product.price_cents

    def tag(self, user: User, time_ms: int, rule: int, tag: TagFacts, value: bytes) -> None:
        """Count a user tag; see Observer."""
        if not self._counts(TAGS, rule):
            return
        self._tags += 1
        newest = self._profiles[user.cookie, tag.action]
        newest.append((time_ms, self._tags, value))
        if len(newest) > 2 * NUM_TAGS_TO_KEEP_DEFAULT:
            newest.sort(reverse=True)
            del newest[NUM_TAGS_TO_KEEP_DEFAULT:]
        if rule != ON_TIME:
            return
        minute_ms = time_ms // MINUTE_MS * MINUTE_MS
        bucket = self._buckets[minute_ms, tag.action, tag.origin, tag.brand, tag.category]
        bucket[0] += 1
        bucket[1] += tag.price_cents
        if tag.action == "VIEW":
            self._views[minute_ms, TAGS, tag.product_id, user.cookie.decode()][0] += 1

    def dead(self, topic: int) -> None:
        """Count a record that cannot be decoded; see Observer."""
        self._accounts[topic].update(("records", "malformed"))

    def _counts(self, topic: int, rule: int) -> bool:
        """Note a record; return whether it counts in any table."""
        account = self._accounts[topic]
        account["records"] += 1
        if rule == FUTURE:
            account["future"] += 1
        elif rule == LATE:
            account["late"] += 1
        return rule != FUTURE

    def _ended(self, user_id: str, login_ms: int, end_ms: int, ended_by: str) -> None:
        self._minutes.online(login_ms, end_ms)
        spent_s = (end_ms - login_ms) / 1000
        self._rows["users_spend_time_online"].add((user_id, login_ms, end_ms, spent_s, ended_by))

    def _shop_ended(self, user_id: str, login_ms: int, end_ms: int, ended_by: str) -> None:
        spent_s = (end_ms - login_ms) / 1000
        self._rows["shop_sessions"].add((user_id, login_ms, end_ms, spent_s, ended_by))

    def tables(self) -> dict[str, Rows]:
        """Return all tables once the world has ended; nothing more may be observed."""
        self._online.end()
        self._shop_online.end()
        rows = self._rows
        rows["user_trace"] = rows["request_trace"]
        rows["online_users_per_minute"].add_all(self._minutes.rows())
        rows["failed_logins_per_minute"].add_all(
            (minute_ms, user, count) for (minute_ms, user), count in self._failures.items()
        )
        products: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0])
        for (minute_ms, topic, product, user), (views, impressions) in self._views.items():
            key = (minute_ms, TOPICS[topic], str(product))
            rows["product_user_views_per_minute"].add((*key, user, views, impressions))
            products[key][0] += views
            products[key][1] += impressions
        rows["product_views_per_minute"].add_all((*k, *v) for k, v in products.items())
        health = [
            (*key, len(durations), self._errors[key], *percentiles(durations))
            for key, durations in self._health.items()
        ]
        rows["service_health"].add_all(health)
        rows["service_health_anomalies"].add_all(anomalies(health))
        for table, row in self._answers.rows():
            rows[table].add(row)
        rows["events"].add_all((at, at + 1000, *m) for at, m in self._metrics.items())
        rows["minute_buckets"].add_all((*key, *sums) for key, sums in self._buckets.items())
        for (cookie, action), tags in self._profiles.items():
            newest = sorted(tags, reverse=True)[:NUM_TAGS_TO_KEEP_DEFAULT]
            rows["user_profiles"].add_all(
                (cookie.decode(), action, time_ms, value.decode()) for time_ms, _, value in newest
            )
        rows["accounts"].add_all(
            (topic, *(account[what] for what in ("records", "malformed", "future", "late")))
            for topic, account in zip(TOPICS, self._accounts, strict=True)
        )
        return rows


def percentiles(durations: Iterable[int]) -> tuple[int, int, int]:
    """Return p50, p95 and p99 by rank; there must be at least one duration."""
    ordered = sorted(durations)
    p50, p95, p99 = (ordered[(len(ordered) * p + 99) // 100 - 1] for p in (50, 95, 99))
    return p50, p95, p99


def truth_of(world: ShopWorld) -> dict[str, Rows]:
    """Live through a world, and return its tables. Raises ValueError for a world without end."""
    if world.total is None:
        raise ValueError("only a world with a total has a truth")
    truth = Truth()
    stream = ShopStream(world, truth)
    while not stream.at_end:
        stream.skip(_TAKE_ROWS)
    return truth.tables()


def write_truth(world: ShopWorld, folder: Path) -> dict[str, int]:
    """Write the truth of a world as one Parquet file per table; return the rows by table.

    Raises ValueError for a world without end, and OSError.
    """
    return write_tables(truth_of(world), folder)
