"""Skips are never silent: all are listed at the end, and in CI an unexpected one fails the run.

tests/known_skips.txt holds the reasons that may stand, one shell pattern a line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.kafka_support import (  # noqa: F401
    _kafka_folder,
    _killable_kafka,
    fresh_kafka,
    kafka,
    own_kafka,
)

KNOWN_SKIPS = Path(__file__).parent / "known_skips.txt"

_skips: Counter[str] = Counter()


def known_reasons(text: str) -> list[str]:
    """The patterns of a list of known skips; ``#`` starts a comment line."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def unexpected(reasons: Counter[str], known: list[str]) -> list[str]:
    """The reasons that no pattern allows, sorted."""
    return sorted(
        reason for reason in reasons if not any(fnmatchcase(reason, pattern) for pattern in known)
    )


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").strip()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skips[_reason(report)] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skips[_reason(report)] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true" and _unexpected() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, object, object]:
    result = yield
    _list_skips(terminalreporter)
    return result


def _list_skips(terminalreporter: pytest.TerminalReporter) -> None:
    if not _skips:
        terminalreporter.write_line("no skips")
        return
    terminalreporter.section("skips")
    for reason, count in sorted(_skips.items()):
        terminalreporter.write_line(f"{count} x {reason}")
    if os.environ.get("CI") == "true":
        for reason in _unexpected():
            terminalreporter.write_line(
                f"not in {KNOWN_SKIPS.name}, so this run fails: {reason}", red=True
            )


def _unexpected() -> list[str]:
    return unexpected(_skips, known_reasons(KNOWN_SKIPS.read_text()))
