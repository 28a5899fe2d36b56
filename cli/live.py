"""How the demo is shown: a picture of one moment as one plain line or as a terminal view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.times import iso_ms

if TYPE_CHECKING:
    from rich.console import RenderableType

    from api.snapshot import Flow

MESSAGES_SHOWN = 6
RUNNING = "running"


@dataclass(frozen=True, slots=True)
class FlowLine:
    """One flow: what its process is doing, and what its workers say (None before the first)."""

    name: str
    state: str
    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is shown at one moment."""

    page: str
    """Where the live page is, or empty."""
    elapsed_s: float
    flows: Sequence[FlowLine]
    generators: Mapping[str, str]
    """Last progress line of each generator."""
    messages: Sequence[str]


def plain_line(picture: Picture) -> str:
    """Everything on one line, for a log file; of a flow what is not 0."""
    parts = [f"{picture.elapsed_s:.0f} s"]
    told = [line.flow for line in picture.flows if line.flow is not None]
    for line in picture.flows:
        flow = line.flow
        if flow is None:
            parts.append(f"{line.name} {line.state}")
            continue
        state = "" if line.state == RUNNING else f" ({line.state})"
        counts = {"lag": flow.lag, "late": flow.late, "dead": flow.dead}
        shown = "".join(f" {name} {count:,}" for name, count in counts.items() if count)
        parts.append(f"{line.name}{state} {flow.read:,} at {flow.read_per_s:,.0f}/s{shown}")
    if told:
        memory_mb, cpu_percent = sum(map(_memory_mb, told)), sum(map(_cpu_percent, told))
        parts.append(f"flows {memory_mb:,.0f} MB {cpu_percent:.0f}% cpu")
    parts += [f"{name}: {text}" for name, text in picture.generators.items() if text]
    return " | ".join(parts)


def terminal_view(picture: Picture) -> RenderableType:
    """A table of the flows, the generators' progress, the latest messages."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("flow", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("read", "per s", "lag", "late", "dead", "rows out", "MB", "cpu"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("event time", no_wrap=True)
    for line in picture.flows:
        state = Text(line.state, "" if line.state == RUNNING else "yellow")
        flow = line.flow
        if flow is None:
            table.add_row(line.name, state, *[""] * 9)
            continue
        table.add_row(
            line.name,
            state,
            f"{flow.read:,}",
            f"{flow.read_per_s:,.0f}",
            f"{flow.lag:,}",
            f"{flow.late:,}",
            f"{flow.dead:,}",
            f"{flow.rows_written:,}",
            f"{_memory_mb(flow):.0f}",
            f"{_cpu_percent(flow):.0f}%",
            "" if flow.watermark_ms is None else iso_ms(flow.watermark_ms)[:19],
        )
    page = ("   page ", (picture.page, "underline")) if picture.page else ()
    title = Text.assemble(
        ("footfall demo", "bold"), f"  {picture.elapsed_s:.0f} s", *page, "   Ctrl-C ends it"
    )
    generators = [Text(f"{name}: {text}") for name, text in picture.generators.items() if text]
    messages = [Text(text, "yellow") for text in picture.messages[-MESSAGES_SHOWN:]]
    return Group(title, Text(), table, Text(), *generators, *messages)


def _memory_mb(flow: Flow) -> float:
    return sum(worker.memory_bytes for worker in flow.workers) / 1e6


def _cpu_percent(flow: Flow) -> float:
    return 100 * sum(worker.cpu_share for worker in flow.workers)
