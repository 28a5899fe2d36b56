"""Looks at this machine, the topics and the flows; changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footfall.cli.doctor import findings as found_of
from footfall.cli.doctor import topics as topics_of
from footfall.cli.doctor.findings import Finding, HomeFacts, fail, ok
from footfall.cli.errors import one_line
from footfall.cli.ranges import takes_archive
from footfall.operations.flow_facts import flow_now, is_alive
from footfall.operations.observer import topics_read
from footfall.operations.positions import Positions, of_groups, read_statuses
from footfall.operations.topic_ends import (
    KAFKA_WITHIN_S,
    AppendTimes,
    TopicFacts,
    file_topics,
    kafka_topics,
)
from footfall.schemas.addresses import KAFKA_NAME, unresolved
from footfall.schemas.settings import Settings
from footfall.schemas.topics import DEAD_LETTERS, TOPICS

if TYPE_CHECKING:
    pass

COUNT_WITHIN_S = 4.0


def look_at_home(settings: Settings) -> list[Finding]:
    """Look at the folder, its disk, and the recovery stores in it."""
    home = settings.footfall_home
    standing = home
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    disk = shutil.disk_usage(standing)
    facts = HomeFacts(
        path=str(home),
        exists=home.exists(),
        is_folder=home.is_dir(),
        writable=os.access(standing, os.W_OK | os.X_OK),
        free_bytes=disk.free,
        total_bytes=disk.total,
        is_own=not standing.stat().st_mode & 0o077,
    )
    findings = found_of.home(facts)
    folder = home / "recovery"
    for flow in sorted(folder.iterdir()) if folder.is_dir() else ():
        findings.append(found_of.recovery(flow.name, folder_bytes(flow)))
    return findings


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:
                continue  # it was removed meanwhile
    return total


def look_at_topics(settings: Settings) -> list[Finding]:
    """Look at the topics, at how far behind the flows are, and at the dead letters."""
    findings: list[Finding] = []
    standing: Mapping[str, TopicFacts] = {}
    positions: Positions = {}
    try:
        if settings.topics_folder is not None:
            standing = file_topics(settings.topics_folder)
            findings.append(ok("topics", f"embedded, in {settings.topics_folder}"))
        else:
            brokers, standing = kafka_topics(settings)
            findings.append(ok("topics", f"Kafka at {settings.kafka_bootstrap}, {brokers}"))
        findings += topics_of.topics(list(TOPICS.values()), standing)
    except Exception as error:
        where = settings.kafka_bootstrap or settings.topics_folder
        remedy = (
            kafka_remedy(error, unresolved(settings.kafka_hosts))
            if settings.kafka_bootstrap
            else "mend the folder, or set TOPICS_URL"
        )
        findings.append(fail("topics", f"{where}: {_said(error)}", remedy))
    if settings.kafka_bootstrap and standing:
        positions = of_groups(settings, _catalogue(), KAFKA_WITHIN_S)
    findings += flow_findings(settings, standing, positions, time.time_ns() // 1_000_000)
    return findings + (look_at_letters(settings) if DEAD_LETTERS.name in standing else [])


def kafka_remedy(error: Exception, names: str | None) -> str:
    """Say what to do where Kafka's client raises this; ``names`` have no address."""
    if names:
        return f"{names} has no address: {KAFKA_NAME}"
    code = getattr(error.args[0], "name", None) if error.args else None
    kind = str(code()) if callable(code) else ""
    if kind.endswith("AUTHORIZATION_FAILED"):
        return "let kafka-acls allow User:ANONYMOUS to Describe, Read and Write"
    if kind in ("_AUTHENTICATION", "_SSL", "SASL_AUTHENTICATION_FAILED"):
        return "name a listener of PLAINTEXT in TOPICS_URL: TLS and SASL cannot be used yet"
    return "start it, or set TOPICS_URL to where its listener of PLAINTEXT is"


def _said(error: Exception) -> str:
    """Return the message of an error; Kafka's client wraps its own."""
    within = getattr(error.args[0], "str", None) if error.args else None
    return str(within()) if callable(within) else one_line(error)


def _catalogue() -> dict[str, Any]:
    from footfall import flows

    return flows.catalogue()


def flow_findings(
    settings: Settings, standing: Mapping[str, TopicFacts], groups: Positions, now_ms: int
) -> list[Finding]:
    """Return the findings that follow from the flows' status files and the topics together."""
    statuses = read_statuses(settings.footfall_home)
    contracts = _catalogue()
    read = {topic for contract in contracts.values() for topic in contract.topics}
    read |= {settings.kafka_topic} if settings.kafka_topic else set()
    ends = {name: facts.ends for name, facts in standing.items()}
    reads = topics_read(settings)
    times = AppendTimes(settings)
    times.begin()
    findings = []
    for name in sorted({*contracts, *(status.flow for status in statuses)}):
        of_flow = [status for status in statuses if status.flow == name]
        facts = flow_now(
            name,
            of_flow,
            ends,
            groups.get(name, {}),
            now_ms,
            reads=reads.get(name, ()),
            is_alive=is_alive,
            appended_ms=times,
        )
        if facts.lost:
            # This imports the flow, so ask only where it matters.
            facts = replace(facts, takes_archive=takes_archive(settings, name))
        findings += topics_of.flow(facts)
    for topic in sorted(read & standing.keys()):
        counts = {part: high - low for part, (low, high) in standing[topic].ends.items()}
        findings += topics_of.hot_partitions(topic, counts)
    return findings


def look_at_letters(settings: Settings) -> list[Finding]:
    """Count dead records that were not sent again."""
    from footfall.cli.letters.read import Choice, collect
    from footfall.cli.letters.topics import read_topic

    until_s = time.monotonic() + COUNT_WITHIN_S
    reads = read_topic(settings, DEAD_LETTERS.name, progress=False, until_s=until_s)
    letters = collect(reads)
    whole = time.monotonic() <= until_s
    # The note that a record was sent again comes after its letter, so that half of the topic does
    # not tell.
    records = letters.records(Choice(), sent_too=not whole)
    return [found_of.open_letters(len(records), whole=whole)]
