"""A flow as ``footfall run --once`` runs it: from its topic to a frame, or to its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from footfall import flows
from footfall.benchmarks.footfall import SUMMED, Answer, CountingWriter
from footfall.benchmarks.kafka_job import FAUST, FRAME, Job
from footfall.schemas.settings import read_settings
from footfall.schemas.status import PartitionStatus, WorkerStatus, status_path
from footfall.sinks.buffered import BufferedSink
from footfall.streams.engine import Outputs
from footfall.streams.open import open_source
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import Share


def run(job: Job) -> Answer:
    """Return the number of events read and, for a frame, the sums of the final rows."""
    contract = flows.catalogue()[job.flow]
    settings = read_settings(job.environ)
    if job.what == FAUST:
        run_on = contract.other_engine(settings)
        assert run_on is not None
        run_on(Run(once=True))
        status = status_path(settings.footfall_home, job.flow, 0).read_bytes()
        return _read(msgspec.json.decode(status, type=WorkerStatus).partitions)
    writer = CountingWriter(SUMMED.get(job.flow, {}))
    runs: list[Run] = []

    def sink(target: Any) -> BufferedSink[Any]:
        return BufferedSink(lambda: target)

    def wire(started: Run) -> Any:
        runs.append(started)
        if job.what != FRAME:
            return contract.wire(settings, started)
        outputs = Outputs(sink(writer), sink(CountingWriter({})), sink(CountingWriter({})))
        source: Any = open_source(settings, job.topic, job.flow, started)
        if len(contract.topics) > 1:
            source = {job.topic: source}
        return contract.dataflow(source, outputs, started.progress)

    run_worker(
        job.flow,
        wire,
        settings.footfall_home,
        once=not job.follow,
        snapshot_every_s=contract.snapshot_every_s,
        share=Share(job.index, job.count),
        steps=contract.steps,
    )
    partitions, _ = runs[0].progress.read()
    return {**writer.answer, **_read(partitions)}


def _read(partitions: Sequence[PartitionStatus]) -> Answer:
    return {"read": sum(part.read for part in partitions)}
