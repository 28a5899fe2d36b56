"""Groups of closed windows as they are kept: as a frame, and packed once a snapshot asked."""

from __future__ import annotations

import io
from dataclasses import dataclass

import polars as pl

PARQUET_ROWS_MIN = 1_000
"""Rows from which on Parquet is smaller than Arrow, a quarter of it where groups are many, and no
slower to write; a few rows take it ten times as long."""


@dataclass(slots=True)
class Chunk:
    """Groups of closed windows; packed once a snapshot has asked for them."""

    first_ms: int
    last_ms: int
    rows: int
    _frame: pl.DataFrame | None
    _data: bytes | None

    @staticmethod
    def of(frame: pl.DataFrame, starts: pl.Series) -> Chunk:
        """Return a chunk of a frame whose rows are of windows with these starts."""
        first_ms, last_ms = starts.min(), starts.max()
        return Chunk(first_ms, last_ms, len(frame), frame, None)  # type: ignore[arg-type]

    @staticmethod
    def of_packed(first_ms: int, last_ms: int, rows: int, data: bytes) -> Chunk:
        """Return a chunk from what ``data`` gave."""
        return Chunk(first_ms, last_ms, rows, None, data)

    def frame(self) -> pl.DataFrame:
        """Return the rows."""
        if self._frame is not None:
            return self._frame
        assert self._data is not None
        return unpacked(self._data)

    def data(self) -> bytes:
        """Return the frame as bytes, far smaller than itself: from here on it is kept so."""
        if self._data is None:
            assert self._frame is not None
            self._data = packed(self._frame)
            self._frame = None
        return self._data


def packed(frame: pl.DataFrame) -> bytes:
    """Return a frame as bytes."""
    buffer = io.BytesIO()
    if len(frame) < PARQUET_ROWS_MIN:
        frame.write_ipc_stream(buffer, compression="lz4")
    else:
        frame.write_parquet(buffer, compression="lz4", statistics=False)
    return buffer.getvalue()


def unpacked(data: bytes) -> pl.DataFrame:
    """Return the frame that ``packed`` was given."""
    return pl.read_parquet(data) if data.startswith(b"PAR1") else pl.read_ipc_stream(data)
