"""Queries to the two data sources, in the form that panels hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = common.DataSourceRef("prometheus", "footfall-prometheus")
CLICKHOUSE = common.DataSourceRef("grafana-clickhouse-datasource", "footfall-clickhouse")
"""As provisioning/datasources/footfall.yml names them."""


@dataclass(frozen=True, slots=True)
class PromQL:
    """A query of Prometheus: series over the range, or the newest values as a table."""

    expr: str
    legend: str = ""
    is_table: bool = False

    source = PROMETHEUS

    def target(self, ref_id: str) -> builder.Builder[Any]:
        """Return the query as a panel holds it."""
        query = prometheus_builders.Dataquery().expr(self.expr).ref_id(ref_id)
        query = query.datasource(PROMETHEUS).legend_format(self.legend)
        if self.is_table:
            return query.instant().format(PromQueryFormat.TABLE)
        return query.range().format(PromQueryFormat.TIME_SERIES)


@dataclass(frozen=True, slots=True)
class SQL:
    """A query of ClickHouse, with the macros of Grafana's plugin: series by default."""

    sql: str
    is_table: bool = False

    source = CLICKHOUSE

    def target(self, ref_id: str) -> builder.Builder[Any]:
        """Return the query as a panel holds it."""
        return _ClickHouseTarget(ref_id, replace(self, sql=_dedented(self.sql)))


Query = PromQL | SQL


def summed(series: str, by: str = "", how: str = "sum") -> str:
    """Return the PromQL that adds series up by labels (or combines them by another ``how``)."""
    return f"{how} by ({by}) ({series})" if by else f"{how}({series})"


def rate(series: str, by: str = "") -> str:
    """Return the PromQL of counters' rates per second, added up by labels."""
    return summed(f"rate({series}[$__rate_interval])", by)


def quantile(share: float, buckets: str, by: str = "") -> str:
    """Return the PromQL of a quantile of a histogram, by labels."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, {rate(buckets, labels)})"


@dataclass(frozen=True, slots=True)
class _ClickHouseTarget(builder.Builder[Any], variants.Dataquery):
    """A query as ClickHouse's plugin takes it, for which the SDK has no class."""

    ref_id: str
    query: SQL

    def build(self) -> _ClickHouseTarget:
        return self

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": CLICKHOUSE,
            "editorType": "sql",
            "queryType": "table" if self.query.is_table else "timeseries",
            "format": int(self.query.is_table),
            "rawSql": self.query.sql,
        }


def _dedented(sql: str) -> str:
    lines = [line.strip() for line in sql.strip().splitlines()]
    return "\n".join(line for line in lines if line)
