"""Findings from the facts of an installation. Pure.

This module defines a finding, and has the findings of this machine and of any server.

ok      as it should be
warn    works now, but not for ever, or not as well as it could
fail    does not work, or loses something
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]

GIB = 1 << 30
DISK_WARN_BYTES, DISK_FAIL_BYTES = 5 * GIB, GIB // 2
SKEW_WARN_MS, SKEW_FAIL_MS = 1_000, 60_000
RECOVERY_WARN_BYTES = GIB
CLICKHOUSE_OLDEST, POSTGRES_OLDEST = (24, 3), (13, 0)


class Finding(NamedTuple):
    """One line of ``footfall doctor``."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(check, "ok", found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """Return a finding of something that works now, but needs attention."""
    return Finding(check, "warn", found, remedy)


def fail(check: str, found: str, remedy: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(check, "fail", found, remedy)


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """FOOTFALL_HOME, or the nearest folder above it that exists."""

    path: str
    exists: bool
    is_folder: bool
    writable: bool
    free_bytes: int
    total_bytes: int
    is_own: bool = True
    """True where nobody else may read it."""


def home(facts: HomeFacts) -> list[Finding]:
    """Check whether state can be kept in the home, and the free space of its disk."""
    check = "home"
    if facts.exists and not facts.is_folder:
        return [fail(check, f"{facts.path} is a file", "set FOOTFALL_HOME to a folder")]
    if not facts.writable:
        return [
            fail(check, f"{facts.path} cannot be written", "mend its mode, or set FOOTFALL_HOME")
        ]
    if facts.exists and not facts.is_own:
        said = f"others may read {facts.path}, which holds personal data"
        found = [warn(check, said, f"chmod -R go-rwx {facts.path}")]
    elif facts.exists:
        found = [ok(check, f"{facts.path} can be written")]
    else:
        found = [warn(check, f"{facts.path} does not stand yet", "`footfall init` makes it")]
    free = f"{size(facts.free_bytes)} of {size(facts.total_bytes)} free"
    if facts.free_bytes < DISK_FAIL_BYTES:
        return [*found, fail("disk", free, "free some space, or set FOOTFALL_HOME elsewhere")]
    if facts.free_bytes < DISK_WARN_BYTES:
        return [*found, warn("disk", free, "free some space before it is full")]
    return [*found, ok("disk", free)]


def recovery(flow_name: str, stored_bytes: int) -> Finding:
    """Check whether a recovery store has grown too large."""
    check = f"recovery of {flow_name}"
    if stored_bytes > RECOVERY_WARN_BYTES:
        return warn(
            check,
            f"{size(stored_bytes)}: every start reads it",
            f"stop the flow, move recovery/{flow_name} away and start it anew: it reads the "
            "topic from its oldest record, and its rows are upserts",
        )
    return ok(check, size(stored_bytes))


def version(check: str, name: str, text: str, oldest: tuple[int, int]) -> Finding:
    """Check whether a server is too old; ``text`` begins with its version, such as ``24.3``."""
    numbers = [int(part) for part in text.split(".")[:2] if part.isdigit()]
    if numbers and tuple(numbers) < oldest[: len(numbers)]:
        return warn(
            check,
            f"{name} {text}",
            f"it is older than what is tested: {'.'.join(map(str, oldest))} or newer",
        )
    return ok(check, f"{name} {text}")


def skew(server: str, skew_ms: int, unsure_ms: int = 0) -> Finding:
    """Compare a server's clock with this machine's; a positive skew means that it is ahead."""
    check = f"clock of {server}"
    beyond = abs(skew_ms) - unsure_ms
    said = f"{duration(abs(skew_ms))} {'ahead' if skew_ms > 0 else 'behind'}"
    remedy = "let both machines take their time from NTP (chrony, systemd-timesyncd)"
    if beyond > SKEW_FAIL_MS:
        return fail(check, f"{said}: good events are taken for future ones", remedy)
    if beyond > SKEW_WARN_MS:
        return warn(check, said, remedy)
    return ok(check, f"within {duration(max(abs(skew_ms), unsure_ms, 1))} of this machine's")


def open_letters(count: int, *, whole: bool) -> Finding:
    """Return the finding of so many dead letters; ``whole``: all of them were counted."""
    remedy = "`footfall dead-letters ls` tells why"
    if not whole:
        return warn("dead letters", f"more than {count:,}: too many to count here", remedy)
    if count:
        return warn("dead letters", f"{count:,} record{'s' if count > 1 else ''}", remedy)
    return ok("dead letters", "none")


def size(count: int) -> str:
    """Return a number of bytes as text: ``1.5 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(span_ms: float) -> str:
    """Return a duration as text: ``250 ms``, ``1.5 s``, ``3 min``, ``2 h``, ``7 days``."""
    if span_ms < 1_000:
        return f"{span_ms:.0f} ms"
    seconds = span_ms / 1_000
    if seconds < 120:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    for limit, unit_s, unit in ((7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
