"""The body of a request, whole and as it was before its client compressed it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from footfall.api.answers import ClientGoneError, Receive, RequestError, Scope

BODY_BYTES_MAX = 1_048_576
"""The largest body of a request: as large as the largest record that a flow reads."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors and libraries begin a file with this mark; it is not part of the text."""

ZSTD_WINDOW_LOG_MAX = 23
"""8 MB, as encoders take by default; a frame may ask for a window of 2 GB to be decoded in."""


async def read_body(scope: Scope, receive: Receive, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Return the whole body, decoded as Content-Encoding says, without a byte order mark.

    Raises RequestError 413 where it is larger, compressed or not, 415 for an encoding that is
    not known, 400 where it cannot be decoded; ClientGoneError.
    """
    body = await _received(receive, bytes_max)
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value:
            body = _decoded(body, value.decode("latin-1"), bytes_max)
    return body.removeprefix(BYTE_ORDER_MARK)


async def _received(receive: Receive, bytes_max: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    pieces = [body]
    length = len(body)
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        if length > bytes_max:
            raise _too_large(bytes_max)
    if message["type"] != "http.request":
        raise ClientGoneError
    return b"".join(pieces)


def _decoded(body: bytes, encodings: str, bytes_max: int) -> bytes:
    """Undo the encodings of a header, the last of which was applied last."""
    for encoding in reversed([one.strip().lower() for one in encodings.split(",")]):
        if encoding == "identity":
            continue
        decoder = _DECODERS.get(encoding)
        if decoder is None:
            raise RequestError(
                415,
                f"Content-Encoding: {encoding[:100]!r} is not known; a body may be "
                "gzip, zstd, or not encoded",
            )
        try:
            body = _inflated(body, bytes_max, decoder)
        except (zlib.error, ZstdError, EOFError) as error:
            raise RequestError(
                400, f"Content-Encoding: the body is not whole {encoding}: {error}"
            ) from None
    return body


class _Decoder(Protocol):
    """A decoder of one member of a gzip file, or of one frame of zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _inflated(body: bytes, bytes_max: int, decoder: Callable[[], _Decoder]) -> bytes:
    """Return what all parts of a compressed body hold. Raises EOFError where one is cut off."""
    pieces = []
    length = 0
    while body:
        part = decoder()
        # Ask for one byte more than is allowed, to see whether there is more.
        pieces.append(part.decompress(body, bytes_max - length + 1))
        length += len(pieces[-1])
        if length > bytes_max:
            raise _too_large(bytes_max)
        if not part.eof:
            raise EOFError("it is cut off")
        body = part.unused_data
    return b"".join(pieces)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": partial(zlib.decompressobj, zlib.MAX_WBITS | 16),
    "x-gzip": partial(zlib.decompressobj, zlib.MAX_WBITS | 16),
    "zstd": partial(
        ZstdDecompressor, options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
    ),
}


def _too_large(bytes_max: int) -> RequestError:
    return RequestError(413, f"the body is over {bytes_max} bytes: send less at a time")
