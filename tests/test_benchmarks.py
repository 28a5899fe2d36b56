"""The benchmark command: the variants agree, and a disagreement is loud."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import kafka
from benchmarks.inputs import Input, make_input
from benchmarks.kafka import FILES, Case, Found, check_answers
from benchmarks.kafka_job import BYTEWAX, FRAME, PLAIN, TABLES
from benchmarks.kafka_report import section
from benchmarks.kafka_servers import why_not
from benchmarks.measure import BenchmarkError, Figure, Run, check_same, figure_of, run_children
from benchmarks.report import chart, speed, table
from tests.kafka_support import tools

ROOT = Path(__file__).parent.parent


def test_a_small_run_measures_every_variant_of_a_flow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--events", "5000", "--runs", "1", "--no-kafka"],
        cwd=ROOT,
        env={**os.environ, "FOOTFALL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for flow in ("store_metrics", "minute_buckets", "user_profiles"):
        rows = [line for line in done.stdout.splitlines() if line.startswith(f"| `{flow}` | ")]
        assert len(rows) == 5, done.stdout
    assert "without Kafka: --no-kafka was given" in done.stderr
    assert "Not measured in this run: --no-kafka was given." in done.stdout


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
    """Of the flow over topic files, by another way than that of the runs over Kafka."""
    prices = [
        json.loads(line)["product_info"]["price"]
        for path in topic.files
        for line in path.read_bytes().splitlines()
    ]
    return {"events": len(prices), "sum_price": sum(prices)}


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
