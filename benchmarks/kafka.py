"""Each flow from a real Kafka to its sink, and plain readers of the same topics beside it."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from footfall.benchmarks import kafka_faust, kafka_idle
from footfall.benchmarks.footfall import SUMMED
from footfall.benchmarks.inputs import Input
from footfall.benchmarks.kafka_job import BYTEWAX, FRAME, PLAIN, TABLES, Job
from footfall.benchmarks.kafka_servers import Servers, fill, started, topic_name
from footfall.benchmarks.measure import (
    BenchmarkError,
    Figure,
    Run,
    check_same,
    figure_of,
    run_children,
)
from footfall.benchmarks.tables import answer_of

EVENTS_MAX = 1_000_000
FILES = 0
"""Used as the number of partitions where topic files are read."""
LAYOUTS = ((1, 1), (2, 1), (4, 1), (4, 2), (10, 1))
"""(partitions, processes) of the runs over Kafka."""

Say = Callable[[str], None]
Answer = dict[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the tables."""

    what: str
    """FRAME or TABLES for a flow; PLAIN or BYTEWAX for a topic."""
    partitions: int
    """Partitions of the topic in Kafka, or FILES."""
    processes: int = 1

    def __str__(self) -> str:
        source = f"{self.partitions} partitions of Kafka" if self.partitions else "topic files"
        return f"{source} to {self.processes} x {self.what}"


Figures = dict[Case, Figure]


@dataclass(frozen=True, slots=True)
class Found:
    """The figures over Kafka."""

    events: int
    kafka_version: str
    flows: dict[str, Figures]
    topics: dict[str, Figures]
    """Figures of readers that do nothing."""
    faust: Figure | None = None
    """Figure of login_alerts, if it was asked for."""
    idle: kafka_idle.Idle | None = None
    """Figures of a worker with nothing to do, if they were asked for."""


def measure(
    topic_of: dict[str, str],
    make_input: Callable[[str, int], Input],
    file_answer: Callable[[str, Input], Answer],
    *,
    events: int,
    runs: int,
    cache: Path,
    say: Say,
    layouts: Sequence[tuple[int, int]] = LAYOUTS,
    with_faust: bool = False,
    with_idle: bool = False,
) -> Found:
    """Measure every flow of ``topic_of`` (the topic by flow) over at most EVENTS_MAX events.

    ``make_input`` gives the files of a topic with so many events, ``file_answer`` a flow's answer
    over them. ``with_faust`` also measures login_alerts, ``with_idle`` a worker of many
    partitions that has nothing to do. Raises BenchmarkError where a run fails or gives another
    answer.
    """
    events = min(events, EVENTS_MAX)
    partitions = sorted({partitions for partitions, _ in layouts})
    readers = [Case(what, count) for what in (PLAIN, BYTEWAX) for count in partitions]
    workers = [Case(what, *layout) for what in (FRAME, TABLES) for layout in layouts]
    with started(cache, say, list(topic_of)) as servers:
        found = Found(events, servers.kafka_version, {}, {})
        for topic in dict.fromkeys(topic_of.values()):
            fill(servers.bootstrap, topic, events, partitions, say)
            bench = _Bench(servers, make_input(topic, events), make_input(topic, 0), runs, say)
            found.topics[topic] = bench.readers(readers)
            for flow in (flow for flow, read in topic_of.items() if read == topic):
                cases = [Case(TABLES, FILES), *workers]
                found.flows[flow] = bench.flow(flow, cases, file_answer(flow, bench.full))
        if with_idle:
            found = replace(found, idle=kafka_idle.measure(servers, say))
        if not with_faust:
            return found
        faust = kafka_faust.measure(servers, make_input, events=events, runs=runs, say=say)
        return replace(found, faust=faust)


def check_answers(name: str, runs: dict[Case, list[Run]], expected: Answer) -> None:
    """Raise BenchmarkError where a run's rows add up to something else than ``expected``.

    Sums that only tables have must be the same in all runs to tables.
    """
    by_what: dict[str, dict[str, Answer]] = defaultdict(dict)
    for case, done in runs.items():
        for number, one in enumerate(done, 1):
            by_what[case.what][f"{case}, run {number}"] = one.answer
    for answers in by_what.values():
        first = next(iter(answers.values()))
        check_same(name, {"over topic files": {**first, **expected}, **answers})


@dataclass(frozen=True, slots=True)
class _Bench:
    """The runs over one topic."""

    servers: Servers
    full: Input
    none: Input
    runs: int
    say: Say

    def readers(self, cases: Sequence[Case]) -> Figures:
        """Measure readers that do nothing with the records."""
        name = f"readers of {self.full.topic}"
        return self._figures(name, cases, lambda case, of: self._run(name, "", case, of), {})

    def flow(self, flow: str, cases: Sequence[Case], answer: Answer) -> Figures:
        """Measure the flow's worker, whose rows must add up to ``answer``."""
        return self._figures(flow, cases, lambda case, of: self._run(flow, flow, case, of), answer)

    def _figures(
        self,
        name: str,
        cases: Sequence[Case],
        run: Callable[[Case, Input], Run],
        expected: Answer,
    ) -> Figures:
        """Run the cases in turn, so that a slow moment of the machine affects all of them."""
        full: dict[Case, list[Run]] = defaultdict(list)
        empty: dict[Case, list[Run]] = defaultdict(list)
        for number in range(self.runs):
            for case in cases:
                self.say(f"{name}: {case}, run {number + 1} of {self.runs}")
                empty[case].append(run(case, self.none))
                full[case].append(run(case, self.full))
        check_answers(name, full, expected)
        return {
            case: figure_of(case.what, self.full.events, full[case], empty[case]) for case in cases
        }

    def _run(self, name: str, flow: str, case: Case, of: Input) -> Run:
        with tempfile.TemporaryDirectory(prefix="footfall-bench-") as folder:
            home = Path(folder) / "home"
            home.mkdir()
            tables = self.servers.tables.make(flow, home) if case.what == TABLES else {}
            environ = {**self._topics(case, of, home), **tables, "FOOTFALL_HOME": str(home)}
            topic = environ.get("KAFKA_TOPIC", of.topic)
            jobs = [
                Job(case.what, topic, environ, flow, index, case.processes)
                for index in range(case.processes)
            ]
            modules = [("footfall.benchmarks.kafka_job", job.encode()) for job in jobs]
            done = run_children(f"{name}: {case}", modules, Path(folder))
            read = done.answer.pop("read")
            if read != of.events:
                raise BenchmarkError(f"{name}: {case} read {read:,} of {of.events:,} events")
            answer = done.answer if case.what == FRAME else {}
            if case.what == TABLES and of.events:
                answer = answer_of(flow, tables)
            if flow and not SUMMED[flow]:
                answer = {"events": read, **answer}
            return replace(done, answer=answer)

    def _topics(self, case: Case, of: Input, home: Path) -> dict[str, str]:
        """Return the settings that lead to the records."""
        if case.partitions != FILES:
            name = topic_name(of.topic, case.partitions, empty=not of.events)
            return {"TOPICS_URL": self.servers.topics_url, "KAFKA_TOPIC": name}
        # The run makes topics of its own there, which must not be in the cache.
        folder = home / "topics"
        folder.mkdir()
        (folder / of.topic).symlink_to((of.folder / of.topic).absolute())
        return {"TOPICS_URL": f"file://{folder}"}
