"""shop_events_hot: events of 21 kinds in, rows of 21 tables out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from footfall.flows import shop_events_hot
from footfall.flows._shop_events import PLACES, PlacedEvent, places_of
from footfall.schemas.shop_events import KINDS, SCHEMA, STRUCTS, Field, ShopEvent
from footfall.schemas.tables.shop_events import TABLES
from footfall.sinks._clickhouse_rows import rows_for
from footfall.streams.testing import run_flow

VALUES = {"int": 7, "double": 1.5, "text": "a", "code": 1}


def event(kind: str, second: int = 0, **fields: Any) -> dict[str, Any]:
    """Return an event of a user; its needed fields have a value unless another is given."""
    needed = {
        field.name: VALUES[field.type] for field in SCHEMA.kinds[kind].fields if not field.optional
    }
    time = f"2022-03-22T12:15:{second:02d}Z"
    return {"event": kind, "timestamp": time, "user_id": 3, **needed, **fields}


def test_each_kind_has_its_table_and_each_event_is_a_row_there() -> None:
    result = run_flow(shop_events_hot.FLOW.dataflow, [event(kind) for kind in KINDS])
    assert not result.dead
    for offset, (kind, table) in enumerate(TABLES.items()):
        rows = rows_for(table, result.table(table).with_columns(version=pl.lit(1)))
        (row,) = rows.to_dicts()
        assert row["offset"] == offset
        assert row["time"] == datetime(2022, 3, 22, 12, 15, tzinfo=UTC)
        for field in SCHEMA.kinds[kind].fields:
            assert row[field.name] == (None if field.optional else VALUES[field.type])


def test_optional_fields_are_null_where_they_are_not_given() -> None:
    result = run_flow(
        shop_events_hot.FLOW.dataflow,
        [
            event("Filtering", 1, price_max=9, rating_min=3.5),
            event("ItemReturn", 2, item_id=1, order_id=2, reason_type=4),
            event("Filtering", 3, price_min=None),
            event("ItemReturn", 4, item_id=5, reason_type=0, reason_user_message="late"),
        ],
        cuts=(3, 1),
    )
    names = ("price_min", "price_max", "rating_min", "rating_max")
    assert result.table(TABLES["Filtering"]).select(names).rows() == [
        (None, 9.0, 3.5, None),
        (None, None, None, None),
    ]
    returns = result.table(TABLES["ItemReturn"])
    names = ("offset", "item_id", "order_id", "reason_type", "reason_user_message")
    assert returns.select(names).rows() == [(1, 1, 2, 4, None), (3, 5, 7, 0, "late")]


def test_an_event_that_is_written_again_or_comes_late_is_one_row() -> None:
    events = [event("CartAdd", 59), event("CartAdd", 0, timestamp="2022-03-01T00:00:00")]
    first, again = (run_flow(shop_events_hot.FLOW.dataflow, events, cuts=(cut,)) for cut in (1, 2))
    table = TABLES["CartAdd"]
    assert first.table(table).equals(again.table(table))
    assert len(first.table(table)) == 2 and not first.late


def test_bad_records_are_dead_letters_beside_good_ones() -> None:
    result = run_flow(
        shop_events_hot.FLOW.dataflow,
        [
            event("Ordering", order_id=1),
            event("Ordering", order_id="1"),
            {**event("Ordering"), "event": "Ordered"},
            event("LoggingIn", login_type=3),
            event("Ordering", order_id=2),
        ],
    )
    assert result.table(TABLES["Ordering"])["order_id"].to_list() == [1, 2]
    assert [letter.reason for letter in result.dead] == [
        "order_id: expected `int`, got `str`",
        "event: takes {}, not 'Ordered'".format(
            ", ".join([*TABLES][:-1]) + f" or {[*TABLES][-1]}"
        ),
        "login_type: takes 0, 1 or 2, not 3",
    ]


def test_places_are_shared_by_kinds_and_every_field_has_one() -> None:
    assert len(PLACES) == 8
    for kind in SCHEMA.kinds.values():
        places = places_of(kind)
        assert [*places] == [field.name for field in kind.fields]
        assert len(set(places.values())) == len(places)


def _values_of(field: Field) -> st.SearchStrategy[Any]:
    right = {
        "int": st.integers(-(2**63), 2**63 - 1),
        "double": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
        "text": st.text(max_size=5),
        "code": st.sampled_from([*(field.codes or ())]),
    }[field.type]
    wrong = st.sampled_from([None, "1", 1.5, 2, 2**63, -1, True, [], {"a": 1}, ""])
    return st.one_of(right, right, right, wrong)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    kind = SCHEMA.kinds[draw(st.sampled_from(KINDS))]
    fields = {field.name: draw(_values_of(field)) for field in kind.fields}
    record = {"event": kind.name, "timestamp": "2022-03-22T12:15:00Z", "user_id": 3, **fields}
    if draw(st.booleans()):
        others = {"event": "Nothing", "user_id": 2**63, "int_0": 5, "kind": 9, "text_0": "a"}
        name = draw(st.sampled_from([*record, *others]))
        if draw(st.booleans()):
            record.pop(name, None)
        else:
            record[name] = others.get(name)
    order = draw(st.permutations([*record]))
    text = json.dumps({name: record[name] for name in order}).encode()
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


def decoded(record: bytes, type_: Any) -> Any:
    """Return the error in words, or the event as (kind, time, user, fields)."""
    try:
        found = msgspec.json.decode(record, type=type_)
    except msgspec.DecodeError as error:
        return str(error)
    kind = found.__struct_config__.tag
    names = places_of(SCHEMA.kinds[kind]) if type_ is PlacedEvent else None
    fields = {
        field.name: getattr(found, names[field.name] if names else field.name)
        for field in SCHEMA.kinds[kind].fields
    }
    if names:
        assert KINDS[found.kind] == kind
        absent = set(PLACES) - set(names.values())
        assert all(getattr(found, place) is None for place in absent)
    return kind, found.timestamp, found.user_id, fields


@given(record=records())
@example(record=b'{"event":"CartAdd"}')
@example(record=b"[]")
@settings(max_examples=200, deadline=None, derandomize=True)
def test_records_are_taken_and_refused_as_the_schema_says(record: bytes) -> None:
    assert decoded(record, PlacedEvent) == decoded(record, ShopEvent)
    assert len(STRUCTS) == len(TABLES)
