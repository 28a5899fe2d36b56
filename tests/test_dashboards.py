"""The dashboards: files that do not drift, and panels that say what they show."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("grafana_foundation_sdk")

from footfall.grafana.__main__ import FOLDER, files
from footfall.grafana.ask import panels_of
from footfall.grafana.queries import CLICKHOUSE, PROMETHEUS

ROOT = FOLDER.parent.parent
PROVISIONING = ROOT / "grafana" / "provisioning"
NAMES = sorted(path.stem for path in files())


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def panels() -> list[Any]:
    """Return every panel, of every dashboard."""
    return [
        pytest.param(panel, id=f"{name}-{panel['title']}")
        for name in NAMES
        for panel in panels_of(dashboard(name))
    ]


def test_the_files_are_what_the_code_builds() -> None:
    written = {path: path.read_text() for path in FOLDER.glob("*.json")}
    assert written == files(), "python -m footfall.grafana"


@pytest.mark.parametrize("panel", panels())
def test_each_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert defaults["thresholds"]["steps"]
    # A column of a table has its own unit.
    assert panel["type"] == "table" or defaults["unit"]
    sources = {target["datasource"]["uid"] for target in panel["targets"]}
    assert sources == {panel["datasource"]["uid"]}, "Grafana would not merge two sources"


@pytest.mark.parametrize("name", NAMES)
def test_panels_fill_the_width_and_have_numbers_of_their_own(name: str) -> None:
    found = list(panels_of(dashboard(name)))
    assert [panel["id"] for panel in found] == list(range(1, len(found) + 1))
    lines: dict[int, int] = {}
    for panel in found:
        lines[panel["gridPos"]["y"]] = lines.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
    assert set(lines.values()) == {24}, lines


def test_links_lead_to_dashboards_that_there_are_and_give_variables_that_they_have() -> None:
    boards = {one["uid"]: one for one in map(dashboard, NAMES)}
    assert len(boards) == len(NAMES)
    links = set()
    for name in NAMES:
        links |= set(re.findall(r'"url": "(/d/[^"]+)"', (FOLDER / f"{name}.json").read_text()))
    assert len(links) >= 5
    for link in links:
        uid, _, query = link.removeprefix("/d/").partition("?")
        variables = {variable["name"] for variable in boards[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= variables, link


def test_a_failed_request_leads_to_its_trace() -> None:
    found = {panel["title"]: panel for panel in panels_of(dashboard("requests"))}
    failed = found["Failed and incomplete requests"]["fieldConfig"]["overrides"]
    (links,) = [
        value["value"]
        for override in failed
        if override["matcher"]["options"] == "request"
        for value in override["properties"]
        if value["id"] == "links"
    ]
    assert "var-request=${__value.raw}" in links[0]["url"]
    assert "${request:sqlstring}" in found["Steps of a request"]["targets"][0]["rawSql"]


def test_rates_are_over_a_range_that_fits_the_scrapes() -> None:
    for parameter in panels():
        for target in parameter.values[0]["targets"]:
            ranges = re.findall(r"(?:rate|increase|deriv)\(.*?\[(.*?)\]", target.get("expr", ""))
            assert set(ranges) <= {"$__rate_interval", "1h"}, target


def test_panels_lead_to_runbooks_that_there_are() -> None:
    links = {
        link["url"] for parameter in panels() for link in parameter.values[0].get("links", [])
    }
    named = {link.removeprefix("${runbooks}/") for link in links} - {""}
    assert len(named) > 15
    assert all(re.fullmatch(r"([A-Z][a-z]+)+\.md", name) for name in named)
    if (ROOT / "docs" / "runbooks").is_dir():
        assert named <= {path.name for path in (ROOT / "docs" / "runbooks").glob("*.md")}


def test_provisioned_sources_are_those_that_the_dashboards_name() -> None:
    text = (PROVISIONING / "datasources" / "footfall.yml").read_text()
    for source in (PROMETHEUS, CLICKHOUSE):
        assert f"uid: {source.uid}\n    type: {source.type_val}\n" in text
    assert "folder: Footfall" in (PROVISIONING / "dashboards" / "footfall.yml").read_text()


def test_each_dashboard_has_a_picture_and_together_they_are_small() -> None:
    pictures = {path.stem: path for path in (ROOT / "docs" / "dashboards").glob("*.webp")}
    assert sorted(pictures) == sorted([*NAMES, "overview"])
    assert sum(path.stat().st_size for path in pictures.values()) < 1_000_000
    assert "docs/dashboards/overview.webp" in (ROOT / "README.md").read_text()
