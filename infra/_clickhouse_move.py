"""Tables that an older version kept in the engine's own database ``default``: moved to ours.

A table is renamed, which is one step whenever the process may be killed. A view is made again,
since its text names the tables it reads with their database, and dropped after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from infra._clickhouse_errors import engine_error
from schemas.embedded_clickhouse import DATABASE

OLD_DATABASE = "default"
_FOUND = (
    f"SELECT name, engine, as_select FROM system.tables WHERE database = '{OLD_DATABASE}'"
    " AND NOT startsWith(name, '.inner') ORDER BY name FORMAT JSONCompact"
)
Ask = Callable[[str, Mapping[str, str]], str]


def move_tables(ask: Ask) -> dict[str, str]:
    """Move all that can be moved; return why the others were left, by name."""
    found = msgspec.json.decode(ask(_FOUND, {}))["data"]
    views = {name: select for name, engine, select in found if engine == "View"}
    left: dict[str, str] = {}
    for name, engine, _ in found:
        if engine == "View":
            continue
        _tried(left, name, ask, f"RENAME TABLE {_in(OLD_DATABASE, name)} TO {_in(DATABASE, name)}")
    # A view may read others: those that read none come first.
    while views:
        refused: dict[str, str] = {}
        for name, select in views.items():
            _tried(refused, name, ask, *_moved_view(ask, name, select))
        if refused.keys() == views.keys():
            return left | refused
        views = {name: select for name, select in views.items() if name in refused}
    return left


def _tried(left: dict[str, str], name: str, ask: Ask, *statements: str) -> None:
    try:
        for statement in statements:
            ask(statement, {})
    except RuntimeError as error:
        left[name] = engine_error(error).text


def _moved_view(ask: Ask, name: str, select: str) -> tuple[str, str]:
    tree = msgspec.json.decode(
        ask("SELECT parseQueryToJSON(unhex({q:String}))", {"q": select.encode().hex()})
    )
    _rename(tree)
    text = msgspec.json.encode(tree).hex()
    moved = ask("SELECT formatQueryFromJSON(unhex({q:String}))", {"q": text})
    return (
        f"CREATE OR REPLACE VIEW {_in(DATABASE, name)} AS {moved}",
        f"DROP VIEW {_in(OLD_DATABASE, name)}",
    )


def _rename(node: Any) -> None:
    """Name the tables of a tree in our database where they are named in the old one."""
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
