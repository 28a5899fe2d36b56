"""Skips are never silent: all are listed at the end, and in CI an unexpected one fails the run.

tests/known_skips.txt holds the reasons that are allowed, one shell pattern per line.

Under ``-n N`` (pytest-xdist) tests run in several processes: see tests/side_by_side_support.py.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.kafka_support import (  # noqa: F401
    _kafka_folder,
    _killable_kafka,
    fresh_kafka,
    kafka,
    own_kafka,
)
from tests.side_by_side_support import CALM, CALM_FIRST, Turns, place_of, scheduler

KNOWN_SKIPS = Path(__file__).parent / "known_skips.txt"

hypothesis_settings.register_profile(
    "any machine",
    # With CI=true this is Hypothesis's own for CI, which draws the same examples each time.
    parent=hypothesis_settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("any machine")
"""Limits without a deadline: a slow machine is no fault of what is tested."""

_skips: Counter[str] = Counter()
_skipped_files: dict[str, str] = {}
"""Reasons by file, which under ``-n N`` every process comes upon."""
_turns = pytest.StashKey[Turns]()
_folder = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def known_reasons(text: str) -> list[str]:
    """Return the patterns of a list of known skips; ``#`` starts a comment line."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def unexpected(reasons: Counter[str], known: list[str]) -> list[str]:
    """Return the reasons that no pattern allows, sorted."""
    return sorted(
        reason for reason in reasons if not any(fnmatchcase(reason, pattern) for pattern in known)
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts with ``&`` ignore SIGINT, and so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", f"{CALM}: runs while no other test does")
    config.addinivalue_line("markers", "slow: runs in `make test-all` alone")
    cache = getattr(config, "cache", None)
    if sys.dont_write_bytecode and cache is not None:
        # Hundreds of processes start in these tests: compiling anew is a third of each start.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))
    given = getattr(config, "workerinput", {})
    if "turns" in given:
        config.stash[_turns] = Turns(Path(given["turns"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each process of ``-n N`` the folder that all of them share."""
    folder = node.config.stash.setdefault(_folder, tempfile.TemporaryDirectory("-footfall-turns"))
    node.workerinput["turns"] = folder.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(CALM_FIRST):
            item.add_marker(CALM)
    if _turns in config.stash:
        items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    turns = item.config.stash.get(_turns, None)
    if turns is None:
        return (yield)
    next_calm = nextitem is not None and nextitem.get_closest_marker(CALM) is not None
    with turns.turn(alone=item.get_closest_marker(CALM) is not None, next_alone=next_calm):
        return (yield)


def pytest_collection_finish() -> None:
    """Load all of the project where examples are to be the same each time.

    Hypothesis draws among others from the constants of the modules that are loaded, and those
    must not depend on which tests ran before in the same process.
    """
    if not hypothesis_settings.default.derandomize:
        return
    project = tomllib.loads((KNOWN_SKIPS.parent.parent / "pyproject.toml").read_text())
    for package in map(import_module, project["tool"]["mypy"]["packages"]):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                # Some need what only an extra brings.
                with suppress(ImportError):
                    import_module(module.name)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").strip()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skips[_reason(report)] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped_files[report.nodeid] = _reason(report)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _skipped_files.update(getattr(node, "workeroutput", {}).get("skipped_files", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["skipped_files"] = _skipped_files
    elif os.environ.get("CI") == "true" and _unexpected() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, object, object]:
    result = yield
    _list_skips(terminalreporter)
    return result


def _list_skips(terminalreporter: pytest.TerminalReporter) -> None:
    skips = _all_skips()
    if not skips:
        terminalreporter.write_line("no skips")
        return
    terminalreporter.section("skips")
    for reason, count in sorted(skips.items()):
        terminalreporter.write_line(f"{count} x {reason}")
    if os.environ.get("CI") == "true":
        for reason in _unexpected():
            terminalreporter.write_line(
                f"not in {KNOWN_SKIPS.name}, so this run fails: {reason}", red=True
            )


def _all_skips() -> Counter[str]:
    return _skips + Counter(_skipped_files.values())


def _unexpected() -> list[str]:
    return unexpected(_all_skips(), known_reasons(KNOWN_SKIPS.read_text()))
