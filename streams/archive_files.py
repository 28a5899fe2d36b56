"""Files of an archive: which files of a folder are data, and the lines of each, however packed.

Lines come in blocks, as UTF-8 and each ended by a newline, out of plain, packed and UTF-16 files
and out of pipes. No more than about one block is in memory, however long a line is.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from backports import zstd

from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.streams.source import SourceError

BLOCK_BYTES = 1_048_576
LINE_BYTES_MAX = RECORD_BYTES_MAX
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
STDIN = Path("-")

_PACKINGS = (".gz", ".bz2", ".xz", ".zip", ".zst")
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": zstd.open,
}
_ZIP, _PARQUET = b"PK\x03\x04", b"PAR1"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PEEKED_BYTES = 8
_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    zlib.error,
    lzma.LZMAError,
    zstd.ZstdError,
    zipfile.BadZipFile,
    # zipfile raises this for a member that needs a password, or whose packing Python does not
    # know.
    RuntimeError,
)


class Block(NamedTuple):
    """Whole lines of a file."""

    first: int
    """Number of the first line."""
    lines: int
    data: bytes
    """Lines, each ended by a newline."""
    cut_bytes: int = 0
    """Bytes that were cut off its only line, which is too long to be a record."""


def kind_of(path: Path) -> str:
    """Return which of KINDS a file is by its name, or ""."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _PACKINGS:
        suffixes.pop()
        if suffixes == [".parquet"]:
            return ""
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else ""


def is_pipe(path: Path) -> bool:
    """Return whether a path can be read once only, such as ``-`` and ``<(...)``."""
    return path == STDIN or (path.exists() and not path.is_file() and not path.is_dir())


def find_files(path: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return the files of an archive, named and in order, and the names of other files.

    Names that begin with ``.`` or ``_`` are not data: other programs keep their own files there,
    and unfinished ones. Raises SourceError where there is no file, or one is there twice.
    """
    if is_pipe(path):
        raise SourceError(
            "a pipe has no name that tells the kind of an archive: write it to a file of "
            f"{', '.join(KINDS)}"
        )
    if not path.exists():
        raise SourceError(f"there is no {path} to read the archive from")
    if path.is_file():
        if not kind_of(path):
            raise SourceError(
                f"{path} is none of {', '.join(KINDS)} (the first four also with "
                f"{', '.join(_PACKINGS)})"
            )
        return [(printable(path.name), path)], []
    below = [
        item for item in _below(path) if item.is_file() and not _is_hidden(item.relative_to(path))
    ]
    found = [item for item in below if kind_of(item)]
    if not found:
        raise SourceError(f"there is no file of {', '.join(KINDS)} in {path}")
    files = [(printable(str(item.relative_to(path))), item) for item in _once(found)]
    others = [item for item in below if not kind_of(item)]
    return files, [printable(str(item.relative_to(path))) for item in others]


def _below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be read: {_told(error)}")

    walked = os.walk(folder, onerror=refuse)
    return sorted(Path(inside, name) for inside, _, names in walked for name in names)


def printable(name: str) -> str:
    """Return a file's name with ``?`` for bytes that are not characters."""
    return name.encode(errors="replace").decode()


def _is_hidden(path: Path) -> bool:
    return any(name[0] in "._" for name in path.parts)


def _once(paths: list[Path]) -> list[Path]:
    """Return each file once, even where links lead to it. Raises SourceError for a twin."""
    files = {(found := path.stat()).st_dev << 64 | found.st_ino: path for path in reversed(paths)}
    by_stem: dict[Path, Path] = {}
    for path in (once := sorted(files.values())):
        stem = path
        while stem.suffix.lower() in (*KINDS, *_PACKINGS):
            stem = stem.with_suffix("")
        twin = by_stem.setdefault(stem, path)
        if twin is not path:
            raise SourceError(
                f"{twin} and {path.name} seem to be the same file twice: move one of them out of "
                "the archive, or give it a name of its own"
            )
    return once


class FileLines:
    """The lines of a file, block by block, once."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises SourceError where it cannot be opened."""
        self.path = path
        self.count = 0
        """Number of lines that were given."""
        self._failure: Exception | None = None
        self._line_end = b"\n"
        try:
            self._packed: Any = sys.stdin.buffer if path == STDIN else path.open("rb")
            self._file = self._unpacked()
            start = self._file.peek(_PEEKED_BYTES)
        except _UNREADABLE as error:
            raise SourceError(f"{path} cannot be read: {_told(error)}") from None
        if start.startswith(_PARQUET):
            raise SourceError(
                f"{path} is a Parquet file and not lines of text: name it .parquet, for "
                "`footfall replay --source`"
            )
        self._decoder = None
        if start.startswith(_UTF_16):
            self._decoder = codecs.getincrementaldecoder("utf-16")()
        elif start.startswith(codecs.BOM_UTF8):
            self._file.read(len(codecs.BOM_UTF8))
        self._parts = self._all()

    def next_block(self) -> Block | None:
        """Return the next lines; None after the last.

        Raises SourceError, naming the line, where the file can be read no further.
        """
        found = next(self._parts, None)
        if found is None and self._failure is not None:
            raise SourceError(
                f"{self.path} cannot be read past line {self.count}: {_told(self._failure)}"
            )
        if found is None:
            return None
        data, cut_bytes = found
        block = Block(self.count + 1, count_of(data, b"\n"), data, cut_bytes)
        self.count += block.lines
        return block

    def close(self) -> None:
        """Close the file. Never raises."""
        if self.path != STDIN:
            self._file.close()
            self._packed.close()

    def _unpacked(self) -> Any:
        """Return a reader of the file's unpacked content. Raises SourceError."""
        start = self._packed.peek(_PEEKED_BYTES)
        for magic, opened in _OPENERS.items():
            if start.startswith(magic):
                return opened(self._packed, "rb")
        if not start.startswith(_ZIP):
            return self._packed
        if is_pipe(self.path):
            raise SourceError(
                f"{self.path}: a zip file cannot be read out of a pipe (`unzip -p` unpacks it)"
            )
        with zipfile.ZipFile(self._packed) as archive:
            members = [
                member
                for member in archive.infolist()
                if not member.is_dir() and not _is_hidden(Path(member.filename))
            ]
            if len(members) != 1:
                raise SourceError(f"{self.path} is a zip of {len(members)} files: unpack it first")
            return archive.open(members[0])

    def _all(self) -> Iterator[tuple[bytes, int]]:
        """Yield (whole lines, 0), or (the beginning of a line that is too long, bytes cut off)."""
        rest, cut_bytes = b"", 0
        for chunk in self._chunks():
            first, newline, others = chunk.partition(b"\n")
            line = rest + first
            size = len(line) - (bool(newline) and line.endswith(b"\r"))
            cut_bytes += max(0, size - LINE_BYTES_MAX)
            rest = line[:LINE_BYTES_MAX]
            if not newline:
                continue
            end = others.rfind(b"\n") + 1
            if cut_bytes:
                yield rest + b"\n", cut_bytes
                if end:
                    yield others[:end], 0
            else:
                yield line + b"\n" + others[:end], 0
            rest, cut_bytes = others[end:], 0
        if rest and self._failure is None:
            yield rest + self._line_end, cut_bytes

    def _chunks(self) -> Iterator[bytes]:
        """Yield parts of the file as UTF-8. A failure is noted, after all that came before it."""
        is_live, read, first = is_pipe(self.path), b"begun", None
        while read and self._failure is None:
            read = self._read(is_live)
            chunk = self._decoded(read)
            if first is None and (first := re.search(rb"\r\n?|\n", chunk)):
                self._line_end = first[0].removesuffix(b"\n") + b"\n"
            if chunk:
                is_cr = first is not None and first[0] == b"\r"
                yield chunk.replace(b"\r", b"\n") if is_cr else chunk

    def _read(self, is_live: bool) -> bytes:
        """Read about BLOCK_BYTES, or what a pipe has."""
        parts: list[bytes] = []
        left = BLOCK_BYTES
        try:
            while left > 0 and (part := self._file.read1(left)):
                parts.append(part)
                left -= len(part)
                if is_live:
                    break
        except _UNREADABLE as error:
            self._failure = error
        return b"".join(parts)

    def _decoded(self, read: bytes) -> bytes:
        if self._decoder is None:
            return read
        try:
            return self._decoder.decode(read, final=not read).encode()
        except UnicodeDecodeError as error:
            self._failure = error
            return b""


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def count_of(data: bytes, byte: bytes) -> int:
    """Return how often a byte occurs, several times as fast as ``data.count``."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == byte[0]))


def split_lines(lines: bytes) -> list[bytes]:
    """Return lines without their ends, LF or CRLF."""
    found = lines[:-1].split(b"\n")
    return [line.removesuffix(b"\r") for line in found] if b"\r" in lines else found
