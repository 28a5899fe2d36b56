"""The Flow object: all that an analytic declares, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from footfall.flows._replay import Replayable, has_replay, replayable
from footfall.flows._sinks import Sink, letters
from footfall.schemas.settings import SettingError, Settings, read_settings
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import Topic
from footfall.streams.batch import Poll
from footfall.streams.decode import Records
from footfall.streams.engine import Input, Outputs, dataflow, dataflow_of, stateful_steps
from footfall.streams.open import open_source
from footfall.streams.progress import Progress
from footfall.streams.run import Run
from footfall.streams.source import TopicSource
from footfall.streams.steps import MakeStep


@dataclass(frozen=True, slots=True)
class Reading:
    """The reading of a topic and the step that takes it."""

    records: Records
    """The reading of a record: its struct, its event time, and the columns that the step needs."""
    step: MakeStep
    """The step of a partition: ``windows(...)``, ``rows(...)``, ``fold(...)``,
    or a function of a partition and its snapshot that gives a streams.steps.Step."""
    marks_sent_again: bool = True
    """Records that were sent again from the dead letters are superseded. False takes both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """An analytic: what it reads, computes and writes.

    The last line of a flow's file is ``main = FLOW.main``, by which ``python -m bytewax.run
    "footfall.flows.NAME:main()"`` starts it. All that this project does with flows follows from
    FLOW.
    """

    name: str
    """Name of the flow and of its file: ``footfall run NAME``."""
    about: str
    """The flow's result, in one line for the catalogue."""
    reads: Mapping[Topic, Reading | Callable[[Settings], Reading]]
    """The reading of each topic, or a function that gives it where it depends on the settings."""
    writes: Sink
    """The sink of the rows: ``ClickHouse(TABLE)`` or another kind."""
    snapshot_every_s: float = 2.0
    """Seconds between two snapshots. Rows are durable at least this often."""
    on_kafka: Callable[[str, Settings, Run], None] | None = None
    """Function of the flow's name, settings and run that runs it on another engine where the
    topics are in Kafka."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the names of the topics that the flow reads."""
        return tuple(topic.name for topic in self.reads)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables of ClickHouse that the flow writes."""
        return self.writes.tables

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the ids of the steps that keep a state per partition."""
        return stateful_steps(self.topics, sink=self.writes.keeps_state)

    @property
    def has_replay(self) -> bool:
        """Return whether a range of the flow's rows can be written again."""
        readings = self.readings(_defaults()).values()
        return all(has_replay(self.writes, reading.step(0, None)) for reading in readings)

    def readings(self, settings: Settings | None = None) -> dict[str, Reading]:
        """Return what the flow does with each topic, by the topic's name in ``reads``.

        Without ``settings`` it is what it would be where none is set.
        """
        known = settings or _defaults()
        return {
            topic.name: reads if isinstance(reads, Reading) else reads(known)
            for topic, reads in self.reads.items()
        }

    def topics_read(self, settings: Settings) -> dict[str, str]:
        """Return the topic that is read in place of each of ``topics``.

        Raises SettingError if KAFKA_TOPIC names one topic for a flow that reads several.
        """
        if not settings.kafka_topic:
            return {name: name for name in self.topics}
        if len(self.topics) > 1:
            raise SettingError(
                f"KAFKA_TOPIC={settings.kafka_topic!r}: {self.name} reads "
                f"{', '.join(self.topics)}: leave it out"
            )
        return {self.topics[0]: settings.kafka_topic}

    def dataflow(
        self,
        source: Source[Poll] | Mapping[str, Source[Poll]],
        outputs: Outputs,
        progress: Progress | None = None,
        *,
        settings: Settings | None = None,
    ) -> Dataflow:
        """Wire the flow between its source, or its sources by topic, and the engine's sinks.

        Topics without a given source are left out. ``settings`` as of ``readings``.
        """
        return self._wired(self.readings(settings), source, outputs, progress)

    def wire(self, settings: Settings, run: Run) -> Dataflow:
        """Wire the flow to the servers that the settings name.

        Raises SettingError where the flow does not run like that.
        """
        if self.other_engine(settings):
            raise SettingError(
                f"TOPICS_URL={settings.topics_url!r}: on Kafka {self.name} runs on another "
                f"engine: start it by `footfall run {self.name}`"
            )
        readings = self.readings(settings)
        topics = self.topics_read(settings)
        sources = {
            name: open_source(
                settings, topic, self.name, run, marked=readings[name].marks_sent_again
            )
            for name, topic in topics.items()
        }
        by_topic = {topics[name]: source for name, source in sources.items()}
        outputs = Outputs(self.writes.open(settings, run, by_topic), *letters(settings))
        checked = {
            name: replace(
                reading, records=self.writes.checked(reading.records, settings, by_topic)
            )
            for name, reading in readings.items()
        }
        return self._wired(checked, _with_parts(sources), outputs, run.progress)

    def replayables(self, settings: Settings) -> tuple[Replayable, ...]:
        """Return what replays a range of event time, one for each topic; none for a flow whose
        ranges cannot be written again. Raises SettingError as ``wire`` does."""
        if not self.has_replay:
            return ()
        readings = self.readings(settings)
        return tuple(
            replayable(self.writes, topic, readings[name], settings)
            for name, topic in self.topics_read(settings).items()
        )

    def other_engine(self, settings: Settings) -> Callable[[Run], None] | None:
        """Return what runs the flow where it does not run on Bytewax, or None where it does."""
        if self.on_kafka is None or not settings.kafka_bootstrap:
            return None
        return partial(self.on_kafka, self.name, settings)

    @property
    def main(self) -> Callable[[], Dataflow]:
        """Return the function that wires the flow as the environment says."""

        # The engine calls what it finds by this name only if it is a plain function.
        def main() -> Dataflow:
            return self.wire(read_settings(), Run())

        return main

    def _wired(
        self,
        readings: Mapping[str, Reading],
        source: Source[Poll] | Mapping[str, Source[Poll]],
        outputs: Outputs,
        progress: Progress | None,
    ) -> Dataflow:
        if isinstance(source, Mapping):
            inputs = {
                topic: Input(source[topic], reading.records, reading.step)
                for topic, reading in readings.items()
                if topic in source
            }
            return dataflow_of(self.name, inputs, outputs, progress=progress)
        (reading,) = readings.values()
        return dataflow(
            self.name, source, reading.records, reading.step, outputs, progress=progress
        )


def _defaults() -> Settings:
    """Return the settings where no variable is set."""
    return read_settings({})


def _with_parts(sources: dict[str, TopicSource]) -> Source[Poll] | Mapping[str, Source[Poll]]:
    """Return the one source of a flow, or those of several that have partitions.

    The engine takes no source without partitions: all of a topic may be other processes' share.
    Where all of every topic are, the flow is not run.
    """
    if len(sources) == 1:
        return next(iter(sources.values()))
    return {name: source for name, source in sources.items() if source.list_parts()} or sources
