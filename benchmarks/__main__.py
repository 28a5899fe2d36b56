"""``make bench``: every flow beside its peers, in one run; prints a table.

python -m footfall.benchmarks [--events N] [--runs N] [--flows a,b] [--quick] [--no-kafka]
    [--write]

Three flows beside their peers, every flow with its parts and its sink, three flows over Kafka.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from footfall import flows
from footfall.benchmarks import every_flow, every_report, kafka, kafka_faust, kafka_report
from footfall.benchmarks.compare import TOPIC_OF, compare, parts_of
from footfall.benchmarks.inputs import make_input
from footfall.benchmarks.kafka_servers import why_not
from footfall.benchmarks.measure import BenchmarkError, Figure, run_once
from footfall.benchmarks.parts import PARTS
from footfall.benchmarks.report import chart, machine, table

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Measure, print and, with --write, save the figures in docs/."""
    args = _arguments()
    cache = Path(os.environ.get("FOOTFALL_HOME") or ".footfall").absolute() / "bench"
    compared = [flow for flow in TOPIC_OF if flow in args.flows]
    try:
        made = partial(make_input, cache, say=_say)
        figures = {
            flow: compare(flow, made, events=args.events, runs=args.runs, say=_say)
            for flow in compared
        }
        parts = {flow: parts_of(flow, made, events=args.events, say=_say) for flow in compared}
        every = _every(args, cache)
        over_kafka = _over_kafka(figures, args, cache)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    found = "\n".join([*_head(args), *beside_peers(figures, parts), *every, *over_kafka])
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
    parser.add_argument("--flows", type=_flows, default=list(flows.catalogue()), help="a,b (all)")
    parser.add_argument("--quick", action="store_true", help="100,000 events, one run")
    parser.add_argument("--no-kafka", action="store_true", help="leave out the runs over Kafka")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/")
    args = parser.parse_args()
    if args.write and not {*args.flows} >= {*flows.catalogue()}:
        parser.error("--write takes every flow: leave --flows out")
    if args.quick:
        args.events, args.runs = 100_000, 1
    if args.events < 1_000 or args.runs < 1:
        parser.error("--events takes 1,000 or more, --runs 1 or more")
    return args


def _flows(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in flows.catalogue()]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such flow: {', '.join(unknown)}")
    return names


def _every(args: argparse.Namespace, cache: Path) -> list[str]:
    """Return the section about every flow."""
    found = every_flow.measure(
        args.flows,
        partial(make_input, cache, say=_say),
        events=args.events,
        runs=args.runs,
        cache=cache,
        say=_say,
    )
    return every_report.section(found)


def _over_kafka(
    figures: dict[str, list[Figure]], args: argparse.Namespace, cache: Path
) -> list[str]:
    """Return the section about the runs over Kafka, or why there are no such runs."""
    why: str | None = "--no-kafka was given"
    if not args.no_kafka:
        one_of = f"it takes one of {', '.join(TOPIC_OF)} among the flows"
        why = why_not(os.environ, _say) if figures else one_of
    if why is not None:
        _say(f"without Kafka: {why}")
        return kafka_report.not_measured(why)
    found = kafka.measure(
        {flow: TOPIC_OF[flow] for flow in figures},
        partial(make_input, cache, say=_say),
        lambda flow, topic: run_once("footfall", flow, topic).answer,
        events=args.events,
        runs=args.runs,
        cache=cache,
        say=_say,
        with_faust=_with_faust(args),
        with_idle=not args.quick,
    )
    return kafka_report.section(found, {flow: found[0] for flow, found in figures.items()})


def _with_faust(args: argparse.Namespace) -> bool:
    if kafka_faust.FLOW not in args.flows:
        return False
    why = kafka_faust.why_not()
    if why is not None:
        _say(f"without {kafka_faust.FLOW} on Kafka: {why}")
    return why is None


def _head(args: argparse.Namespace) -> list[str]:
    return [
        "# Benchmarks",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `make bench` on {machine()}: medians of "
        f"{args.runs} runs, of {min(args.runs, every_flow.RUNS_MAX)} in the section of every "
        "flow, taken in turn, each a process of its own with its start-up subtracted.",
        "",
    ]


def beside_peers(
    figures: dict[str, list[Figure]], parts: dict[str, dict[str, float]]
) -> list[str]:
    """Return the section about the flows of TOPIC_OF; nothing if no such flow was measured."""
    if not figures:
        return []
    return [
        "Topic files of 10 partitions to rows in the sink's frame, recovery on. All variants over "
        "the same events gave the same answer.",
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
