"""Compares the rows of the truth and of a table: what is missing, too many, different.

Both frames are held at once, with what differs beside them: some hundred bytes per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from footfall.schemas.times import iso_ms

TOLERANCE = 1e-9
"""Two floats that are no further apart count as equal."""
WHOLE_ROW = "(the row)"

_TIMES = "times"
_PLACE = "place"
_TABLE = "_in_table"
_LISTED = "\x1f"
_DURATIONS = frozenset({"duration_ms", "p50_ms", "p95_ms", "p99_ms"})


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a table with the truth. Lists are in the frames as one text."""

    rows: int
    """Number of rows of the truth."""
    key: tuple[str, ...]
    missing: pl.DataFrame
    extra: pl.DataFrame
    """Rows of the table that the truth lacks."""
    different: pl.DataFrame
    """Rows of the truth whose key the table has with other values. The table's values are beside
    them, in columns with _TABLE after their names."""

    @property
    def is_equal(self) -> bool:
        """Tell whether nothing differs."""
        return not (self.missing.height or self.extra.height or self.different.height)

    def counts(self) -> str:
        """Return the counts in words: ``3,412 rows equal``."""
        if self.is_equal:
            return f"{self.rows:,} rows equal"
        parts = [f"{self.rows:,} rows in the truth"]
        for name, frame in (
            ("missing", self.missing),
            ("too many", self.extra),
            ("different", self.different),
        ):
            if frame.height:
                parts.append(f"{frame.height:,} {name}")
        return ", ".join(parts)

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns of ``lines``."""
        return (*map(_without_unit, self.key), "column", "truth", "table")

    def lines(self, most: int) -> list[tuple[str, ...]]:
        """Return the first rows of each sort, by key, with one line per value that differs."""
        found = [
            *self._whole(self.missing.head(most), in_truth=True),
            *self._whole(self.extra.head(most), in_truth=False),
            *self._differing(self.different.head(most)),
        ]
        return sorted(found, key=lambda row: row[: len(self.key)])

    def _whole(self, frame: pl.DataFrame, *, in_truth: bool) -> Iterator[tuple[str, ...]]:
        for row in frame.iter_rows(named=True):
            rest = [
                f"{_without_unit(name)} {_shown(name, value)}"
                for name, value in row.items()
                if name not in self.key
            ]
            there = ", ".join(rest) or "there"
            sides = (there, "missing") if in_truth else ("no such row", there)
            yield (*self._key_of(row), WHOLE_ROW, *sides)

    def _differing(self, frame: pl.DataFrame) -> Iterator[tuple[str, ...]]:
        for row in frame.iter_rows(named=True):
            for name, value in row.items():
                if name in self.key or name.endswith(_TABLE):
                    continue
                standing = row[name + _TABLE]
                if not _near(value, standing):
                    yield (
                        *self._key_of(row),
                        _without_unit(name),
                        _shown(name, value),
                        _shown(name, standing),
                    )

    def _key_of(self, row: dict[str, object]) -> Iterator[str]:
        return (_shown(name, row[name]) for name in self.key)


def compare(truth: pl.DataFrame, table: pl.DataFrame, key: Sequence[str]) -> Comparison:
    """Compare two frames of the same columns; the order of their rows does not matter.

    Rows that differ and have the same ``key`` count as one different row. Raises
    polars.exceptions.SchemaError where the columns are not the same.
    """
    named = tuple(key)
    left = _left_over(_without_lists(truth), _without_lists(table))
    missing = _as_rows(left.filter(pl.col(_TIMES) > 0), named)
    extra = _as_rows(left.filter(pl.col(_TIMES) < 0), named)
    by = [*named, _PLACE]
    pairs = missing.join(extra, on=by, how="inner", suffix=_TABLE, nulls_equal=True)
    different = pairs.filter(pl.any_horizontal(_differ(pairs, named))).drop(_PLACE)
    alone = {"on": by, "how": "anti", "nulls_equal": True}
    return Comparison(
        truth.height,
        named,
        missing.join(extra, **alone).drop(_PLACE).sort(named),  # type: ignore[arg-type]
        extra.join(missing, **alone).drop(_PLACE).sort(named),  # type: ignore[arg-type]
        different.sort(named),
    )


def _without_lists(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col(name).cast(pl.List(pl.String)).list.join(_LISTED)
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.List)
    )


def _left_over(truth: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Return rows that are not in both equally often, with how many more the truth has."""
    both = pl.concat([
        truth.with_columns(pl.lit(1, pl.Int64).alias(_TIMES)),
        table.with_columns(pl.lit(-1, pl.Int64).alias(_TIMES)),
    ])  # fmt: skip
    counted = both.group_by(truth.columns).agg(pl.col(_TIMES).sum())
    return counted.filter(pl.col(_TIMES) != 0)


def _as_rows(counted: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    """Repeat each row as often as it is there, with its number among those of its key."""
    names = [name for name in counted.columns if name != _TIMES]
    times = counted[_TIMES].abs().to_numpy()
    rows = counted.select(names)[pl.arange(len(times), eager=True).to_numpy().repeat(times)]
    return rows.sort(names).with_columns(pl.int_range(pl.len()).over(key).alias(_PLACE))


def _differ(pairs: pl.DataFrame, key: tuple[str, ...]) -> Iterator[pl.Expr]:
    # Without a column beside the key, rows of the same key are equal.
    yield pl.lit(value=False)
    for name in pairs.columns:
        if name in (*key, _PLACE) or name.endswith(_TABLE):
            continue
        ours, theirs = pl.col(name), pl.col(name + _TABLE)
        if pairs.schema[name].is_float():
            yield ((ours - theirs).abs() > TOLERANCE).fill_null(value=True)
        else:
            yield ours.ne_missing(theirs)


def _near(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= TOLERANCE
    return ours == theirs


def _without_unit(name: str) -> str:
    return name.removesuffix("_ms") if name not in _DURATIONS else name


def _shown(name: str, value: object) -> str:
    """Return a value as a person reads it: moments as times."""
    if isinstance(value, int) and name.endswith("_ms") and name not in _DURATIONS:
        return iso_ms(value)
    return str(value).replace(_LISTED, ", ")
