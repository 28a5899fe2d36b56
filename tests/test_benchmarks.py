"""The benchmark command: the variants agree, and a disagreement is loud."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from footfall import flows
from footfall.benchmarks import every_flow, every_report, kafka, kafka_idle
from footfall.benchmarks.__main__ import beside_peers, main
from footfall.benchmarks.compare import TOPIC_OF, compare, parts_of
from footfall.benchmarks.inputs import Input, make_input
from footfall.benchmarks.kafka import FILES, Case, Found, check_answers
from footfall.benchmarks.kafka_job import BYTEWAX, FRAME, PLAIN, TABLES
from footfall.benchmarks.kafka_report import section
from footfall.benchmarks.kafka_servers import Servers, why_not
from footfall.benchmarks.measure import (
    BenchmarkError,
    Figure,
    Run,
    check_read,
    check_same,
    figure_of,
    run_children,
)
from footfall.benchmarks.report import chart, speed, table
from footfall.benchmarks.tables import Tables
from tests.bench_support import in_this_process
from tests.kafka_support import Server, tools

ROOT = Path(__file__).parent.parent


def test_a_small_run_measures_a_flow_in_processes(tmp_path: Path) -> None:
    done = run_benchmarks(
        tmp_path,
        *("--events", "3000", "--runs", "1", "--no-kafka", "--flows", "login_alerts"),
    )
    assert done.returncode == 0, done.stderr
    assert "\n| `login_alerts` | `platform_logs` | " in done.stdout
    assert "login_alerts over platform_logs, run 1 of 1, 3,000 events: to tables" in done.stderr
    assert "without Kafka: --no-kafka was given" in done.stderr
    assert "Not measured in this run: --no-kafka was given." in done.stdout


def run_benchmarks(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "footfall.benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "FOOTFALL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--flows", "store_metrics,best_sellers"], "no such flow: best_sellers"),
        (["--flows", "store_metrics", "--write"], "--write takes every flow"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("flow", TOPIC_OF)
def test_the_variants_of_a_flow_agree(flow: str, tmp_path: Path) -> None:
    made = partial(make_input, tmp_path)
    said: list[str] = []
    figures = compare(flow, made, events=3_000, runs=1, say=said.append, launch=in_this_process)
    parts = parts_of(flow, made, events=3_000, say=said.append, launch=in_this_process)
    text = "\n".join(beside_peers({flow: figures}, {flow: parts}))
    # Its four variants and its parts.
    assert text.count(f"| `{flow}` | ") == 5, text


@pytest.mark.slow
def test_every_flow_is_measured_over_every_topic_that_it_reads(tmp_path: Path) -> None:
    names = list(flows.catalogue())
    found = every_flow.measure(
        names,
        partial(make_input, tmp_path / "inputs"),
        events=3_000,
        runs=1,
        cache=tmp_path / "cache",
        say=lambda _line: None,
        launch=in_this_process,
    )
    wanted = {
        (name, topic) for name, contract in flows.catalogue().items() for topic in contract.topics
    }
    assert set(found) == wanted and len(wanted) > len(names)
    for subject, one in found.items():
        assert set(one.parts) == {"read", "decode", "arithmetic"}
        assert one.parts["decode"] > 0, subject
        peers = tuple(peer.variant for peer in one.peers)
        assert peers == every_flow.PEERS.get(subject, ())
    text = "\n".join(every_report.section(found))
    for name, topic in wanted:
        assert f"\n| `{name}` | `{topic}` | " in text
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_peer_that_answers_otherwise_is_an_error(tmp_path: Path) -> None:
    def one_more(name: str, modules: Sequence[Sequence[str]], folder: Path) -> Run:
        done = in_this_process(name, modules, folder)
        if modules[0][1] == "batch_shop" and done.answer["failures"]:
            done.answer["failures"] += 1
        return done

    with pytest.raises(BenchmarkError, match=r"failed_logins over platform_logs.*batch_shop"):
        every_flow.measure(
            ["failed_logins"],
            partial(make_input, tmp_path / "inputs"),
            events=2_000,
            runs=1,
            cache=tmp_path / "cache",
            say=lambda _line: None,
            launch=one_more,
        )


def test_a_run_that_has_not_read_all_is_an_error(tmp_path: Path) -> None:
    topic = Input(tmp_path, "platform_logs", 10)
    assert check_read("a", Run(1, 1, 1, {"read": 10, "n": 2}), topic).answer == {"n": 2}
    with pytest.raises(BenchmarkError, match="a read 9 of 10 events"):
        check_read("a", Run(1, 1, 1, {"read": 9}), topic)


def test_the_table_says_what_is_left_to_the_engine_and_whether_the_goal_is_met() -> None:
    def found(cpu_s: float) -> every_flow.Found:
        return every_flow.Found(
            Figure("frame", 1_000, cpu_s, 1.0, 1.0),
            Figure("tables", 1_000, cpu_s + 0.5, 200_000.0, 150.0),
            0.25,
            {"read": 0.1, "decode": 0.6, "arithmetic": 0.2},
            [Figure("plain_shop", 1_000, 2 * cpu_s, math.nan, 100.0)],
        )

    of = {
        ("request_trace", "platform_logs"): found(2.4),
        ("user_trace", "platform_logs"): found(1.6),
    }
    text = "\n".join(every_report.section(of))
    row = "| 0.10 | 0.60 | 0.20 | 1.50 | **2.40** | 2.5 | 0.50 | 0.25 | 200,000 | 150 |"
    assert f"| `request_trace` | `platform_logs` {row} ClickHouse |" in text
    assert "| **1.60** | 1.5 missed | 0.50 |" in text
    assert "is missed by `user_trace` over `platform_logs` (1.60 of 1.5)." in text
    assert "| `user_trace` | `platform_logs` | plain Python loop | 3.20 | 2.00 | - | 100 |" in text


def test_records_of_the_shop_are_the_first_of_their_topic(tmp_path: Path) -> None:
    few, more = (make_input(tmp_path, "shop_events", count) for count in (50, 120))
    for one, whole in zip(few.files, more.files, strict=True):
        assert whole.read_bytes().startswith(one.read_bytes())
    assert few.record_bytes > 50 and b'"event"' in b"".join(p.read_bytes() for p in few.files)


def test_variants_that_disagree_are_an_error() -> None:
    with pytest.raises(BenchmarkError, match="plain_loop answers"):
        check_same("f", {"footfall": {"events": 2}, "plain_loop": {"events": 1}})


def test_start_up_is_subtracted_and_medians_are_taken() -> None:
    def run(cpu_s: float) -> Run:
        return Run(cpu_s, cpu_s * 2, 100.0, {})

    runs, empty = [run(3.0), run(9.0), run(2.0)], [run(1.0), run(1.0), run(0.5)]
    found = figure_of("footfall", 1_000_000, runs, empty)
    assert found == Figure("footfall", 1_000_000, 2.0, 250_000.0, 100.0)
    short = figure_of("footfall", 1_000, [run(1.1)], [run(1.0)])
    assert math.isnan(short.events_per_s) and speed(short) == "-" and speed(found) == "250,000"


def test_the_chart_is_a_picture_and_the_table_has_ratios() -> None:
    figures = {
        "store_metrics": [
            Figure("footfall", 1_000, 0.5, 2_000_000.0, 100.0),
            Figure("per_event", 1_000, 6.0, 100_000.0, 200.0),
        ]
    }
    ElementTree.fromstring(chart(figures))
    assert "| 6.00 | 12.00 |" in table(figures)


def file_answer(_flow: str, topic: Input) -> dict[str, int]:
    """Return the flow's answer over topic files, computed in another way than by the runs."""
    prices = [
        json.loads(line)["product_info"]["price"]
        for path in topic.files
        for line in path.read_bytes().splitlines()
    ]
    return {"events": len(prices), "sum_price": sum(prices)}


@pytest.mark.slow
def test_a_flow_is_measured_from_kafka_to_its_sink(tmp_path: Path) -> None:
    tools()
    said: list[str] = []
    found = kafka.measure(
        {"minute_buckets": "user_tags"},
        lambda topic, events: make_input(tmp_path, topic, events),
        file_answer,
        events=3_000,
        runs=1,
        cache=tmp_path / "servers",
        say=said.append,
        layouts=((2, 2),),
        with_faust=True,
    )
    assert found.faust is not None and found.faust.events == 3_000
    assert "`login_alerts` runs on Faust here" in "\n".join(
        section(found, {flow: figures[Case(FRAME, 2, 2)] for flow, figures in found.flows.items()})
    )
    assert set(found.flows["minute_buckets"]) == {
        Case(TABLES, FILES),
        Case(FRAME, 2, 2),
        Case(TABLES, 2, 2),
    }
    assert set(found.topics["user_tags"]) == {Case(PLAIN, 2), Case(BYTEWAX, 2)}
    assert found.kafka_version.startswith("4.")
    assert any("2 partitions of Kafka to 2 x tables" in line for line in said)
    assert list((tmp_path / "servers").iterdir()) == []


def test_a_worker_with_nothing_to_do_is_measured(kafka: Server) -> None:
    servers = Servers(kafka.bootstrap, "", Tables())
    found = kafka_idle.measure(servers, lambda _line: None, partitions=20, settle_s=0, over_s=1)
    assert found.partitions == 20
    assert 5 < found.threads < 100 and 5 < found.descriptors < 100
    assert 50 < found.memory_mb < 500 and found.core_percent > 0


def test_runs_over_kafka_that_disagree_are_an_error() -> None:
    def run(**answer: int) -> Run:
        return Run(1.0, 1.0, 1.0, answer)

    files, one = Case(TABLES, FILES), Case(TABLES, 1)
    good = {files: [run(events=5, kept=3)], one: [run(events=5, kept=3)] * 2}
    check_answers("f", good, {"events": 5})
    with pytest.raises(BenchmarkError, match=r"not {'events': 6"):
        check_answers("f", good, {"events": 6})
    short = {files: [run(events=5, kept=3)], one: [run(events=5, kept=3), run(events=5, kept=2)]}
    with pytest.raises(BenchmarkError, match="1 partitions of Kafka to 1 x tables, run 2 answers"):
        check_answers("f", short, {"events": 5})


def test_the_section_has_ratios_to_topic_files_and_tells_how_it_grows() -> None:
    def figure(cpu_s: float, events_per_s: float) -> Figure:
        return Figure("", 1_000, cpu_s, events_per_s, 100.0)

    figures = {
        Case(TABLES, FILES): figure(3.0, 400.0),
        Case(FRAME, 1): figure(2.0, 300.0),
        Case(TABLES, 1): figure(4.5, 200.0),
        Case(TABLES, 4): figure(5.0, 250.0),
        Case(TABLES, 4, 2): figure(5.5, 500.0),
    }
    found = Found(1_000, "4.0.0", {"store_metrics": figures}, {"store_events": {}})
    text = "\n".join(section(found, {"store_metrics": figure(1.0, 500.0)}))
    assert "| `store_metrics` | topic files | a frame | 1.00 | 1.00 | 500 | 100 |" in text
    assert "| `store_metrics` | Kafka, 1 partition | a frame | 2.00 | 2.00 | 300 | 100 |" in text
    assert "| Kafka, 1 partition | SQLite | 4.50 | 1.50 |" in text
    assert "| Kafka, 4 partitions, 2 processes | SQLite | 5.50 | 1.83 |" in text
    assert "1 / 4 partitions, 4.50 / 5.00 CPU s per million, 200 / 250 events/s" in text
    assert "2 processes on 4: 1.10 times the CPU of one, 2.00 times its events/s" in text


def test_without_java_there_is_a_line_that_says_so(tmp_path: Path) -> None:
    why = why_not({"JAVA_HOME": str(tmp_path), "PATH": ""}, lambda _line: None)
    assert why is not None and "Kafka needs Java" in why and "\n" not in why


def test_processes_of_one_run_are_added_up(tmp_path: Path) -> None:
    def prints(text: str) -> tuple[str, ...]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(text)
        return ("json.tool", "--compact", str(path))

    run = run_children("two", [prints('{"read": 1}'), prints('{"read": 2, "kept": 3}')], tmp_path)
    assert run.answer == {"read": 3, "kept": 3}
    assert run.cpu_s > 0 and run.wall_s > 0 and run.memory_mb > 1
    with pytest.raises(BenchmarkError, match=r"two ended with 1: .*Expecting"):
        run_children("two", [prints("{}"), prints("{")], tmp_path)
