"""The ``store_events`` world: rows as a shop's CSV export has them, from a seed.

Record ``i`` is a function of (options, ``i``) alone. ``events_per_s`` records share each
second of event time. Visitors come in sessions of SESSION_S: at any moment a fixed number of
them is in the shop, each sends about SESSION_EVENTS events, and then another takes the place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from footfall.generator.chance import Bits, Indices, draw, high, low, pick, threshold, zipf
from footfall.generator.shop import PRODUCTS, Shop, shop_of
from footfall.generator.sources import Record, WorldStream
from footfall.schemas.times import datetime_of, parse_time_ms
from footfall.schemas.topics import STORE_EVENTS

START_S = parse_time_ms("2019-10-01 00:00:00 UTC") // 1000

USERS = 1_000_000
FIRST_USER_ID = 500_000_000
SESSION_S = 300
SESSION_EVENTS = 5
EVENTS_PER_S_MAX = 1_000_000
SHARES = {"view": 0.93, "cart": 0.04, "remove_from_cart": 0.01, "purchase": 0.02}
CATEGORY_CODE_SHARE = 0.67
BRAND_SHARE = 0.86
"""Share of products with a brand (CATEGORY_CODE_SHARE with a category code); the export has
nothing for the others."""

_LANE_VISITOR, _LANE_PRODUCT, _LANE_USER = 201, 202, 203
_LANE_SESSION_1, _LANE_SESSION_2, _LANE_GAPS = 204, 205, 206

_HEX = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2")
_UUID_GROUPS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))


@dataclass(frozen=True)
class StoreWorld:
    """A seeded world of store events, ``events_per_s`` of them per second of event time."""

    seed: int = 0
    events_per_s: int = 1_000

    def __post_init__(self) -> None:
        """Raise ValueError for a number of events that is not valid."""
        if not 1 <= self.events_per_s <= EVENTS_PER_S_MAX:
            raise ValueError(
                f"events a second takes 1 to {EVENTS_PER_S_MAX:,}, not {self.events_per_s}"
            )

    @property
    def topic(self) -> str:
        """Return the topic; see World."""
        return STORE_EVENTS.name

    @property
    def name(self) -> str:
        """Return the name for a progress file; see Source."""
        return f"{self.topic}-{self.seed}"

    @property
    def identity(self) -> str:
        """Return the identity; see Source."""
        return f"world {self.topic} seed={self.seed} events_per_s={self.events_per_s}"

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topic as a tuple; see Source."""
        return (self.topic,)

    def open(self, row: int) -> WorldStream:
        """Read from this row on; see Source."""
        return WorldStream(self, row)

    def time_ms(self, index: int) -> int:
        """Return the event time of a record."""
        return (START_S + index // self.events_per_s) * 1000

    def index_after(self, time_ms: int) -> int:
        """Return the first index whose time is after ``time_ms``."""
        return max(0, (time_ms // 1000 - START_S + 1) * self.events_per_s)

    def batch(self, start: int, count: int) -> list[Record]:
        """Return records ``start`` to ``start + count - 1``: (user id, compact JSON)."""
        if start < 0 or count < 0:
            raise ValueError(f"no records {start} to {start + count - 1}")
        index = np.arange(start, start + count, dtype=np.int64)
        second = index // self.events_per_s
        visitor_draw = draw(self.seed, _LANE_VISITOR, index)
        session = self._session_of(second, low(visitor_draw))
        user = pick(high(draw(self.seed, _LANE_USER, session)), USERS) + FIRST_USER_ID
        kind = np.searchsorted(_KIND_ENDS, high(visitor_draw), side="right")
        text = _fragments(self.seed)
        first_second = int(second[0]) if count else 0
        times = _second_texts(first_second, int(second[-1]) if count else -1)
        keys = list(map(b"%d".__mod__, user.tolist()))
        values = map(
            b"".join,
            zip(
                times[second - first_second].tolist(),
                text.kind[kind].tolist(),
                text.product[_PRODUCT.pick(draw(self.seed, _LANE_PRODUCT, index))].tolist(),
                keys,
                self._session_texts(session).tolist(),
                strict=True,
            ),
        )
        return list(zip(keys, values, strict=True))

    def _session_of(self, second: Indices, half: Bits) -> Indices:
        """Return a number for each session: the place it takes in the shop, and its turn there."""
        places = max(1, self.events_per_s * SESSION_S // SESSION_EVENTS)
        place = pick(half, places)
        # Places change hands at different seconds, so that sessions overlap evenly.
        turn = (second + place % SESSION_S) // SESSION_S
        return turn * places + place

    def _session_texts(self, session: Indices) -> NDArray[np.object_]:
        raw = np.empty((len(session), 2), dtype=">u8")
        raw[:, 0] = draw(self.seed, _LANE_SESSION_1, session)
        raw[:, 1] = draw(self.seed, _LANE_SESSION_2, session)
        digits = _HEX[raw.view(np.uint8)].view(np.uint8).reshape(len(session), 32)
        texts = np.empty((len(session), len(_SESSION_FORM)), dtype=np.uint8)
        texts[:] = np.frombuffer(_SESSION_FORM, dtype=np.uint8)
        for group, (first, last) in enumerate(_UUID_GROUPS):
            at = _SESSION_AT + first + group
            texts[:, at : at + last - first] = digits[:, first:last]
        return texts.view(f"S{len(_SESSION_FORM)}")[:, 0].astype(object)


_SESSION_FORM = b',"user_session":"00000000-0000-0000-0000-000000000000"}'
_SESSION_AT = _SESSION_FORM.index(b"00000000")


@dataclass(frozen=True)
class _Fragments:
    kind: NDArray[np.object_]
    product: NDArray[np.object_]


@lru_cache(maxsize=4)
def _fragments(seed: int) -> _Fragments:
    return _Fragments(
        kind=_column([f'{kind}","product_id":' for kind in SHARES]),
        product=_column(_product_texts(seed, shop_of(seed))),
    )


def _product_texts(seed: int, shop: Shop) -> list[str]:
    gaps = draw(seed, _LANE_GAPS, np.arange(PRODUCTS, dtype=np.int64))
    has_code = (low(gaps) < threshold(CATEGORY_CODE_SHARE)).tolist()
    has_brand = (high(gaps) < threshold(BRAND_SHARE)).tolist()
    texts = []
    for rank in range(PRODUCTS):
        category, price_cents = int(shop.category[rank]), int(shop.price_cents[rank])
        code = f'"{shop.category_codes[category]}"' if has_code[rank] else "null"
        brand = f'"{shop.brand_names[shop.brand[rank]]}"' if has_brand[rank] else "null"
        texts.append(
            f'{shop.product_id[rank]},"category_id":{shop.category_ids[category]},'
            f'"category_code":{code},"brand":{brand},'
            f'"price":{price_cents // 100}.{price_cents % 100:02d},"user_id":'
        )
    return texts


def _second_texts(first: int, last: int) -> NDArray[np.object_]:
    return _column(
        [
            '{"event_time":"'
            + datetime_of((START_S + second) * 1000).strftime("%Y-%m-%d %H:%M:%S")
            + ' UTC","event_type":"'
            for second in range(first, last + 1)
        ]
    )


def _column(texts: list[str]) -> NDArray[np.object_]:
    return np.array([text.encode() for text in texts], dtype=object)


_PRODUCT = zipf(PRODUCTS, flatten=2)
_KIND_ENDS = np.array(
    [threshold(share) for share in np.cumsum(list(SHARES.values()))], dtype=np.uint64
)
