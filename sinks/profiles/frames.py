"""The frame of tags for a profile store."""

from __future__ import annotations

import polars as pl

from footfall.schemas.profiles import COLUMNS, ORDER
from footfall.schemas.topics import APPENDED
from footfall.sinks import SinkRefusedError

ACTIONS = ("VIEW", "BUY")

_KINDS = (pl.String, pl.String, pl.Int64, pl.String, pl.Int64, pl.Int64, pl.Binary)


def checked(tags: pl.DataFrame) -> pl.DataFrame:
    """Return the tags by cookie, action and ORDER. Raises SinkRefusedError for another shape."""
    if set(tags.columns) - {APPENDED} != set(COLUMNS):
        raise SinkRefusedError(f"profiles take the columns {COLUMNS}, not {tuple(tags.columns)}")
    for name, kind in zip(COLUMNS, _KINDS, strict=True):
        if tags.schema[name] != kind:
            raise SinkRefusedError(f"profiles take {kind} for {name}, not {tags.schema[name]}")
        if tags[name].null_count():
            raise SinkRefusedError(f"profiles take no null, and {name} has one")
    for name in ORDER:
        lowest = tags[name].min()
        if isinstance(lowest, int) and lowest < 0:
            raise SinkRefusedError(f"profiles take no negative {name}, such as {lowest}")
    unknown = tags.filter(~pl.col("action").is_in(ACTIONS))
    if len(unknown):
        raise SinkRefusedError(f"profiles take VIEW or BUY, not {unknown['action'][0]!r}")
    return tags.select(COLUMNS).sort("cookie", "action", *ORDER)


def newest(tags: pl.DataFrame, keep: int) -> pl.DataFrame:
    """Keep the last ``keep`` sorted tags per cookie and action: the store would not keep
    others."""
    if len(tags) <= keep:
        return tags
    place = pl.int_range(pl.len(), 0, -1).over(pl.struct("cookie", "action").rle_id())
    if tags.select(place.max()).item() <= keep:
        return tags
    # A tag that is there twice must not take the place of another.
    once = tags.unique(["cookie", "action", *ORDER], keep="first", maintain_order=True)
    return once.filter(place <= keep)
