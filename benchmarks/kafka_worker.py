"""A flow as ``footfall run --once`` has it: its topic to a frame, or to its tables."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.footfall import SUMMED, Answer, CountingWriter
from benchmarks.kafka_job import FRAME, Job
from schemas.settings import read_settings
from sinks.buffered import BufferedSink
from streams.engine import Outputs
from streams.open import open_source
from streams.runner import Run, run_worker
from streams.source import Share


def run(job: Job) -> Answer:
    """How many events were read and, to a frame, what the final rows add up to."""
    module = importlib.import_module(f"flows.{job.flow}")
    settings = read_settings(job.environ)
    writer = CountingWriter(SUMMED[job.flow])
    runs: list[Run] = []

    def sink(target: Any) -> BufferedSink[Any]:
        return BufferedSink(lambda: target)

    def wire(started: Run) -> Any:
        runs.append(started)
        if job.what != FRAME:
            return module.wire(settings, started)
        outputs = Outputs(sink(writer), sink(CountingWriter({})), sink(CountingWriter({})))
        source = open_source(settings, job.topic, job.flow, started)
        return module.build(source, outputs, started.progress)

    run_worker(
        job.flow,
        wire,
        settings.footfall_home,
        once=True,
        snapshot_every_s=module.CONTRACT.snapshot_every_s,
        share=Share(job.index, job.count),
    )
    partitions, _ = runs[0].progress.read()
    return {**writer.answer, "read": sum(part.used for part in partitions)}
