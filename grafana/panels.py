"""The four kinds of panels that the dashboards are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models

from footfall.grafana.queries import Query

GREEN, ORANGE, RED, BLUE, PLAIN = "green", "orange", "red", "blue", "transparent"
Steps = Mapping[float, str]
"""Colours by the value from which they hold. Below the first value all is green, and a cell of
a table has no colour."""
RUNBOOKS = "runbooks"
"""The variable with the address of docs/runbooks. A panel's ``runbook`` is the page of an alert,
or "" for all of them."""

Panel = stat.Panel | timeseries.Panel | table.Panel | bargauge.Panel
_P = TypeVar("_P", stat.Panel, timeseries.Panel, table.Panel, bargauge.Panel)


def number(
    title: str,
    about: str,
    query: Query,
    *,
    unit: str = "short",
    steps: Steps | None = None,
    runbook: str | None = None,
    decimals: int | None = None,
    width: int = 4,
) -> stat.Panel:
    """Return one large number: the newest of a series, with its graph, or a row's only value."""
    panel = _panel(stat.Panel(), title, about, [query], unit=unit, steps=steps, runbook=runbook)
    panel = panel.height(4).span(width)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    coloured = shapes.BigValueColorMode
    panel = panel.color_mode(coloured.BACKGROUND if steps else coloured.VALUE)
    graph = shapes.BigValueGraphMode
    is_moment = query.is_table or unit.startswith("dateTime")
    panel = panel.graph_mode(graph.NONE if is_moment else graph.AREA)
    if steps is None:
        panel = panel.color_scheme(_fixed(BLUE))
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str,
    about: str,
    *queries: Query,
    unit: str = "short",
    steps: Steps | None = None,
    runbook: str | None = None,
    named: str = "",
    bars: bool = False,
    stacked: bool = False,
    colours: Mapping[str, str] | None = None,
    minimum: float | None = 0,
    maximum: float | None = None,
    interval: str = "",
    width: int = 12,
    height: int = 8,
) -> timeseries.Panel:
    """Return series over time. ``named`` names a series of ClickHouse by its labels."""
    panel = _panel(
        timeseries.Panel(), title, about, queries, unit=unit, steps=steps, runbook=runbook
    )
    panel = panel.height(height).span(width)
    panel = panel.show_points(shapes.VisibilityMode.AUTO).line_width(1)
    panel = panel.fill_opacity(70 if bars else 30 if stacked else 0)
    if bars:
        panel = panel.draw_style(shapes.GraphDrawStyle.BARS)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if steps is not None:
        style = common.GraphThresholdsStyleConfig()
        panel = panel.thresholds_style(style.mode(shapes.GraphThresholdsStyleMode.DASHED))
    panel = panel.color_scheme(boards.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.TABLE)
    legend = legend.placement(shapes.LegendPlacement.RIGHT).show_legend(True)
    panel = panel.legend(legend.calcs(["lastNotNull", "max"]))
    panel = panel.tooltip(
        common.VizTooltipOptions()
        .mode(shapes.TooltipDisplayMode.MULTI)
        .sort(shapes.SortOrder.DESCENDING)
    )
    panel = panel.min(minimum) if minimum is not None else panel
    panel = panel.max(maximum) if maximum is not None else panel
    panel = panel.interval(interval) if interval else panel
    for name, colour in (colours or {}).items():
        panel = panel.override_by_name(
            name, [_value("color", {"mode": "fixed", "fixedColor": colour})]
        )
    return panel.display_name(named) if named else panel


def rows(
    title: str,
    about: str,
    *queries: Query,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    steps: Mapping[str, Steps] | None = None,
    bars: Sequence[str] = (),
    links: Mapping[str, tuple[str, str]] | None = None,
    widths: Mapping[str, int] | None = None,
    hidden: Sequence[str] = (),
    runbook: str | None = None,
    width: int = 12,
    height: int = 8,
) -> table.Panel:
    """Return a table.

    Two or more queries of Prometheus are merged by the labels that they share: ``columns`` gives
    each label, and the value of each query (``A``, ``B``), the name of its column, in order.
    """
    panel = _panel(table.Panel(), title, about, queries, runbook=runbook)
    panel = panel.height(height).span(width).cell_height(shapes.TableCellHeight.SM)
    panel = panel.min_width(60)
    if columns is not None:
        panel = _merged(panel, columns)
    styles: dict[str, list[models.DynamicConfigValue]] = {}
    for name, unit in (units or {}).items():
        styles.setdefault(name, []).append(_value("unit", unit))
    for name, colours in (steps or {}).items():
        cell = {"type": "color-background", "mode": "basic"}
        styles.setdefault(name, []).extend(
            [
                _value("thresholds", _thresholds(colours, PLAIN).build()),
                _value("custom.cellOptions", cell),
            ]
        )
    for name in bars:
        cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        plain = {"mode": "fixed", "fixedColor": BLUE}
        styles.setdefault(name, []).extend(
            [_value("min", 0), _value("custom.cellOptions", cell), _value("color", plain)]
        )
    for name, (text, url) in (links or {}).items():
        styles.setdefault(name, []).append(_value("links", [{"title": text, "url": url}]))
    for name, pixels in (widths or {}).items():
        styles.setdefault(name, []).append(_value("custom.width", pixels))
    for name in hidden:
        # The second property is for Grafana before version 12.
        hiding = [_value("custom.hideFrom", {"viz": True}), _value("custom.hidden", True)]
        styles.setdefault(name, []).extend(hiding)
    for name, values in styles.items():
        panel = panel.override_by_name(name, values)
    return panel


def ranking(
    title: str,
    about: str,
    query: Query,
    *,
    unit: str = "short",
    width: int = 6,
    height: int = 8,
) -> bargauge.Panel:
    """Return one bar per row: its first column is the name, its second the length."""
    panel = _panel(bargauge.Panel(), title, about, [query], unit=unit)
    panel = panel.height(height).span(width).min(0)
    panel = panel.orientation(shapes.VizOrientation.HORIZONTAL)
    panel = panel.display_mode(shapes.BarGaugeDisplayMode.BASIC)
    panel = panel.reduce_options(common.ReduceDataOptions().values(True))
    return panel.color_scheme(_fixed(BLUE))


def _panel(
    panel: _P,
    title: str,
    about: str,
    queries: Sequence[Query],
    *,
    unit: str = "",
    steps: Steps | None = None,
    runbook: str | None = None,
) -> _P:
    """Give a panel the properties that all kinds have."""
    panel.title(title).description(about).datasource(queries[0].source)
    for ref_id, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(query.target(ref_id))
    if unit:
        panel.unit(unit)
    panel.thresholds(_thresholds(steps or {}))
    if runbook is not None:
        page = f"{runbook}.md" if runbook else ""
        link = boards.DashboardLink(f"Runbook: {runbook}" if runbook else "Runbooks")
        panel.links([link.url(f"${{{RUNBOOKS}}}/{page}").target_blank(True)])
    return panel


def _merged(panel: table.Panel, columns: Mapping[str, str]) -> table.Panel:
    names = {
        f"Value #{name}" if len(name) == 1 else name: shown for name, shown in columns.items()
    }
    organized = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": names,
    }
    panel = panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(
        models.DataTransformerConfig(id_val="organize", options=organized)
    )


def _thresholds(steps: Steps, least: str = GREEN) -> boards.ThresholdsConfig:
    colours = [models.Threshold(None, least)]
    colours += [models.Threshold(value, colour) for value, colour in sorted(steps.items())]
    return boards.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(colours)


def _fixed(colour: str) -> boards.FieldColor:
    return boards.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(colour)


def _value(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=name, value=value)
