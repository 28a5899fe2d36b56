"""``make bench``: every flow beside its peers, in one run; prints a table.

python -m benchmarks [--events N] [--runs N] [--flows a,b] [--quick] [--no-kafka] [--write]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import kafka, kafka_report
from benchmarks.footfall import SUMMED
from benchmarks.inputs import Input, make_input
from benchmarks.kafka_servers import why_not
from benchmarks.measure import BenchmarkError, Figure, Run, check_same, figure_of, run_once
from benchmarks.parts import PARTS
from benchmarks.report import chart, machine, table

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("footfall", "plain_loop", "batch_query")
PER_EVENT = "per_event"
PER_EVENT_EVENTS = 200_000
"""The per-event dataflow is so dear that it is measured on fewer events."""
TOPIC_OF = {
    "store_metrics": "store_events",
    "minute_buckets": "user_tags",
    "user_profiles": "user_tags",
}


def main() -> int:
    """Measure, print, and with --write keep the figures in docs/."""
    args = _arguments()
    cache = Path(os.environ.get("FOOTFALL_HOME") or ".footfall").absolute() / "bench"
    try:
        figures = {flow: _measure(flow, args, cache) for flow in args.flows}
        parts = {flow: _parts(flow, args, cache) for flow in args.flows}
        over_kafka = _over_kafka(figures, args, cache)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    found = _page(figures, parts, args) + "\n".join(["", *over_kafka])
    print(found)
    if args.write:
        (ROOT / "docs" / "benchmarks.md").write_text(found)
        (ROOT / "docs" / "benchmarks.svg").write_text(chart(figures))
        _say("written: docs/benchmarks.md, docs/benchmarks.svg")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000, help="of each topic (2,000,000)")
    parser.add_argument("--runs", type=int, default=3, help="of each variant (3)")
    parser.add_argument("--flows", type=_flows, default=list(TOPIC_OF), help="a,b (all)")
    parser.add_argument("--quick", action="store_true", help="100,000 events, one run")
    parser.add_argument("--no-kafka", action="store_true", help="leave out the runs over Kafka")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/")
    args = parser.parse_args()
    if args.quick:
        args.events, args.runs = 100_000, 1
    if args.events < 1_000 or args.runs < 1:
        parser.error("--events takes 1,000 or more, --runs 1 or more")
    return args


def _flows(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SUMMED]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such flow: {', '.join(unknown)}")
    return names


def _measure(flow: str, args: argparse.Namespace, cache: Path) -> list[Figure]:
    """The variants in turn, so that a slow moment of the machine falls on all of them."""
    topic_name = TOPIC_OF[flow]
    full = make_input(cache, topic_name, args.events, _say)
    few = make_input(cache, topic_name, min(args.events, PER_EVENT_EVENTS), _say)
    none = make_input(cache, topic_name, 0, _say)
    over: dict[str, Input] = {**dict.fromkeys(VARIANTS, full), PER_EVENT: few}
    runs: dict[str, list[Run]] = defaultdict(list)
    empty: dict[str, list[Run]] = defaultdict(list)
    for number in range(args.runs):
        for variant, topic in over.items():
            _say(f"{flow}: {variant}, run {number + 1} of {args.runs}, {topic.events:,} events")
            empty[variant].append(run_once(variant, flow, none))
            runs[variant].append(run_once(variant, flow, topic))
    check_same(flow, {variant: runs[variant][0].answer for variant in VARIANTS})
    check_same(
        flow,
        {
            "footfall": run_once("footfall", flow, few).answer,
            PER_EVENT: runs[PER_EVENT][0].answer,
        },
    )
    order = ("footfall", PER_EVENT, "plain_loop", "batch_query")
    return [figure_of(name, over[name].events, runs[name], empty[name]) for name in order]


def _parts(flow: str, args: argparse.Namespace, cache: Path) -> dict[str, float]:
    """CPU seconds per million events of each part, measured apart from the engine."""
    _say(f"{flow}: its parts")
    topic = make_input(cache, TOPIC_OF[flow], args.events, _say)
    found = run_once("parts", flow, topic).answer
    return {part: found[part] / found["events"] for part in PARTS}


def _over_kafka(
    figures: dict[str, list[Figure]], args: argparse.Namespace, cache: Path
) -> list[str]:
    """The section of the runs over Kafka, or why there is none."""
    why = "--no-kafka was given" if args.no_kafka else why_not(os.environ, _say)
    if why is not None:
        _say(f"without Kafka: {why}")
        return kafka_report.not_measured(why)
    found = kafka.measure(
        {flow: TOPIC_OF[flow] for flow in args.flows},
        partial(make_input, cache, say=_say),
        lambda flow, topic: run_once("footfall", flow, topic).answer,
        events=args.events,
        runs=args.runs,
        cache=cache,
        say=_say,
    )
    return kafka_report.section(found, {flow: found[0] for flow, found in figures.items()})


def _page(
    figures: dict[str, list[Figure]], parts: dict[str, dict[str, float]], args: argparse.Namespace
) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `make bench` on {machine()}: medians of "
        f"{args.runs} runs, taken in turn, each a process of its own with its start-up "
        "subtracted. Topic files of 10 partitions to rows in the sink's frame, recovery on. All "
        "variants over the same events gave the same answer.",
        "",
        "![CPU seconds per million events](benchmarks.svg)",
        "",
        table(figures),
        "",
        "`user_profiles` hands the newest tags of each batch to its store, which keeps the newest "
        "of all; the others keep them themselves. *Bytewax, per event* is the same analytic with "
        "Bytewax's own operators and the settings that cost the least, on fewer events.",
        "",
        "Where the time of Footfall goes, CPU seconds per million events; what is left to the "
        "figure above is the engine, recovery and the sink's buffer:",
        "",
        "| flow | " + " | ".join(PARTS) + " |",
        "|---|" + "---:|" * len(PARTS),
        *(
            f"| `{flow}` | " + " | ".join(f"{found[part]:.2f}" for part in PARTS) + " |"
            for flow, found in parts.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
