"""``footfall doctor``: looks at the installation and names the remedy of what it finds."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from footfall.cli.doctor.findings import Finding, fail, ok
from footfall.cli.errors import line_and_code
from footfall.cli.terminal import has_colour
from footfall.schemas.settings import SettingError, Settings

WITHIN_S = 9.0
"""Limit for all checks, which run side by side; each has shorter waits of its own."""

Check = Callable[[], list[Finding]]
_COLOURS = {"ok": "32", "warn": "33", "fail": "31;1"}


def add_commands(commands: Any) -> None:
    """Add ``doctor`` to the command line."""
    doctor = commands.add_parser(
        "doctor",
        help="looks at the installation, and names the remedy of what is wrong",
        description="Look at the home, topics, flows, databases and profiles that the settings "
        "point to. One line a check; changes nothing. Exit code 1 where a check fails.",
    )
    doctor.add_argument("--json", action="store_true", help="an array of objects")
    doctor.set_defaults(handler=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Look, print the findings, and return 1 where a check fails."""
    findings = examine(os.environ)
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        for line in lines(findings, coloured=has_colour(sys.stdout)):
            print(line)
    return int(any(finding.level == "fail" for finding in findings))


def examine(environ: Mapping[str, str], within_s: float = WITHIN_S) -> list[Finding]:
    """Return all findings for the settings of an environment."""
    from footfall.cli.servers import settings_for_clients

    try:
        settings = settings_for_clients(environ)
    except SettingError as error:
        name = str(error).partition("=")[0]
        return [fail("settings", str(error), f"set {name} to that, or leave it out")]
    found = [ok("settings", _about(settings))]
    _load()
    return found + side_by_side(checks(settings, environ), within_s)


def _load() -> None:
    """Import what the checks need: the time of an import must not count as a server's delay."""
    import footfall.sinks.clickhouse
    import footfall.sinks.sql  # noqa: F401
    from footfall import flows
    from footfall.cli.init import described
    from footfall.schemas.tables.clickhouse import Table

    flows.catalogue()
    described(Table)


def checks(settings: Settings, environ: Mapping[str, str]) -> dict[str, Check]:
    """Return the checks, in the order in which they are told."""
    from footfall.cli.doctor import facts, servers
    from footfall.cli.home import is_set

    named = is_set(environ, "CLICKHOUSE_URL")
    return {
        "home": lambda: facts.look_at_home(settings),
        "topics": lambda: facts.look_at_topics(settings),
        "ClickHouse": lambda: servers.look_at_clickhouse(settings, is_set=named),
        "store": lambda: servers.look_at_store(settings),
        "profiles": lambda: servers.look_at_profiles(settings),
    }


def side_by_side(to_run: Mapping[str, Check], within_s: float) -> list[Finding]:
    """Return the findings of all checks, in order; one that raises or takes too long fails."""
    results: dict[str, list[Finding]] = {}

    def run(name: str, check: Check) -> None:
        try:
            results[name] = check()
        except Exception as error:
            line, _ = line_and_code(error)
            results[name] = [fail(name, line, "mend that, and look again")]

    # Daemons: what hangs in a client is left behind when the command ends.
    threads = [
        threading.Thread(target=run, args=item, daemon=True, name=f"doctor-{item[0]}")
        for item in to_run.items()
    ]
    until_s = time.monotonic() + within_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    late = f"no answer within {within_s:g} s"
    return [
        finding
        for name in to_run
        for finding in results.get(name, [fail(name, late, "is it overloaded, or paused?")])
    ]


def lines(findings: Sequence[Finding], *, coloured: bool) -> list[str]:
    """Return one aligned line per finding, and one that counts them."""
    width = max(len(finding.check) for finding in findings)
    told = []
    for finding in findings:
        level = f"{finding.level:<4}"
        if coloured:
            level = f"\033[{_COLOURS[finding.level]}m{level}\033[0m"
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        told.append(f"{level}  {finding.check:<{width}}  {finding.found}{remedy}")
    levels = [finding.level for finding in findings]
    warns, fails = levels.count("warn"), levels.count("fail")
    if not warns and not fails:
        return [*told, "", "all is well"]
    counted = [
        f"{count} {name}" for count, name in ((fails, "failed"), (warns, "to look at")) if count
    ]
    return [*told, "", ", ".join(counted)]


def _about(settings: Settings) -> str:
    topics = settings.kafka_bootstrap or "embedded"
    return f"topics {topics}, FOOTFALL_HOME={settings.footfall_home}"
