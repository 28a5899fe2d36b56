"""The simulated shop: users, the services that serve them, and all four topics at once.

One world from a seed, as a Source: ``platform_logs``, ``shop_events``, ``store_events`` and
``user_tags`` of the same users at the same event times. What happens is decided by (options,
seed) alone, one draw after the other, so a world is entered at a row by living through all
before it; it is the same bytes however it is cut and at whatever pace it is sent.

Its memory is the users that are in the shop and the records that are not due yet: it does not grow
with the length of the stream.

With ``total`` the world ends with exactly so many records; its truth (``shop_truth``) is that of
all of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from footfall.generator.chance import draw, threshold
from footfall.generator.shop_records import (
    A_LITTLE_OFF,
    AHEAD,
    AHEAD_MAX_MS,
    AN_HOUR_AHEAD,
    BEHIND,
    LATE_AGE_MS,
    LATE_SPREAD_MS,
    PARTITIONS,
    REQUEST_FORMS,
    RIGHT,
    TIME_STYLES,
    TOPICS,
    Disturbances,
    Observer,
    Recorder,
    User,
)
from footfall.generator.shop_services import Services
from footfall.generator.shop_visits import HABITS, Visits
from footfall.generator.sources import Batch, Record
from footfall.schemas.times import datetime_of, iso_ms, parse_time_ms
from footfall.schemas.topic_files import partition_of

START_MS = parse_time_ms("2022-03-22T12:00:00.000Z")
USERS = 50_000
RECORDS_PER_S = 1_000
RECORDS_PER_S_MAX = 100_000
RECORDS_A_VISIT = 75
"""Records per visit, about; the rate of the arrivals follows from it."""
CROWD_S = 180
"""Seconds whose arrivals come within the first minute, as if the shop had been open before."""
CROWD_WITHIN_MS = 60_000
FIRST_USER_ID = 1_000_000

_LANE_USER = 311
_COUNTRIES = ("PL", "DE", "FR", "GB", "IT", "ES", "NL", "CZ", "SE", "PT", "US", "JP", "BR")
_DEVICES = ("PC", "MOBILE", "MOBILE", "TV")
_NO_LIMIT_MS = 2**62


@dataclass(frozen=True)
class ShopWorld:
    """A seeded shop with about ``records_per_s`` records per second of event time.

    ``odd_shapes`` is the share of users whose services are old ones: ids nested or of the other
    type, times without a zone, with another zone, or with microseconds.
    """

    seed: int = 0
    total: int | None = None
    """Number of records of all topics together; None for a world without end."""
    disturbances: Disturbances = field(default_factory=Disturbances)
    start_ms: int = START_MS
    records_per_s: int = RECORDS_PER_S
    users: int = USERS
    odd_shapes: float = 0.02

    def __post_init__(self) -> None:
        """Raise ValueError for options that are not valid."""
        if not 1 <= self.records_per_s <= RECORDS_PER_S_MAX:
            raise ValueError(
                f"records a second takes 1 to {RECORDS_PER_S_MAX:,}, not {self.records_per_s}"
            )
        if not 1 <= self.users <= 10_000_000:
            raise ValueError(f"users takes 1 to 10,000,000, not {self.users}")
        if self.total is not None and self.total < 1:
            raise ValueError(f"the total takes 1 or more records, not {self.total}")
        if not 0 <= self.odd_shapes <= 1:
            raise ValueError(f"the share of odd shapes takes 0 to 1, not {self.odd_shapes}")
        if not 1971 <= datetime_of(self.start_ms).year <= 2085:
            raise ValueError(
                f"the shop opens between 1971 and 2085, not at {iso_ms(self.start_ms)}"
            )

    @property
    def name(self) -> str:
        """Return the name for a progress file; see Source."""
        return f"shop-{self.seed}"

    @property
    def identity(self) -> str:
        """Return the identity; see Source. The total is part of it: the last records depend on
        it."""
        return (
            f"world shop seed={self.seed} total={self.total} start_ms={self.start_ms} "
            f"records_per_s={self.records_per_s} users={self.users} "
            f"odd_shapes={self.odd_shapes} {self.disturbances}"
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """Return all topics; see Source."""
        return TOPICS

    def open(self, row: int) -> ShopStream:
        """Live through all rows before this one, some 100,000 per second; see Source."""
        stream = ShopStream(self)
        stream.skip(row)
        return stream


class ShopStream:
    """A shop that is open; ``observer`` is told of all that is sent."""

    mark = ""
    """No mark: the identity tells the rows apart; see Stream."""

    def __init__(self, world: ShopWorld, observer: Observer | None = None) -> None:
        chance = random.Random(f"footfall shop {world.seed}")
        self._world = world
        self._random = chance.random
        self._recorder = Recorder(
            world.disturbances, world.start_ms, chance, world.total, observer
        )
        services = Services(world.seed, chance, self._recorder)
        self._visits = Visits(world.seed, chance, services, self._recorder)
        self._agenda: list[tuple[int, int, User]] = []
        """Heap of (when a user acts next, a number that makes it unique, the user)."""
        self._here: set[int] = set()
        self._turns = 0
        self._gap_us = 1_000_000 * RECORDS_A_VISIT / world.records_per_s
        self._next_us = world.start_ms * 1000
        self._newest_ms: int | None = None
        self._open_doors()

    def take(self, rows_max: int, until_ms: int | None = None) -> Batch:
        """Return the next rows; see Stream. A row is due at the moment it is sent in the shop."""
        writes: list[list[Record]] = [[] for _ in TOPICS]
        limit_ms = _NO_LIMIT_MS if until_ms is None else until_ms
        rows = 0
        due = self._recorder.due
        while rows < rows_max and self._prepare() and due[0][0] <= limit_ms:
            sent_ms, _, topic, record = heappop(due)
            writes[topic].append(record)
            self._newest_ms = sent_ms
            rows += 1
        named = [(TOPICS[n], records) for n, records in enumerate(writes) if records]
        return Batch(rows, named, self._newest_ms)

    def skip(self, rows: int) -> None:
        """Live through so many rows."""
        while rows and self._prepare():
            heappop(self._recorder.due)
            rows -= 1

    @property
    def at_end(self) -> bool:
        """Return whether no row is left; see Stream."""
        return not self._prepare()

    def next_time_ms(self) -> int | None:
        """Return when the next row is sent; see Stream."""
        return self._recorder.due[0][0] if self._prepare() else None

    def close(self) -> None:
        """Do nothing; see Stream."""

    @property
    def held(self) -> int:
        """Return the number of users and records that are held, which the memory follows."""
        return len(self._agenda) + len(self._recorder.due)

    def _prepare(self) -> bool:
        """Live on until the next record is known; return False where there is none."""
        recorder, agenda = self._recorder, self._agenda
        while recorder.left:
            next_ms = self._next_us // 1000
            if agenda and agenda[0][0] < next_ms:
                next_ms = agenda[0][0]
            if recorder.due and recorder.due[0][0] < next_ms:
                return True
            self._live(next_ms)
        return bool(recorder.due)

    def _live(self, now_ms: int) -> None:
        """Let the user whose turn it is act, or a new one arrive."""
        if not self._agenda or self._agenda[0][0] > now_ms:
            self._arrive(now_ms)
            self._next_us += 1 + int(2 * self._gap_us * self._random())
            return
        _, _, user = heappop(self._agenda)
        again_ms = self._visits.act(user, now_ms)
        if again_ms is None:
            self._here.discard(user.number)
        else:
            self._turns += 1
            heappush(self._agenda, (again_ms, self._turns, user))

    def _open_doors(self) -> None:
        crowd = int(CROWD_S * 1_000_000 / self._gap_us)
        for _ in range(min(crowd, self._world.users // 2)):
            self._arrive(self._world.start_ms + int(self._random() * CROWD_WITHIN_MS))

    def _arrive(self, now_ms: int) -> None:
        number = int(self._random() * self._world.users)
        if number in self._here:
            return
        self._here.add(number)
        user = user_of(self._world, number)
        self._visits.begin(user)
        self._turns += 1
        heappush(self._agenda, (now_ms, self._turns, user))


def user_of(world: ShopWorld, number: int) -> User:
    """Return a user, the same at every visit."""
    lanes = np.arange(4, dtype=np.int64) + 4 * number
    name, shape, clock, home = (int(x) for x in draw(world.seed, _LANE_USER, lanes))
    user_id = FIRST_USER_ID + number
    key, cookie = b"%d" % user_id, b"%016x" % name
    is_odd = shape % 2**32 < int(threshold(world.odd_shapes))
    shape >>= 32
    id_forms = ("%d", '"%d"', '{"userId":%d}', '{"userId":"%d"}')
    which, offset_ms = _clock_of(world.disturbances, clock)
    own, cookies = partition_of(key, PARTITIONS), partition_of(cookie, PARTITIONS)
    return User(
        number=number,
        id=user_id,
        key=key,
        cookie=cookie,
        slots=(own, own, own, cookies),
        id_json=id_forms[shape % 4 if is_odd else shape % 8 // 7 * 2] % user_id,
        request_form=REQUEST_FORMS[shape // 8 % 4 if is_odd else 1],
        time_style=1 + shape // 64 % (TIME_STYLES - 1) if is_odd else 0,
        tag_home=f'"country":"{_COUNTRIES[home % len(_COUNTRIES)]}",'
        f'"device":"{_DEVICES[home // 64 % len(_DEVICES)]}"',
        habit=home // 1024 % HABITS,
        clock=which,
        offset_ms=offset_ms,
    )


def _clock_of(disturbances: Disturbances, bits: int) -> tuple[int, int]:
    """Return (the kind of a user's clock, its error in ms)."""
    chance, rest = bits % 2**32, bits >> 32
    far = int(threshold(disturbances.clocks_far_off))
    if chance < far:
        # A few are ahead by decades; most clocks far off have been stopped for hours.
        return (AHEAD, 0) if rest % 4 == 0 else (BEHIND, LATE_AGE_MS + rest % LATE_SPREAD_MS)
    little = far + int(threshold(disturbances.clocks_a_little_off))
    if chance < little:
        reach_ms = disturbances.clock_off_ms
        return A_LITTLE_OFF, rest % (2 * reach_ms + 1) - reach_ms
    if chance < little + int(threshold(disturbances.clocks_ahead)):
        return AN_HOUR_AHEAD, 1 + rest % AHEAD_MAX_MS
    return RIGHT, 0
