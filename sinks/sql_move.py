"""Move a store's table whose rows do not name their topic into the present form."""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, Table, func, inspect, literal, select, text

from footfall.schemas.topics import TOPIC
from footfall.sinks._sql_engine import Store
from footfall.sinks.sql_replay import shadow_of


def move_table(url: str, partial: Table, topic: str) -> int | None:
    """Move partial rows into the table's present form, with ``topic`` as that of all of them.

    Those of its shadow are moved too, in one transaction. Returns the number of rows of the table;
    None where it is not in the earlier form. Raises SinkError.
    """

    def move(connection: Connection) -> int | None:
        _moved(connection, shadow_of(partial), topic)
        return _moved(connection, partial, topic)

    store = Store(url)
    try:
        return store.transaction("footfall tables", move)
    finally:
        store.close()


def _moved(connection: Connection, table: Table, topic: str) -> int | None:
    kept = [column for column in table.columns if column.name != TOPIC]
    look = inspect(connection)
    stands = look.has_table(table.name) and look.get_columns(table.name)
    if not stands or {of["name"] for of in stands} != {column.name for column in kept}:
        return None
    new = table.to_metadata(MetaData(), name=f"{table.name}_moved")
    old = Table(table.name, MetaData(), *(Column(column.name, column.type) for column in kept))
    new.create(connection)
    rows = select(*old.columns, literal(topic))
    connection.execute(new.insert().from_select([*old.columns.keys(), TOPIC], rows))
    old.drop(connection)
    connection.execute(text(f"ALTER TABLE {new.name} RENAME TO {old.name}"))
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
