"""``login_alerts`` as it runs on Kafka: on Faust, which decides at each failed login."""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from footfall.benchmarks.inputs import Input
from footfall.benchmarks.kafka_job import FAUST, Job
from footfall.benchmarks.kafka_servers import Servers, fill, topic_name
from footfall.benchmarks.measure import Figure, Run, check_read, figure_of, run_children
from footfall.schemas.topics import PLATFORM_LOGS

FLOW = "login_alerts"
EVENTS_MAX = 200_000
"""Most events: the run is slow, and its cost grows with the events alone."""
PARTITIONS = 4


def why_not() -> str | None:
    """Return why it cannot be measured, on one line; None where it can."""
    if importlib.util.find_spec("faust") is None:
        return "Faust is not installed: pip install 'footfall[alerts]'"
    return None


def measure(
    servers: Servers,
    make_input: Callable[[str, int], Input],
    *,
    events: int,
    runs: int,
    say: Callable[[str], None],
) -> Figure:
    """Measure the worker over at most EVENTS_MAX events. Raises BenchmarkError if a run fails."""
    topic = PLATFORM_LOGS.name
    full, none = make_input(topic, min(events, EVENTS_MAX)), make_input(topic, 0)
    fill(servers.bootstrap, topic, full.events, [PARTITIONS], say)
    done: list[Run] = []
    empty: list[Run] = []
    # Each run has a consumer group of its own, since the state belongs to the group.
    groups = (f"bench-{number}" for number in itertools.count())
    for number in range(runs):
        say(f"{FLOW} on Faust, run {number + 1} of {runs}, {full.events:,} events")
        empty.append(_run(servers, none, next(groups)))
        done.append(_run(servers, full, next(groups)))
    return figure_of(FAUST, full.events, done, empty)


def _run(servers: Servers, of: Input, group: str) -> Run:
    with tempfile.TemporaryDirectory(prefix="footfall-bench-") as folder:
        environ = {
            "TOPICS_URL": servers.topics_url,
            "KAFKA_TOPIC": topic_name(of.topic, PARTITIONS, empty=not of.events),
            "KAFKA_GROUP": group,
            "FOOTFALL_HOME": str(Path(folder) / "home"),
        }
        job = Job(FAUST, environ["KAFKA_TOPIC"], environ, FLOW)
        name = f"{FLOW} on Faust"
        run = run_children(name, [("footfall.benchmarks.kafka_job", job.encode())], Path(folder))
        return check_read(name, run, of)
