"""``/aggregates``: count and revenue of each minute of a range, one row per minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from footfall.api.answers import Answer, Receive, RequestError, Scope, encode_json
from footfall.api.debug_answers import DebugAnswers
from footfall.api.parameters import (
    MINUTE_MS,
    Parameters,
    bad,
    optional,
    read_parameters,
    whole_minutes,
)
from footfall.schemas.times import datetime_of
from footfall.sinks import SinkError

MINUTES_MAX = 10
SHAPE = "<from>_<to> like 2022-03-22T12:25:00_2022-03-22T12:30:00"
FILTERS = ("origin", "brand_id", "category_id")
"""In the order of the answer's columns, whatever the order of the query."""
ACTIONS = ("VIEW", "BUY")
AGGREGATES = {"COUNT": "count", "SUM_PRICE": "sum_price"}
"""The parameter's value and the name of its column."""
PARAMETERS = ("time_range", "action", "aggregates", *FILTERS)

Sums = tuple[int, int]
"""(count, sum_price)"""


@dataclass(frozen=True, slots=True)
class AggregatesQuery:
    """A checked query."""

    from_ms: int
    to_ms: int
    action: str
    aggregates: tuple[str, ...]
    filters: Mapping[str, str]
    """Filters that were given, in the order of FILTERS."""

    def minutes_ms(self) -> range:
        """Return the start of every minute asked for, in ms."""
        return range(self.from_ms, self.to_ms, MINUTE_MS)


class AggregatesSource(Protocol):
    """The source of the sums."""

    async def sums(
        self, from_ms: int, to_ms: int, action: str, filters: Mapping[str, str]
    ) -> Mapping[int, Sums]:
        """Return the sums by the minute's start in ms, without empty minutes. Raises SinkError."""


def parse_query(query: bytes) -> AggregatesQuery:
    """Return the checked query of a query string. Raises RequestError 400 naming the parameter."""
    parameters = read_parameters(query, PARAMETERS)
    from_ms, to_ms = whole_minutes(parameters, SHAPE, MINUTES_MAX)
    action = optional(parameters, "action")
    if action not in ACTIONS:
        raise bad("action", f"takes {' or '.join(ACTIONS)}, not {(action or '')[:40]!r}")
    filters = {name: optional(parameters, name) for name in FILTERS}
    return AggregatesQuery(
        from_ms,
        to_ms,
        action,
        _aggregates(parameters),
        {name: value for name, value in filters.items() if value is not None},
    )


def _aggregates(parameters: Parameters) -> tuple[str, ...]:
    asked = parameters.get("aggregates", [])
    for name in asked:
        if name not in AGGREGATES:
            raise bad("aggregates", f"takes {' or '.join(AGGREGATES)}, not {name[:40]!r}")
    if not asked:
        raise bad("aggregates", f"required, as {' or '.join(AGGREGATES)}, or both")
    if len(set(asked)) != len(asked):
        raise bad("aggregates", "names the same aggregate twice")
    return tuple(asked)


def aggregates_answer(query: AggregatesQuery, sums: Mapping[int, Sums]) -> bytes:
    """Return the answer: a row for every minute, empty ones too, and every value a string."""
    columns = ["1m_bucket", "action", *query.filters]
    columns += [AGGREGATES[name] for name in query.aggregates]
    rows = []
    for minute_ms in query.minutes_ms():
        count, sum_price = sums.get(minute_ms, (0, 0))
        values = {"COUNT": str(count), "SUM_PRICE": str(sum_price)}
        bucket = datetime_of(minute_ms).strftime("%Y-%m-%dT%H:%M:%S")
        rows.append(
            [bucket, query.action, *query.filters.values()]
            + [values[name] for name in query.aggregates]
        )
    return encode_json({"columns": columns, "rows": rows})


class AggregatesQueries:
    """The handler of POST and GET."""

    def __init__(self, source: AggregatesSource, debug: DebugAnswers) -> None:
        self._source = source
        self._debug = debug

    async def handle(self, scope: Scope, receive: Receive) -> Answer:
        query = parse_query(scope["query_string"])
        try:
            sums = await self._source.sums(query.from_ms, query.to_ms, query.action, query.filters)
        except SinkError as error:
            raise RequestError(503, f"aggregates cannot be read: {error}") from None
        body = aggregates_answer(query, sums)
        await self._debug.compare(scope, receive, body)
        return Answer(200, body)
