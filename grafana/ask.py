"""Sends the queries of a dashboard's panels as Grafana does: it fills in variables and macros.

It is for the test that runs every query, and for the pictures; Grafana itself does not need it.
"""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

Frame = dict[str, Any]
"""``{"refId", "fields": [{"name", "type", "labels", "values"}]}``"""
Panel = Mapping[str, Any]
ALL = "$__all"
_ANSWER_S_MAX = 60
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class QueryError(Exception):
    """A query that was refused, with the reason and the query as it was sent."""


@dataclass(frozen=True)
class Range:
    """The time range of a dashboard, and the distance between points."""

    from_s: int
    to_s: int
    step_s: int = 60
    scrape_s: int = 15


@dataclass(frozen=True)
class Sources:
    """The addresses of the two data sources."""

    prometheus: str
    clickhouse: str
    """The URL with user, password and, unless it is the user's default, the database."""

    def promql(self, path: str, **parameters: str | float) -> Any:
        """Return the ``data`` of Prometheus's answer. Raises QueryError."""
        url = f"{self.prometheus}/api/v1/{path}?{urlencode(parameters)}"
        return json.loads(_answer(urllib.request.Request(url), str(parameters)))["data"]

    def sql(self, sql: str) -> Any:
        """Return ClickHouse's answer: ``meta`` and ``data``. Raises QueryError."""
        parts = urlsplit(self.clickhouse)
        settings = {
            "default_format": "JSONCompact",
            "output_format_json_quote_64bit_integers": "0",
        }
        if parts.path.strip("/"):
            settings["database"] = unquote(parts.path.strip("/"))
        request = urllib.request.Request(
            f"{parts.scheme}://{parts.hostname}:{parts.port}/?{urlencode(settings)}", sql.encode()
        )
        user = f"{unquote(parts.username or 'default')}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {b64encode(user.encode()).decode()}")
        return json.loads(_answer(request, sql))


def _answer(request: urllib.request.Request, query: str) -> bytes:
    try:
        with _direct.open(request, timeout=_ANSWER_S_MAX) as reply:
            body: bytes = reply.read()
            return body
    except urllib.error.HTTPError as error:
        raise QueryError(f"{error.read().decode()[:1000]}\n{query}") from error


@dataclass
class Asker:
    """One view of a dashboard. ``chosen`` holds the values of variables that a reader chose."""

    sources: Sources
    range: Range
    chosen: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)
    """Values of each variable once it was asked: one, or all that "All" means."""

    def choose(self, dashboard: Mapping[str, Any]) -> None:
        """Ask for the values of the variables, in order: some depend on those before them."""
        for variable in dashboard["templating"]["list"]:
            name = variable["name"]
            if name in self.chosen:
                self.values[name] = [self.chosen[name]]
            elif variable["type"] == "query":
                found = self._variable(variable)
                self.values[name] = found if variable.get("includeAll") else found[:1]
            else:
                self.values[name] = [str(variable.get("query", ""))]

    def _variable(self, variable: Mapping[str, Any]) -> list[str]:
        if variable["datasource"]["type"] != "prometheus":
            rows = self.sources.sql(self.expand(variable["query"]))["data"]
            return [str(value) for (value,) in rows]
        asked = re.fullmatch(r"label_values\((.*), *(\w+)\)", variable["query"]["query"])
        assert asked, variable
        found = self.sources.promql(
            f"label/{asked[2]}/values", **{"match[]": self.promql_of(asked[1])}
        )
        return sorted(map(str, found))

    def ask(self, panel: Panel) -> Iterator[tuple[Mapping[str, Any], list[Frame]]]:
        """Yield (target, its frames) of a panel. Raises QueryError."""
        for target in panel["targets"]:
            is_sql = "rawSql" in target
            yield target, list((self._sql if is_sql else self._prometheus)(target, panel))

    def expand(self, sql: str, step_s: int | None = None) -> str:
        """Return the SQL that the plugin sends: its macros, and the variables."""
        step = step_s or self.range.step_s
        from_s, to_s = f"toDateTime({self.range.from_s})", f"toDateTime({self.range.to_s})"
        macros: dict[str, Callable[[re.Match[str]], str]] = {
            # Where all values are chosen the condition is always true.
            r"\$__conditionalAll\((.+?\)), *\$(\w+)\)": lambda m: (
                m[1] if m[2] in self.chosen else "1=1"
            ),
            r"\$__timeFilter\(([^()]+)\)": lambda m: f"{m[1]} >= {from_s} AND {m[1]} <= {to_s}",
            r"\$__timeInterval\(([^()]+)\)": lambda m: (
                f"toStartOfInterval(toDateTime({m[1]}), INTERVAL {step} second)"
            ),
            r"\$__fromTime\b": lambda _: from_s,
            r"\$__toTime\b": lambda _: to_s,
            r"\$__interval_s\b": lambda _: str(step),
            r"\$\{(\w+):sqlstring\}": lambda m: _quoted([self.values[m[1]][0]]),
            r"\$(?!__)(\w+)": lambda m: _quoted(self.values[m[1]]),
        }
        for pattern, filled in macros.items():
            sql = re.sub(pattern, filled, sql)
        assert "$" not in sql, sql
        return sql

    def promql_of(self, expr: str) -> str:
        """Return the expression that Grafana sends."""
        every = self.range
        # As Grafana computes it: four scrapes, or the distance of points and one scrape.
        rate_s = max(4 * every.scrape_s, every.step_s + every.scrape_s)
        expr = expr.replace("$__rate_interval", f"{rate_s}s")
        expr = expr.replace("$__range", f"{every.to_s - every.from_s}s")
        expr = re.sub(r"\$(\w+)", lambda m: "|".join(map(re.escape, self.values[m[1]])), expr)
        assert "$" not in expr, expr
        return expr.replace("\\", "\\\\")

    def _sql(self, target: Mapping[str, Any], panel: Panel) -> Iterator[Frame]:
        least_s = int(str(panel.get("interval") or "0m").removesuffix("m")) * 60
        reply = self.sources.sql(self.expand(target["rawSql"], max(least_s, self.range.step_s)))
        columns = list(zip(*reply["data"], strict=True)) or [()] * len(reply["meta"])
        fields = [
            _field(one["name"], one["type"], list(values))
            for one, values in zip(reply["meta"], columns, strict=True)
        ]
        yield from (
            _by_labels(target["refId"], fields)
            if target["format"] == 0
            else [{"refId": target["refId"], "fields": fields}]
        )

    def _prometheus(self, target: Mapping[str, Any], _: Panel) -> Iterator[Frame]:
        expr, ref_id = self.promql_of(target["expr"]), target["refId"]
        if target.get("instant"):
            found = self.sources.promql("query", query=expr, time=self.range.to_s)["result"]
            yield from _table(ref_id, found, len(found))
            return
        found = self.sources.promql(
            "query_range", query=expr, start=self.range.from_s, end=self.range.to_s,
            step=self.range.step_s,
        )["result"]  # fmt: skip
        for series in found:
            labels = series["metric"]
            name = _named(target["legendFormat"], labels)
            times, values = zip(*series["values"], strict=True)
            yield {
                "refId": ref_id,
                "fields": [
                    {"name": "Time", "type": "time", "values": [at * 1000 for at in times]},
                    {
                        "name": "Value", "type": "number", "labels": labels,
                        "values": list(map(_number, values)),
                        "config": {"displayNameFromDS": name} if name else {},
                    },
                ],
            }  # fmt: skip


def _named(legend: str, labels: Mapping[str, Any]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda m: str(labels.get(m[1], "")), legend).strip()


def _quoted(values: list[str]) -> str:
    doubled = (value.replace("'", "''") for value in values)
    return ", ".join(f"'{value}'" for value in doubled)


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _field(name: str, kind: str, values: list[Any]) -> dict[str, Any]:
    if "DateTime" in kind:
        return {"name": name, "type": "time", "values": list(map(_moment_ms, values))}
    if re.search(r"Int|Float|Decimal", kind) and "Array" not in kind:
        return {"name": name, "type": "number", "values": values}
    return {"name": name, "type": "string", "values": [str(value) for value in values]}


def _moment_ms(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000


def _by_labels(ref_id: str, fields: list[dict[str, Any]]) -> Iterator[Frame]:
    """Split rows into one frame per value of their text columns, as the plugin does."""
    texts = [one for one in fields if one["type"] == "string"]
    times = next(one for one in fields if one["type"] == "time")
    numbers = [one for one in fields if one["type"] == "number"]
    keys = list(zip(*(one["values"] for one in texts), strict=True)) or [()] * len(times["values"])
    for key in sorted(set(keys)):
        places = [place for place, one in enumerate(keys) if one == key]
        labels = dict(zip((one["name"] for one in texts), key, strict=True))
        yield {
            "refId": ref_id,
            "fields": [
                {**one, "labels": labels, "values": [one["values"][place] for place in places]}
                for one in (times, *numbers)
            ],
        }


def _table(ref_id: str, found: list[Any], rows: int) -> Iterator[Frame]:
    if not rows:
        return
    labels = sorted({name for series in found for name in series["metric"]})
    yield {
        "refId": ref_id,
        "fields": [
            {"name": "Time", "type": "time", "values": [found[0]["value"][0] * 1000] * rows},
            *(
                {
                    "name": name, "type": "string",
                    "values": [series["metric"].get(name, "") for series in found],
                }
                for name in labels
            ),
            {
                "name": f"Value #{ref_id}", "type": "number",
                "values": [_number(series["value"][1]) for series in found],
            },
        ],
    }  # fmt: skip


def panels_of(dashboard: Mapping[str, Any]) -> Iterator[Panel]:
    """Yield the panels of a dashboard that ask something."""
    yield from (panel for panel in dashboard["panels"] if panel.get("targets"))
