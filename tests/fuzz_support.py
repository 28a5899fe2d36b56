"""Records with every kind of JSON value at every field, for all topics that clients may write."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from footfall.schemas.shop_events import SCHEMA, Field

Json = dict[str, Any]
Spoil = tuple[str, ...]
"""The path of a field whose value is replaced; () is the record itself."""

TIME = "2022-03-22T12:15:00.000Z"

VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "false": "false",
    "0": "0",
    "-0": "-0",
    "-0.0": "-0.0",
    "-1": "-1",
    "2^31": str(2**31),
    "2^63 - 1": str(2**63 - 1),
    "2^63": str(2**63),
    "-2^63": str(-(2**63)),
    "2^64": str(2**64),
    "40 digits": "1" + "0" * 39,
    "5,000 digits": "9" * 5_000,
    "1e999": "1e999",
    "-1e999": "-1e999",
    "1e-999": "1e-999",
    "0.1": "0.1",
    "0.125": "0.125",
    "35.790": "35.790",
    "1e2": "1e2",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "empty": '""',
    "blank": '" "',
    "text": '"x"',
    "digits": '"17"',
    "quotes": r'"\"\\\/"',
    "controls": r'"\u0000\u0001\t\r\n\u007f\u2028"',
    "not escaped": '"\t"',
    "emoji": '"\U0001f6d2"',
    "half a pair": r'"\ud83d"',
    "other half": r'"\ude00"',
    "100 KB": json.dumps("x" * 100_000),
    "a time": json.dumps(TIME),
    "a time and NUL": json.dumps(TIME + "\0"),
    "leap second": '"2016-12-31T23:59:60Z"',
    "a day off": '"2022-03-22T12:15:00+24:00"',
    "year 9999": '"9999-12-31T23:59:59Z"',
    "[]": "[]",
    "{}": "{}",
    "nested": '[[{"a": [null, {"": 0.5}]}]]',
    "deep": "[" * 50_000 + "]" * 50_000,
    "cut": '"x',
}
"""The JSON text of each value, by name; some of them are none."""


def _example(field: Field) -> Any:
    if field.type == "code":
        return next(iter(field.codes or {}))
    return {"int": 7, "double": 0.5, "text": "x"}[field.type]


EXAMPLES: dict[str, list[Json]] = {
    "user_tags": [
        {
            "time": TIME,
            "cookie": "c",
            "country": "PL",
            "device": "PC",
            "action": "BUY",
            "origin": "o",
            "product_info": {"product_id": "p", "brand_id": "b", "category_id": 5, "price": 100},
        }
    ],
    "store_events": [
        {
            "event_time": "2022-03-22 12:15:00 UTC",
            "event_type": "purchase",
            "product_id": 44600062,
            "category_id": 2103807459595387724,
            "category_code": "electronics",
            "brand": "b",
            "price": 35.79,
            "user_id": 541312140,
            "user_session": "s",
        }
    ],
    "platform_logs": [
        {
            "action": "CatalogDbRep",
            "commonData": {
                "time": TIME,
                "userId": {"userId": 17},
                "requestId": "a1",
                "serverName": "Catalog",
            },
            "data": {
                "status": "Ok",
                "productId": {"productId": 5},
                "products": [{"productId": 5}],
                "amount_cents": 100,
                "provider": "p",
                "error": "e",
            },
        }
    ],
    "shop_events": [
        {"event": kind.name, "timestamp": TIME, "user_id": 17}
        | {field.name: _example(field) for field in kind.fields}
        for kind in SCHEMA.kinds.values()
    ],
    "visits": [{"time": TIME, "client_id": "c", "user_id": 5, "report": {"page": "/"}}],
    "activities": [{"time": TIME, "client_id": "c", "report": {"page": "/"}}],
}
"""Good records of each topic, of every kind, with all fields that they may have."""


def fields(record: Any, path: Spoil = ()) -> Iterator[Spoil]:
    """Yield the path of the record and of everything in it."""
    yield path
    inner = record.items() if isinstance(record, dict) else ()
    if isinstance(record, list):
        inner = enumerate(record)  # type: ignore[assignment]
    for name, value in inner:
        yield from fields(value, (*path, name))


def spoiled(record: Json, changes: dict[Spoil, str]) -> bytes:
    """Return the JSON of a record in which fields have these texts; a path may be a new field."""
    marks: dict[str, str] = {}

    def with_marks(value: Any, path: Spoil) -> Any:
        if path in changes:
            mark = f"@{len(marks)}@"
            marks[json.dumps(mark)] = changes[path]
            return mark
        if isinstance(value, dict):
            fresh = {p[-1]: None for p in changes if p and p[:-1] == path and p[-1] not in value}
            return {name: with_marks(one, (*path, name)) for name, one in (value | fresh).items()}
        if isinstance(value, list):
            return [with_marks(one, (*path, place)) for place, one in enumerate(value)]  # type: ignore[arg-type]
        return value

    text = json.dumps(with_marks(record, ()))
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text.encode()


def every_value(topic: str) -> Iterator[tuple[Spoil, str, bytes]]:
    """Yield (path, name of the value, record) for each value at each field, and at a new one.

    What several kinds of records have is tried in one of them.
    """
    tried = set()
    for record in EXAMPLES[topic]:
        for path in [*fields(record), ("unknown",)]:
            if path not in tried:
                tried.add(path)
                for name, text in VALUES.items():
                    yield path, name, spoiled(record, {path: text})


def some_values(topic: str, seed: int, count: int) -> Iterator[bytes]:
    """Yield so many records with values at some fields at once, on a seed."""
    chance = random.Random(f"{topic} {seed}")
    for _ in range(count):
        record = chance.choice(EXAMPLES[topic])
        paths = [*fields(record), ("unknown",)][1:]
        chosen = chance.sample(paths, chance.randint(1, 3))
        yield spoiled(record, {path: chance.choice([*VALUES.values()]) for path in chosen})
