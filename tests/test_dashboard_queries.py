"""Every query of every panel runs, and finds something: in the tables that the flows have filled
from a simulated shop, and in a Prometheus that scrapes a worker, the observer and the api."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

pytest.importorskip("grafana_foundation_sdk")

from footfall.cli.init import make_store_tables, make_topics
from footfall.generator.shop_records import Disturbances
from footfall.generator.shop_world import ShopWorld
from footfall.grafana.__main__ import FOLDER
from footfall.grafana.ask import Asker, Frame, QueryError, Range, Sources, panels_of
from footfall.grafana.scraped import answers, prometheus, wait_until
from footfall.schemas.settings import read_settings
from footfall.schemas.status import status_folder
from tests.cli_support import free_port, running
from tests.clickhouse_support import any_server
from tests.prometheus_support import program
from tests.truth_support import WAYS, run_all, settings_of, topics_of

WORLD = ShopWorld(
    seed=5,
    total=9_000,
    disturbances=Disturbances(out_of_order=0.1, late=0.01, malformed=0.01),
    records_per_s=3,
    users=300,
)
MAY_BE_EMPTY = {"requests: Anomalies"}
"""Panels that may be empty: a healthy shop has no anomalies."""
FLOWS = ("store_metrics", "login_alerts", "user_profiles")
"""They need no ClickHouse, and have states of every kind."""
BESIDE = ("api", "generator")
RATE_S = 20
WATCHED = (
    f"sum(up) == {len(FLOWS) + len(BESIDE)}",
    f"sum(rate(footfall_api_requests_total[{RATE_S}s])) > 0",
    f"sum(rate(footfall_topic_end_offset[{RATE_S}s])) > 0",
    f"min(sum by (flow) (rate(footfall_records_read_total[{RATE_S}s]))) > 0",
    f'sum(rate(footfall_write_seconds_count{{flow="store_metrics"}}[{RATE_S}s])) > 0',
    "min(sum by (flow) (footfall_state_bytes)) > 0",
    "min(sum by (flow) (footfall_workers)) > 0",
    'count(footfall_watermark_timestamp_seconds{flow="store_metrics"}) == 10',
)
"""Conditions that hold once the processes and their scrapes work."""


def targets(kind: str) -> list[Any]:
    """Return (dashboard, panel) of every panel that asks Prometheus, or ClickHouse."""
    return [
        pytest.param(dashboard, panel, id=f"{path.stem}-{panel['title']}")
        for path in sorted(FOLDER.glob("*.json"))
        for dashboard in [json.loads(path.read_text())]
        for panel in panels_of(dashboard)
        if panel["datasource"]["type"] == kind
    ]


def has_values(frames: list[Frame]) -> bool:
    """Tell whether a row has a value."""
    return any(
        value is not None
        for frame in frames
        for one in frame["fields"]
        if one["type"] != "time" or len(frame["fields"]) == 1
        for value in one["values"]
    )


def check(asker: Asker, dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    """Assert that each of a panel's queries runs and finds something."""
    asker.choose(dashboard)
    for target, frames in asker.ask(panel):
        name = f"{dashboard['uid'].removeprefix('footfall-')}: {panel['title']}"
        assert has_values(frames) or name in MAY_BE_EMPTY, (name, target)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sources, Range]]:
    pytest.importorskip("chdb", reason="chdb is not installed")
    folder = tmp_path_factory.mktemp("clickhouse")
    with any_server(folder / "engine") as server:
        settings = settings_of(folder / "home", server.url)
        run_all(settings, topics_of(WORLD), WAYS[0], Random(1))
        sources = Sources("", server.url)
        ((newest_s,),) = sources.sql(
            "SELECT toUnixTimestamp(max(minute)) FROM service_health_rows"
        )["data"]
        yield sources, Range(newest_s - 7_200, newest_s + 60)


@pytest.mark.parametrize(("dashboard", "panel"), targets("grafana-clickhouse-datasource"))
def test_each_query_of_the_tables_finds_rows(
    tables: tuple[Sources, Range], dashboard: dict[str, Any], panel: dict[str, Any]
) -> None:
    check(Asker(*tables), dashboard, panel)


def test_what_a_reader_chooses_is_what_is_shown(tables: tuple[Sources, Range]) -> None:
    dashboard = json.loads((FOLDER / "requests.json").read_text())
    panels = {panel["title"]: panel for panel in panels_of(dashboard)}

    def column(title: str, name: str, **chosen: str) -> list[Any]:
        asker = Asker(*tables, chosen)
        asker.choose(dashboard)
        ((_, (frame,)),) = asker.ask(panels[title])
        (found,) = [one["values"] for one in frame["fields"] if one["name"] == name]
        return list(found)

    failed = column("Failed and incomplete requests", "request")
    outcomes = column("Failed and incomplete requests", "outcome")
    assert set(outcomes) <= {"failed", "incomplete"}
    assert set(column("Steps of a request", "request", request=failed[-1])) == {failed[-1]}
    assert len(set(column("Steps of a request", "request"))) == 1, "the newest that failed"
    assert column("Steps of a request", "request", request="it's nobody's \\ '") == []
    assert set(column("Operations", "server", server="Cart")) == {"Cart"}
    assert {"Cart", "Payment"} < set(column("Operations", "server"))


def test_a_query_that_is_refused_is_told_with_its_reason(tables: tuple[Sources, Range]) -> None:
    with pytest.raises(QueryError, match=r"(?s)no_such_column.*SELECT no_such_column"):
        tables[0].sql("SELECT no_such_column FROM minute_buckets")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sources, Range]]:
    program("prometheus")
    folder = tmp_path_factory.mktemp("scraped")
    home, port = folder / "home", free_port()
    settings = read_settings({"FOOTFALL_HOME": str(home)})
    list(make_topics(settings))
    list(make_store_tables(settings))
    sent = ("--rate", "1000", "--malformed", "0.05", "--late", "0.01")
    with ExitStack() as stack:
        address = stack.enter_context(prometheus(folder, home))
        for flow in FLOWS:
            stack.enter_context(running(home, "run", flow))
        wait_until(lambda: len(list(status_folder(home).glob("*"))) >= len(FLOWS), "workers run")
        stack.enter_context(running(home, "api", "--observe", "--port", str(port)))
        stack.enter_context(running(home, "generate", "shop", *sent))
        sources = Sources(address, "")

        def is_watched() -> bool:
            for path in ("healthz", "nowhere", "live.json"):
                answers(f"http://127.0.0.1:{port}/{path}")
            return all(sources.promql("query", query=one)["result"] for one in WATCHED)

        wait_until(is_watched, f"all are scraped: {folder}")
        now_s = int(time.time())
        yield sources, Range(now_s - 30, now_s, 5, RATE_S // 4)


@pytest.mark.parametrize(("dashboard", "panel"), targets("prometheus"))
def test_each_query_of_the_metrics_finds_series(
    scraped: tuple[Sources, Range], dashboard: dict[str, Any], panel: dict[str, Any]
) -> None:
    # It writes rows all the time; an alert is rare.
    check(Asker(*scraped, {"flow": "store_metrics"}), dashboard, panel)


def test_every_flow_topic_and_partition_can_be_chosen(scraped: tuple[Sources, Range]) -> None:
    asker = Asker(*scraped, {"flow": "store_metrics"})
    asker.choose(json.loads((FOLDER / "one_flow.json").read_text()))
    assert asker.values["topic"] == ["store_events"]
    assert asker.values["partition"] == [str(number) for number in range(10)]
    everything = Asker(*scraped)
    everything.choose(json.loads((FOLDER / "one_flow.json").read_text()))
    assert everything.values["flow"][0] in FLOWS
