"""A dashboard around panels: the parts that all dashboards have."""

from __future__ import annotations

import json
from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from footfall.grafana.panels import RUNBOOKS, Panel
from footfall.grafana.queries import CLICKHOUSE, PROMETHEUS, PromQL, Query

TAG = "footfall"
Variable = builder.Builder[models.VariableModel]


def board(
    uid: str,
    title: str,
    about: str,
    panels: Sequence[tuple[str, Sequence[Panel]]],
    *,
    variables: Sequence[Variable] = (),
    refresh: str = "10s",
) -> models.Dashboard:
    """Return a dashboard of rows, each (title, panels). Panels are numbered from 1, in order."""
    made = boards.Dashboard(title).uid(uid).description(about).tags([TAG]).timezone("utc")
    made = made.readonly().time("now-1h", "now").refresh(refresh)
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR)
    made = made.link(
        boards.DashboardLink("Dashboards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .placement("")
    )
    made = made.link(boards.DashboardLink("Runbooks").url(f"${{{RUNBOOKS}}}/").placement(""))
    for variable in variables:
        made = made.with_variable(variable)
    made = made.with_variable(boards.ConstantVariable(RUNBOOKS).value("/public/runbooks"))
    number = 0
    for row, shown in panels:
        if row:
            made = made.with_row(boards.Row(row))
        for panel in shown:
            number += 1
            made = made.with_panel(panel.id(number))
    return made.build()


def chosen(name: str, label: str, query: Query, *, several: bool = False) -> Variable:
    """Return a variable whose values a query gives; with ``several``, a reader may choose many."""
    variable = (
        boards.QueryVariable(name)
        .label(label)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    variable = variable.sort(models.VariableSort.NATURAL_ASC)
    if isinstance(query, PromQL):
        asked: dict[str, object] = {"query": query.expr, "refId": name, "qryType": 5}
        variable = variable.datasource(PROMETHEUS).query(asked).definition(query.expr)
    else:
        variable = variable.datasource(CLICKHOUSE).query(query.sql).definition(query.sql)
    if not several:
        return variable
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    variable = variable.multi(True).include_all(True).current(everything)
    return variable.all_value(".*") if isinstance(query, PromQL) else variable


def typed(name: str, label: str, about: str) -> Variable:
    """Return a variable that a reader types in."""
    return boards.TextBoxVariable(name).label(label).description(about)


def text_of(dashboard: models.Dashboard) -> str:
    """Return the JSON that Grafana reads."""
    return json.dumps(dashboard, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
