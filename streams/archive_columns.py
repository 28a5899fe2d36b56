"""Columns of CSV and Parquet as records of JSON, by the struct that these must fit.

A column is named for its field (``product_info.price`` is a field within a field), in upper or
lower case; other columns are not read. Text becomes a number where its field takes numbers and the
text is a number as JSON writes it. Any other text stays text, and the decoder reports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import polars as pl

from footfall.schemas.prices import BadPriceError, cents_of
from footfall.schemas.store_events import Price

NO_RECORD = "-"
"""Line in place of a row that cannot be a record; no decoder accepts it."""

_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_PLAIN_PRICE = r"^(?:0|[1-9][0-9]{0,10})(?:\.[0-9]{1,2})?$"
_TO_BE_ESCAPED = r'["\\\x00-\x1f]'

_encode = msgspec.json.Encoder().encode

Bad = dict[int, str]
"""Reasons why rows, by their place among others, cannot be records."""


class ColumnsError(ValueError):
    """Columns that do not make records; the message is the rest of a sentence about the file."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A field that has a column, or could have one."""

    name: str
    """Its dotted path."""
    place: int
    """Index of its column in the file."""
    kinds: frozenset[Any]
    """Types of values that it takes, and Price."""
    may_lack: bool
    """True where it may be missing but not null."""


_Tree = dict[str, "_Leaf | _Tree"]
"""The fields of an object."""
_Parts = list[str | pl.Expr]
"""Parts from which a text is joined."""


class Columns:
    """The columns of a file that make records of a struct."""

    def __init__(self, struct: type[msgspec.Struct], names: Sequence[str]) -> None:
        """Match columns to fields. Raises ColumnsError where they do not make records."""
        order = {name: place for place, name in enumerate(field_names(struct))}
        found = (_leaf(struct, name, place) for place, name in enumerate(names))
        leaves = [leaf for leaf in found if leaf is not None]
        leaves.sort(key=lambda leaf: order.get(leaf.name, len(order)))
        tree: _Tree = {}
        for leaf in leaves:
            _add(tree, leaf)
        missing = ", ".join(_missing(struct, tree))
        if missing:
            raise ColumnsError(f"lacks the columns {missing}")
        self.places = {leaf.name: leaf.place for leaf in leaves}
        """Index of the column in the file by the name of its field."""
        self._leaves = leaves
        self._tree = tree

    def lines(self, values: Sequence[pl.Series], bad: Bad, *, is_plain: bool = False) -> pl.Series:
        """Return the JSON of each row, from columns in the order of ``places``.

        Bad rows that it finds are added to ``bad``. ``is_plain`` says that no text has a character
        that JSON escapes.
        """
        texts: list[pl.Series] = []
        members: dict[str, _Parts] = {}
        for leaf, found in zip(self._leaves, values, strict=True):
            text, members[leaf.name] = _member(
                leaf, found.alias(leaf.name), bad, is_plain=is_plain
            )
            texts.append(text)
        return pl.DataFrame(texts).select(_concatenated(_object(self._tree, members))).to_series()


def joined(lines: pl.Series, bad: Bad) -> bytes:
    """Join lines, each ended by a newline, with NO_RECORD in the place of a bad line."""
    if bad:
        lines = lines.scatter(list(bad), NO_RECORD)
    text: str = lines.str.join("\n").item()
    return text.encode() + b"\n"


def field_names(struct: Any) -> list[str]:
    """Return the dotted names of all fields that a column may be for, in order."""
    names = []
    for field in msgspec.structs.fields(struct):
        inner = _object_type(field.type)
        within = [] if inner is None else field_names(inner)
        names += [f"{field.encode_name}.{name}" for name in within] or [field.encode_name]
    return names


def _leaf(struct: Any, column: str, place: int) -> _Leaf | None:
    """Return the field that a column is for; None where there is no such field."""
    path: list[str] = []
    wanted: Any = struct
    for name in column.strip().casefold().split("."):
        fields = {
            field.encode_name.casefold(): field
            for kind in filter(_is_struct, _alternatives(wanted))
            for field in msgspec.structs.fields(kind)
        }
        if name not in fields:
            return None
        path.append(fields[name].encode_name)
        wanted = fields[name].type
        is_required = fields[name].required
    kinds = _alternatives(wanted)
    return _Leaf(
        ".".join(path),
        place,
        kinds | {Price} if wanted == Price else kinds,
        may_lack=not is_required and type(None) not in kinds,
    )


def _add(tree: _Tree, leaf: _Leaf) -> None:
    *path, last = leaf.name.split(".")
    for name in path:
        below = tree.setdefault(name, {})
        if isinstance(below, _Leaf):
            raise ColumnsError(f"names {below.name} and {leaf.name}, which is within it")
        tree = below
    other = tree.setdefault(last, leaf)
    if isinstance(other, dict):
        raise ColumnsError(f"names {leaf.name} and a field within it")
    if other is not leaf:
        raise ColumnsError(f"names {leaf.name} twice")


def _missing(struct: Any, tree: _Tree) -> Iterator[str]:
    """Yield the names of required fields that no column is for."""
    for field in msgspec.structs.fields(struct):
        below = tree.get(field.encode_name)
        inner = _object_type(field.type)
        if inner is not None and not isinstance(below, _Leaf) and (field.required or below):
            yield from (f"{field.encode_name}.{name}" for name in _missing(inner, below or {}))
        elif field.required and below is None:
            yield field.encode_name


def _object(tree: _Tree, members: Mapping[str, _Parts]) -> _Parts:
    """Return the parts of an object's JSON, from those of its fields' members."""
    parts: _Parts = []
    for name, below in tree.items():
        if isinstance(below, _Leaf):
            parts += members[below.name]
        else:
            parts += [f',"{name}":', *_object(below, members)]
    first = parts[0]
    if isinstance(first, str):
        return ["{" + first.removeprefix(","), *parts[1:], "}"]
    return ["{", _concatenated(parts).str.strip_prefix(","), "}"]


def _concatenated(parts: _Parts) -> pl.Expr:
    """Return the text of all parts together, null where one of them is null."""
    template = "".join(
        part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else "{}"
        for part in parts
    )
    return pl.format(template, *(part for part in parts if not isinstance(part, str)))


def _member(
    leaf: _Leaf, values: pl.Series, bad: Bad, *, is_plain: bool
) -> tuple[pl.Series, _Parts]:
    """Return (the texts of a column, the parts of the member in each object)."""
    texts, is_json = _texts_of(leaf, values, bad, is_plain=is_plain)
    key, value = f',"{leaf.name.rpartition(".")[2]}":', pl.col(leaf.name)
    if not texts.null_count():
        return texts, [key, value] if is_json else [key + '"', value, '"']
    if not is_json:
        value = _concatenated(['"', value, '"'])
    if leaf.may_lack:
        return texts, [_concatenated([key, value]).fill_null("")]
    return texts, [key, value.fill_null("null")]


def _texts_of(
    leaf: _Leaf, values: pl.Series, bad: Bad, *, is_plain: bool
) -> tuple[pl.Series, bool]:
    """Return (a column as texts, whether they are JSON or only lack quotes)."""
    if values.dtype.is_nested():
        objects = values.to_frame().select(pl.struct(values.name).struct.json_encode())
        key = len(_encode({values.name: 0})) - len("0}")
        found = objects.to_series().str.slice(key).str.head(-1)
        return found.set(values.is_null(), None).alias(leaf.name), True
    texts = _texts(values, bad)
    if Price in leaf.kinds:
        is_price = texts.str.contains(_PLAIN_PRICE)
        if is_price.all():
            return texts, True
        for place in (~is_price).arg_true().to_list():
            try:
                cents_of(texts[place])
            except BadPriceError as error:
                bad[place] = f"has a bad {leaf.name}: {error}"
    if str in leaf.kinds or not leaf.kinds & {int, float, bool}:
        if is_plain or not texts.str.contains(_TO_BE_ESCAPED).any():
            return texts, False
        return _quoted(texts), True
    if values.dtype.is_integer():
        return texts, True
    if bool in leaf.kinds:
        texts = texts.str.to_lowercase()
        is_json = texts.is_in(["true", "false"])
    else:
        is_json = texts.str.contains(_NUMBER)
        if int in leaf.kinds and not is_json.all():
            texts = texts.str.replace(r"^0+([0-9]+)$", "${1}")
            is_json = texts.str.contains(_NUMBER)
    return texts if is_json.all() else texts.zip_with(is_json, _quoted(texts)), True


def _texts(values: pl.Series, bad: Bad) -> pl.Series:
    """Return values as texts; a float that is not a number becomes null, as pandas writes it."""
    if values.dtype == pl.Binary:
        texts: list[str | None] = []
        for place, value in enumerate(values):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                texts.append(None)
                bad[place] = f"has {values.name} that is not UTF-8"
        return pl.Series(values.name, texts, dtype=pl.String)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    return values.cast(pl.String)


def _quoted(texts: pl.Series) -> pl.Series:
    quoted = [None if text is None else _encode(text).decode() for text in texts]
    return pl.Series(texts.name, quoted, dtype=pl.String)


def _object_type(kind: Any) -> Any:
    """Return the struct that a field takes; None where it takes other or several types."""
    kinds = _alternatives(kind) - {type(None)}
    return next(iter(kinds)) if len(kinds) == 1 and all(map(_is_struct, kinds)) else None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _alternatives(kind: Any) -> frozenset[Any]:
    """Return the types of value that a field takes."""
    if hasattr(kind, "__metadata__"):
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return frozenset().union(*map(_alternatives, get_args(kind)))
    if get_origin(kind) is Literal:
        return frozenset(map(type, get_args(kind)))
    return frozenset({get_origin(kind) or kind})
