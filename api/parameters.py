"""Parameters of a query string. Every error is a RequestError 400 that names the parameter."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import parse_qsl

from footfall.api.answers import RequestError
from footfall.schemas.times import BadTimeError, parse_time_ms

MINUTE_MS = 60_000
PARAMETERS_MAX = 50
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?", re.ASCII)

Parameters = dict[str, list[str]]


def bad(name: str, reason: str) -> RequestError:
    """Return the error of a parameter."""
    return RequestError(400, f"{name}: {reason}")


def read_parameters(query: bytes, known: Collection[str]) -> Parameters:
    """Return the values of each parameter, in order. An unknown one is an error: it is a typo."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except UnicodeDecodeError:
        raise RequestError(400, "query: not percent-encoded UTF-8") from None
    except ValueError as error:
        raise RequestError(400, f"query: {error}") from None
    found: Parameters = {}
    for name, value in pairs:
        if name not in known:
            raise bad(name[:100], f"no such parameter; there are {', '.join(known)}")
        found.setdefault(name, []).append(value)
    return found


def required(parameters: Parameters, name: str, shape: str) -> str:
    """Return the one value of a parameter that must be given."""
    value = optional(parameters, name)
    if value is None:
        raise bad(name, f"required, as {shape}")
    return value


def optional(parameters: Parameters, name: str) -> str | None:
    """Return the one value of a parameter, or None where it is not given."""
    values = parameters.get(name, [])
    if len(values) > 1:
        raise bad(name, f"given {len(values)} times")
    return values[0] if values else None


def time_range(parameters: Parameters, shape: str) -> tuple[int, int]:
    """Return (from, to) of ``time_range`` in ms since the epoch; from is not after to."""
    text = required(parameters, "time_range", shape)
    ends = text.split("_")
    if len(ends) != 2:
        raise bad("time_range", f"takes {shape}, not {text[:100]!r}")
    from_ms, to_ms = (_time_ms(end, shape) for end in ends)
    if from_ms > to_ms:
        raise bad("time_range", "ends before it begins")
    return from_ms, to_ms


def whole_minutes(parameters: Parameters, shape: str, minutes_max: int) -> tuple[int, int]:
    """Return (from, to) in ms, where both must be whole minutes, at most ``minutes_max`` apart."""
    from_ms, to_ms = time_range(parameters, shape)
    if from_ms % MINUTE_MS or to_ms % MINUTE_MS:
        raise bad("time_range", "takes whole minutes")
    if (to_ms - from_ms) // MINUTE_MS > minutes_max:
        raise bad("time_range", f"spans more than {minutes_max} minutes")
    return from_ms, to_ms


def whole_number(parameters: Parameters, name: str, default: int, highest: int) -> int:
    """Return the whole number of a parameter, from 0 to ``highest``."""
    text = optional(parameters, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise bad(name, f"takes a whole number from 0 to {highest}, not {text[:40]!r}")
    number = int(text)
    if number > highest:
        raise bad(name, f"takes at most {highest}")
    return number


def _time_ms(text: str, shape: str) -> int:
    if not _TIME.fullmatch(text):
        raise bad("time_range", f"takes {shape} (UTC, without a zone), not {text[:40]!r}")
    try:
        return parse_time_ms(text)
    except BadTimeError as error:
        raise bad("time_range", str(error)) from None
