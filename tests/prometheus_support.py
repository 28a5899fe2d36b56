"""Shared by tests of alerts: the programs, the rules, and the names that queries use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "infra" / "prometheus"
ALERTMANAGER = ROOT / "infra" / "alertmanager" / "alertmanager.yml"
RUNBOOKS = ROOT / "docs" / "runbooks"
WITHIN_S = 300.0

_PACKAGES = {"amtool": "prometheus-alertmanager"}
_TOKEN = re.compile(r"[a-zA-Z_:][\w:]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")


def program(name: str) -> str:
    """The path of promtool and the like; a test fails where there is none."""
    found = shutil.which(name)
    if found is None:
        package = _PACKAGES.get(name, "prometheus")
        pytest.fail(f"{name} is missing, and alerts cannot be tested: apt-get install {package}")
    return found


def run(name: str, *arguments: str | Path) -> str:
    """Return the output of a program; a test fails with it where it finds a fault."""
    done = subprocess.run(
        [program(name), *map(str, arguments)],
        capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    """Every rule, of alerts and of sums."""
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    """The rules of alerts, by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def records() -> dict[str, str]:
    """Return the expression of each recorded series, by its name."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@dataclass(frozen=True)
class Query:
    """PromQL, and where it is."""

    where: str
    expr: str

    @property
    def names(self) -> set[str]:
        """The metrics of ours that it asks for."""
        bare = re.sub(r"\{[^{}]*\}", "", _STRING.sub("", self.expr))
        return {token for token in _TOKEN.findall(bare) if "footfall_" in token}

    @property
    def matched(self) -> Iterator[tuple[str, str]]:
        """(metric, label) of each selector."""
        for name, matchers in _SELECTOR.findall(self.expr):
            for label in _MATCHER.findall(matchers):
                yield name, label

    @property
    def grouped(self) -> set[str]:
        """The labels by which series are summed or matched."""
        lists = _GROUPING.findall(_STRING.sub("", self.expr))
        return {label for one in lists for label in re.findall(r"\w+", one)}


def queries_of_rules() -> list[Query]:
    """Return the queries of every rule."""
    return [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def queries_of_dashboards() -> list[Query]:
    """Return the queries of every dashboard, with the values of its variables."""
    return [
        Query(path.name, expr)
        for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
        for expr in _exprs(json.loads(path.read_text()))
    ]


def titles_of_panels() -> dict[str, set[str]]:
    """The titles of the panels of each dashboard, by its own title."""
    found = {}
    for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        found[board["title"]] = {
            panel["title"]
            for outer in board["panels"]
            for panel in [outer, *outer.get("panels", [])]
            if panel["type"] != "row"
        }
    return found


def queries_of_runbooks() -> list[Query]:
    """Each line of code of a page that names a metric of ours."""
    return [
        Query(path.name, code)
        for path in sorted(RUNBOOKS.glob("*.md"))
        for code in re.findall(r"`([^`\n]*footfall_[^`\n]*)`", path.read_text())
    ]


def _exprs(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "expr" and isinstance(value, str):
                yield value
            else:
                yield from _exprs(value)
    elif isinstance(node, list):
        for one in node:
            yield from _exprs(one)


_DURATION = re.compile(r"(?<=for: )\d+[smh]\b|(?<=\[)\d+[smh](?=\])|(?<=offset )\d+[smh]\b")
_SECONDS = {"s": 1, "m": 60, "h": 3_600}
SCRAPE_EVERY_S = 2


def faster_config(folder: Path, factor: float, limits: Mapping[str, str] | None = None) -> None:
    """Copy ``infra``'s configuration with all durations of rules shorter by the factor.

    ``limits``: parts of rules, and what is in their place.
    """

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[0][:-1]) * _SECONDS[found[0][-1]]
        return f"{max(3 * SCRAPE_EVERY_S, round(seconds / factor))}s"

    (folder / "prometheus" / "rules").mkdir(parents=True)
    (folder / "alertmanager").mkdir()
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = _DURATION.sub(shorter, path.read_text())
        for limit, other in (limits or {}).items():
            assert path.stem != "alerts" or limit in text, limit
            text = text.replace(limit, other)
        (folder / "prometheus" / "rules" / path.name).write_text(text)
    config = re.sub(
        r"(scrape_interval|scrape_timeout|evaluation_interval|refresh_interval): \d+s",
        rf"\1: {SCRAPE_EVERY_S}s",
        (PROMETHEUS / "prometheus.yml").read_text(),
    )
    (folder / "prometheus" / "prometheus.yml").write_text(config)
    routes = re.sub(r"(group_wait|group_interval): \d+\w", r"\1: 2s", ALERTMANAGER.read_text())
    (folder / "alertmanager" / "alertmanager.yml").write_text(routes)
