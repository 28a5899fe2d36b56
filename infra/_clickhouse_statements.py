"""Decide which statements the embedded server runs, by the tree that the engine's parser makes.

The engine's user may read and write tables and do no more (see ``_clickhouse_config``). Grants
cannot forbid all, so this module refuses files of the server, functions that reach beyond the
tables, and engines that keep their data elsewhere. It reads the tree and never the text, so that
no comment, quote or alias hides anything. A kind of statement that is not listed is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from footfall.infra._clickhouse_errors import Code, EngineError, failure

READS = frozenset(
    {
        "SelectWithUnionQuery",
        "SelectIntersectExceptQuery",
        "ExplainQuery",
        "ShowTablesQuery",
        "ShowColumnsQuery",
        "ShowIndexesQuery",
        "CheckTableQuery",
    }
)
_CHANGES = frozenset(
    {
        "InsertQuery",
        "CreateQuery",
        "AlterQuery",
        "DropQuery",
        "RenameQuery",
        "OptimizeQuery",
        "DeleteQuery",
        "UpdateQuery",
        "KillQueryQuery",
    }
)
_OF_SESSIONS = frozenset({"SetQuery", "UseQuery"})

_TABLE_ENGINES = re.compile(
    r"\w*MergeTree|Memory|Log|TinyLog|StripeLog|Null|Set|Join|Buffer|Merge"
)
_DATABASE_ENGINES = re.compile(r"Atomic|Memory")
_TABLE_FUNCTIONS = re.compile(
    r"numbers(_mt)?|zeros(_mt)?|generateSeries|generate_series|view|merge", re.IGNORECASE
)
"""Functions that take their columns as a text are missing: the text may hold expressions."""
_FUNCTIONS_REFUSED = re.compile(
    r"file|ai(classify|embed|extract|filter|generate|redact|similarity|translate)", re.IGNORECASE
)
FORMATS = re.compile(
    r"Native|Null|Values|Arrow|ArrowStream|Parquet|ORC|Avro|RowBinary\w*|CSV\w*|TSV\w*|TSKV"
    r"|TabSeparated\w*|JSON\w*|NDJSON|BSONEachRow|MsgPack|Pretty\w*|Vertical|Markdown|XML"
    r"|LineAsString|RawBLOB"
)
"""Formats that read their schema or template from a file of the server are missing."""

_NAME = r"(?:\w+|`[^`\\/]+`)"
"""A name with a slash is missing: the database ``default`` knows files by their paths."""
_PLAIN = re.compile(
    r"(?:DESCRIBE TABLE|EXISTS(?: TABLE| VIEW| DATABASE)?|SHOW CREATE(?: TABLE| VIEW| DATABASE)?)"
    rf" {_NAME}(?:\.{_NAME})?(?: FORMAT (?P<format>\w+))?"
)
"""Statements that are allowed though the engine makes no tree of them, in the engine's wording."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that is allowed."""

    reads: bool
    """True where it gives a result and changes nothing."""
    answer_format: str | None = None
    """The format that its FORMAT clause names."""


def inspected(
    tree: Mapping[str, Any], settings_refused: Collection[str], data_file: str | None = None
) -> Statement:
    """Return a statement, by its tree. Raises EngineError where it is not allowed.

    ``data_file`` is the one file that an INSERT must take its data from; without it no statement
    may name a file.
    """
    kind = str(tree.get("type"))
    if kind in _OF_SESSIONS or tree.get("is_temporary"):
        raise _refusal(
            "SET, USE and temporary tables: no session is kept; give settings and database in "
            "the URL"
        )
    if kind not in READS and kind not in _CHANGES:
        raise _refusal(f"statements of this kind ({kind})")
    if data_file is not None and _infile(tree) != data_file:
        raise _refusal("an INSERT that hides where its data begins")
    for key, node in _nodes(tree):
        if "out_file" in node or ("infile" in node and (data_file is None or node is not tree)):
            raise _refusal("files of the server (INTO OUTFILE, FROM INFILE)")
        _check_node(key, node)
        if node.get("type") == "SetQuery":
            for change in node.get("changes", ()):
                _check_setting(change, settings_refused)
    written = tree.get("format") if kind == "InsertQuery" else _name_of(tree.get("format_ast"))
    check_format(written)
    return Statement(kind in READS, written)


def inspected_plain(text: str) -> Statement:
    """Return a statement that has no tree, by the engine's wording of it.

    Raises EngineError where it is not allowed.
    """
    found = _PLAIN.fullmatch(text)
    if found is None:
        raise _refusal(f"statements of this kind ({' '.join(text.split()[:2])[:40]})")
    check_format(found["format"])
    return Statement(True, found["format"])


def check_format(name: str | None) -> None:
    """Raise EngineError for a format that is not supported."""
    if name is not None and FORMATS.fullmatch(name) is None:
        raise _refusal(f"the format {name[:40]}")


def setting_refusal(name: str) -> EngineError:
    """Return the error of a setting that the server does not take."""
    return failure(
        Code.SETTING_CONSTRAINT_VIOLATION,
        f"Setting {name} is not taken by the embedded server: it holds an expression, a path or "
        "an address",
    )


def _refusal(what: str) -> EngineError:
    return failure(Code.NOT_IMPLEMENTED, f"Not run by the embedded server: {what}")


def _nodes(tree: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all objects of a tree, each after the key that leads to it.

    It uses no recursion, since a tree may be deep.
    """
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        key, found = waiting.pop()
        if isinstance(found, list):
            waiting.extend((key, item) for item in found)
        elif isinstance(found, dict):
            yield key, found
            waiting.extend(found.items())


def _check_node(key: str, node: Mapping[str, Any]) -> None:
    name = str(node.get("name", ""))
    kind = node.get("type")
    if kind == "Function":
        if key == "engine":
            of_database = node.get("kind") == "DATABASE_ENGINE"
            if (_DATABASE_ENGINES if of_database else _TABLE_ENGINES).fullmatch(name) is None:
                raise _refusal(f"the engine {name[:40]}")
        elif key.endswith("table_function"):
            if _TABLE_FUNCTIONS.fullmatch(name) is None:
                raise _refusal(f"the table function {name[:40]}")
        else:
            _check_function(name)
    elif kind in ("Identifier", "ColumnsApplyTransformer"):
        # Both may name a function: arrayMap(file, ['/etc/passwd']), * APPLY file.
        _check_function(str(node.get("func_name", name)))
    elif node.get("field_type") == "CustomType":
        raise _refusal("disks of one's own")
    elif node.get("has_attach_from_path"):
        raise _refusal("ATTACH of a folder of the server")


def _check_function(name: str) -> None:
    if _FUNCTIONS_REFUSED.fullmatch(name):
        raise _refusal(
            f"the function {name} (a column of that name takes its table's before it: t.{name})"
        )


def _check_setting(change: Mapping[str, Any], refused: Collection[str]) -> None:
    if change.get("name") in refused:
        raise setting_refusal(str(change["name"]))


def _infile(tree: Mapping[str, Any]) -> object:
    literal = tree.get("infile")
    return literal.get("value", {}).get("value") if isinstance(literal, dict) else None


def _name_of(identifier: object) -> str | None:
    return str(identifier.get("name")) if isinstance(identifier, dict) else None
