"""A plain Python loop: msgspec and a dict, one pass, without recovery."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from footfall.schemas.store_events import StoreEvent
from footfall.schemas.user_tags import UserTag

Answer = dict[str, int]
BLOCK_BYTES = 1 << 19


def _records(folder: Path, struct: Any) -> Iterator[Any]:
    decode = msgspec.json.Decoder(struct).decode_lines
    for path in sorted(folder.glob("*/*.jsonl")):
        with path.open("rb") as file:
            while lines := file.readlines(BLOCK_BYTES):
                yield from decode(b"".join(lines))


def minute_buckets(folder: Path) -> Answer:
    """Sum count and revenue by minute and group."""
    groups: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for tag in _records(folder, UserTag):
        product = tag.product_info
        group = groups[
            tag.time[:16], tag.action, tag.origin, product.brand_id, product.category_id
        ]
        group[0] += 1
        group[1] += product.price
    return {
        "events": sum(group[0] for group in groups.values()),
        "sum_price": sum(group[1] for group in groups.values()),
    }


def store_metrics(folder: Path) -> Answer:
    """Sum counts and value sold by second."""
    windows: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for event in _records(folder, StoreEvent):
        window = windows[event.event_time]
        window[0] += 1
        if event.event_type == "view":
            window[1] += 1
        elif event.event_type == "cart":
            window[2] += 1
        elif event.event_type == "purchase":
            window[3] += 1
            window[4] += round(event.price * 100)
    names = (
        "events",
        "nr_items_viewed",
        "nr_items_put_in_cart",
        "nr_items_sold",
        "value_items_sold_in_cent",
    )
    return {name: sum(w[n] for w in windows.values()) for n, name in enumerate(names)}


def user_profiles(folder: Path) -> Answer:
    """Keep the newest 200 tags of each cookie and action."""
    newest: dict[Any, deque[Any]] = defaultdict(lambda: deque(maxlen=200))
    events = 0
    for tag in _records(folder, UserTag):
        newest[tag.cookie, tag.action].append(tag)
        events += 1
    return {"events": events}


FLOWS: dict[str, Callable[[Path], Answer]] = {
    "minute_buckets": minute_buckets,
    "store_metrics": store_metrics,
    "user_profiles": user_profiles,
}


def run(flow: str, folder: Path, _home: Path) -> Answer:
    """Return what the loop counts."""
    return FLOWS[flow](folder)
