"""Make records of what happens in the simulated shop, with the disorder that was asked for.

Every record is given here when it is sent, which event time is in it, and which rule it falls
under.

on time   its event time is less than ``disorder_ms`` behind the newest sent before it
late      it is hours behind: no window can take it any more
future    its event time is in FUTURE_FROM_MS or after, ahead of any wall clock of today
dead      it cannot be decoded: a broken copy, sent beside the record that it was made of

A record is only made late, or belongs to a user whose clock is hours behind, once enough newer
records were sent to its partition (of PARTITIONS, by CRC-32) to agree on a time there, so that it
is late by the flows' rule. A user whose clock is up to an hour ahead is on time by that rule.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappush
from typing import Any, Protocol

from footfall.generator.shop_spoil import spoiled
from footfall.generator.sources import Record
from footfall.schemas.times import datetime_of, parse_time_ms
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS

TOPICS = (PLATFORM_LOGS.name, SHOP_EVENTS.name, STORE_EVENTS.name, USER_TAGS.name)
LOGS, EVENTS, STORE, TAGS = range(4)
PARTITIONS = 10

ON_TIME, LATE, FUTURE, UNSENT = range(4)
RIGHT, A_LITTLE_OFF, BEHIND, AHEAD, AN_HOUR_AHEAD = range(5)
"""Kinds of a user's clock."""

LATE_AGE_MS = 3 * 3_600_000
LATE_SPREAD_MS = 600_000
_ANCHOR_APART_MS = 30_000
"""Time longer than any action's: an older record was sent before all of its records."""
_ANCHOR_AGE_MAX_MS = 3_600_000
LATE_AFTER_RECORDS = 320
"""Records after which one may be late: as many as the flows need to agree on a time, and those
between two of their looks."""
AHEAD_MAX_MS = 3_500_000
FUTURE_FROM_MS = parse_time_ms("2090-01-01T00:00:00Z")
_NEVER = -(2**62)


@dataclass(slots=True)
class User:
    """A user in the shop; ``act`` of the visits changes the fields after ``offset_ms``."""

    number: int
    id: int
    key: bytes
    cookie: bytes
    slots: tuple[int, int, int, int]
    """Partition of each of TOPICS that the user's records go to."""
    id_json: str
    request_form: str
    """Form of a request's id in the user's records, as a ``%`` format."""
    time_style: int
    tag_home: str
    habit: int
    clock: int
    offset_ms: int
    """Error of the user's clock."""
    actions_left: int = 0
    logged_in: bool = False
    seen: int = -1
    """Rank of the product that was looked at last; -1 for no product."""
    cart: list[int] = field(default_factory=list)
    orders: list[tuple[int, list[int]]] = field(default_factory=list)
    """Orders: (order id, products by rank)."""
    reserved: bool = False
    failures_left: int = -1
    """Number of mistyped passwords still to come before the login; -1 before it was decided."""


class Observer(Protocol):
    """An observer of all that is sent, as the world knows it, each user's records in order of
    time."""

    def request(self, user: User, request_id: str, steps: list[tuple[int, int, Step]]) -> None:
        """Take the steps of one request that were sent: (event time in ms, rule, step)."""

    def event(
        self, user: User, time_ms: int, rule: int, kind: str, facts: tuple[Any, ...]
    ) -> None:
        """Take one shop event; ``facts`` are the fields that tables count by, in order.

        Searching has the query; LoggingIn and SupportContact the type; ItemComparison both items
        and the type; ItemReturn item and reason; SaleParticipation sale and item; PromoUsage
        coupon and order. Other kinds have no facts.
        """

    def store(self, user: User, time_ms: int, rule: int, kind: str, product: StoreProduct) -> None:
        """Take one store event; ``time_ms`` is a whole second."""

    def tag(self, user: User, time_ms: int, rule: int, tag: TagFacts, value: bytes) -> None:
        """Take one user tag."""

    def dead(self, topic: int) -> None:
        """Count one record that cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a service logs. ``products`` are the ids that were listed."""

    server: str
    action: str
    data: str = "{}"
    """JSON, as it is in the record."""
    status: str | None = None
    error: str | None = None
    product_id: int | None = None
    products: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreProduct:
    """A product as store events have it; ``text`` is JSON of its own fields."""

    id: int
    price_cents: int
    text: str


@dataclass(frozen=True, slots=True)
class TagFacts:
    """Fields of a tag about the product."""

    action: str
    origin: str
    product_id: int
    brand: str
    category: str
    price_cents: int


@dataclass(frozen=True, slots=True)
class Disturbances:
    """Shares from 0 to 1: of records, and, for the clocks, of users.

    ``disorder_ms`` bounds how far on-time records are behind the newest before them: a flow
    with a watermark that trails by it loses no record.
    """

    out_of_order: float = 0.0
    late: float = 0.0
    malformed: float = 0.0
    clocks_a_little_off: float = 0.0
    clocks_far_off: float = 0.0
    clocks_ahead: float = 0.0
    """Share of users whose clock is ahead by up to an hour."""
    disorder_ms: int = 5_000
    late_after_records: int = LATE_AFTER_RECORDS
    """Number of right records of the partition before a late one; fewer where flows believe every
    clock at once."""

    def __post_init__(self) -> None:
        """Raise ValueError for shares that are not valid."""
        shares = (self.out_of_order, self.late, self.malformed)
        clocks = (self.clocks_a_little_off, self.clocks_far_off, self.clocks_ahead)
        if min(*shares, *clocks) < 0 or max(sum(shares), sum(clocks)) > 0.9:
            raise ValueError(
                "the shares of out-of-order, late and malformed records take 0 or more each and "
                f"0.9 at most together, and so do those of wrong clocks, not {shares}, {clocks}"
            )
        if not 3_000 <= self.disorder_ms <= 60_000:
            raise ValueError(f"the disorder takes 3,000 to 60,000 ms, not {self.disorder_ms}")

    @property
    def clock_off_ms(self) -> int:
        """Return the most that a clock is a little off by, either way."""
        return self.disorder_ms // 8 if self.clocks_a_little_off else 0

    @property
    def held_back_ms(self) -> int:
        """Return the most that a record is sent after its time.

        Twice the error of a clock, and the second that store events are cut to, add to it.
        """
        return self.disorder_ms - 1_000 - 2 * self.clock_off_ms - 1


Sent = tuple[int, int, int, Record]
"""A record to be sent: (when in ms, a number that makes it unique, topic, record)."""


class _Anchor:
    """The newest moment after which enough right records were sent to one partition."""

    def __init__(self, apart_ms: int, records: int) -> None:
        self.at_ms = self._candidate_ms = _NEVER
        self._apart_ms, self._records = apart_ms, records
        self._since = 0
        """Number of records that were sent well after the candidate."""

    def note(self, now_ms: int) -> None:
        """Take a right record that is sent now; others may still be sent for ``apart_ms``."""
        if now_ms - self._candidate_ms <= self._apart_ms:
            return
        self._since += 1
        if self._since > self._records or self._candidate_ms == _NEVER:
            self.at_ms, self._candidate_ms = self._candidate_ms, now_ms
            self._since = 0


class Recorder:
    """The maker of records, which holds them until they are due, and tells the observer."""

    def __init__(
        self,
        disturbances: Disturbances,
        start_ms: int,
        chance: random.Random,
        total: int | None,
        observer: Observer | None,
    ) -> None:
        self.due: list[Sent] = []
        """Records to be sent, as a heap."""
        self.left = 2**62 if total is None else total
        self._observer = observer
        self._random = chance.random
        self._late = disturbances.late
        self._disturbed = disturbances.late + disturbances.out_of_order
        self._held_back_ms = disturbances.held_back_ms
        self._spoil = disturbances.malformed / (1 - disturbances.malformed)
        self._future_by_ms = FUTURE_FROM_MS - start_ms
        self._made = 0
        apart_ms = max(_ANCHOR_APART_MS, disturbances.disorder_ms)
        self._anchors = [
            [_Anchor(apart_ms, disturbances.late_after_records) for _ in range(PARTITIONS)]
            for _ in TOPICS
        ]
        self._send_at_ms = self._time_ms = 0
        self._seconds: dict[int, str] = {}

    def _place(self, topic: int, user: User, now_ms: int) -> int:
        """Return the rule that a record falls under; set its event time, and when it is sent."""
        if self.left <= 0:
            return UNSENT
        slot = user.slots[topic]
        self._send_at_ms = now_ms
        if user.clock == AHEAD:
            self._time_ms = now_ms + self._future_by_ms
            rule = FUTURE
        elif user.clock == AN_HOUR_AHEAD:
            self._time_ms = now_ms + user.offset_ms
            rule = ON_TIME
        elif user.clock == BEHIND:
            if now_ms - self._anchors[topic][slot].at_ms > _ANCHOR_AGE_MAX_MS:
                return UNSENT
            self._time_ms = now_ms - user.offset_ms
            rule = LATE
        else:
            rule = ON_TIME
            self._time_ms = now_ms + user.offset_ms
            chance = self._random() if self._disturbed else 1.0
            if chance >= self._disturbed:
                self._anchors[topic][slot].note(now_ms)
            elif chance >= self._late:
                self._send_at_ms += 1 + int(self._random() * self._held_back_ms)
            elif now_ms - self._anchors[topic][slot].at_ms <= _ANCHOR_AGE_MAX_MS:
                self._time_ms -= LATE_AGE_MS + int(self._random() * LATE_SPREAD_MS)
                rule = LATE
        self.left -= 1
        return rule

    def _send(self, topic: int, key: bytes, value: bytes) -> None:
        self._made += 1
        heappush(self.due, (self._send_at_ms, self._made, topic, (key, value)))
        if self._spoil and self.left and self._random() < self._spoil:
            self.left -= 1
            self._made += 1
            broken = spoiled(topic, value, self._random)
            heappush(self.due, (self._send_at_ms, self._made, topic, (key, broken)))
            if self._observer:
                self._observer.dead(topic)

    def request(self, user: User, number: int, steps: list[tuple[int, Step]]) -> None:
        """Record the steps of a request at the given times; a user's steps never share a time."""
        request_json = user.request_form % number
        sent = []
        for now_ms, step in steps:
            rule = self._place(LOGS, user, now_ms)
            if rule == UNSENT:
                continue
            time_ms = self._time_ms
            value = (
                f'{{"action":"{step.action}","commonData":{{"time":"'
                f'{_styled(time_ms, user.time_style, self._second)}","userId":{user.id_json},'
                f'"requestId":{request_json},"serverName":"{step.server}"}},"data":{step.data}}}'
            )
            self._send(LOGS, user.key, value.encode())
            sent.append((time_ms, rule, step))
        if self._observer and sent:
            self._observer.request(user, request_text(user, number), sent)

    def event(
        self,
        user: User,
        now_ms: int,
        kind: str,
        fields: str = "",
        facts: tuple[Any, ...] = (),
    ) -> None:
        """Record a shop event; ``fields`` is JSON that begins with a comma, ``facts`` as in
        Observer."""
        rule = self._place(EVENTS, user, now_ms)
        if rule == UNSENT:
            return
        time_ms = self._time_ms
        value = (
            f'{{"event":"{kind}","timestamp":"{self._second(time_ms // 1000)}'
            f'{time_ms % 1000:03d}Z","user_id":{user.id}{fields}}}'
        )
        self._send(EVENTS, user.key, value.encode())
        if self._observer:
            self._observer.event(user, time_ms, rule, kind, facts)

    def store(self, user: User, now_ms: int, kind: str, product: StoreProduct) -> None:
        """Record a store event."""
        rule = self._place(STORE, user, now_ms)
        if rule == UNSENT:
            return
        time_ms = self._time_ms // 1000 * 1000
        second = self._second(time_ms // 1000)
        value = (
            f'{{"event_time":"{second[:10]} {second[11:19]} UTC","event_type":"{kind}",'
            f'{product.text},"user_id":{user.id},"user_session":"{user.cookie.decode()}"}}'
        )
        self._send(STORE, user.key, value.encode())
        if self._observer:
            self._observer.store(user, time_ms, rule, kind, product)

    def tag(self, user: User, now_ms: int, tag: TagFacts) -> None:
        """Record a user tag."""
        rule = self._place(TAGS, user, now_ms)
        if rule == UNSENT:
            return
        time_ms = self._time_ms
        value = (
            f'{{"time":"{self._second(time_ms // 1000)}{time_ms % 1000:03d}Z",'
            f'"cookie":"{user.cookie.decode()}",{user.tag_home},"action":"{tag.action}",'
            f'"origin":"{tag.origin}","product_info":{{"product_id":"{tag.product_id}",'
            f'"brand_id":"{tag.brand}","category_id":"{tag.category}",'
            f'"price":{tag.price_cents}}}}}'
        ).encode()
        self._send(TAGS, user.cookie, value)
        if self._observer:
            self._observer.tag(user, time_ms, rule, tag, value)

    def _second(self, second: int) -> str:
        """Return the text of a second: ``2022-03-22T12:15:00.``."""
        text = self._seconds.get(second)
        if text is None:
            if len(self._seconds) > 4_096:
                self._seconds.clear()
            text = datetime_of(second * 1000).strftime("%Y-%m-%dT%H:%M:%S.")
            self._seconds[second] = text
        return text


TIME_STYLES = 4
"""Number of styles of times; nearly all services write style 0, older ones the others."""
_HOUR_S = 3_600


def _styled(time_ms: int, style: int, second_text: Callable[[int], str]) -> str:
    if style == 0:
        return f"{second_text(time_ms // 1000)}{time_ms % 1000:03d}Z"
    second, ms = divmod(time_ms, 1000)
    # These styles leave out a fraction that is zero, as many libraries do.
    if style == 1:
        text = second_text(second)
        return f"{text}{ms:03d}" if ms else text[:-1]
    if style == 2:
        text = second_text(second + _HOUR_S)
        return f"{text}{ms:03d}+01:00" if ms else f"{text[:-1]}+01:00"
    # Style 3 has microseconds, of which only the milliseconds count.
    return f"{second_text(second)}{ms:03d}{time_ms % 997:03d}Z"


REQUEST_FORMS = ("%d", '"r%x"', '{"requestId":"r%x"}', '{"requestId":%d}')


def request_text(user: User, number: int) -> str:
    """Return the normal form of a request's id."""
    return f"r{number:x}" if "r%x" in user.request_form else str(number)
