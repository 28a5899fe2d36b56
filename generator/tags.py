"""The ``user_tags`` world: views and buys of a simulated shop, from a seed.

Record ``i`` is a function of (options, ``i``) alone, so the world can be cut into batches
anywhere and entered at any index. Its event time is START_MS + ``i`` milliseconds, except
where disorder was asked for:

late            older than any window could still be corrected for
out_of_order    some seconds old, but within the watermark's delay
duplicate       the bytes of a record sent shortly before, again
malformed       one of malformed.MALFORMED_KINDS, keyed like the tag it was to be
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from footfall.generator.chance import (
    Bits,
    Indices,
    draw,
    high,
    low,
    mix,
    pick,
    stream_of,
    threshold,
    zipf,
)
from footfall.generator.malformed import MALFORMED_KINDS, TOO_LARGE, spoil
from footfall.generator.shop import PRODUCTS, shop_of
from footfall.generator.sources import Record, WorldStream
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.schemas.topics import USER_TAGS

START_MS = parse_time_ms("2022-03-22T12:15:00.000Z")

COOKIES = 1_000_000
COUNTRIES = 100
ORIGINS = 1_000
BUY_SHARE = 0.1
HOT_COOKIES = 50
HOT_SHARE = 0.05
"""Share of the traffic of the hot cookies, of which the hottest gets about a fifth."""

LATE_AGE_MS = 5_000 + 60_000 + 600_000 + 5_000
"""Sum of the watermark's delay, a window, its lateness, and a margin for a quiet partition."""
LATE_SPREAD_MS = 600_000
OUT_OF_ORDER_AGE_MS = 200
OUT_OF_ORDER_SPREAD_MS = 4_700
DUPLICATE_DISTANCE_MAX = 1_000
DISORDER_SHARE_MAX = 0.9
"""Most disorder, which bounds the search for the record that a duplicate of a duplicate
repeats."""

CLEAN, LATE, OUT_OF_ORDER, DUPLICATE, MALFORMED = range(5)
GOOD_KINDS = ("clean", "late", "out_of_order", "duplicate")

_LANE_COOKIE, _LANE_PRODUCT, _LANE_ACTION, _LANE_DISORDER, _LANE_AGE = range(1, 6)
_LANE_COOKIE_NAME, _LANE_COOKIE_HOME, _LANE_SPOIL = range(6, 9)

_COUNTRY_LIST = (
    "PL DE FR GB IT ES NL BE AT CH CZ SK HU RO BG GR PT SE NO DK FI IE LT LV EE UA SI HR RS BA "
    "AL MK ME MD IS LU MT CY TR IL AE SA QA KW BH OM JO LB EG MA TN DZ NG GH KE TZ UG ET ZA BW "
    "NA ZM MZ SN CI CM US CA MX GT CR PA CO PE CL AR UY PY BO BR EC DO JM CU JP KR CN TW HK SG "
    "MY TH VN PH ID IN PK BD LK NP"
)
_COUNTRY_CODES = _COUNTRY_LIST.split()
_DEVICES = ("PC", "MOBILE", "TV")
_ACTIONS = ("VIEW", "BUY")
_ORIGIN_NAMES = [f"site{n:03d}.example" for n in range(ORIGINS)]


@dataclass(frozen=True)
class TagWorld:
    """A seeded world of tags; the shares are of all records, from 0 to 1."""

    seed: int = 0
    late: float = 0.0
    out_of_order: float = 0.0
    duplicate: float = 0.0
    malformed: float = 0.0
    malformed_kinds: tuple[str, ...] = MALFORMED_KINDS

    def __post_init__(self) -> None:
        """Raise ValueError for shares or kinds that are not valid."""
        shares = (self.late, self.out_of_order, self.duplicate, self.malformed)
        if min(shares) < 0 or sum(shares) > DISORDER_SHARE_MAX + 1e-9:
            raise ValueError(
                "the shares of late, out-of-order, duplicate and malformed records take 0 or "
                f"more each and {DISORDER_SHARE_MAX} at most together, not {shares}"
            )
        unknown = set(self.malformed_kinds) - set(MALFORMED_KINDS)
        if unknown or not self.malformed_kinds:
            raise ValueError(
                f"malformed kinds are some of {', '.join(MALFORMED_KINDS)}, "
                f"not {', '.join(sorted(unknown)) or 'none'}"
            )

    @property
    def topic(self) -> str:
        """Return the topic; see World."""
        return USER_TAGS.name

    @property
    def name(self) -> str:
        """Return the name for a progress file; see Source."""
        return f"{self.topic}-{self.seed}"

    @property
    def hot_cookies(self) -> list[str]:
        """Return the cookies that pass 200 tags soonest, the hottest first."""
        return [name.decode() for name in self._cookie_names(np.arange(HOT_COOKIES))]

    @property
    def identity(self) -> str:
        """Return the identity; see Source."""
        options = asdict(self)
        if not self.malformed or self.malformed_kinds == MALFORMED_KINDS:
            del options["malformed_kinds"]
        return f"world {self.topic} " + " ".join(f"{k}={v}" for k, v in options.items())

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topic as a tuple; see Source."""
        return (self.topic,)

    def open(self, row: int) -> WorldStream:
        """Read from this row on; see Source."""
        return WorldStream(self, row)

    def time_ms(self, index: int) -> int:
        """Return the event time of the world when it sends this record."""
        return START_MS + index

    def index_after(self, time_ms: int) -> int:
        """Return the first index that is sent after ``time_ms``."""
        return max(0, time_ms - START_MS + 1)

    def batch(self, start: int, count: int) -> list[Record]:
        """Return records ``start`` to ``start + count - 1``: (cookie, compact JSON)."""
        columns = self._columns(start, count)
        cookies = self._cookie_names(columns.cookie)
        text = _fragments(self.seed)
        home = draw(self.seed, _LANE_COOKIE_HOME, columns.cookie)
        seconds, second_of = np.unique(columns.time_ms // 1000, return_inverse=True)
        until_seconds = np.array(
            [b'{"time":"' + iso_ms(s * 1000)[:20].encode() for s in seconds.tolist()],
            dtype=object,
        )
        values = list(
            map(
                b"".join,
                zip(
                    until_seconds[second_of].tolist(),
                    text.milliseconds[columns.time_ms % 1000].tolist(),
                    cookies,
                    text.home[_home_of(home)].tolist(),
                    text.action_origin[columns.action * ORIGINS + columns.origin].tolist(),
                    text.product[columns.product].tolist(),
                    strict=True,
                ),
            )
        )
        for row in np.flatnonzero(columns.kind == MALFORMED).tolist():
            kind, chance = self._spoiling(start + row)
            values[row] = spoil(kind, values[row], chance)
        return list(zip(cookies, values, strict=True))

    def kinds(self, start: int, count: int) -> list[str]:
        """Return the kind of each record: one of GOOD_KINDS, or the way in which it is
        malformed."""
        return [
            self._spoiling(start + row)[0] if kind == MALFORMED else GOOD_KINDS[kind]
            for row, kind in enumerate(self._columns(start, count).kind.tolist())
        ]

    def tags(self, start: int, count: int) -> list[dict[str, Any]]:
        """Return the good records as ``{"index", "kind", "time_ms", "tag"}``, for a check by hand.

        ``tag`` is the record as a JSON reader gives it; ``kind`` is one of GOOD_KINDS.
        """
        columns = self._columns(start, count)
        shop = shop_of(self.seed)
        homes = _home_of(draw(self.seed, _LANE_COOKIE_HOME, columns.cookie)).tolist()
        good = []
        for row, cookie in enumerate(self._cookie_names(columns.cookie)):
            kind = int(columns.kind[row])
            if kind == MALFORMED:
                continue
            product = int(columns.product[row])
            country, device = divmod(homes[row], len(_DEVICES))
            time_ms = int(columns.time_ms[row])
            tag = {
                "time": iso_ms(time_ms),
                "cookie": cookie.decode(),
                "country": _COUNTRY_CODES[country],
                "device": _DEVICES[device],
                "action": _ACTIONS[columns.action[row]],
                "origin": _ORIGIN_NAMES[columns.origin[row]],
                "product_info": {
                    "product_id": str(shop.product_id[product]),
                    "brand_id": shop.brand_names[shop.brand[product]],
                    "category_id": shop.category_codes[shop.category[product]],
                    "price": int(shop.price_cents[product]),
                },
            }
            good.append(
                {"index": start + row, "kind": GOOD_KINDS[kind], "time_ms": time_ms, "tag": tag}
            )
        return good

    @cached_property
    def _kind_ends(self) -> NDArray[np.uint64]:
        """Return bounds of half a draw: malformed, duplicate, late, out of order."""
        shares = np.cumsum([self.malformed, self.duplicate, self.late, self.out_of_order])
        return np.array([threshold(share) for share in shares], dtype=np.uint64)

    def _drawn_kinds(self, index: Indices) -> Indices:
        halves = low(draw(self.seed, _LANE_DISORDER, index))
        order = np.array([MALFORMED, DUPLICATE, LATE, OUT_OF_ORDER, CLEAN])
        return order[np.searchsorted(self._kind_ends, halves, side="right")]

    def _repeated(self, index: Indices, kind: Indices) -> Indices:
        """Return the index whose record each of these is: itself, except for duplicates.

        A duplicate that would repeat a malformed record, or one before the first, is clean.
        """
        source = index.copy()
        rows = np.flatnonzero(kind == DUPLICATE)
        while len(rows):
            at = source[rows]
            back = 1 + pick(high(draw(self.seed, _LANE_DISORDER, at)), DUPLICATE_DISTANCE_MAX)
            before = at - back
            kind_before = self._drawn_kinds(before)
            possible = (before >= 0) & (kind_before != MALFORMED)
            source[rows[possible]] = before[possible]
            rows = rows[possible & (kind_before == DUPLICATE)]
        return source

    def _columns(self, start: int, count: int) -> _Columns:
        if start < 0 or count < 0:
            raise ValueError(f"no records {start} to {start + count - 1}")
        index = np.arange(start, start + count, dtype=np.int64)
        kind, age = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        if self._kind_ends[-1]:
            kind = self._drawn_kinds(index)
            source = self._repeated(index, kind)
            is_copy = source != index
            age = self._ages(source)
            kind[(kind == DUPLICATE) & ~is_copy] = CLEAN
            index = source
        cookie_draw = draw(self.seed, _LANE_COOKIE, index)
        action_draw = draw(self.seed, _LANE_ACTION, index)
        is_hot = low(cookie_draw) < threshold(HOT_SHARE)
        cookie = HOT_COOKIES + pick(high(cookie_draw), COOKIES - HOT_COOKIES)
        cookie[is_hot] = _HOT_COOKIE.pick(mix(cookie_draw[is_hot]))
        return _Columns(
            kind=kind,
            time_ms=START_MS + index - age,
            cookie=cookie,
            product=_PRODUCT.pick(draw(self.seed, _LANE_PRODUCT, index)),
            action=(low(action_draw) < threshold(BUY_SHARE)).astype(np.int64),
            origin=_ORIGIN.pick(mix(action_draw)),
        )

    def _ages(self, index: Indices) -> Indices:
        """Return how far behind the world's time each record is, in ms."""
        kind = self._drawn_kinds(index)
        chance = high(draw(self.seed, _LANE_AGE, index))
        age = np.zeros(len(index), dtype=np.int64)
        late, swapped = kind == LATE, kind == OUT_OF_ORDER
        age[late] = LATE_AGE_MS + pick(chance[late], LATE_SPREAD_MS)
        age[swapped] = OUT_OF_ORDER_AGE_MS + pick(chance[swapped], OUT_OF_ORDER_SPREAD_MS)
        return age

    def _cookie_names(self, cookie: Indices) -> list[bytes]:
        start = np.uint64(stream_of(self.seed, _LANE_COOKIE_NAME))
        names = mix(cookie.astype(np.uint64) + start).astype(">u8").tobytes().hex().encode()
        return [names[at : at + 16] for at in range(0, len(names), 16)]

    def _spoiling(self, index: int) -> tuple[str, int]:
        """Return how a malformed record is malformed; too large ones are rare, being a MiB
        each."""
        bits = draw(self.seed, _LANE_SPOIL, np.array([index]))
        weights = [1 if kind == TOO_LARGE else 20 for kind in self.malformed_kinds]
        position = int(low(bits)[0]) % sum(weights)
        for kind, weight in zip(self.malformed_kinds, weights, strict=True):
            position -= weight
            if position < 0:
                return kind, int(high(bits)[0])
        raise AssertionError("the weights add up")


@dataclass(frozen=True)
class _Columns:
    kind: Indices
    time_ms: Indices
    cookie: Indices
    product: Indices
    action: Indices
    origin: Indices


@dataclass(frozen=True)
class _Fragments:
    """Texts between which a record's own few bytes are put."""

    milliseconds: NDArray[np.object_]
    home: NDArray[np.object_]
    action_origin: NDArray[np.object_]
    product: NDArray[np.object_]


@lru_cache(maxsize=4)
def _fragments(seed: int) -> _Fragments:
    shop = shop_of(seed)
    products = zip(
        shop.product_id.tolist(),
        shop.brand.tolist(),
        shop.category.tolist(),
        shop.price_cents.tolist(),
        strict=True,
    )
    return _Fragments(
        milliseconds=_column(f'{ms:03d}Z","cookie":"' for ms in range(1000)),
        home=_column(
            f'","country":"{country}","device":"{device}","action":"'
            for country in _COUNTRY_CODES
            for device in _DEVICES
        ),
        action_origin=_column(
            f'{action}","origin":"{origin}","product_info":'
            for action in _ACTIONS
            for origin in _ORIGIN_NAMES
        ),
        product=_column(
            f'{{"product_id":"{product}","brand_id":"{shop.brand_names[brand]}",'
            f'"category_id":"{shop.category_codes[category]}","price":{price}}}}}'
            for product, brand, category, price in products
        ),
    )


def _column(texts: Any) -> NDArray[np.object_]:
    return np.array([text.encode() for text in texts], dtype=object)


def _home_of(bits: Bits) -> Indices:
    """Return country and device of a cookie as one number: a cookie stays where it is."""
    device = np.searchsorted(_DEVICE_ENDS, low(bits), side="right")
    return _COUNTRY.pick(mix(bits)) * len(_DEVICES) + device


_HOT_COOKIE = zipf(HOT_COOKIES)
_PRODUCT = zipf(PRODUCTS, flatten=2)
_ORIGIN = zipf(ORIGINS)
_COUNTRY = zipf(COUNTRIES, flatten=5)
_DEVICE_ENDS = np.array([threshold(0.45), threshold(0.95)], dtype=np.uint64)
