"""The newest views and, separately, the newest buys of every cookie.

Reads    user_tags            JSON UserTag, keyed by cookie
Writes   profiles             Aerospike (or SQLite): NUM_TAGS_TO_KEEP of each kind per cookie
Time     tags are ordered by event time, then by partition and offset
Replay   a tag is identified by (time, partition, offset): writing it again changes nothing
"""

from __future__ import annotations

from functools import partial

import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows import FlowContract
from flows._replay import Replayable
from flows._wiring import letters, profiles, profiles_replay
from schemas.profiles import NUM_TAGS_TO_KEEP_DEFAULT
from schemas.settings import Settings, read_settings
from schemas.topics import USER_TAGS
from schemas.user_tags import UserTag
from streams.batch import Batch, Poll
from streams.columns import text
from streams.decode import Records
from streams.engine import MakeStep, Outputs, StatelessStep, StepResult, dataflow
from streams.open import open_source
from streams.progress import Progress
from streams.replay import Rules
from streams.runner import Run

CONTRACT = FlowContract(
    name="user_profiles",
    about="the newest views and the newest buys of every cookie",
    reads=(USER_TAGS.name,),
    writes=("profiles user_profiles",),
    snapshot_every_s=0.75,
    sink_keeps_state=True,
)

TAGS = Records(
    UserTag,
    time="time",
    columns={
        "cookie": text(lambda tags: [tag.cookie for tag in tags]),
        "action": text(lambda tags: [tag.action for tag in tags]),
    },
    bytes_max=USER_TAGS.record_bytes_max,
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


def profile_rows(batch: Batch, keep: int) -> StepResult:
    """Return the rows for a profile store: the newest tags of the batch, as they were sent."""
    tags = batch.frame.select(
        "cookie",
        "action",
        "time_ms",
        pl.lit(batch.poll.partition, dtype=pl.Int64).alias("topic_partition"),
        pl.Series("offset", batch.offsets(), dtype=pl.Int64),
        pl.Series("tag", batch.payloads(), dtype=pl.Binary),
    )
    return StepResult(newest(tags, keep))


def build(
    source: Source[Poll],
    outputs: Outputs,
    progress: Progress | None = None,
    *,
    keep: int = NUM_TAGS_TO_KEEP_DEFAULT,
) -> Dataflow:
    """Wire the flow between a source and its sinks."""

    def step(_partition: int, snapshot: bytes | None) -> StatelessStep:
        return StatelessStep(partial(profile_rows, keep=keep), snapshot)

    return dataflow(CONTRACT.name, source, TAGS, step, outputs, progress=progress)


def wire(settings: Settings, run: Run) -> Dataflow:
    """Return the flow on the servers that the settings name."""
    source = open_source(settings, settings.kafka_topic or USER_TAGS.name, CONTRACT.name, run)
    outputs = Outputs(profiles(settings, run, source.list_parts), *letters(settings))
    return build(source, outputs, run.progress, keep=settings.num_tags_to_keep)


def replay(settings: Settings) -> tuple[Replayable, ...]:
    """Return what replays the tags of a range of event time; each replaces itself."""

    def make_step(_generation: int, _any_order: bool) -> MakeStep:
        keep = settings.num_tags_to_keep
        return lambda _partition, _snapshot: StatelessStep(partial(profile_rows, keep=keep), None)

    tags = Replayable(
        topic=settings.kafka_topic or USER_TAGS.name,
        records=TAGS,
        rules=Rules(size_ms=1, reach_ms=None),
        start_of=pl.col("time_ms"),
        make_step=make_step,
        target=lambda: profiles_replay(settings),
        has_shadow=False,
        known_by_offset=True,
    )
    return (tags,)


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.user_profiles:main()"``."""
    return wire(read_settings(), Run())
