"""The one place where flows meet Bytewax: read, decode, keep state per partition, write.

    topic -> poll -> batch -> step of the partition -> rows        -> their sink
                                                    -> dead letters -> their sink
                                                    -> late events  -> their sink

State, counts and offsets are snapshotted together, so they are exact; a sink may see some
rows again after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from footfall.schemas.metrics import DECODE_SECONDS
from footfall.streams._logic import Logic, Output
from footfall.streams.batch import Batch, Poll
from footfall.streams.decode import Records
from footfall.streams.log_lines import note_poll
from footfall.streams.progress import Progress
from footfall.streams.steps import MakeStep


@dataclass(frozen=True, slots=True)
class Outputs:
    """Sinks that a flow writes to. Each sink is keyed by partition."""

    rows: Sink[Any]
    dead_letters: Sink[Any]
    late_events: Sink[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that a flow reads, and the flow's step for it."""

    source: Source[Poll]
    records: Records
    make_step: MakeStep


ONE_TOPIC_STEPS = ("read", "step")


def stateful_steps(topics: Sequence[str], *, sink: bool = False) -> tuple[str, ...]:
    """Return the step ids that keep a state per partition, under the partition's number.

    ``sink`` says that the sink of the rows keeps one as well.
    """
    written = ("write_rows",) if sink else ()
    if len(topics) == 1:
        return ONE_TOPIC_STEPS + written
    return tuple(f"{step}_{topic}" for topic in topics for step in ("read", "step")) + written


def dataflow(
    name: str,
    source: Source[Poll],
    records: Records,
    make_step: MakeStep,
    outputs: Outputs,
    *,
    progress: Progress | None = None,
) -> Dataflow:
    """Wire a flow of one topic. Its step ids are in the recovery store: never rename them."""
    flow = Dataflow(name)
    results = _results(flow, "", Input(source, records, make_step), progress or Progress())
    return _written(flow, results, outputs)


def dataflow_of(
    name: str,
    inputs: Mapping[str, Input],
    outputs: Outputs,
    *,
    progress: Progress | None = None,
) -> Dataflow:
    """Wire a flow of several topics, by name, with a state for each partition of each."""
    flow = Dataflow(name)
    counted = progress or Progress()
    results = [_results(flow, f"_{topic}", read, counted) for topic, read in inputs.items()]
    return _written(flow, op.merge("results", *results), outputs)


def _results(flow: Dataflow, suffix: str, read: Input, progress: Progress) -> KeyedStream[Output]:
    name, records = flow.flow_id, read.records
    polls = op.input(f"read{suffix}", flow, read.source)
    batches = op.map(f"decode{suffix}", polls, partial(_decoded, name, records, progress))
    return op.stateful_batch(f"step{suffix}", batches, partial(Logic, read, progress))


def _written(flow: Dataflow, results: KeyedStream[Output], outputs: Outputs) -> Dataflow:
    rows = op.filter_map("rows", results, lambda item: _part(item, item[1].rows))
    dead = op.filter_map("dead", results, lambda item: _part(item, item[1].dead))
    late = op.filter_map("late", results, lambda item: _part(item, item[1].late))
    op.output("write_rows", rows, outputs.rows)
    op.output("write_dead_letters", dead, outputs.dead_letters)
    op.output("write_late_events", late, outputs.late_events)
    return flow


def _decoded(
    flow: str, records: Records, progress: Progress, poll: Poll
) -> tuple[str, tuple[Batch, float]]:
    """Return the batch of a poll, and when its decoding began, under the partition's number."""
    began_s = perf_counter()
    try:
        batch = records.decode(flow, poll)
    except Exception as error:
        note_poll(error, poll)
        raise
    if poll.count:
        progress.took(DECODE_SECONDS, poll.topic, perf_counter() - began_s)
    return str(poll.partition), (batch, began_s)


def _part(item: tuple[str, Output], value: Any) -> tuple[str, Any] | None:
    return None if value is None else (item[0], value)
