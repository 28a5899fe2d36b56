"""Three flows beside the same analytic by other means, over the same topic files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from footfall.benchmarks.inputs import Input
from footfall.benchmarks.measure import (
    Figure,
    Launch,
    Run,
    check_same,
    figure_of,
    run_children,
    run_once,
)
from footfall.benchmarks.parts import PARTS

TOPIC_OF = {
    "store_metrics": "store_events",
    "minute_buckets": "user_tags",
    "user_profiles": "user_tags",
}
"""The topic that each flow reads."""
VARIANTS = ("footfall", "plain_loop", "batch_query")
PER_EVENT = "per_event"
PER_EVENT_EVENTS = 200_000
"""Events of the per-event dataflow, which takes too much time for more."""

MakeInput = Callable[[str, int], Input]
Say = Callable[[str], None]


def compare(
    flow: str,
    make_input: MakeInput,
    *,
    events: int,
    runs: int,
    say: Say,
    launch: Launch = run_children,
) -> list[Figure]:
    """Measure all variants of a flow of TOPIC_OF, Footfall's own first.

    They run in turn, so that a slow moment of the machine affects all of them. Raises
    BenchmarkError where one fails or gives another answer.
    """
    topic_name = TOPIC_OF[flow]
    full = make_input(topic_name, events)
    few = make_input(topic_name, min(events, PER_EVENT_EVENTS))
    none = make_input(topic_name, 0)
    over: dict[str, Input] = {**dict.fromkeys(VARIANTS, full), PER_EVENT: few}
    done: dict[str, list[Run]] = defaultdict(list)
    empty: dict[str, list[Run]] = defaultdict(list)
    for number in range(runs):
        for variant, topic in over.items():
            say(f"{flow}: {variant}, run {number + 1} of {runs}, {topic.events:,} events")
            empty[variant].append(run_once(variant, flow, none, launch))
            done[variant].append(run_once(variant, flow, topic, launch))
    check_same(flow, {variant: done[variant][0].answer for variant in VARIANTS})
    of_few = run_once("footfall", flow, few, launch).answer
    check_same(flow, {"footfall": of_few, PER_EVENT: done[PER_EVENT][0].answer})
    order = ("footfall", PER_EVENT, "plain_loop", "batch_query")
    return [figure_of(name, over[name].events, done[name], empty[name]) for name in order]


def parts_of(
    flow: str, make_input: MakeInput, *, events: int, say: Say, launch: Launch = run_children
) -> dict[str, float]:
    """Return CPU seconds per million events of each part, measured apart from the engine."""
    say(f"{flow}: its parts")
    topic = make_input(TOPIC_OF[flow], events)
    found = run_once("parts", flow, topic, launch).answer
    return {part: found[part] / found["events"] for part in PARTS}
