"""The demo at one moment, as one plain line or as a terminal view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from footfall.schemas.times import iso_ms

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from footfall.api.snapshot import Flow

MESSAGES_SHOWN = 6
RUNNING, WAITING, DONE = "running", "waiting", "done"
WELL = (RUNNING, WAITING, DONE)
GAP = 2


@dataclass(frozen=True, slots=True)
class FlowLine:
    """One flow: the state of its processes, and its counts (None before the first)."""

    name: str
    state: str
    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is shown at one moment."""

    page: str
    """Address of the live page, or empty."""
    elapsed_s: float
    flows: Sequence[FlowLine]
    generators: Mapping[str, str]
    """Last progress line of each generator."""
    messages: Sequence[str]
    troubles: Sequence[str] = ()
    """A sentence for each trouble of the flows."""


def plain_line(picture: Picture) -> str:
    """Return everything on one line, for a log file; counts of 0 are left out."""
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
    parts += picture.troubles
    return " | ".join(parts)


COLUMNS: dict[str, Callable[[Flow], str]] = {
    "read": lambda flow: f"{flow.read:,}",
    "per s": lambda flow: f"{flow.read_per_s:,.0f}",
    "lag": lambda flow: "?" if flow.lag is None else f"{flow.lag:,}",
    "lag s": lambda flow: "?" if flow.lag_s is None else f"{flow.lag_s:,.0f}",
    "late": lambda flow: f"{flow.late:,}",
    "dead": lambda flow: f"{flow.dead:,}",
    "rows out": lambda flow: f"{flow.rows_written:,}",
    "MB": lambda flow: f"{_memory_mb(flow):.0f}",
    "cpu": lambda flow: f"{_cpu_percent(flow):.0f}%",
    "event time": lambda flow: "" if flow.watermark_ms is None else iso_ms(flow.watermark_ms)[:19],
}
DROPPED_FIRST = ("MB", "cpu", "event time", "rows out", "late", "dead", "read", "lag s", "per s")
"""Columns that a narrow terminal lacks, in this order; a number is never cut."""


def terminal_view(picture: Picture, width: int, height: int) -> RenderableType:
    """Return a table of the flows, the generators' progress, and the newest messages that fit."""
    from rich.console import Group
    from rich.text import Text

    generators = [Text(f"{name}: {text}") for name, text in picture.generators.items() if text]
    messages = [Text(text, "yellow") for text in picture.messages[-MESSAGES_SHOWN:]]
    head = [_title(picture, width), *(Text(text, "bold red") for text in picture.troubles)]
    # A terminal scrolls when its last line is written.
    left = height - 1 - len(head) - 1
    flows = _whole_lines(picture.flows, max(1, left - len(generators)))
    table = _table(flows, width)
    left -= len(flows)
    hidden = len(picture.flows) - len(flows)
    if hidden:
        generators.insert(0, Text(f"and {hidden} more flows", "dim"))
    lines = [*generators, *messages][: max(0, left)]
    for line in (*head, *lines):
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*head, *table, *lines)


def _title(picture: Picture, width: int) -> Text:
    from rich.text import Text

    page = ("  ", (picture.page, "underline")) if picture.page else ()
    title = Text.assemble(("footfall demo", "bold"), f"  {picture.elapsed_s:.0f} s", *page)
    end = "  Ctrl-C ends it"
    return title.append(end) if title.cell_len + len(end) <= width else title


def _whole_lines(flows: Sequence[FlowLine], lines_max: int) -> list[FlowLine]:
    """Return the flows that fit, in order; where not all do, healthy ones are left out first."""
    places = sorted(range(len(flows)), key=lambda place: (_is_well(flows[place]), place))
    # One line is needed to tell how many are not shown.
    kept = places if len(flows) <= lines_max else places[: max(1, lines_max - 1)]
    return [flows[place] for place in sorted(kept)]


def _is_well(line: FlowLine) -> bool:
    return line.state in WELL and not (line.flow and line.flow.trouble)


def _table(flows: Sequence[FlowLine], width: int) -> list[Text]:
    """Return the lines of the table, with as many columns as fit."""
    from rich.text import Text

    rows = [(line, {name: of(line.flow) for name, of in COLUMNS.items()} if line.flow else {})
            for line in flows]  # fmt: skip
    widths = {
        name: max([len(name), *(len(row.get(name, "")) for _, row in rows)]) for name in COLUMNS
    }
    first = max([len("flow"), *(len(line.name) for line in flows)])
    second = max([len("state"), *(len(line.state) for line in flows)])
    shown = [*COLUMNS]
    for name in DROPPED_FIRST:
        if first + second + GAP + sum(widths[one] + GAP for one in shown) <= width:
            break
        shown.remove(name)
    space = " " * GAP
    head = f"{'flow':<{first}}{space}{'state':<{second}}"
    lines = [Text(head + "".join(f"{space}{name:>{widths[name]}}" for name in shown), "bold")]
    for line, row in rows:
        text = Text(f"{line.name:<{first}}{space}")
        text.append(f"{line.state:<{second}}", "" if _is_well(line) else "bold red")
        for name in shown:
            text.append(f"{space}{row.get(name, ''):>{widths[name]}}")
        lines.append(text)
    return lines


def _memory_mb(flow: Flow) -> float:
    return sum(worker.memory_bytes for worker in flow.workers) / 1e6


def _cpu_percent(flow: Flow) -> float:
    return 100 * sum(worker.cpu_share for worker in flow.workers)
