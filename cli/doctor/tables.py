"""Findings from the facts of tables and namespaces. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from footfall.cli.doctor.findings import Finding, duration, fail, ok, warn
from footfall.schemas.topics import TOPIC

PARTS_WARN, PARTS_FAIL = 100, 300
NAMESPACES_MAX = 2
"""Limit of an Aerospike server, Community Edition."""
FLUSH_MAX_MS = 2_000
"""The sinks repeat what was acknowledged in the last 3 s; a server must flush sooner."""


def columns(
    check: str, wanted: Mapping[str, Mapping[str, str]], standing: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """Check that tables exist with their columns; a type that is empty text is not compared."""
    from footfall.sinks.tables import differing

    missing = [name for name in wanted if not standing.get(name)]
    found = []
    if missing:
        found.append(fail(check, f"missing: {', '.join(missing)}", "`footfall init` makes them"))
    for name, kinds in wanted.items():
        stands = standing.get(name)
        if not stands:
            continue
        if others := differing(kinds, stands):
            remedy = (
                "end its flows, and `footfall init` moves it into its form of today"
                if kinds.keys() - stands.keys() == {TOPIC}
                else "`footfall init` says how to move it away; run it again then, and replay"
            )
            found.append(fail(check, f"{name} has other columns: {'; '.join(others[:3])}", remedy))
    return found or [ok(check, ", ".join(wanted))]


def parts(active: Mapping[tuple[str, str], int]) -> Finding:
    """Check that ClickHouse keeps up with merging. ``active``: parts by (table, partition)."""
    check = "ClickHouse parts"
    if not active:
        return ok(check, "no parts yet")
    (table, partition), most = max(active.items(), key=lambda item: item[1])
    where = f"at most {most} active in a partition ({table}, {partition})"
    if most > PARTS_FAIL:
        return fail(
            check,
            where,
            f"inserts are slowed and then refused: OPTIMIZE TABLE {table} PARTITION ID "
            f"'{partition}', and look for who inserts few rows at a time",
        )
    if most > PARTS_WARN:
        return warn(
            check, where, "look for who inserts few rows at a time, and at the server's merges"
        )
    return ok(check, where)


def detached(reasons: Mapping[tuple[str, str], int]) -> list[Finding]:
    """Return findings of parts that ClickHouse has put aside, counted by (table, reason)."""
    found = []
    for (table, reason), count in sorted(reasons.items()):
        said = f"{table}: {count} parts put aside" + (f" as {reason}" if reason else "")
        if reason.startswith(("broken", "unexpected", "noquorum")):
            found.append(
                fail(
                    "ClickHouse parts",
                    said,
                    f"their rows are missing: `footfall verify` names the minutes, `footfall "
                    f"replay` writes them again; then ALTER TABLE {table} DROP DETACHED PART",
                )
            )
        else:
            found.append(
                warn(
                    "ClickHouse parts",
                    said,
                    f"ALTER TABLE {table} ATTACH PART or DROP DETACHED PART each",
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """A namespace of Aerospike, by its configuration and statistics."""

    default_ttl_s: int
    nsup_period_s: int
    stop_writes: bool
    flush_max_ms: int = 0
    """Longest time that an acknowledged write may be in memory alone."""


def namespaces(wanted: Sequence[str], standing: Mapping[str, NamespaceFacts]) -> list[Finding]:
    """Check that the namespaces exist and take writes."""
    check = "profiles"
    found = []
    if len(standing) > NAMESPACES_MAX:
        found.append(
            warn(
                check,
                f"{len(standing)} namespaces: {', '.join(sorted(standing))}",
                f"the Community Edition takes {NAMESPACES_MAX}: leave out the others",
            )
        )
    for name in wanted:
        facts = standing.get(name)
        if facts is None:
            there = ", ".join(sorted(standing)) or "none"
            found.append(
                fail(
                    check,
                    f"there is no namespace {name} (there are: {there})",
                    "add it to aerospike.conf, or set AEROSPIKE_PROFILES_NAMESPACE or "
                    "AEROSPIKE_AGGREGATES_NAMESPACE",
                )
            )
        elif facts.stop_writes:
            found.append(
                fail(check, f"namespace {name} takes no writes: it is full", "give it more space")
            )
        elif facts.default_ttl_s and not facts.nsup_period_s:
            found.append(
                fail(
                    check,
                    f"namespace {name}: default-ttl {facts.default_ttl_s} s without nsup-period",
                    "set nsup-period, such as 120, or default-ttl 0: such writes are refused",
                )
            )
        elif facts.flush_max_ms > FLUSH_MAX_MS:
            found.append(
                warn(
                    check,
                    f"namespace {name}: flush-max-ms {facts.flush_max_ms}; when the server is "
                    "killed it forgets more than the flows write again",
                    f"set flush-max-ms to {FLUSH_MAX_MS} or less in its storage-engine",
                )
            )
        elif facts.default_ttl_s:
            kept = duration(facts.default_ttl_s * 1000)
            said = f"namespace {name}: records vanish after {kept}"
            found.append(warn(check, said, "set default-ttl 0 to keep them"))
        else:
            found.append(ok(check, f"namespace {name} takes writes"))
    return found
