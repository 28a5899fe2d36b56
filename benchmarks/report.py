"""The figures as a Markdown table and as a chart in SVG."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

from footfall.benchmarks.measure import Figure

NAMES = {
    "footfall": "Footfall",
    "per_event": "Bytewax, per event",
    "plain_loop": "plain Python loop",
    "batch_query": "DuckDB batch query",
}
_COLOURS = {
    "footfall": "#0f7f6e",
    "per_event": "#b45309",
    "plain_loop": "#6d6a75",
    "batch_query": "#1d5fc4",
}
_LIBRARIES = ("bytewax", "polars", "msgspec", "duckdb")

Figures = Mapping[str, Sequence[Figure]]
"""By flow."""


def machine() -> str:
    """Return processor, cores and versions, on one line."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


def table(figures: Figures) -> str:
    """Return a Markdown table; ratios are to Footfall's CPU seconds."""
    lines = [
        "| flow | who | events | CPU s per million | times Footfall | events/s | peak MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for flow, found in figures.items():
        ours = next(figure for figure in found if figure.variant == "footfall")
        for figure in found:
            ratio = figure.cpu_s_per_million / ours.cpu_s_per_million
            lines.append(
                f"| `{flow}` | {NAMES[figure.variant]} | {figure.events:,} | "
                f"{figure.cpu_s_per_million:.2f} | {ratio:.2f} | {speed(figure)} | "
                f"{figure.memory_mb:.0f} |"
            )
    return "\n".join(lines)


def speed(figure: Figure) -> str:
    """Return events per second, or a dash where the runs were too short."""
    return "-" if math.isnan(figure.events_per_s) else f"{figure.events_per_s:,.0f}"


_WIDTH, _LEFT, _ROW, _TOP = 760, 190, 24, 46


def chart(figures: Figures) -> str:
    """Return an SVG with bars of CPU seconds per million events, on a logarithmic scale."""
    values = [figure.cpu_s_per_million for found in figures.values() for figure in found]
    low = 10 ** math.floor(math.log10(max(min(values), 1e-3)))
    high = 10 ** math.ceil(math.log10(max(values)))
    span = math.log10(high / low) or 1.0

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 60) * math.log10(max(value, low) / low) / span

    parts = [
        _text(10, 20, "CPU seconds per million events (logarithmic; less is better)", bold=True)
    ]
    height = _TOP
    for flow, found in figures.items():
        parts.append(_text(10, height + 14, flow, bold=True))
        height += _ROW
        for figure in found:
            end = x(figure.cpu_s_per_million)
            colour = _COLOURS[figure.variant]
            parts.append(_text(_LEFT - 8, height + 13, NAMES[figure.variant], end=True))
            parts.append(
                f'<rect x="{_LEFT}" y="{height + 2}" width="{max(2.0, end - _LEFT):.1f}" '
                f'height="15" rx="2" fill="{colour}"/>'
            )
            parts.append(_text(end + 6, height + 13, f"{figure.cpu_s_per_million:.2f}"))
            height += _ROW - 3
        height += 8
    ticks = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10.0**power)
        ticks.append(
            f'<line x1="{at:.1f}" y1="{_TOP - 10}" x2="{at:.1f}" y2="{height}" '
            'stroke="#888" stroke-opacity="0.35"/>'
        )
        ticks.append(_text(at - 8, _TOP - 14, f"{10.0**power:g}"))
    style = (
        "<style>text{font:13px system-ui,sans-serif;fill:#1b1f24}"
        "@media(prefers-color-scheme:dark){text{fill:#e6e6e6}}</style>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height + 10}" '
        f'role="img" aria-label="CPU seconds per million events">{style}'
        + "".join(ticks)
        + "".join(parts)
        + "</svg>\n"
    )


def _text(x: float, y: float, text: str, *, bold: bool = False, end: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{weight}{anchor}>{escape(text)}</text>'
