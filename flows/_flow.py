"""The wiring of a flow: for each topic that it reads, what it decodes and its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows import FlowContract
from flows._wiring import letters, table, tables
from schemas.settings import SettingError, Settings
from sinks.buffered import ROWS_MAX_DEFAULT
from streams.batch import Poll
from streams.decode import Records
from streams.engine import Input, MakeStep, Outputs, dataflow, dataflow_of
from streams.open import open_source
from streams.progress import Progress
from streams.runner import Run


@dataclass(frozen=True, slots=True)
class Reading:
    """Decoding and step of a flow for one topic."""

    records: Records
    make_step: MakeStep


Readings = Mapping[str, Reading]
"""Readings by topic, in the order of the contract."""


def build(
    contract: FlowContract,
    readings: Readings,
    source: Source[Poll] | Mapping[str, Source[Poll]],
    outputs: Outputs,
    progress: Progress | None = None,
) -> Dataflow:
    """Wire a flow between its source, or its sources by topic, and its sinks.

    Topics without a source are left out.
    """
    if not isinstance(source, Mapping):
        (reading,) = readings.values()
        return dataflow(
            contract.name,
            source,
            reading.records,
            reading.make_step,
            outputs,
            progress=progress,
        )
    inputs = {
        topic: Input(source[topic], reading.records, reading.make_step)
        for topic, reading in readings.items()
        if topic in source
    }
    return dataflow_of(contract.name, inputs, outputs, progress=progress)


def topics(contract: FlowContract, settings: Settings) -> dict[str, str]:
    """Return the name of the topic that is read for each topic of the contract.

    Raises SettingError where KAFKA_TOPIC names one topic for a flow of several.
    """
    if not settings.kafka_topic:
        return {name: name for name in contract.reads}
    if len(contract.reads) > 1:
        raise SettingError(
            f"KAFKA_TOPIC={settings.kafka_topic!r}: {contract.name} reads "
            f"{', '.join(contract.reads)}: leave it out"
        )
    return {contract.reads[0]: settings.kafka_topic}


def wire(
    contract: FlowContract,
    readings: Readings,
    settings: Settings,
    run: Run,
    *,
    rows_max: int = ROWS_MAX_DEFAULT,
) -> Dataflow:
    """Return a flow of ClickHouse tables on the servers that the settings name.

    ``rows_max``: rows of several tables together that are gathered before they are written. Raises
    SettingError where KAFKA_TOPIC names one topic for a flow of several.
    """
    rows = (
        table(settings, contract.tables[0], run.progress)
        if len(contract.tables) == 1
        else tables(settings, contract.tables, run.progress, rows_max=rows_max)
    )
    outputs = Outputs(rows, *letters(settings))
    sources = {
        name: open_source(settings, topic, contract.name, run)
        for name, topic in topics(contract, settings).items()
    }
    if len(sources) == 1:
        (source,) = sources.values()
        return build(contract, readings, source, outputs, run.progress)
    # The engine refuses a source without partitions: all partitions of a topic may belong to other
    # processes. Where that is so for every topic, the flow is not run.
    with_parts = {topic: source for topic, source in sources.items() if source.list_parts()}
    return build(contract, readings, with_parts or sources, outputs, run.progress)
