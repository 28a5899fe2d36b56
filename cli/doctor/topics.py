"""Findings from the facts of topics and of the flows that read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from footfall.cli.doctor.findings import Finding, duration, fail, ok, warn
from footfall.operations.flow_facts import FlowFacts, PlaceFacts
from footfall.operations.topic_ends import TopicFacts
from footfall.schemas.topics import Topic

LAG_WARN = 1_000_000
"""Records; a worker reads as many in some seconds."""
MARGIN_WARN = 0.1
"""Least share of the retained records between the oldest and the next to read."""
HOT_TIMES = 2.0
HOT_RECORDS_MIN = 10_000
"""Records below which nothing is said about how keys are spread."""


def topics(wanted: Sequence[Topic], standing: Mapping[str, TopicFacts]) -> list[Finding]:
    """Check that the topics exist as the catalogue says."""
    missing = [topic.name for topic in wanted if topic.name not in standing]
    found = []
    if missing:
        names = ", ".join(missing)
        found.append(fail("topics", f"missing: {names}", "`footfall init` makes them"))
    for topic in wanted:
        facts = standing.get(topic.name)
        if facts is None:
            continue
        count = len(facts.ends)
        if count < topic.partitions:
            found.append(
                fail(
                    "topics",
                    f"{topic.name} has {count} partitions, the catalogue says {topic.partitions}",
                    "stop its flows, `footfall init` adds them, start the flows again",
                )
            )
        kept_ms = facts.retention_ms
        if kept_ms is not None and 0 <= kept_ms < topic.retention_h * 3_600_000:
            found.append(
                warn(
                    "topics",
                    f"{topic.name} keeps records for {duration(kept_ms)}, the catalogue says "
                    f"{duration(topic.retention_h * 3_600_000)}",
                    f"kafka-configs --alter --entity-type topics --entity-name {topic.name} "
                    f"--add-config retention.ms={topic.retention_h * 3_600_000}",
                )
            )
    return found or [ok("topics", f"all {len(wanted)} stand as the catalogue says")]


def hot_partitions(topic: str, records: Mapping[int, int]) -> list[Finding]:
    """Check whether one partition holds far more than its share, which limits a worker."""
    total = sum(records.values())
    check = f"keys of {topic}"
    if len(records) < 2 or total < HOT_RECORDS_MIN:
        return []
    hottest, most = max(records.items(), key=lambda item: item[1])
    mean = total / len(records)
    spread = (
        f"partition {hottest} holds {most:,} of {total:,} records, {most / mean:.1f}x the mean"
    )
    if most > HOT_TIMES * mean:
        return [
            warn(
                check,
                spread,
                "few keys have most of the records, or have none: look at what the sender "
                "takes for the key",
            )
        ]
    return [ok(check, spread)]


def flow(facts: FlowFacts) -> list[Finding]:
    """Check whether the flow runs, how far behind it is, and whether it loses records."""
    check = f"flow {facts.name}"
    run = f"`footfall run {facts.name}`"
    lag = facts.lag
    behind = f"{lag:,} records behind" if lag else "at the end"
    if lag and facts.age_s:
        behind += f", the oldest {duration(facts.age_s * 1000)} old"
    if not facts.workers and not facts.places:
        return [ok(check, "never ran here")]
    running = [one for one in facts.workers if one.is_running]
    stale = [one for one in facts.workers if not one.finished and one.is_stale]
    found = []
    if facts.error:
        found.append(fail(check, f"failed: {facts.error}", f"mend that, then {run}"))
    if stale and not running:
        last = duration(min(one.age_ms for one in stale))
        said = f"no worker runs, the last one {last} ago; {behind}"
        found.append(fail(check, said, run) if lag else warn(check, said, run))
    elif stale:
        numbers = ", ".join(f"{one.worker} (process {one.pid})" for one in stale)
        hung = any(one.alive for one in stale)
        found.append(
            fail(
                check,
                f"worker {numbers} {'says nothing any more' if hung else 'is dead'}, others "
                f"run; {behind}",
                "look at its log and start it again: its partitions are not read",
            )
        )
    elif running and lag > LAG_WARN:
        found.append(
            warn(
                check,
                f"{_workers(len(running))}, {behind}",
                f"where it does not shrink: `footfall run {facts.name} --workers N`",
            )
        )
    elif running:
        found.append(ok(check, f"{_workers(len(running))}, {behind}"))
    elif facts.workers and lag:
        found.append(fail(check, f"was run to the end once; now {behind}", run))
    elif facts.workers:
        found.append(ok(check, "was run to the end"))
    else:
        where = "no worker on this home; its consumer group is"
        level = warn(check, f"{where} {behind}", run) if lag > LAG_WARN else None
        found.append(level or ok(check, f"{where} {behind}"))
    return found + retention(facts)


def retention(facts: FlowFacts) -> list[Finding]:
    """Check whether retention reaches, or has reached, records that the flow has not read."""
    check = f"retention of {facts.name}"
    lost = facts.lost
    if lost:
        worst = max(lost, key=lambda place: place.low - place.next_offset)
        missing = sum(place.low - place.next_offset for place in lost)
        remedy = f"`footfall run {facts.name} --skip-removed` goes on without them"
        if facts.takes_archive:
            several = len({place.topic for place in facts.places}) > 1
            of_topic = f" --topic {worst.topic}" if several else ""
            remedy += (
                f"; `footfall replay {facts.name}{of_topic} --source PATH` brings them from an "
                "archive"
            )
        return [
            fail(
                check,
                f"{missing:,} records were removed before they were read, from offset "
                f"{worst.next_offset} of {worst.topic}/{worst.partition} on",
                remedy,
            )
        ]
    # Where nothing was removed yet, the oldest record does not say when removal begins.
    near = [
        (_margin(place), place)
        for place in facts.places
        if place.low > 0 and place.lag and _margin(place) < MARGIN_WARN
    ]
    if near:
        share, place = min(near, key=lambda one: one[0])
        return [
            warn(
                check,
                f"{place.topic}/{place.partition}: {share:.0%} of the records that are kept stand "
                "between the oldest and the next to read",
                f"`footfall run {facts.name} --workers N` now, or keep records for longer",
            )
        ]
    return []


def _margin(place: PlaceFacts) -> float:
    return (place.next_offset - place.low) / max(1, place.high - place.low)


def _workers(count: int) -> str:
    return f"{count} worker{'s run' if count > 1 else ' runs'}"
