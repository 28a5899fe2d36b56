"""The benchmark command: the variants agree, and a disagreement is loud."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.measure import BenchmarkError, Figure, Run, check_same, figure_of
from benchmarks.report import chart, table

ROOT = Path(__file__).parent.parent


def test_a_small_run_measures_every_variant_of_a_flow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--events", "5000", "--runs", "1"],
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


def test_variants_that_disagree_are_an_error() -> None:
    with pytest.raises(BenchmarkError, match="plain_loop answers"):
        check_same("f", {"footfall": {"events": 2}, "plain_loop": {"events": 1}})


def test_start_up_is_subtracted_and_medians_are_taken() -> None:
    def run(cpu_s: float) -> Run:
        return Run(cpu_s, cpu_s * 2, 100.0, {})

    runs, empty = [run(3.0), run(9.0), run(2.0)], [run(1.0), run(1.0), run(0.5)]
    found = figure_of("footfall", 1_000_000, runs, empty)
    assert found == Figure("footfall", 1_000_000, 2.0, 250_000.0, 100.0)


def test_the_chart_is_a_picture_and_the_table_has_ratios() -> None:
    figures = {
        "store_metrics": [
            Figure("footfall", 1_000, 0.5, 2_000_000.0, 100.0),
            Figure("per_event", 1_000, 6.0, 100_000.0, 200.0),
        ]
    }
    ElementTree.fromstring(chart(figures))
    assert "| 6.00 | 12.00 |" in table(figures)
