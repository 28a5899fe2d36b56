"""Bodies of requests and answers: spooled, decompressed, compressed; fields of forms."""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

SPOOL_MEMORY_BYTES_MAX = 1_048_576
"""A longer body is kept on disk while it is read."""
BODY_BYTES_MAX = 4_294_967_296
FORM_BYTES_MAX = 67_108_864
COMPRESS_FROM_BYTES = 1_024
"""A shorter answer is sent as it is."""

_CHUNK_BYTES = 1_048_576
_CODECS = {"lz4": "lz4", "zstd": "zstd", "gzip": "gzip", "x-gzip": "gzip", "br": "brotli"}
_ANSWER_CODECS = ("lz4", "zstd", "gzip", "deflate", "br")
"""The cheapest first."""
_FIELD_NAME = re.compile(rb'(?i)content-disposition:[^\r\n]*[;\s]name="([^"]*)"')


class BodyError(ValueError):
    """A body that cannot be read as its headers say."""


class BodyTooLargeError(BodyError):
    """A body past its limit."""


def new_spool(folder: Path) -> IO[bytes]:
    """Return a file that is in memory while it is small."""
    spool = tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES_MAX, dir=str(folder))  # noqa: SIM115
    return cast("IO[bytes]", spool)


def decoded(raw: IO[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the body ``raw``, decompressed, chunk by chunk.

    ``encoding`` is the Content-Encoding. Raises BodyError.
    """
    if encoding not in _CODECS and encoding not in ("", "identity", "deflate"):
        known = ", ".join([*sorted(_CODECS), "deflate"])
        raise BodyError(f"Unknown Content-Encoding {encoding!r}, known are {known}")
    size_bytes = 0
    try:
        for chunk in _unpacked(raw, encoding):
            size_bytes += len(chunk)
            if size_bytes > BODY_BYTES_MAX:
                raise BodyTooLargeError(f"The body is longer than {BODY_BYTES_MAX} bytes")
            yield chunk
    except (zlib.error, pa.ArrowException, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # An error of the disk: those of a codec have no number.
            raise
        raise BodyError(f"The body is not {encoding}: {error}") from None


def _unpacked(raw: IO[bytes], encoding: str) -> Iterator[bytes]:
    if encoding == "deflate":
        yield from _inflated(raw)
    elif encoding in _CODECS:
        with pa.CompressedInputStream(pa.PythonFile(raw, "r"), _CODECS[encoding]) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    else:
        while chunk := raw.read(_CHUNK_BYTES):
            yield chunk


def _inflated(raw: IO[bytes]) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    while chunk := raw.read(_CHUNK_BYTES):
        while chunk:
            yield inflate.decompress(chunk, _CHUNK_BYTES)
            chunk = inflate.unconsumed_tail
    if not inflate.eof:
        raise EOFError("it ends too early")


def encoded(body: bytes, accept_encoding: str) -> tuple[bytes, str]:
    """Return the body, compressed if the client accepts that, and its Content-Encoding or ""."""
    if len(body) < COMPRESS_FROM_BYTES:
        return body, ""
    accepted = {part.partition(";")[0].strip().lower() for part in accept_encoding.split(",")}
    for name in _ANSWER_CODECS:
        if name not in accepted:
            continue
        if name == "deflate":
            return zlib.compress(body, 1), name
        codec: Any = pa.Codec(_CODECS[name])
        return codec.compress(body, asbytes=True), name
    return body, ""


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """Return the text fields of a multipart form. Raises BodyError, also for files."""
    boundary = re.search(r'boundary="?([^";,\s]+)"?', content_type)
    if boundary is None:
        raise BodyError("A multipart body without a boundary")
    fields: dict[str, bytes] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.group(1).encode())[1:]:
        if part.startswith(b"--"):
            return fields
        head, separator, value = part.partition(b"\r\n\r\n")
        name = _FIELD_NAME.search(head)
        if not separator or name is None:
            raise BodyError("A part of the multipart body has no name")
        if b"filename=" in head.lower():
            raise BodyError("External data (files in a form) is not supported here")
        fields[name.group(1).decode(errors="surrogateescape")] = value
    raise BodyError("The multipart body ends too early")
