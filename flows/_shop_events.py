"""Columns of one frame for ``shop_events`` records of every kind.

The kinds have 29 fields together, and no kind has more than four. So a record is decoded into a
struct whose attributes are places that all kinds share: its second whole number is ``int_1``,
in an ItemComparison ``second_item_id``, in an ItemReturn ``order_id``. A place that a kind
lacks is None in its class. One pass over the records lifts a place out of all of them, and a
frame of a kind gets the names of its fields back.

kind              UInt8: its number in KINDS
user_id           Int64
int_0, int_1, ..  whole numbers and codes: Int64
double_0, ...     Float64
text_0, ...       String

The structs take and refuse what ``schemas.shop_events.ShopEvent`` does, for the same reason.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct

from footfall.schemas.shop_events import KINDS, SCHEMA, STRUCTS, TIME, USER, Kind
from footfall.schemas.topics import SHOP_EVENTS
from footfall.streams.columns import Column, Lift
from footfall.streams.decode import Records

KIND = "kind"
_PLACE_OF = {"int": "int", "code": "int", "double": "double", "text": "text"}


def places_of(kind: Kind) -> dict[str, str]:
    """Return the place of each field of a kind: ``{"page_id": "int_0"}``."""
    taken: Counter[str] = Counter()
    places = {}
    for field in kind.fields:
        place = _PLACE_OF[field.type]
        places[field.name] = f"{place}_{taken[place]}"
        taken[place] += 1
    return places


PLACES: Final = tuple(
    sorted({place for kind in SCHEMA.kinds.values() for place in places_of(kind).values()})
)


def _struct_of(kind: Kind) -> type[Struct]:
    places = places_of(kind)
    needed: list[tuple[str, Any]] = []
    optional: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(STRUCTS[kind.name]):
        place = places.get(field.name, field.name)
        if field.required:
            needed.append((place, field.type))
        else:
            optional.append((place, field.type, field.default))
    absent = {place: None for place in PLACES if place not in places.values()}
    config = STRUCTS[kind.name].__struct_config__
    return msgspec.defstruct(
        kind.name,
        [*needed, *optional],
        tag_field=config.tag_field,
        tag=config.tag,
        rename={place: name for name, place in places.items()},
        namespace={**absent, KIND: KINDS.index(kind.name)},
        gc=False,
        frozen=True,
    )


PlacedEvent: Final[Any] = functools.reduce(operator.or_, map(_struct_of, SCHEMA.kinds.values()))
"""Union of all kinds, as a type to decode into."""


def _lift(name: str) -> Lift:
    value_of = attrgetter(name)
    return lambda events: [*map(value_of, events)]


def _series(dtype: type[pl.DataType]) -> Callable[[str, list[Any]], pl.Series]:
    return lambda name, values: pl.Series(name, values, dtype=dtype)


_SERIES: Final = {
    "int": _series(pl.Int64), "double": _series(pl.Float64), "text": _series(pl.String),
}  # fmt: skip

EVENTS: Final = Records.of(
    SHOP_EVENTS,
    {
        KIND: Column(_lift(KIND), _series(pl.UInt8)),
        USER: Column(_lift(USER), _SERIES["int"]),
        **{place: Column(_lift(place), _SERIES[place.partition("_")[0]]) for place in PLACES},
    },
    struct=PlacedEvent,
    times=_lift(TIME),
)
"""Reader of shop_events."""


def by_kind(events: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each kind that occurs with its events, in their order and with its fields by name.

    Columns of the frame other than kind and places stay.
    """
    ordered = events.sort(KIND, maintain_order=True)
    counts = np.bincount(ordered[KIND].to_numpy(), minlength=len(KINDS))
    others = [name for name in events.columns if name not in (KIND, *PLACES)]
    first = 0
    for kind, count in zip(SCHEMA.kinds.values(), counts.tolist(), strict=True):
        if count:
            of_kind = ordered.slice(first, count)
            fields = {name: pl.col(place) for name, place in places_of(kind).items()}
            yield kind.name, of_kind.select(*others, **fields)
            first += count
