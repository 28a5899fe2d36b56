"""Rules, alerts and their pages: well formed, tried one by one, and of metrics that there are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from footfall.cli.main import build_parser
from footfall.grafana.scraped import answers
from footfall.grafana.scraped import running as process_running
from footfall.infra.programs import alertmanager_command, programs
from footfall.schemas import metrics
from tests.cli_support import free_port, running
from tests.metrics_support import get, names_and_labels, targets
from tests.prometheus_support import (
    ALERTMANAGER,
    PROMETHEUS,
    RUNBOOKS,
    Query,
    alerts,
    program,
    queries_of_dashboards,
    queries_of_rules,
    queries_of_runbooks,
    records,
    run,
    titles_of_panels,
)
from tests.runner_support import fill, read_count, wait_until, worker

CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
OF_PROMETHEUS = {"instance", "job", "le", "alertname", "alertstate", "severity", "about"}
"""Labels that series get when they are scraped, or from rules."""


def test_the_configuration_and_the_rules_are_right() -> None:
    run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    run("promtool", "check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    assert "9 inhibit rules" in run("amtool", "check-config", ALERTMANAGER)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_case_of_every_alert(path: Path) -> None:
    run("promtool", "test", "rules", path)


def test_each_alert_has_cases_in_which_it_is_silent_fires_and_resolves() -> None:
    seen: dict[str, list[bool]] = {}
    for path in CASES:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                seen.setdefault(case["alertname"], []).append(bool(case.get("exp_alerts")))
    for name in alerts():
        cases = seen.get(name, [])
        assert True in cases, f"{name} never fires in a case"
        at = cases.index(True)
        assert False in cases[:at], f"{name} is never silent in a case"
        assert False in cases[at:], f"{name} never resolves in a case"
    assert seen.keys() == alerts().keys()


@pytest.mark.parametrize("name", alerts())
def test_each_alert_tells_what_is_wrong_and_has_a_page(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["labels"].keys() == {"severity", "about"}
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook"}
    assert annotations["runbook"] == f"docs/runbooks/{name}.md"
    # Nothing has a value where there is nothing.
    assert "$value" in annotations["description"] or "absent(" in alert["expr"]
    page = (RUNBOOKS / f"{name}.md").read_text()
    heads = re.findall(r"^#+ .*$", page, re.MULTILINE)
    assert heads == [
        f"# {name}", "## What it means", "## Where to look", "## What to do",
        "## How to know that it worked", "## What was seen",
    ]  # fmt: skip


def test_each_page_has_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == alerts().keys()
    listed = re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert sorted(listed) == sorted(alerts())


PANELS = re.compile(r"Dashboard \*([^*]+)\*: panels? (\*[^*]+\*(?:(?:, | and )\*[^*]+\*)*)")
"""The form in which a page names panels."""


@pytest.mark.parametrize("name", alerts())
def test_each_page_names_panels_that_are_on_their_dashboards(name: str) -> None:
    text = re.sub("`[^`]*`", "", (RUNBOOKS / f"{name}.md").read_text())
    page = " ".join(text.split())
    named = PANELS.findall(page)
    assert named, "a page says where to look"
    rest = PANELS.sub("", page)
    assert not re.search(r"(?i)dashboard|panel|\*", rest), "named in another form"
    titles = titles_of_panels()
    for board, panels in named:
        assert set(re.findall(r"\*([^*]+)\*", panels)) <= titles[board]


FILLED_IN = {
    "TOPIC/P:OFFSET": "user_tags/0:1", "TOPIC": "user_tags", "FLOW": "minute_buckets",
    "I/N": "0/2", "N": "2", "T": "2022-03-22",
}  # fmt: skip
"""Values for the names that a page leaves to its reader."""


def test_commands_of_pages_are_those_of_the_command_line() -> None:
    pages = "\n".join(path.read_text() for path in RUNBOOKS.glob("*.md"))
    commands = re.findall(r"`footfall ([^`]+)`", pages)
    assert len(commands) > 30
    for command in commands:
        words = [FILLED_IN.get(word, word) for word in shlex.split(command)]
        assert build_parser().parse_args(words).command == words[0], command


def test_what_an_alert_inhibits_is_an_alert() -> None:
    config = yaml.safe_load(ALERTMANAGER.read_text())
    for rule in config["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, pattern = re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups()  # type: ignore[union-attr]
            known = [alert["labels"].get(label, name) for name, alert in alerts().items()]
            for one in pattern.split("|"):
                assert any(re.fullmatch(one, value) for value in known), matcher


OF_SOURCE = {"flow": "f", "topic": "t", "server": "s"}


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of alerts of a real one."""
    program("amtool")
    found, folder = programs(), tmp_path_factory.mktemp("alertmanager")
    assert found
    shutil.copy(ALERTMANAGER, folder)
    address = f"127.0.0.1:{free_port()}"
    command = alertmanager_command(found.alertmanager, folder, address)
    with process_running(command, folder / "log"):
        wait_until(lambda: answers(f"http://{address}/-/ready"), "Alertmanager is ready")
        yield f"http://{address}/api/v2/alerts"


def send(address: str, sent: list[dict[str, str]], **more: str) -> None:
    body = json.dumps([{"labels": labels, **more} for labels in sent]).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()


def held_back(address: str) -> list[tuple[str, dict[str, str]]]:
    """The alerts that are there and are not sent: name and what of OF_SOURCE each has."""
    with urllib.request.urlopen(address, timeout=30) as reply:
        there = json.load(reply)
    return [
        (one["labels"]["alertname"], {name: one["labels"][name] for name in OF_SOURCE})
        for one in there
        if one["status"]["inhibitedBy"]
    ]


@pytest.mark.parametrize(
    ("source", "target", "elsewhere"),
    [
        ("RecordsLost", "RetentionClose", {"topic": "u"}),
        ("RecordsLost", "RetentionClose", {"flow": "g"}),
        ("ServerNotAnswering", "SinkFailing", {"server": "another"}),
        ("ServerNotAnswering", "RestartLoop", None),
        ("SinkFailing", "RestartLoop", {"flow": "g"}),
        ("RestartLoop", "FlowWithoutWorker", {"flow": "g"}),
        ("FlowWithoutWorker", "FlowBehind", {"flow": "g"}),
        ("FlowWorkersMissing", "RowsStale", {"flow": "g"}),
        ("FlowBehind", "FlowLagGrowing", {"flow": "g"}),
        ("ObserverBlind", "RecordsLost", None),
        ("ObserverGone", "ObserverBlind", None),
    ],
)
def test_an_alert_holds_back_what_follows_from_it(
    alertmanager: str, source: str, target: str, elsewhere: dict[str, str] | None
) -> None:
    def labels(name: str, **more: str) -> dict[str, str]:
        return {"alertname": name, **alerts()[name]["labels"], **OF_SOURCE, **more}

    sent = [labels(source), labels(target)]
    sent += [labels(target, **elsewhere)] if elsewhere else []
    send(alertmanager, sent)
    wait_until(lambda: held_back(alertmanager) == [(target, OF_SOURCE)], "held back, alone")
    send(alertmanager, sent, endsAt="2020-01-01T00:00:00Z")
    wait_until(lambda: held_back(alertmanager) == [], "over")


Exposed = dict[str, frozenset[str]]
"""The labels of each metric, by the names under which Prometheus has it."""


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    """Return the metrics of a worker, an observer and an api that run."""
    home = tmp_path_factory.mktemp("exposed")
    fill(home, 0, 5_000)
    found: Exposed = {}
    with (
        worker(home),
        running(home, "observe"),
        running(home, "api", "--port", str(free_port())) as api,
    ):
        wait_until(lambda: {"minute_buckets.0", "observe", "api"} == {*targets(home)}, "served")
        api.wait_for_text("listening on")
        address = targets(home)["api"]
        assert get(address, "/live.json")[0]
        wait_until(lambda: read_count(home) > 4_900, "the worker has read all")
        for one in targets(home).values():
            text = get(one, "/metrics")[1]
            for name, (kind, labels) in names_and_labels(text).items():
                found |= dict.fromkeys(_names(name, kind), labels)
    return found


def _names(name: str, kind: str) -> list[str]:
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [""])
    return [name + end for end in ends]


ALL = (*metrics.WORKER, *metrics.OBSERVER, *metrics.STORES, *metrics.SHOP, *metrics.API)
LISTED = {name: frozenset(one.labels) for one in ALL for name in _names(one.name, one.kind)}
"""Labels of series that these processes do not have: of errors, say; other tests hold them."""


def faults(query: Query, exposed: Exposed) -> Iterator[str]:
    """Yield what a query asks for that does not exist."""
    sums = records()
    for name in query.names - sums.keys() - exposed.keys():
        yield f"{query.where}: no process exposes {name}"
    labels: set[str] = set()
    for name in query.names:
        labels |= _labels_of(name, exposed)
    for name, label in query.matched:
        if label not in _labels_of(name, exposed) | OF_PROMETHEUS:
            yield f"{query.where}: {name} has no label {label}"
    for label in query.grouped - labels - OF_PROMETHEUS:
        yield f"{query.where}: no metric of it has the label {label}"


def _labels_of(name: str, exposed: Exposed) -> set[str]:
    if name in exposed:
        return {*(exposed[name] or LISTED.get(name, ()))}
    expr = records().get(name)
    of_sum = Query(name, expr).names if expr else ()
    return {label for one in of_sum for label in _labels_of(one, exposed)}


def test_every_name_in_rules_dashboards_and_pages_is_exposed_by_a_process(
    exposed: Exposed,
) -> None:
    of_rules = queries_of_rules()
    assert len(of_rules) == len(alerts()) + len(records())
    queries = [*of_rules, *queries_of_dashboards(), *queries_of_runbooks()]
    assert [fault for query in queries for fault in faults(query, exposed)] == []


def test_what_an_annotation_names_is_a_label_of_its_alert(exposed: Exposed) -> None:
    for name, alert in alerts().items():
        known = {
            label for one in Query(name, alert["expr"]).names for label in _labels_of(one, exposed)
        }
        named = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
        assert named <= known, name


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("rate(footfall_records_red_total[5m])", "no process exposes footfall_records_red_total"),
        ("sum by (shop) (footfall_workers)", "no metric of it has the label shop"),
        ('footfall_workers{topic="t"}', "footfall_workers has no label topic"),
        ("flow:footfall_lag:sum", "no process exposes flow:footfall_lag:sum"),
    ],
)
def test_a_name_that_nothing_exposes_is_found(expr: str, said: str, exposed: Exposed) -> None:
    assert list(faults(Query("here", expr), exposed)) == [f"here: {said}"]
