"""Debug answers: the body of a query is the answer that its sender expects; differences are
logged and counted.

Only with FOOTFALL_DEBUG_ANSWERS=1. The answer itself is the same with and without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from footfall.api.answers import Receive, Scope
from footfall.api.bodies import read_body

EXPECTED_BYTES_MAX = 8 * 1_048_576
LOGGED_MAX = 20
"""Differences of one answer that are logged; all are counted."""

log = logging.getLogger("footfall.api.answers")

Path = str


class DebugAnswers:
    """Comparison of answers with those expected, where it is switched on."""

    def __init__(self, enabled: bool, count: Callable[[int], None]) -> None:
        self._enabled = enabled
        self._count = count

    async def compare(self, scope: Scope, receive: Receive, answer: bytes) -> None:
        """Log and count how the answer differs from the request's body, if it has one."""
        if not self._enabled:
            return
        expected = await read_body(scope, receive, EXPECTED_BYTES_MAX)
        if not expected.strip():
            return
        found = compare_json(expected, answer)
        if not found:
            return
        self._count(len(found))
        target = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
        for line in found[:LOGGED_MAX]:
            log.warning("%r: %s", target, line)
        if len(found) > LOGGED_MAX:
            log.warning("%r: and %d more differences", target, len(found) - LOGGED_MAX)


def compare_json(expected: bytes, answer: bytes) -> list[str]:
    """Return a line for each place where the two differ."""
    try:
        wanted = msgspec.json.decode(expected)
        return list(_differences("$", wanted, msgspec.json.decode(answer)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return [f"the expected answer is not JSON: {error}"]
    except RecursionError:
        return ["nested too deeply to compare"]


def _differences(path: Path, wanted: Any, given: Any) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(given, dict):
        for name in sorted(wanted.keys() | given.keys()):
            yield from _member(f"{path}.{name}", name, wanted, given)
    elif isinstance(wanted, list) and isinstance(given, list):
        if len(wanted) != len(given):
            yield f"{path}: expected {len(wanted)} elements, got {len(given)}"
        for index, (one, other) in enumerate(zip(wanted, given, strict=False)):
            yield from _differences(f"{path}[{index}]", one, other)
    elif type(wanted) is not type(given) or wanted != given:
        yield f"{path}: expected {_short(wanted)}, got {_short(given)}"


def _member(path: Path, name: str, wanted: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    if name not in given:
        yield f"{path}: expected {_short(wanted[name])}, got nothing"
    elif name not in wanted:
        yield f"{path}: expected nothing, got {_short(given[name])}"
    else:
        yield from _differences(path, wanted[name], given[name])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
