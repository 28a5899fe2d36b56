"""The metrics: their names keep to the rules, and their page is that of the code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from footfall.api.metrics import ApiMetrics
from footfall.generator.counted import CountedWriter
from footfall.generator.sources import Record
from footfall.infra._clickhouse_metrics import ClickHouseMetrics
from footfall.schemas import metrics

ALL = (
    *metrics.WORKER, *metrics.OBSERVER, *metrics.STORES, *metrics.SHOP, *metrics.API,
    *metrics.CLICKHOUSE, *metrics.GENERATOR,
)  # fmt: skip
PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


def test_the_page_is_written_from_the_code() -> None:
    assert PAGE.read_text() == metrics.page(), (
        "python -m footfall.schemas.metrics > docs/metrics.md"
    )


def test_each_name_stands_once_and_is_of_a_group() -> None:
    names = [metric.name for metric in ALL]
    assert len(names) == len(set(names))
    made = {one.name for one in vars(metrics).values() if isinstance(one, metrics.Metric)}
    assert made == set(names)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_keep_to_the_rules_of_prometheus(metric: metrics.Metric) -> None:
    assert metric.name.startswith("footfall_")
    assert not metric.name.endswith("_total"), "the client adds it"
    assert not {"id", "user", "cookie", "product", "offset"} & set(metric.labels)
    if metric.kind == "histogram":
        assert metric.unit == "seconds"
        assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.strip() == metric.help
    assert not metric.help.endswith(".")


def test_the_api_builds_its_metrics_from_the_list() -> None:
    names = {family.name for family in ApiMetrics().registry.collect()}
    assert names == {metric.name for metric in metrics.API}


def test_the_embedded_clickhouse_builds_its_metrics_from_the_list() -> None:
    names = {family.name for family in ClickHouseMetrics().collect()}
    assert names == {metric.name for metric in metrics.CLICKHOUSE}


def test_the_generator_builds_its_metrics_from_the_list_and_counts() -> None:
    class Writer:
        def write(self, topic: str, records: Sequence[Record]) -> None:
            if topic == "full":
                raise OSError("no room")

    counted = CountedWriter(Writer())
    counted.write("user_tags", [(b"k", b"{}")] * 3)
    with pytest.raises(OSError, match="no room"):
        counted.write("full", [(b"k", b"{}")])
    families = {family.name: family.samples for family in counted.collect()}
    assert families.keys() == {metric.name for metric in metrics.GENERATOR}
    found = {
        (one.name, one.labels["topic"]): one.value for all_ in families.values() for one in all_
    }
    assert found == {
        (metrics.GENERATOR_RECORDS.exposed, "user_tags"): 3,
        (metrics.GENERATOR_ERRORS.exposed, "user_tags"): 0,
        (metrics.GENERATOR_ERRORS.exposed, "full"): 1,
    }


def test_a_metric_can_be_filled_when_it_is_scraped() -> None:
    families = [metric.family() for metric in ALL]
    assert [(family.name, family.type) for family in families] == [
        (metric.name, metric.kind) for metric in ALL
    ]
    assert not list(CollectorRegistry().collect())
