"""Moves tables that an older version kept in the engine's database ``default``.

A table is renamed in one step that a kill does not divide. A view is made again in the new
database, since its text names the tables with their database, and then dropped in the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from footfall.infra._clickhouse_errors import engine_error
from footfall.schemas.embedded_clickhouse import DATABASE

OLD_DATABASE = "default"
_FOUND = (
    "SELECT database, name, engine, as_select FROM system.tables"
    f" WHERE database IN ('{OLD_DATABASE}', '{DATABASE}')"
    " AND NOT startsWith(name, '.inner') ORDER BY name FORMAT JSONCompact"
)
Ask = Callable[[str, Mapping[str, str]], str]


def move_tables(ask: Ask) -> dict[str, str]:
    """Move all tables and views that can be moved; return why others were left, by name."""
    found = msgspec.json.decode(ask(_FOUND, {}))["data"]
    made = {name for where, name, engine, _ in found if (where, engine) == (DATABASE, "View")}
    old = [(name, engine, select) for where, name, engine, select in found if where != DATABASE]
    left = {}
    for name, engine, _ in old:
        if engine != "View" and (why := _why_not(partial(_move_table, ask, name))):
            left[name] = why
    views = {name: select for name, engine, select in old if engine == "View"}
    # A view may read others, which must be moved first: try until no more can be moved.
    while views:
        refused = {
            name: why
            for name, select in views.items()
            if (why := _why_not(partial(_move_view, ask, name, "" if name in made else select)))
        }
        if refused.keys() == views.keys():
            return left | refused
        views = {name: select for name, select in views.items() if name in refused}
    return left


def _why_not(move: Callable[[], None]) -> str | None:
    try:
        move()
    except (RuntimeError, ValueError) as error:
        return engine_error(error).text
    return None


def _move_table(ask: Ask, name: str) -> None:
    ask(f"RENAME TABLE {_in(OLD_DATABASE, name)} TO {_in(DATABASE, name)}", {})


def _move_view(ask: Ask, name: str, select: str) -> None:
    """Move a view; without ``select`` it is in the new database already."""
    if select:
        sent = {"q": select.encode().hex()}
        tree = msgspec.json.decode(ask("SELECT parseQueryToJSON(unhex({q:String}))", sent))
        _rename(tree)
        sent = {"q": msgspec.json.encode(tree).hex()}
        moved = ask("SELECT formatQueryFromJSON(unhex({q:String}))", sent)
        ask(f"CREATE VIEW {_in(DATABASE, name)} AS {moved}", {})
    ask(f"DROP VIEW {_in(OLD_DATABASE, name)}", {})


def _rename(node: Any) -> None:
    """Replace the old database by the new one in the names of a tree."""
    if isinstance(node, dict):
        parts = node.get("name_parts")
        if parts and parts[0] == OLD_DATABASE:
            node["name_parts"] = [DATABASE, *parts[1:]]
            node["name"] = ".".join(node["name_parts"])
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            _rename(inner)


def _in(database: str, name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"{database}.`{escaped}`"
