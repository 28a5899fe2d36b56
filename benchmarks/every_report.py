"""The figures of every flow as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from footfall.benchmarks.every_flow import BATCH, GOAL, GOALS, PLAIN, Found, Subject
from footfall.benchmarks.parts import PARTS
from footfall.benchmarks.report import speed
from footfall.benchmarks.tables import CLICKHOUSE, sink_of

TITLE = "## Every flow"
PEERS = {PLAIN: "plain Python loop", BATCH: "DuckDB batch query"}

Figures = Mapping[Subject, Found]


def section(found: Figures) -> list[str]:
    """Return the lines of the section."""
    events = max(one.to_frame.events for one in found.values())
    missed = [
        f"`{flow}` over `{topic}` ({one.to_frame.cpu_s_per_million:.2f} of {goal_of(flow):.1f})"
        for (flow, topic), one in found.items()
        if not is_met(flow, one)
    ]
    return [
        TITLE,
        "",
        f"CPU seconds per million events, of {events:,} of each topic a flow reads, start-up "
        "subtracted, recovery on. *In all* is from topic files to rows in the sink's frame, and "
        "so the sum of: *read*, *decode* and *arithmetic*, each measured apart over the same "
        "polls, and *engine*, what they leave: Bytewax, snapshots and the sink's buffer. "
        "*+ sink* is what the same worker takes more with its real sink, dead letters and late "
        "events among it; *server* what ClickHouse takes itself meanwhile, a process of its own. "
        "events/s and peak memory are those of the worker with its sink. `platform_logs` and "
        "`shop_events` are of the simulated shop, 1 % out of order, 0.05 % late and as many "
        "broken; the other topics are those of the table above.",
        "",
        *flow_table(found),
        "",
        "The goal, which is for what comes before the sink, is "
        + (f"missed by {', '.join(missed)}." if missed else "met by each of them."),
        "",
        *peers(found),
    ]


def goal_of(flow: str) -> float:
    """Return the CPU seconds per million events that a flow may take before its sink."""
    return GOALS.get(flow, GOAL)


def is_met(flow: str, found: Found) -> bool:
    """Tell whether the flow keeps to its goal."""
    return found.to_frame.cpu_s_per_million <= goal_of(flow)


def flow_table(found: Figures) -> list[str]:
    """Return the lines of a table with one row per flow and topic."""
    names = (*PARTS, "engine", "**in all**", "goal", "+ sink", "server", "events/s", "peak MB")
    lines = [
        f"| flow | topic | {' | '.join(names)} | sink |",
        "|---|---|" + "---:|" * len(names) + "---|",
    ]
    for (flow, topic), one in found.items():
        sink = sink_of(flow)
        server = f"{one.server_cpu_s_per_million:.2f}" if sink == CLICKHOUSE else "-"
        cells = (
            *(f"{one.parts[part]:.2f}" for part in PARTS),
            f"{one.engine:.2f}",
            f"**{one.to_frame.cpu_s_per_million:.2f}**",
            f"{goal_of(flow):.1f}{'' if is_met(flow, one) else ' missed'}",
            f"{one.sink:.2f}",
            server,
            speed(one.to_sink),
            f"{one.to_sink.memory_mb:.0f}",
        )
        lines.append(f"| `{flow}` | `{topic}` | {' | '.join(cells)} | {sink} |")
    return lines


def peers(found: Figures) -> list[str]:
    """Return lines about what peers take for the same answer; nothing without peers."""
    lines = [
        f"| `{flow}` | `{topic}` | {PEERS[peer.variant]} | {peer.cpu_s_per_million:.2f} | "
        f"{peer.cpu_s_per_million / one.to_frame.cpu_s_per_million:.2f} | {speed(peer)} | "
        f"{peer.memory_mb:.0f} |"
        for (flow, topic), one in found.items()
        for peer in one.peers
    ]
    if not lines:
        return []
    return [
        "The same answer by other means, without a stream, recovery or rows for every record; it "
        "was compared with what the flow's tables say in the end: the number of sessions and "
        "their length, requests by outcome, views and impressions, failed logins.",
        "",
        "| flow | topic | who | CPU s per million | times Footfall | events/s | peak MB |",
        "|---|---|---|---:|---:|---:|---:|",
        *lines,
        "",
    ]
