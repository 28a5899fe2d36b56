"""The flow as it is: topic files to rows in the sink's frame, recovery on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from footfall import flows
from footfall.schemas.tables.store_metrics import SUMS
from footfall.schemas.versions import FINAL
from footfall.sinks.buffered import BufferedSink
from footfall.streams.engine import Outputs
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import LATEST, TopicSource
from footfall.streams.topic_files import FileTopic

Answer = dict[str, int]

SUMMED = {
    "minute_buckets": {"events": "count", "sum_price": "sum_price"},
    "store_metrics": {"events" if name == SUMS[0] else name: name for name in SUMS},
    "user_profiles": {},
}
"""The answer that all variants must agree on, and the columns of rows that give it, by flow."""


class CountingWriter:
    """Takes the frames that a sink would write, adds up what is compared, and drops them."""

    def __init__(self, summed: dict[str, str]) -> None:
        self._summed = summed
        self.answer: Answer = dict.fromkeys(summed, 0)

    def write(self, items: Sequence[pl.DataFrame]) -> None:
        for frame in items if self._summed else ():
            final = frame.filter(pl.col("version") % 4 == FINAL)
            for name, column in self._summed.items():
                self.answer[name] += int(final[column].sum())

    def close(self) -> None:
        """Do nothing: nothing is open."""


def run(flow: str, folder: Path, home: Path) -> Answer:
    """Run the flow over the topic in ``folder`` once; return what its final rows add up to."""
    declared = flows.catalogue()[flow]
    writer = CountingWriter(SUMMED[flow])
    runs: list[Run] = []

    def sink(target: Any) -> BufferedSink[Any]:
        return BufferedSink(lambda: target)

    def wire(started: Run) -> Any:
        runs.append(started)
        topic = FileTopic(folder, declared.topics[0], end=LATEST)
        outputs = Outputs(sink(writer), sink(CountingWriter({})), sink(CountingWriter({})))
        return declared.dataflow(TopicSource(topic, started.stop), outputs, started.progress)

    every_s = declared.snapshot_every_s
    run_worker(flow, wire, home, once=True, snapshot_every_s=every_s)
    partitions, _ = runs[0].progress.read()
    return writer.answer or {"events": sum(part.used for part in partitions)}
