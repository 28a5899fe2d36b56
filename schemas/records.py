"""A record with all that a topic keeps of it, and its form in embedded topics."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

Headers = Sequence[tuple[str, bytes | None]]


class TopicRecord(NamedTuple):
    """A record as it is in its topic, or as it is sent to one."""

    value: bytes
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None
    """Append time in milliseconds since 1970 UTC; None for now, or where it is unknown."""


class KeysBlock(msgspec.Struct, array_like=True, frozen=True):
    """Keys and headers of the records of one append, in order."""

    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None


BLOCK_HEAD = struct.Struct("<II")
"""Head of a block: (bytes that follow, their CRC-32)."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeysBlock).decode


def pack_keys(block: KeysBlock) -> bytes:
    """Return the block as it is in a keys file."""
    data = _encode(block)
    return BLOCK_HEAD.pack(len(data), zlib.crc32(data)) + data


def unpack_keys(head: bytes, data: bytes) -> KeysBlock | None:
    """Return the block of these bytes; None where they are damaged."""
    if len(head) < BLOCK_HEAD.size or BLOCK_HEAD.unpack(head) != (len(data), zlib.crc32(data)):
        return None
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return None
