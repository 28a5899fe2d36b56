"""Every flow of the catalogue over each topic that it reads: its parts, its sink, its peers."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from footfall import flows
from footfall.benchmarks.inputs import Input
from footfall.benchmarks.kafka_job import FRAME, TABLES, Job
from footfall.benchmarks.measure import (
    Figure,
    Launch,
    Run,
    check_read,
    check_same,
    figure_of,
    run_children,
    run_once,
)
from footfall.benchmarks.parts import PARTS
from footfall.benchmarks.tables import Tables, answer_of, tables_in
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS
from footfall.sinks.topic_files import FileTopics

EVENTS_MAX = 1_000_000
RUNS_MAX = 2
GOAL = 1.5
GOALS = {"request_trace": 2.5, "user_profiles": 3.0}
"""CPU seconds per million events before the sink, for the flows that may take more than GOAL."""
PLAIN, BATCH = "plain_shop", "batch_shop"

Subject = tuple[str, str]
"""(flow, topic)"""

PEERS: dict[Subject, tuple[str, ...]] = {
    ("failed_logins", PLATFORM_LOGS.name): (BATCH,),
    ("product_views", PLATFORM_LOGS.name): (PLAIN, BATCH),
    ("product_views", STORE_EVENTS.name): (PLAIN, BATCH),
    ("product_views", USER_TAGS.name): (PLAIN, BATCH),
    ("request_trace", PLATFORM_LOGS.name): (PLAIN,),
    ("time_online", PLATFORM_LOGS.name): (PLAIN,),
    ("time_online", SHOP_EVENTS.name): (PLAIN,),
}


@dataclass(frozen=True, slots=True)
class Found:
    """The figures of a flow over a topic; times are CPU seconds per million events."""

    to_frame: Figure
    to_sink: Figure
    server_cpu_s_per_million: float
    """Time of ClickHouse, with its merges so far; 0 where the flow does not write there."""
    parts: dict[str, float]
    peers: list[Figure]

    @property
    def engine(self) -> float:
        """Return what the parts leave: the time of the engine, recovery and the sink's buffer."""
        return self.to_frame.cpu_s_per_million - sum(self.parts.values())

    @property
    def sink(self) -> float:
        """Return the additional time of the worker with its real sink."""
        return self.to_sink.cpu_s_per_million - self.to_frame.cpu_s_per_million


def subjects(names: Sequence[str]) -> list[Subject]:
    """Return each of these flows with each topic that it reads."""
    contracts = flows.catalogue()
    return [(name, topic) for name in names for topic in contracts[name].topics]


def measure(
    names: Sequence[str],
    make_input: Callable[[str, int], Input],
    *,
    events: int,
    runs: int,
    cache: Path,
    say: Callable[[str], None],
    launch: Launch = run_children,
) -> dict[Subject, Found]:
    """Measure these flows over at most EVENTS_MAX events, in at most RUNS_MAX runs.

    Raises BenchmarkError where a run fails, has not read all, or differs from a peer's answer.
    """
    events, runs = min(events, EVENTS_MAX), min(runs, RUNS_MAX)
    cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="tables-", dir=cache, ignore_cleanup_errors=True) as at,
        tables_in(Path(at), list(names), say) as tables,
    ):
        return {
            (flow, topic): _Bench(
                flow, make_input(topic, events), make_input(topic, 0), tables, say, launch
            ).found(runs)
            for flow, topic in subjects(names)
        }


@dataclass(frozen=True, slots=True)
class _Bench:
    """The runs of one flow over one topic."""

    flow: str
    full: Input
    none: Input
    tables: Tables
    say: Callable[[str], None]
    launch: Launch

    def found(self, runs: int) -> Found:
        """Run the variants in turn, so that a slow moment of the machine affects all of them."""
        flow, topic = self.flow, self.full.topic
        peers = PEERS.get((flow, topic), ())
        full: dict[str, list[Run]] = defaultdict(list)
        empty: dict[str, list[Run]] = defaultdict(list)
        parts: list[dict[str, int]] = []
        server_s: list[float] = []
        for number in range(runs):
            of = f"{flow} over {topic}, run {number + 1} of {runs}, {self.full.events:,} events"
            for what in (FRAME, TABLES):
                self.say(f"{of}: to {what}")
                empty[what].append(self._run(what, self.none)[0])
                run, used_s = self._run(what, self.full)
                full[what].append(run)
            server_s.append(used_s)
            self.say(f"{of}: its parts")
            parts.append(run_once("parts", flow, self.full, self.launch).answer)
            for peer in peers:
                self.say(f"{of}: {peer}")
                empty[peer].append(run_once(peer, flow, self.none, self.launch))
                full[peer].append(run_once(peer, flow, self.full, self.launch))
        for number in range(runs):
            answers = {variant: done[number].answer for variant, done in full.items()}
            if not answers[FRAME]:
                # Its rows come more than once: only tables have the true sums.
                del answers[FRAME]
            check_same(f"{flow} over {topic}, run {number + 1}", answers)
        figures = {
            variant: figure_of(variant, self.full.events, full[variant], empty[variant])
            for variant in full
        }
        return Found(
            figures[FRAME],
            figures[TABLES],
            median(server_s) / self.full.events * 1e6,
            {part: median(one[part] / one["events"] for one in parts) for part in PARTS},
            [figures[peer] for peer in peers],
        )

    def _run(self, what: str, of: Input) -> tuple[Run, float]:
        """Run a worker to its end; return the run, and the CPU seconds of ClickHouse meanwhile."""
        name = f"{self.flow} over {of.topic} to {what}"
        with tempfile.TemporaryDirectory(prefix="footfall-bench-") as folder:
            home = Path(folder) / "home"
            tables = self.tables.make(self.flow, home) if what == TABLES else {}
            topics = _topics_beside(self.flow, of, home / "topics")
            environ = {"TOPICS_URL": f"file://{topics}", "FOOTFALL_HOME": str(home), **tables}
            begun_s = self.tables.server_cpu_s()
            job = Job(what, of.topic, environ, self.flow)
            run = self.launch(
                name, [("footfall.benchmarks.kafka_job", job.encode())], Path(folder)
            )
            used_s = self.tables.server_cpu_s() - begun_s
            run = check_read(name, run, of)
            if what == TABLES:
                answer = answer_of(self.flow, tables) if of.events else {}
                run = replace(run, answer=answer)
                self.tables.drop(tables)
            return run, used_s


def _topics_beside(flow: str, of: Input, folder: Path) -> Path:
    """Return a folder with the topic, and the flow's other topics without a record.

    The run writes topics of its own there, which must not be in the cache.
    """
    folder.mkdir(parents=True)
    (folder / of.topic).symlink_to((of.folder / of.topic).absolute())
    writer = FileTopics(folder)
    for topic in flows.catalogue()[flow].topics:
        if topic != of.topic:
            writer.create(topic, len(of.files))
    writer.close()
    return folder
