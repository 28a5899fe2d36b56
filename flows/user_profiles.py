"""The newest views and, separately, the newest buys of every cookie.

Reads    user_tags            JSON UserTag, keyed by cookie
Writes   profiles             Aerospike (or SQLite): NUM_TAGS_TO_KEEP of each kind per cookie
Time     tags are ordered by event time, then by partition and offset
Replay   a tag is identified by (time, partition, offset): writing it again changes nothing
"""

from __future__ import annotations

from functools import partial

import polars as pl

from footfall.flows import Batch, Flow, Profiles, Reading, Records, Settings, rows, text
from footfall.schemas.topics import USER_TAGS

TAGS = Records.of(
    USER_TAGS,
    {
        "cookie": text(lambda tags: [tag.cookie for tag in tags]),
        "action": text(lambda tags: [tag.action for tag in tags]),
    },
)


def newest(tags: pl.DataFrame, keep: int) -> pl.DataFrame:
    """Keep the newest ``keep`` tags per cookie and action: the store would not keep older ones."""
    if len(tags) <= keep:
        return tags
    kind = ("cookie", "action")
    crowded = tags.group_by(kind).len().filter(pl.col("len") > keep)
    if crowded.is_empty():
        return tags
    # All tags of a batch are of one topic.
    order = ("time_ms", "topic_partition", "offset")
    return tags.sort(order).group_by(kind, maintain_order=True).tail(keep).select(tags.columns)


def profile_rows(batch: Batch, keep: int) -> pl.DataFrame:
    """Return the rows for a profile store: the newest tags of the batch, as they were sent."""
    tags = batch.frame.select(
        "cookie",
        "action",
        "time_ms",
        pl.lit(batch.poll.partition, dtype=pl.Int64).alias("topic_partition"),
        pl.Series("offset", batch.offsets(), dtype=pl.Int64),
        pl.Series("tag", batch.payloads(), dtype=pl.Binary),
    )
    return newest(tags, keep)


def reading(settings: Settings) -> Reading:
    """Return what the flow does with tags: NUM_TAGS_TO_KEEP of each cookie and action are kept."""
    return Reading(TAGS, rows(partial(profile_rows, keep=settings.num_tags_to_keep)))


FLOW = Flow(
    name="user_profiles",
    about="the newest views and the newest buys of every cookie",
    reads={USER_TAGS: reading},
    writes=Profiles("user_profiles"),
    snapshot_every_s=0.75,
)
main = FLOW.main
